//! What happened during the window to a tuple, or to an address at which bind() or listen() takes ports: the differences of the
//! ledger's counters.

use std::sync::Arc;

use tracer_common::{
    Cause, TupleCount,
    tuple::{SEARCH_BUCKETS, search_bucket_end},
};

use super::{finding::Process, flow::Flow, open_ports::Open};
use crate::ledger::uses::Closed;

/// What happened while it was watched: to a tuple, or to an address at which bind(address, 0) or listen() takes ports.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Activity {
    /// How long it was watched, in seconds; more than 0, except in a default value.
    pub seconds: f64,
    /// Ports that were taken: of a tuple, by connect(); of an address, by bind() or listen().
    pub opened: u64,
    /// Connections that ended: their port went into TIME_WAIT, or was free at once. Those that were never established are
    /// included.
    pub ended: u64,
    /// Of `ended`: those that this host closed first, so that their port went into TIME_WAIT.
    pub closed_first: u64,
    /// Connections that were established and ended: how many each end closed first, and how many segments with data they sent.
    /// All 0: none ended, or that is not known.
    pub closed: Closed,
    /// How many ports were held outside of TIME_WAIT: from [`Self::between`], the mean of the numbers at the beginning and at the
    /// end.
    pub open: Open,
    /// By how many per second the ports in use grew, those in TIME_WAIT included; negative: they became fewer.
    pub growth: f64,
    /// Calls that failed; the index is a [`Cause`] as usize.
    pub failed: [u64; Cause::COUNT],
    /// Port searches of connect() that found a port, by duration: the index is that of `tracer_common::tuple::search_bucket`.
    pub search: [u32; SEARCH_BUCKETS],
    /// Whether connections were opened at a constant rate, by [`super::arrivals::Arrivals::is_constant`]; `None`: not known.
    pub constant: Option<bool>,
    /// The process that called connect() last; at an address, the one whose bind() failed last. `None`: not known.
    pub caller: Option<Process>,
    /// Path of the cgroup of that process, from the root of the hierarchy, beginning with a slash; `None`: not known.
    pub cgroup: Option<Arc<str>>,
}

impl Activity {
    /// The difference of two readings, which are `seconds` apart; this must be more than 0. `before`: `None` if the tuple was not
    /// there then. All counts from 0 in that case, and also if `opened` or `released` is smaller than before: the tuple was
    /// removed and added again. A bucket of `search` that is smaller than before counts from 0; a count of `failed` that is
    /// smaller is 0. `constant`, `caller` and `cgroup` are `None`.
    pub fn between(before: Option<&TupleCount>, now: &TupleCount, seconds: f64) -> Self {
        let zero = TupleCount::default();
        // The tuple was removed, and is there again: its counters began at 0.
        let before = before.filter(|it| it.opened <= now.opened && it.released <= now.released);
        let before = before.unwrap_or(&zero);
        let closed_first = now.time_wait_begun.saturating_sub(before.time_wait_begun);
        let released = now.released.saturating_sub(before.released);
        // Ports that TIME_WAITs give back are of connections that ended a minute before.
        let given_back =
            released.saturating_sub(now.time_wait_ended.saturating_sub(before.time_wait_ended));
        let mut failed = now.failed;
        for (count, earlier) in failed.iter_mut().zip(before.failed) {
            *count = count.saturating_sub(earlier);
        }
        let mut search = now.search;
        for (count, earlier) in search.iter_mut().zip(before.search) {
            // They have 32 bits; a count that is smaller than before began again.
            *count = count.checked_sub(earlier).unwrap_or(*count);
        }
        Self {
            seconds,
            opened: now.opened.saturating_sub(before.opened),
            ended: closed_first.saturating_add(given_back),
            closed_first,
            closed: Closed::of(&now.ends).since(&Closed::of(&before.ends)),
            open: Open::of_two(f64::midpoint(float(open(before)), float(open(now)))),
            growth: (float(now.in_use()) - float(before.in_use())) / seconds,
            failed,
            search,
            constant: None,
            caller: None,
            cgroup: None,
        }
    }

    /// Calls of connect() and bind() that failed because no port was free.
    pub fn exhausted(&self) -> u64 {
        let [connects, binds] =
            [Cause::PortsExhausted, Cause::BindExhausted].map(|cause| self.failures(cause));
        connects.saturating_add(binds)
    }

    /// Calls that failed for this cause.
    pub fn failures(&self, cause: Cause) -> u64 {
        self.failed.get(cause as usize).copied().unwrap_or(0)
    }

    /// A lower bound of how many connections of the window were established: those opened, minus those that failed before they
    /// were established, minus `waiting`, the number in SYN_SENT now. 0 if nothing is left.
    pub fn established(&self, waiting: u32) -> u64 {
        /// How a connection ends that was never established.
        const NEVER: [Cause; 6] = [
            Cause::Refused,
            Cause::TimedOut,
            Cause::Unreachable,
            Cause::Reset,
            Cause::Aborted,
            Cause::NoAnswer,
        ];
        let never = NEVER.iter().map(|cause| self.failures(*cause)).fold(0, u64::saturating_add);
        self.opened.saturating_sub(waiting.into()).saturating_sub(never)
    }

    /// The connections that programs want: those that got a port, and those that failed because none was free. `None`: there were
    /// none. If none got a port, they are open for 0 s. `time_wait_s`: how long a TIME_WAIT holds its port, in seconds.
    /// `waiting`: which share of the ports is in TIME_WAIT now, 0 to 1; it counts as the share that this host closes first if no
    /// connection ended in the window.
    ///
    /// [`Self::seconds`] must be more than 0.
    pub fn flow(&self, time_wait_s: f64, waiting: f64) -> Option<Flow> {
        let wanted = self.opened.saturating_add(self.exhausted());
        if wanted == 0 {
            return None;
        }
        let opened = float(self.opened) / self.seconds;
        let open_s = if self.opened == 0 { 0.0 } else { self.open.mean / opened };
        let closes_first =
            if self.ended == 0 { waiting } else { float(self.closed_first) / float(self.ended) };
        Some(Flow { rate: float(wanted) / self.seconds, open_s, closes_first, time_wait_s })
    }

    /// How long connect()'s port searches took, in ns; `None`: there was none. As exact as the histogram: each search counts as
    /// the middle of its bucket, or as the beginning of the last one, which has no end.
    pub fn search_ns(&self) -> Option<Search> {
        let all: u64 = self.search.iter().map(|count| u64::from(*count)).sum();
        if all == 0 {
            return None;
        }
        let (mut sum, mut below, mut median) = (0.0, 0, None);
        for (bucket, count) in self.search.iter().enumerate() {
            sum += middle(bucket) * f64::from(*count);
            below += u64::from(*count);
            if median.is_none() && below * 2 >= all {
                median = Some(middle(bucket));
            }
        }
        Some(Search { mean: sum / float(all), median: median.unwrap_or(0.0) })
    }
}

/// Mean and median duration of port searches, in ns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Search {
    pub mean: f64,
    pub median: f64,
}

/// How many ports a tuple holds outside of TIME_WAIT.
pub(super) fn open(count: &TupleCount) -> u64 {
    count.in_use().saturating_sub(count.time_wait())
}

/// The middle of a bucket, in ns; of the last one, which has no end, its beginning.
fn middle(bucket: usize) -> f64 {
    let begin = bucket.checked_sub(1).map_or(0, search_bucket_end);
    if bucket + 1 >= SEARCH_BUCKETS {
        float(begin)
    } else {
        f64::midpoint(float(begin), float(search_bucket_end(bucket)))
    }
}

/// A count as a floating-point number.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use tracer_common::tuple::search_bucket;

    use super::*;

    fn count(opened: u64, released: u64, begun: u64, ended: u64) -> TupleCount {
        TupleCount {
            opened,
            released,
            time_wait_begun: begun,
            time_wait_ended: ended,
            ..TupleCount::default()
        }
    }

    #[test]
    fn the_flow_is_what_was_opened_how_long_it_was_open_and_who_closed() {
        // 20 are open, before and after; 500 came, 375 went into TIME_WAIT and 125 gave their port back at once.
        let before = count(1_020, 900, 200, 100);
        let now = count(1_520, 1_075, 575, 150);
        let activity = Activity::between(Some(&before), &now, 5.0);
        assert_eq!((activity.opened, activity.ended, activity.closed_first), (500, 500, 375));
        assert!((activity.growth - 65.0).abs() < 1e-9);
        let flow = activity.flow(62.0, 0.0).unwrap();
        assert!((flow.rate - 100.0).abs() < 1e-9);
        assert!((flow.open_s - 0.2).abs() < 1e-9, "Little's law: 20 open at 100 a second");
        assert!((flow.closes_first - 0.75).abs() < 1e-9);
        assert_eq!(Activity { seconds: 5.0, ..Activity::default() }.flow(62.0, 1.0), None);
    }

    #[test]
    fn connections_that_found_no_port_are_wanted_too() {
        let mut activity = Activity { seconds: 5.0, ..Activity::default() };
        activity.failed[Cause::PortsExhausted as usize] = 500;
        let none = activity.flow(62.0, 0.9).unwrap();
        assert_eq!((none.rate, none.open_s, none.closes_first), (100.0, 0.0, 0.9));
        let some = Activity { opened: 50, ended: 50, open: Open::of_two(1.0), ..activity }
            .flow(62.0, 0.9)
            .unwrap();
        assert_eq!((some.rate, some.open_s, some.closes_first), (110.0, 0.1, 0.0));
    }

    #[test]
    fn a_tuple_that_is_new_or_began_again_counts_from_nothing() {
        let now = count(50, 10, 0, 0);
        let new = Activity::between(None, &now, 5.0);
        assert_eq!((new.opened, new.ended), (50, 10));
        assert_eq!(Activity::between(Some(&count(90, 80, 0, 0)), &now, 5.0), new);
    }

    #[test]
    fn only_failures_for_lack_of_a_port_are_exhaustion() {
        let mut now = TupleCount::default();
        now.failed[Cause::PortsExhausted as usize] = 7;
        now.failed[Cause::BindExhausted as usize] = 2;
        now.failed[Cause::Refused as usize] = 3;
        let mut before = TupleCount::default();
        before.failed[Cause::PortsExhausted as usize] = 4;
        let activity = Activity::between(Some(&before), &now, 1.0);
        assert_eq!((activity.exhausted(), activity.failures(Cause::Refused)), (5, 3));
    }

    #[test]
    fn connections_that_were_not_answered_were_not_established() {
        let mut activity = Activity { opened: 100, ..Activity::default() };
        assert_eq!((activity.established(0), activity.established(101)), (100, 0));
        activity.failed[Cause::NoAnswer as usize] = 70;
        activity.failed[Cause::Refused as usize] = 5;
        // These are no connections.
        activity.failed[Cause::PortsExhausted as usize] = 9;
        assert_eq!(activity.established(20), 5);
    }

    #[test]
    fn counters_that_began_again_are_no_billions_of_searches() {
        let with = |opened, searches| {
            let mut count = count(opened, 0, 0, 0);
            count.search[3] = searches;
            count
        };
        // The tuple was removed, came back, and has more connections than it had.
        let activity = Activity::between(Some(&with(10, 9)), &with(12, 4), 5.0);
        assert_eq!(activity.search[3], 4);
        let wrapped = Activity::between(Some(&with(10, u32::MAX)), &with(12, 1), 5.0);
        assert_eq!(wrapped.search[3], 1);
    }

    #[test]
    fn searches_have_a_mean_and_a_median() {
        let mut activity = Activity::default();
        assert_eq!(activity.search_ns(), None);
        activity.search[search_bucket(10_000)] = 3;
        activity.search[search_bucket(700_000)] = 1;
        let search = activity.search_ns().unwrap();
        assert!((8_192.0..12_288.0).contains(&search.median), "{search:?}");
        let mean = (3.0 * search.median + middle(search_bucket(700_000))) / 4.0;
        assert!((search.mean - mean).abs() < 1.0, "{search:?}");
        assert!(middle(SEARCH_BUCKETS - 1).is_finite());
    }
}
