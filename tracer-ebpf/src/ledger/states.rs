//! Sets the state of the connection of a held port, and counts how many ports of a tuple are in each state.

use tracer_common::{ConnKey, PortState, States, TupleCount, conn_flag, tuple::PROVEN};

use super::{CONNS, ended_before_established, life::known};
use crate::{
    atomic,
    skip::{Skip, Step},
};

/// Adds `change` to the tuple's [`States`].
///
/// # Safety
/// `count` must point into a live value of TUPLES.
#[inline(always)]
pub(super) unsafe fn add(count: *mut TupleCount, change: u64) {
    if change != 0 {
        // SAFETY: the caller's promise.
        unsafe { atomic::add(&raw mut (*count).states, change) };
    }
}

/// Sets the state of the connection that holds this port (host byte order) with a socket of this cookie to the [`PortState`] with
/// the number `state`, unless it is in this state, a later one or TIME_WAIT. Returns 1 if the tuple's counters changed, else 0
/// (also without an entry of CONNS or TUPLES). A number, because the verifier wants one.
///
/// Not inlined, so that its stack is not part of the caller's. It takes no references: the verifier of Linux
/// 6.18 tracks those wrongly ("verifier bug").
#[inline(never)]
pub(crate) fn move_on(cookie: u64, port: u16, state: u32) -> u32 {
    let new = state << conn_flag::STATE_SHIFT & conn_flag::STATE;
    let moved = change(&ConnKey::new(cookie, port), new, |old| old < new);
    u32::from(moved.is_ok())
}

/// Corrects the state of a held port's connection from `old` to `new`, both as in `Conn::flags`. False: no counter
/// changed, because the state is not `old`, the connection is in TIME_WAIT, or CONNS or TUPLES has no entry.
#[inline(always)]
pub(crate) fn set_state(key: &ConnKey, old: u32, new: u32) -> bool {
    change(key, new & conn_flag::STATE, |state| state == old & conn_flag::STATE).is_ok()
}

/// Sets the state to `new` if `applies` holds for the old one, both as in `Conn::flags`, and counts that. `Err`: it does not
/// hold, the connection is in TIME_WAIT, or CONNS has no entry; if only TUPLES has none, the state is set but not counted.
#[inline(always)]
fn change(key: &ConnKey, new: u32, applies: impl FnOnce(u32) -> bool) -> Step {
    const ESTABLISHED: u32 = PortState::Established.flags();
    let conn = CONNS.get_ptr_mut(key).ok_or(Skip::NotOurs)?;
    // SAFETY: as in `time_wait`, which the socket's life cycle orders after this.
    let conn = unsafe { &mut *conn };
    let flags = conn.flags;
    if flags & conn_flag::TIME_WAIT != 0 || !applies(flags & conn_flag::STATE) {
        return Err(Skip::NotOurs);
    }
    let established = new == ESTABLISHED;
    conn.flags =
        flags & !conn_flag::STATE | new | if established { conn_flag::ESTABLISHED } else { 0 };
    let count = known(&conn.tuple).ok_or(Skip::NotOurs)?;
    // SAFETY: as in `release_known`: the port is still held.
    unsafe {
        add(count, States::one(new).wrapping_sub(States::one(flags)));
        if established && ended_before_established(flags) {
            atomic::add32(&raw mut (*count).settled, 1);
            atomic::add32(&raw mut (*count).established, 1);
            (*count).proven = PROVEN;
        }
    }
    Ok(())
}
