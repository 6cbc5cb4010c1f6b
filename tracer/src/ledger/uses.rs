//! How much the connections of a tuple were used: requests in each, and which end closed them first. No I/O, no clock.

use tracer_common::{Ends, TupleCount};

/// The connections of a tuple, or of several, that were established and have ended, and the SYNs without an answer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Uses {
    /// The connections that ended so far.
    pub closed: Closed,
    /// What the connections carried that ended since the reading before; if there is no reading before, what all so far carried.
    /// If none ended since: from [`Self::new`], what all so far carried; from [`crate::view::tuple_history`], this value of the
    /// reading before.
    pub recent: Carried,
    /// How often a SYN was sent again, so far; the count of one tuple wraps at 2^32.
    pub syns_again: u64,
    /// connect() calls whose SYN had no answer, so far: they timed out, or the application gave up.
    pub unanswered: u64,
}

/// Connections that were established and have ended, so far or in a time: which end closed them first, and what they sent.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Closed {
    /// Connections that this host closed first.
    pub here: u64,
    /// Connections that the peer closed first.
    pub by_peer: u64,
    /// Connections that ended without a FIN: they were reset, or timed out.
    pub aborted: u64,
    /// Segments with data that they sent, those sent again included.
    pub segments: u64,
}

impl Closed {
    /// All connections that ended so far, as a tuple's counters have them.
    pub const fn of(ends: &Ends) -> Self {
        Self {
            here: ends.closed_here,
            by_peer: ends.closed_by_peer,
            aborted: ends.aborted,
            segments: ends.segments,
        }
    }

    /// How many connections these are; at most `u64::MAX`.
    pub const fn all(&self) -> u64 {
        self.here.saturating_add(self.by_peer).saturating_add(self.aborted)
    }

    /// Those of `self` that ended after `before` was read; a number that is larger in `before` is 0.
    #[must_use]
    pub const fn since(&self, before: &Self) -> Self {
        Self {
            here: self.here.saturating_sub(before.here),
            by_peer: self.by_peer.saturating_sub(before.by_peer),
            aborted: self.aborted.saturating_sub(before.aborted),
            segments: self.segments.saturating_sub(before.segments),
        }
    }

    /// The sum of these and others; each number is at most `u64::MAX`.
    #[must_use]
    pub const fn and(&self, other: &Self) -> Self {
        Self {
            here: self.here.saturating_add(other.here),
            by_peer: self.by_peer.saturating_add(other.by_peer),
            aborted: self.aborted.saturating_add(other.aborted),
            segments: self.segments.saturating_add(other.segments),
        }
    }

    /// What these connections carried: their number ([`Self::all`]) and their segments.
    pub const fn carried(&self) -> Carried {
        Carried { connections: self.all(), segments: self.segments }
    }
}

/// Connections that carry so many requests on average carry one each, nearly all of them.
const ONE_EACH: std::ops::RangeInclusive<f64> = 0.9..=1.1;

/// What connections that ended carried.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Carried {
    /// How many connections these are.
    pub connections: u64,
    /// Segments with data that they sent, those sent again included.
    pub segments: u64,
}

impl Carried {
    /// What the connections carried that ended between `before` and `now`, two readings of a tuple; if none did, or `before` is
    /// `None`: what all carried that ended up to `now`.
    pub fn recent(now: &Ends, before: Option<&Ends>) -> Self {
        let now = Closed::of(now);
        let since = before.map(|before| now.since(&Closed::of(before)));
        since.filter(|since| since.all() > 0).unwrap_or(now).carried()
    }

    /// Segments with data in each connection, on average. That is the number of requests if each was sent in one segment (HTTP/1
    /// requests below one MSS, without TLS); else fewer, or where several requests share a segment (HTTP/2, pipelining) more. `None`: there is no connection.
    pub fn per_connection(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
        let [segments, connections] = [self.segments, self.connections].map(|count| count as f64);
        (self.connections > 0).then(|| segments / connections)
    }

    /// Whether they carried more than [`Self::is_one_each`] allows. False if there is no connection.
    pub fn is_several_each(&self) -> bool {
        self.per_connection().is_some_and(|requests| requests > *ONE_EACH.end())
    }

    /// Whether nearly all of them carried one request each: 0.9 to 1.1 segments with data in each, on average. False if there is
    /// no connection.
    pub fn is_one_each(&self) -> bool {
        self.per_connection().is_some_and(|requests| ONE_EACH.contains(&requests))
    }
}

impl Uses {
    /// The uses of the tuple with the counters `now`. `before`: its counters in the reading before; `None`: there is none.
    pub fn new(now: &TupleCount, before: Option<&TupleCount>) -> Self {
        let recent = Carried::recent(&now.ends, before.map(|before| &before.ends));
        Self {
            syns_again: now.syns_again.into(),
            unanswered: now.unanswered(),
            ..Self::of(&now.ends, recent)
        }
    }

    /// The uses of a tuple whose connections ended as `ends` counts them, with `recent` as it is; `syns_again` and `unanswered`
    /// are 0.
    pub const fn of(ends: &Ends, recent: Carried) -> Self {
        Self { closed: Closed::of(ends), recent, syns_again: 0, unanswered: 0 }
    }

    /// The sum of two tuples; each number is at most `u64::MAX`.
    #[must_use]
    pub const fn and(&self, other: &Self) -> Self {
        Self {
            closed: self.closed.and(&other.closed),
            recent: Carried {
                connections: self.recent.connections.saturating_add(other.recent.connections),
                segments: self.recent.segments.saturating_add(other.recent.segments),
            },
            syns_again: self.syns_again.saturating_add(other.syns_again),
            unanswered: self.unanswered.saturating_add(other.unanswered),
        }
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::Cause;

    use super::*;

    fn count(closed_here: u64, segments: u64) -> TupleCount {
        let ends = Ends { closed_here, segments, ..Ends::NONE };
        TupleCount { ends, ..TupleCount::default() }
    }

    fn requests(now: &TupleCount, before: Option<&TupleCount>) -> Option<f64> {
        Uses::new(now, before).recent.per_connection()
    }

    #[test]
    fn requests_are_of_the_connections_that_ended_since_the_reading_before() {
        let (before, now) = (count(100, 100), count(104, 200));
        assert_eq!(requests(&now, Some(&before)), Some(25.0));
        assert_eq!(requests(&now, None), Some(200.0 / 104.0));
        // None ended since: all count.
        assert_eq!(requests(&before, Some(&before)), Some(1.0));
        assert_eq!(requests(&TupleCount::default(), Some(&TupleCount::default())), None);
    }

    #[test]
    fn what_ended_since_a_reading_is_never_below_0() {
        let before = Closed { here: 3, by_peer: 1, aborted: 9, segments: 9 };
        let now = Closed { here: 5, by_peer: 1, aborted: 2, segments: 59 };
        let since = now.since(&before);
        assert_eq!(since, Closed { here: 2, by_peer: 0, aborted: 0, segments: 50 });
        assert_eq!((since.all(), since.carried().per_connection()), (2, Some(25.0)));
        assert_eq!(before.since(&now).all(), 7);
        let most = Closed { here: u64::MAX, by_peer: 1, ..Closed::default() };
        assert_eq!((most.all(), most.and(&most).here), (u64::MAX, u64::MAX));
    }

    #[test]
    fn as_many_segments_as_connections_are_one_request_each() {
        let of = |segments| Carried { connections: 50, segments }.is_one_each();
        assert_eq!([44, 45, 50, 55, 56].map(of), [false, true, true, true, false]);
        let several = |segments| Carried { connections: 50, segments }.is_several_each();
        assert_eq!([0, 24, 55, 56].map(several), [false, false, false, true]);
        let none = Carried::default();
        assert!(!none.is_one_each() && !none.is_several_each());
    }

    #[test]
    fn several_tuples_add_up_by_connection_and_not_by_tuple() {
        let of = |now: &TupleCount| Uses::new(now, None);
        let both = of(&count(1, 99)).and(&of(&count(9, 1)));
        assert_eq!((both.closed.all(), both.recent.per_connection()), (10, Some(10.0)));
    }

    #[test]
    fn a_syn_without_an_answer_timed_out_or_was_given_up() {
        let mut now = TupleCount { syns_again: 7, ..TupleCount::default() };
        now.failed = [1; Cause::COUNT];
        now.failed[Cause::NoAnswer as usize] = 2;
        now.failed[Cause::TimedOut as usize] = 3;
        let uses = Uses::new(&now, None);
        assert_eq!((uses.unanswered, uses.syns_again), (5, 7));
    }
}
