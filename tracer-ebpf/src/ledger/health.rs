//! Counts connections that got no answer, by source and destination, and sets which sources are left out: for the spreader and
//! its agent.

use tracer_common::{Cause, ConnKey, TupleKey, conn_flag, share::UNKNOWN_USER};

use super::{
    get,
    life::{known, tuple},
};
use crate::{atomic, share};

/// Whether a connect() that failed with this cause had no answer. One that the application aborted early could still have
/// had one, so it does not count.
#[inline(always)]
fn is_nowhere(cause: u32) -> bool {
    const UNREACHABLE: u32 = Cause::Unreachable as u32;
    const TIMED_OUT: u32 = Cause::TimedOut as u32;
    const NO_SOURCE: u32 = Cause::NoSourceAddress as u32;
    const NO_ANSWER: u32 = Cause::NoAnswer as u32;
    matches!(cause, UNREACHABLE | TIMED_OUT | NO_SOURCE | NO_ANSWER)
}

/// Adds to the tuple's [`TupleCount::nowhere`](tracer_common::TupleCount::nowhere) a connect() that failed with this cause before
/// it held a port, if the spreader chose its source and it had no answer; nothing if the tuple has no entry. `flags`: of its
/// attempt ([`conn_flag`]).
#[inline(always)]
pub(crate) fn nowhere(key: &TupleKey, flags: u32, cause: Cause) {
    if flags & conn_flag::SPREAD == 0 || !is_nowhere(cause as u32) {
        return;
    }
    if let Some(count) = known(key) {
        // SAFETY: as in `insert`: `fail` got the entry in this hook, so it stays this tuple's.
        unsafe { atomic::add32(&raw mut (*count).nowhere, 1) };
    }
}

/// Adds to its tuple's [`TupleCount::nowhere`](tracer_common::TupleCount::nowhere) the failed connection that holds this port
/// (host byte order) with the socket of this cookie, if the spreader chose its source and it had no answer. Returns 1 if it
/// counted; 0: if not, or CONNS or TUPLES has no entry. `cause`: the number of a [`Cause`]. Not inlined, as [`super::move_on`].
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

/// Sets why the spreader does not choose a source towards a destination ([`LeftOut`](tracer_common::spread::LeftOut); 0: it may).
/// True if that changed; false also if there is no entry to reset, or none can be made. A source that is left out is on trial
/// when it may be chosen again. `now`: CLOCK_MONOTONIC, ns.
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
            // When it may be chosen again, it is on trial.
            (*count).proven = 0;
        }
        // The agent repeats the command while the source is left out, so the entry is not idle and not removed.
        (*count).last_ns = now;
        changed
    }
}

/// Stops counting the failures so far from a source to a destination against the source. False: the tuple has no entry, or it is
/// being removed.
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
