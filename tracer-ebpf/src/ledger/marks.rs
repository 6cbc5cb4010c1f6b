//! TOMBSTONES: while userspace reads the sockets that are older than the tracer, hooks mark here which of them ended or changed.

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

/// The newest mark of each port: a [`Mark`], or a state ([`STATE`]).
#[map]
static TOMBSTONES: HashMap<ConnKey, u64> = HashMap::with_max_entries(65_536, 0);

#[map]
static CONTROL: Array<u32> = Array::with_max_entries(CONTROL_LEN, 0);

/// What hooks record about a port while older sockets are being read, as a value of TOMBSTONES; the other values are states
/// ([`mark_state`]).
#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(u64)]
pub(crate) enum Mark {
    /// A time-wait socket holds the port: the end of the full socket does not release it.
    TimeWait = 1,
    /// The port was released: if userspace read from sock_diag that a socket holds it, that is out of date.
    Released,
}

/// Whether userspace is reading the older sockets, so that hooks leave marks.
#[inline(always)]
pub(crate) fn seeding() -> bool {
    CONTROL.get(CONTROL_SEEDING).is_some_and(|seeding| *seeding != 0)
}

/// Marks a port, so that an [`add_older`](super::add_older) of it is undone or corrected; counts a loss if the map refuses.
/// Nothing for port 0 and for a socket without a cookie.
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

/// The mark of a state ([`tracer_common::PortState`]) is this number plus the state.
const STATE: u64 = 16;

/// Marks the port (host byte order) of the socket with this cookie with its connection's new state, the number of a
/// [`tracer_common::PortState`], so that an [`add_older`](super::add_older) of it gets that state. Returns 1 if it is marked; 0:
/// the map refuses, which counts as a loss. Unlike [`mark`], it marks port 0, too. Not inlined, as [`super::move_on`].
#[inline(never)]
pub(crate) fn mark_state(cookie: u64, port: u16, state: u32) -> u32 {
    let marked = TOMBSTONES.insert(ConnKey::new(cookie, port), STATE + u64::from(state), 0);
    if let Err(error) = marked {
        stats::lost(if error == E2BIG { Loss::TombstonesFull } else { Loss::MapBusy });
    }
    u32::from(marked.is_ok())
}

/// The state ([`tracer_common::PortState`]) that a port was marked with; `None`: it has no mark, or one that is no state.
#[inline(always)]
pub(crate) fn marked_state(key: &ConnKey) -> Option<u32> {
    // SAFETY: as in `is_marked`.
    let found = unsafe { TOMBSTONES.get(key) }?;
    (*found > STATE).then_some((*found - STATE) as u32)
}

/// The key of the mark that this socket has the port (host byte order) no longer bound. It differs from the key of the socket's
/// connection: a time-wait socket, which has the same cookie, may still hold the port.
#[inline(always)]
fn unbound(cookie: u64, port: u16) -> ConnKey {
    ConnKey { zero: 1, ..ConnKey::new(cookie, port) }
}

/// Marks that the socket with this cookie (0: it has none, and nothing is marked) no longer has this port (host byte order) bound,
/// so that an entry of BOUND_PORTS that userspace adds for it is removed again. Returns 1 if it is marked; 0: it has no cookie, or
/// the map refuses, which counts as a loss. Not inlined, as [`super::move_on`].
#[inline(never)]
pub(crate) fn mark_unbound(cookie: u64, port: u16) -> u32 {
    if cookie == 0 {
        return 0;
    }
    let marked = TOMBSTONES.insert(unbound(cookie, port), Mark::Released as u64, 0);
    if let Err(error) = marked {
        stats::lost(if error == E2BIG { Loss::TombstonesFull } else { Loss::MapBusy });
    }
    u32::from(marked.is_ok())
}

/// Whether [`mark_unbound`] marked this port.
#[inline(always)]
pub(crate) fn is_marked_unbound(key: &ConnKey) -> bool {
    is_marked(&unbound(key.cookie, key.port), Mark::Released)
}

/// Removes a port's mark. Most ports have none.
#[inline(always)]
pub(super) fn clear(key: &ConnKey) {
    _ = TOMBSTONES.remove(key);
}

/// Whether a port has this mark.
#[inline(always)]
pub(crate) fn is_marked(key: &ConnKey, mark: Mark) -> bool {
    // SAFETY: a preallocated element stays mapped, and the value is read at once; see `get`.
    unsafe { TOMBSTONES.get(key) }.is_some_and(|found| *found == mark as u64)
}
