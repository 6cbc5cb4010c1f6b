//! SHARES: how much of each table an owner holds, and the rates of its events. The limits are in
//! [`tracer_common::share`].

use aya_ebpf::{macros::map, maps::Array};
use tracer_common::{
    settings::MAX_TOUCHED,
    share::{self, Rate, SLOTS, Share, Table},
};

use crate::{
    atomic,
    offsets::{MAX_BINDS, MAX_CONNS, MAX_TUPLES},
};

#[map]
static SHARES: Array<Share> = Array::with_max_entries(SLOTS, 0);

/// The owner for this user (uid, or [`share::UNKNOWN_USER`]) in this network namespace (inode number): two packed indices of
/// SHARES ([`share::owner`]).
#[inline(always)]
pub(crate) fn owner(netns: u32, user: u32) -> u32 {
    owner_of(netns, user)
}

/// The key of the hash ([`Share::key`]).
#[inline(always)]
fn key() -> u64 {
    // SAFETY: an array map's values are never freed while the program is loaded.
    SHARES.get_ptr(0).map_or(0, |totals| unsafe { (&raw const (*totals).key).read() })
}

/// The indices of the two counters that an address has in `BOUND_BY_ADDR` ([`share::counters`]), each below
/// [`BOUND_COUNTERS`](share::BOUND_COUNTERS). `netns`: inode number. `address`: its two words ([`tracer_common::Addr::words`]).
#[inline(always)]
pub(crate) fn counters(netns: u32, address: [u64; 2]) -> [usize; 2] {
    share::counters(key(), netns, address)
}

/// Whether an owner may have one more entry of a table, in its namespace and (except root and unknown users) over all
/// namespaces. Calls on several CPUs at once may all get true for the last entry.
#[inline(always)]
pub(crate) fn has_room(owner: u32, table: Table) -> bool {
    let max = match table {
        Table::Tuples => MAX_TUPLES.load(),
        Table::Conns => MAX_CONNS.load(),
        Table::Binds => MAX_BINDS.load(),
        Table::Touched => MAX_TOUCHED,
    };
    has_room_for(owner, table as u32, max) != 0
}

/// Counts one more entry of a table (`change` 1), or one less (`u64::MAX`): in the totals, for the owner in its namespace, and
/// (except root and unknown users) over all namespaces.
#[inline(always)]
pub(crate) fn add(owner: u32, table: Table, change: u64) {
    change_held(owner, table as u32, change);
}

/// Whether an owner may have one more event at this rate; if so, charges it: to the user over all namespaces, and for root and
/// unknown users to the owner in this namespace. Calls on several CPUs at once may get a few events charged as one. `now`:
/// CLOCK_MONOTONIC, ns.
#[inline(always)]
pub(crate) fn may_report(owner: u32, rate: Rate, now: u64) -> bool {
    charge(owner, now, rate.interval_ns(), rate.burst_ns(), rate as u32) != 0
}

// The rest are global functions, for the verifier's sake: it checks each of them once, for all arguments, instead of at each
// call (half of its work), and their stack is not part of the callers'. They take and return numbers, because Linux 5.10 allows
// nothing else.

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn owner_of(netns: u32, user: u32) -> u32 {
    share::owner(key(), netns, user)
}

/// The counter of a table in the value of SHARES at index `place`; `None`: there is no such index.
#[inline(always)]
fn held(place: u32, table: u32) -> Option<*mut u64> {
    const { assert!(Table::COUNT == 4 && size_of::<Share>() >= 32) };
    let share = SHARES.get_ptr_mut(place)?;
    // SAFETY: as in `key`; the mask keeps the index within the share, also where the verifier does not know the table.
    Some(unsafe { share.cast::<u64>().add(table as usize & 3) })
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn has_room_for(owner: u32, table: u32, max: u32) -> u32 {
    let count = |place| {
        // SAFETY: as in `key`; read by one load.
        held(place, table).map_or(0, |held| unsafe { held.read_volatile() })
    };
    let all = count(0);
    let [pair, user] = share::places(owner);
    let room = share::has_room(count(pair), all, max)
        && (user == 0 || share::has_room(count(user), all, max));
    u32::from(room)
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn change_held(owner: u32, table: u32, change: u64) -> u32 {
    let add = |place| {
        if let Some(held) = held(place, table) {
            // SAFETY: as in `key`.
            unsafe { atomic::add(held, change) };
        }
    };
    add(0);
    let [pair, user] = share::places(owner);
    add(pair);
    if user != 0 {
        add(user);
    }
    0
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn charge(owner: u32, now: u64, interval_ns: u64, burst_ns: u64, rate: u32) -> u32 {
    const { assert!(Rate::COUNT == 2) };
    let [pair, user] = share::places(owner);
    let Some(share) = SHARES.get_ptr_mut(if user == 0 { pair } else { user }) else { return 1 };
    // SAFETY: as in `held`.
    unsafe {
        let until = (&raw mut (*share).paid_ns).cast::<u64>().add(rate as usize & 1);
        let charged = until.read_volatile();
        if charged > now.wrapping_add(burst_ns) {
            return 0;
        }
        if charged < now {
            until.write_volatile(now);
        }
        atomic::add(until, interval_ns);
    }
    1
}
