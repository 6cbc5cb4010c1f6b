//! The indices of the map `STATS`: two totals of events, the sum of port-search times, the losses by name, and how many calls
//! failed by cause.

use crate::{Cause, named::named};

/// Totals in the per-CPU `STATS` map. The value is the array index: append, never reorder.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Stat {
    /// Events that the event mask and the filter let through.
    EventsSeen = 0,
    /// Of `EventsSeen`: events written to the ring buffer. `seen = emitted + event_ring_full + events_limited`, exactly.
    EventsEmitted,
    /// How long all port searches of connect() took that the table of tuples counts, ns.
    SearchNs,
}

named! {
    /// What the kernel side could not record. The value is an array index: append, never reorder.
    pub enum Loss: u32 {
        /// The ring buffer was full: the count is in the table, the event's detail is gone.
        EventRingFull = 0 => "event_ring_full",
        /// The connection table was full: this port is counted nowhere but here.
        ConnsFull => "conns_full",
        /// The tuple table was full: this port is counted nowhere but here; a failure has its event, but no row.
        TuplesFull => "tuples_full",
        /// The table of bound ports was full: the port counts as one that connect() can get, which it is not.
        BindsFull => "binds_full",
        /// A call's attempt is missing: it was evicted, could not be inserted, or the kernel skipped its hook. The caller is not
        /// known.
        AttemptsFull => "attempts_full",
        /// The table of tombstones was full while older sockets were being read: until the next comparison with the kernel's
        /// sockets, a port that was released meanwhile can count as held.
        TombstonesFull => "tombstones_full",
        /// A change of a map failed although the map has room, for a passing reason (EBUSY): the next comparison with the
        /// kernel's sockets corrects the ledger.
        MapBusy => "map_busy",
        /// A kernel structure could not be read (bpf_probe_read_kernel failed), so that a hook stopped early.
        ReadFailed => "read_failed",
        /// A socket without a cookie took a port by connect(): this port is counted nowhere but here.
        NoCookie => "no_cookie",
        /// One user, or root in one namespace, holds its whole share of the tuple table. The effect is that of
        /// [`Self::TuplesFull`].
        TuplesShare => "tuples_share",
        /// The same for the connection table: this port is counted nowhere but here.
        ConnsShare => "conns_share",
        /// The same for the table of bound ports.
        BindsShare => "binds_share",
        /// A failure's event was left out, because one user, or root in one namespace, exceeded its rate:
        /// [`crate::share::Rate`].
        EventsLimited => "events_limited",
        /// The table of ports that bind() took at some time was full, or one user, or root in one namespace, holds its whole
        /// share of it: such a port counts as free once it is not bound any more, even if a connection still keeps the kernel
        /// from giving it to connect().
        TouchedShare => "touched_share",
    }
}

impl Loss {
    /// Index of this loss in the `STATS` map.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        LOSS_BASE + self as u32
    }
}

/// Index in the `STATS` map of how many connect(), bind() and listen() calls failed for this cause.
#[inline(always)]
pub const fn failed_index(cause: Cause) -> u32 {
    FAILED_BASE + cause as u32
}

/// Index of the first [`Loss`] in the `STATS` map. The [`Stat`] counters come before it; the indices from 3 to 7 are not used.
pub const LOSS_BASE: u32 = 8;
/// Index of the first [`Cause`] in the `STATS` map; the losses come before it.
#[expect(clippy::cast_possible_truncation, reason = "a number of variants")]
pub const FAILED_BASE: u32 = LOSS_BASE + Loss::COUNT as u32;
/// Entries of the `STATS` map.
#[expect(clippy::cast_possible_truncation, reason = "a number of variants")]
pub const STATS_LEN: u32 = FAILED_BASE + Cause::COUNT as u32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loss_stands_at_its_own_index() {
        for (index, loss) in Loss::ALL.into_iter().enumerate() {
            assert_eq!(loss as usize, index);
        }
        assert!((Stat::SearchNs as u32) < LOSS_BASE);
    }

    #[test]
    fn a_cause_and_a_loss_have_different_counters() {
        let indices = Loss::ALL.map(Loss::index).into_iter().chain(Cause::ALL.map(failed_index));
        assert!(indices.eq(LOSS_BASE..STATS_LEN));
    }
}
