//! What the ledger notes of how a source fares towards a destination, for the spreader and its agent.

use tracer_common::{Cause, ConnKey, TupleKey, conn_flag, share::UNKNOWN_USER};

use super::{
    get,
    life::{known, tuple},
};
use crate::{atomic, share};

/// Whether a connect() that failed so had no answer. One that the application gave up soon could still have had one.
#[inline(always)]
fn is_nowhere(cause: u32) -> bool {
    const UNREACHABLE: u32 = Cause::Unreachable as u32;
    const TIMED_OUT: u32 = Cause::TimedOut as u32;
    const NO_SOURCE: u32 = Cause::NoSourceAddress as u32;
    const NO_ANSWER: u32 = Cause::NoAnswer as u32;
    matches!(cause, UNREACHABLE | TIMED_OUT | NO_SOURCE | NO_ANSWER)
}

/// Counts a connect() that failed before it held a port, if nothing came back to it. `flags`: of its attempt.
#[inline(always)]
pub(crate) fn nowhere(key: &TupleKey, flags: u32, cause: Cause) {
    if flags & conn_flag::SPREAD == 0 || !is_nowhere(cause as u32) {
        return;
    }
    if let Some(count) = known(key) {
        // SAFETY: as in `insert`: this hook had the entry from `fail`.
        unsafe { atomic::add32(&raw mut (*count).nowhere, 1) };
    }
}

/// As [`nowhere`], for a connection that holds a port. A function of its own as [`super::move_on`].
#[inline(never)]
pub(crate) fn conn_nowhere(cookie: u64, port: u16, cause: u32) -> u32 {
    let Some(conn) = get(&ConnKey::new(cookie, port)) else { return 0 };
    if conn.flags & conn_flag::SPREAD == 0 || !is_nowhere(cause) {
        return 0;
    }
    let Some(count) = known(&conn.tuple) else { return 0 };
    // SAFETY: as in `release_known`.
    unsafe { atomic::add32(&raw mut (*count).nowhere, 1) };
    1
}

/// Sets why the spreader does not choose a source towards a destination; 0: it may. True if that changed.
#[inline(always)]
pub(crate) fn leave_out(key: &TupleKey, why: u32, now: u64) -> bool {
    if why == 0 && known(key).is_none() {
        return false;
    }
    let Ok(count) = tuple(key, share::owner(key.netns, UNKNOWN_USER)) else { return false };
    // SAFETY: as in `insert`.
    unsafe {
        let changed = (*count).left_out != why;
        (*count).left_out = why;
        if changed && why != 0 {
            // When it is let in again, it is on trial.
            (*count).proven = 0;
        }
        // It is not forgotten while it is left out: the agent says so again and again.
        (*count).last_ns = now;
        changed
    }
}

/// Holds no failure up to now against a source towards a destination.
#[inline(always)]
pub(crate) fn forgive(key: &TupleKey) -> bool {
    if known(key).is_none() {
        return false;
    }
    let Ok(count) = tuple(key, share::owner(key.netns, UNKNOWN_USER)) else { return false };
    // SAFETY: as in `insert`.
    unsafe { (*count).forgiven = (&raw const (*count).nowhere).read_volatile() };
    true
}
