//! HELD, BOUND_SINCE: count, for the spreader, how many ports of the rule's namespace and range were bound and released since the
//! agent last read the bound ports, and how many ports the spreader itself bound.

use aya_ebpf::{macros::map, maps::Array};
use tracer_common::spread::held as index;

use crate::{atomic, offsets::SPREADING};

/// Counters for the spreader alone: see [`tracer_common::spread::held`].
#[map]
static HELD: Array<u64> = Array::with_max_entries(index::COUNT, 0);

/// For the spreader alone, for each port of the rule's namespace: the number of the agent's newest reading ([`index::LOOK`]) when
/// it was bound, and how many entries of BOUND_PORTS have it. Any user can bind() one port at any number of addresses, and any
/// number of ports for a moment, but connect() loses each port only once and only while it is bound: so each is counted once.
#[map]
static BOUND_SINCE: Array<[u32; 2]> = Array::with_max_entries(65_536, 0);

/// One more entry of BOUND_PORTS has this port (`is_new`), or one less. `in_range`: the port is in the rule's range. Concurrent
/// calls can count too many ports as bound since the agent's reading, or too few of these as released again: the spreader then
/// sees less room than there is, until the next reading.
#[inline(always)]
pub(super) fn count_port(port: u16, is_new: bool, in_range: bool) {
    let look = read_held(index::LOOK);
    let Some(of_port) = BOUND_SINCE.get_ptr_mut(u32::from(port)) else { return };
    let since = of_port.cast::<u32>();
    // SAFETY: the value has two words; this is the second.
    let entries = unsafe { since.add(1) };
    // SAFETY: as in `add_held`; each is read by one load.
    let (was, before) = unsafe { (since.read_volatile(), entries.read_volatile()) };
    if is_new {
        // SAFETY: as above.
        unsafe { atomic::add32(entries, 1) };
        if before == 0 {
            // SAFETY: as above.
            unsafe { since.write_volatile(look) };
            if in_range {
                add_held(index::BOUND, 1);
            }
        }
        return;
    }
    // An entry that is older than the rule was not counted.
    if before > 0 {
        // SAFETY: as above.
        unsafe { atomic::add32(entries, u32::MAX) };
    }
    if in_range {
        add_held(index::RELEASED, 1);
        if before == 1 && was == look {
            add_held(index::BACK, 1);
        }
    }
}

#[inline(always)]
fn read_held(index: u32) -> u32 {
    // SAFETY: as in `add_held`. The truncation does no harm: counters that wrap are used as differences, the others are small.
    HELD.get_ptr(index).map_or(0, |counter| unsafe { counter.read_volatile() as u32 })
}

#[inline(always)]
fn add_held(index: u32, change: u64) {
    if let Some(counter) = HELD.get_ptr_mut(index) {
        // SAFETY: an array map's values are never freed while the program is loaded.
        unsafe { atomic::add(counter, change) };
    }
}

/// Counts a port that the spreader bound and a connection holds (`change` 1), or its release (`u64::MAX`); nothing if no spreader
/// is loaded.
#[inline(always)]
pub(crate) fn fast(change: u64) {
    if SPREADING.load() != 0 {
        add_held(index::FAST, change);
    }
}

/// Adds `change` (an i32 as u32) to the number of held ports that the spreader bound, if its lower 32 bits are `counted`, the
/// number that userspace read. False: they are not, or no spreader is loaded; nothing is added then.
#[inline(always)]
pub(crate) fn correct_fast(counted: u32, change: u32) -> bool {
    let same = SPREADING.load() != 0 && read_held(index::FAST) == counted;
    if same {
        add_held(index::FAST, i64::from(change as i32) as u64);
    }
    same
}

/// The counters of HELD that the spreader's choice needs, each modulo 2^32.
pub(crate) struct Held {
    /// See [`index::BOUND`].
    pub(crate) bound: u32,
    /// See [`index::BACK`].
    pub(crate) back: u32,
    /// See [`index::RELEASED`].
    pub(crate) released: u32,
    /// See [`index::FAST`].
    pub(crate) fast: u32,
}

impl Held {
    /// Reads the counters, one after the other: hooks on other CPUs can change them in between.
    #[inline(always)]
    pub(crate) fn now() -> Self {
        Self {
            bound: read_held(index::BOUND),
            back: read_held(index::BACK),
            released: read_held(index::RELEASED),
            fast: read_held(index::FAST),
        }
    }
}
