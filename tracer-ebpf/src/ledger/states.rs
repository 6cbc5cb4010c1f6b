//! In which state the connection of a held port is.

use tracer_common::{ConnKey, PortState, States, TupleCount, conn_flag, tuple::PROVEN};

use super::{CONNS, ended_before_established, life::known};
use crate::{
    atomic,
    skip::{Skip, Step},
};

/// Adds to how many ports are in which state.
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

/// The connection of a held port came to this state ([`PortState`]), unless it is there or further already.
///
/// A function of its own, for the sake of the caller's part of the BPF stack. It takes no references: Linux
/// 6.18 trips over its own account of those. Returns a number, because the verifier wants one.
#[inline(never)]
pub(crate) fn move_on(cookie: u64, port: u16, state: u32) -> u32 {
    let new = state << conn_flag::STATE_SHIFT & conn_flag::STATE;
    let moved = change(&ConnKey::new(cookie, port), new, |old| old < new);
    u32::from(moved.is_ok())
}

/// Corrects the state of a held port's connection, where it is still `old`; both as in `Conn::flags`.
#[inline(always)]
pub(crate) fn set_state(key: &ConnKey, old: u32, new: u32) -> bool {
    change(key, new & conn_flag::STATE, |state| state == old & conn_flag::STATE).is_ok()
}

#[inline(always)]
fn change(key: &ConnKey, new: u32, applies: impl FnOnce(u32) -> bool) -> Step {
    const ESTABLISHED: u32 = PortState::Established.flags();
    let conn = CONNS.get_ptr_mut(key).ok_or(Skip::NotOurs)?;
    // SAFETY: as in `time_wait`, which comes after this.
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
