//! Counts how connections that were established end, and SYNs that are sent again.

use tracer_common::{
    Conn, ConnKey, PortState, TupleCount, conn_flag,
    ends::{Closer, closer, lifetime_bucket},
};

use super::{life::known, move_on};
use crate::atomic;

/// How the full socket of an established connection closed; [`Self::NONE`]: there is nothing to count.
#[derive(Clone, Copy)]
pub(crate) struct End {
    /// The TCP state from which the socket closes ([`closer`]); 0: there is nothing to count.
    pub(crate) old_state: u8,
    /// Segments with data that the socket sent, those sent again included.
    pub(crate) segments: u32,
}

impl End {
    /// Nothing to count.
    pub(crate) const NONE: Self = Self { old_state: 0, segments: 0 };
}

/// Counts the end of a full socket whose port a time-wait socket has taken over, at `now` (CLOCK_MONOTONIC, ns). Nothing happens
/// if the tuple has no entry. A socket that gives its port back at once is counted by [`release_ended`](super::release_ended).
#[inline(always)]
pub(crate) fn ended(conn: &Conn, end: End, now: u64) {
    if let Some(count) = known(&conn.tuple) {
        // SAFETY: as in `release_known`: the port is still held.
        unsafe { add(count, conn.flags, conn.acquired_ns, end, now) };
    }
}

/// Adds an end at `now` to the tuple's counters. `flags` and `acquired_ns`: those of the connection's entry. Both times are of
/// CLOCK_MONOTONIC, ns.
///
/// # Safety
/// `count` must point into a live value of TUPLES.
#[inline(always)]
pub(super) unsafe fn add(count: *mut TupleCount, flags: u32, acquired_ns: u64, end: End, now: u64) {
    let Some(closer) = closer(end.old_state) else { return };
    // SAFETY: the caller's promise.
    unsafe {
        let ends = &raw mut (*count).ends;
        match closer {
            Closer::Here => atomic::add(&raw mut (*ends).closed_here, 1),
            Closer::Peer => atomic::add(&raw mut (*ends).closed_by_peer, 1),
            Closer::Neither => atomic::add(&raw mut (*ends).aborted, 1),
        }
        atomic::add(&raw mut (*ends).segments, u64::from(end.segments));
        if flags & conn_flag::SEEDED == 0 {
            let bucket = lifetime_bucket(now.saturating_sub(acquired_ns));
            // Volatile, because the verifier needs the check in `get_mut`, which the compiler knows to be superfluous.
            let bucket = (&raw const bucket).read_volatile();
            if let Some(lifetime) = (*ends).lifetimes.get_mut(bucket) {
                atomic::add32(lifetime, 1);
            }
        }
    }
}

/// The SYN of the connection that holds this port is sent again: counts that, and records that no answer has come. Nothing is
/// counted if the port has no entry.
#[inline(always)]
pub(crate) fn syn_sent_again(key: &ConnKey) {
    if let Some(conn) = super::get(key)
        && let Some(count) = known(&conn.tuple)
    {
        // SAFETY: as in `release_known`: the port is still held.
        unsafe { atomic::add32(&raw mut (*count).syns_again, 1) };
    }
    move_on(key.cookie, key.port, PortState::Unanswered as u32);
}
