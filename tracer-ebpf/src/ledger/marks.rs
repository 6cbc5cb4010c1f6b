//! TOMBSTONES: what became of sockets while sockets older than us are being read.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap},
};
use tracer_common::{
    ConnKey, Loss,
    settings::{CONTROL_LEN, CONTROL_SEEDING},
};

use super::E2BIG;
use crate::stats;

/// The newest [`Mark`] of each.
#[map]
static TOMBSTONES: HashMap<ConnKey, u64> = HashMap::with_max_entries(65_536, 0);

#[map]
static CONTROL: Array<u32> = Array::with_max_entries(CONTROL_LEN, 0);

/// A value of TOMBSTONES.
#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(u64)]
pub(crate) enum Mark {
    /// A time-wait socket holds the port: the end of the full socket is not the end of it.
    TimeWait = 1,
    /// The port was given back: whoever reads that a socket holds it has read old news.
    Released,
}

#[inline(always)]
pub(crate) fn seeding() -> bool {
    CONTROL.get(CONTROL_SEEDING).is_some_and(|seeding| *seeding != 0)
}

/// Notes what became of a socket, for the reader of older sockets to find.
#[inline(always)]
pub(crate) fn mark(key: &ConnKey, mark: Mark) {
    if key.cookie == 0 || key.port == 0 {
        return;
    }
    if let Err(error) = TOMBSTONES.insert(key, mark as u64, 0) {
        stats::lost(match error {
            E2BIG => Loss::TombstonesFull,
            _ => Loss::MapBusy,
        });
    }
}

/// Marks of a state ([`tracer_common::PortState`]) are this and the state.
const STATE: u64 = 16;

/// As [`mark`], for the state that a connection came to. A function of its own, as [`super::move_on`].
#[inline(never)]
pub(crate) fn mark_state(cookie: u64, port: u16, state: u32) -> u32 {
    let marked = TOMBSTONES.insert(ConnKey::new(cookie, port), STATE + u64::from(state), 0);
    if let Err(error) = marked {
        stats::lost(if error == E2BIG { Loss::TombstonesFull } else { Loss::MapBusy });
    }
    u32::from(marked.is_ok())
}

/// The state that was marked.
#[inline(always)]
pub(crate) fn marked_state(key: &ConnKey) -> Option<u32> {
    // SAFETY: as in `is_marked`.
    let found = unsafe { TOMBSTONES.get(key) }?;
    (*found > STATE).then_some((*found - STATE) as u32)
}

/// Takes a mark away. That there is none is the normal case.
#[inline(always)]
pub(super) fn clear(key: &ConnKey) {
    _ = TOMBSTONES.remove(key);
}

/// Whether this mark was left for a key.
#[inline(always)]
pub(crate) fn is_marked(key: &ConnKey, mark: Mark) -> bool {
    // SAFETY: read at once; see `get`.
    unsafe { TOMBSTONES.get(key) }.is_some_and(|found| *found == mark as u64)
}
