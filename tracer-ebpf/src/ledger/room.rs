//! Counts which of a tuple's ports take room: its counters `held` and `waiting`.

use tracer_common::{Conn, ConnKey, Halves, TupleCount, conn_flag};

use super::{get_mut, life::known};
use crate::{atomic, bind};

/// The kernel's port search never reuses a TIME_WAIT with one of these flags.
const NEVER_TAKEN_OVER: u32 =
    conn_flag::LISTED | conn_flag::BOUND | conn_flag::APART | conn_flag::NO_STAMP;

/// Adds a port (`change` 1) to [`TupleCount::held`], or removes it (`u64::MAX`). Not counted: a port that bind() took, which is
/// among the bound ports already, and one that connect() cannot be given now ([`conn_flag::APART`]). A port that the spreader
/// bound counts as a fast port, too.
///
/// # Safety
/// `count` must point into a live value of TUPLES.
#[inline(always)]
pub(super) unsafe fn hold(count: *mut TupleCount, port: u16, flags: u32, change: u64) {
    if flags & (conn_flag::LISTED | conn_flag::APART) != 0 {
        return;
    }
    if flags & conn_flag::BOUND != 0 {
        bind::fast(change);
    }
    // SAFETY: the caller's promise.
    unsafe { atomic::add(&raw mut (*count).held, Halves::one(port).wrapping_mul(change)) };
}

/// Adds a port in TIME_WAIT (`change` 1) to [`TupleCount::waiting`], or removes it (`u64::MAX`). Not counted: a port that the
/// kernel never reuses, by a flag of `NEVER_TAKEN_OVER`.
///
/// # Safety
/// `count` must point into a live value of TUPLES.
#[inline(always)]
pub(super) unsafe fn wait(count: *mut TupleCount, port: u16, flags: u32, change: u64) {
    if flags & NEVER_TAKEN_OVER == 0 {
        // SAFETY: the caller's promise.
        unsafe { atomic::add(&raw mut (*count).waiting, Halves::one(port).wrapping_mul(change)) };
    }
}

/// Sets whether the port of a connection is [`conn_flag::APART`]. False: it is so already, or CONNS or TUPLES has no entry.
#[inline(always)]
pub(crate) fn set_apart(key: &ConnKey, apart: bool) -> bool {
    let Some(conn) = get_mut(key) else { return false };
    // SAFETY: a preallocated element stays mapped. Only commands change this bit, one after the other.
    let owner = unsafe { (&raw const (*conn).owner).read_volatile() };
    if (owner & Conn::APART != 0) == apart {
        return false;
    }
    // SAFETY: as above; the element can have become another port's (`super::get`).
    let (count, flags) =
        unsafe { (known(&(*conn).tuple), (&raw const (*conn).flags).read_volatile()) };
    let Some(count) = count else { return false };
    let change = if apart { u64::MAX } else { 1 };
    // SAFETY: as in `super::release_known`: the port is held. Adding the highest bit flips it. If a hook records a
    // TIME_WAIT or releases the port at this moment, a comparison corrects the counters.
    unsafe {
        atomic::add32(&raw mut (*conn).owner, Conn::APART);
        hold(count, key.port, flags, change);
        if flags & conn_flag::TIME_WAIT != 0 {
            wait(count, key.port, flags, change);
        }
    }
    true
}
