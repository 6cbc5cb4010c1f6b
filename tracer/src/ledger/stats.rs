//! Computes the [`Row`] of a tuple (how full it is, how fast it fills) from two readings of its counters, and from what earlier
//! readings showed ([`Forecast`]). No I/O, no clock.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tracer_common::{
    Cause, Ports, TupleCount, TupleKey,
    tuple::{SEARCH_BUCKETS, search_bucket_end},
};

use super::uses::Uses;
use crate::host::{capacity::Limits, process::Called};

/// Values of a tuple that need more than two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Forecast {
    /// Seconds until no port is left, 0 if none is left; `None`: the tuple is not filling, or that is not known.
    pub eta_s: Option<f64>,
    /// TIME_WAITs whose ports connect() can reuse now; `None`: it never can, or that is not known.
    pub reusable: Option<u64>,
}

/// One tuple, as the table and the stream show it; an address at which bind(address, 0) took ports ([`TupleKey::of_bind`]); or a
/// group of either ([`crate::view::group`]).
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The key of the tuple, or of the address; of a group, with 0 in the parts in which its tuples can differ.
    pub key: TupleKey,
    /// Name of its network namespace; `None`: it has none, or it is not known.
    pub netns_name: Option<Arc<str>>,
    /// Ports in use, those in TIME_WAIT included.
    pub in_use: u64,
    /// Ports in TIME_WAIT.
    pub time_wait: u64,
    /// Ports in TIME_WAIT that connect() can reuse now (net.ipv4.tcp_tw_reuse); `None`: it never can, or not known.
    pub reusable: Option<u64>,
    /// The other ports in use, by the state of their socket; `None`: not known (an old recording does not have it).
    pub states: Option<Ports>,
    /// Ports that this tuple can hold: those in use, and those that connect() can still be given. `None`: not known.
    pub capacity: Option<u32>,
    /// How many ports the range of its namespace has, and how many of these are reserved or bound; `None`: not known.
    pub limits: Option<Limits>,
    /// `in_use` / `capacity`; 1 if `capacity` is 0. `None` without a capacity.
    pub saturation: Option<f64>,
    /// Changes per second: since the reading before, or in a view over its window ([`crate::view::tuple_history::Window`]).
    /// `None`: there was no reading before, or no time has passed since.
    pub rates: Option<Rates>,
    /// Seconds until no port is left if it goes on filling as now, 0 if none is left; `None`: it is not filling, or that is
    /// not known.
    pub eta_s: Option<f64>,
    /// 99th percentile of how long port searches took: of the searches since the reading before; if there were none since, of
    /// all, or in a view the value of the reading before. `None`: not measured, or there were none at all.
    pub search_p99: Option<P99>,
    /// How the connections that ended were used, and SYNs without an answer; `None`: not known (an old recording, and the row of
    /// an address in `top`, do not have it).
    pub uses: Option<Uses>,
    /// Ports taken since the tuple was added to the ledger, those of older sockets included.
    pub opened: u64,
    /// Ports released since then.
    pub released: u64,
    /// Failed calls since then, by [`Cause`].
    pub failed: [u64; Cause::COUNT],
    /// errno of the newest failure; 0: there is no failure, or it had no errno (the application gave up).
    pub last_errno: u32,
    /// Process that connected last; 0: not known.
    pub pid: u32,
    /// Names of that process and thread.
    pub called: Called,
    /// Id of that process's cgroup; 0: not known, and always in a view.
    pub cgroup: u64,
    /// Container or systemd unit of that process: [`crate::host::cgroups::Name::place`]. `None`: neither, or not
    /// known.
    pub container: Option<Arc<str>>,
    /// How many tuples the row stands for: 1, or the number in a group.
    pub tuples: u32,
    /// A remark that a view shows with the row; `None`: there is none.
    pub note: Option<Arc<str>>,
}

/// 99th percentile of the duration of port searches, as exactly as the buckets of the histogram allow.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct P99 {
    /// At least 99 of 100 searches were shorter, ns; with `at_least`: more than one of 100 took this long or longer.
    pub ns: u64,
    /// Whether the percentile is in the last bucket, which has no upper end: `ns` is its beginning then.
    pub at_least: bool,
}

/// Changes per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Ports taken.
    pub opened: f64,
    /// Ports released.
    pub released: f64,
    /// Failed calls.
    pub failed: f64,
}

impl Row {
    /// The row of tuple `key`. `now`: its counters; `before`: its counters in the reading before, and the time since then (if
    /// that is 0, the row has no rates); `None`: there was none. `limits`: those of its namespace; `None`: not known, so that
    /// capacity and saturation are not known either. The row has no forecast (see [`Self::with`]), no names of a namespace or
    /// container, and no note.
    pub fn new(
        key: TupleKey,
        now: &TupleCount,
        before: Option<(&TupleCount, Duration)>,
        limits: Option<Limits>,
    ) -> Self {
        let capacity = limits.map(|limits| limits.capacity_of(&key, now));
        let rates = before.and_then(|(before, elapsed)| Rates::between(before, now, elapsed));
        Self {
            key,
            netns_name: None,
            in_use: now.in_use(),
            time_wait: now.time_wait(),
            reusable: None,
            states: Some(now.ports()),
            capacity,
            limits,
            saturation: saturation(now.in_use(), capacity),
            rates,
            eta_s: None,
            search_p99: search_p99(now, before.map(|(before, _)| before)),
            uses: Some(Uses::new(now, before.map(|(before, _)| before))),
            opened: now.opened,
            released: now.released,
            failed: now.failed,
            last_errno: now.last_errno,
            pid: now.pid,
            called: Called::of(now.pid, 0, now.comm),
            cgroup: now.cgroup,
            container: None,
            tuples: 1,
            note: None,
        }
    }

    /// The row with this forecast in place of its `eta_s` and `reusable`.
    #[must_use]
    pub fn with(self, forecast: Forecast) -> Self {
        Self { eta_s: forecast.eta_s, reusable: forecast.reusable, ..self }
    }

    /// Failed calls since the tuple was added to the ledger, of all causes; at most `u64::MAX`.
    pub fn failures(&self) -> u64 {
        self.failed.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Failed calls since the tuple was added to the ledger by cause, in the order of [`Cause::ALL`], without causes that did not
    /// occur.
    pub fn failures_by_cause(&self) -> impl Iterator<Item = (Cause, u64)> {
        Cause::ALL.into_iter().zip(self.failed).filter(|(_, count)| *count > 0)
    }
}

/// `in_use` / `capacity`; 1 if `capacity` is 0, which counts as full. `None` without a capacity.
pub fn saturation(in_use: u64, capacity: Option<u32>) -> Option<f64> {
    match capacity? {
        0 => Some(1.0),
        capacity => Some(ratio(in_use, f64::from(capacity))),
    }
}

impl Rates {
    /// The changes per second between two readings; `None` if no time has passed.
    fn between(before: &TupleCount, now: &TupleCount, elapsed: Duration) -> Option<Self> {
        let seconds = elapsed.as_secs_f64();
        // A tuple that was removed and added again counts from 0 again: its rates are 0.
        let rate = |before: u64, now: u64| ratio(now.saturating_sub(before), seconds);
        (seconds > 0.0).then(|| Self {
            opened: rate(before.opened, now.opened),
            released: rate(before.released, now.released),
            failed: rate(sum(&before.failed), sum(&now.failed)),
        })
    }
}

/// A reading that a later one is compared with: for each tuple its counters, or what is needed of them. The default has no tuples.
#[derive(Debug, Default)]
pub struct Earlier<C = TupleCount> {
    tuples: Vec<(TupleKey, C)>,
    /// Index of each tuple in `tuples`; `None`: not made, because each tuple so far was where it was expected.
    places: Option<HashMap<TupleKey, usize>>,
    /// Index at which the next tuple is expected.
    next: usize,
}

impl Earlier {
    /// A copy of this reading (each key once; not checked).
    pub fn of(tuples: &[(TupleKey, TupleCount)]) -> Self {
        Self { tuples: tuples.to_vec(), ..Self::default() }
    }
}

impl<C> Earlier<C> {
    /// Takes the reading out of `tuples` (each key once; not checked), and leaves the previous reading there: the caller clears
    /// it, and uses its memory for the next one.
    pub fn replace(&mut self, tuples: &mut Vec<(TupleKey, C)>) {
        std::mem::swap(&mut self.tuples, tuples);
        self.places = None;
        self.next = 0;
    }

    /// The counters of a tuple in this reading; `None`: it is not there. Cheap if tuples are asked for in the order
    /// of the reading: the kernel returns a map's entries in the same order each time, except new and removed ones.
    pub fn get(&mut self, key: &TupleKey) -> Option<&C> {
        if self.tuples.get(self.next).is_none_or(|(expected, _)| expected != key) {
            let place = |(place, (key, _)): (usize, &(TupleKey, C))| (*key, place);
            let tuples = &self.tuples;
            let places =
                self.places.get_or_insert_with(|| tuples.iter().enumerate().map(place).collect());
            self.next = *places.get(key)?;
        }
        let found = self.tuples.get(self.next);
        self.next += 1;
        found.map(|(_, count)| count)
    }
}

fn sum(counts: &[u64]) -> u64 {
    counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
}

#[expect(clippy::cast_precision_loss, reason = "shown with at most six digits")]
fn ratio(part: u64, whole: f64) -> f64 {
    part as f64 / whole
}

/// [`percentile_99`] of the searches since `before`, or of all if there were none since then.
fn search_p99(now: &TupleCount, before: Option<&TupleCount>) -> Option<P99> {
    let recent = before.map(|before| {
        let mut recent = now.search;
        for (count, earlier) in recent.iter_mut().zip(before.search) {
            *count = count.wrapping_sub(earlier);
        }
        recent
    });
    recent.and_then(|recent| percentile_99(&recent)).or_else(|| percentile_99(&now.search))
}

/// The 99th percentile of the searches that these `buckets` count ([`tracer_common::tuple::search_bucket`]): the end of the
/// bucket that has it, or the beginning of the last bucket, which has no end ([`P99::at_least`]). `None`: there was no search.
pub fn percentile_99(buckets: &[u32; SEARCH_BUCKETS]) -> Option<P99> {
    let all: u64 = buckets.iter().map(|count| u64::from(*count)).sum();
    if all == 0 {
        return None;
    }
    let mut above = all;
    for (bucket, count) in buckets.iter().enumerate() {
        above -= u64::from(*count);
        if above * 100 <= all {
            let at_least = bucket == SEARCH_BUCKETS - 1;
            return Some(P99 { ns: search_bucket_end(bucket - usize::from(at_least)), at_least });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tracer_common::tuple::search_bucket;

    use super::*;

    fn count(opened: u64, released: u64) -> TupleCount {
        TupleCount {
            opened,
            released,
            held: opened.wrapping_sub(released),
            ..TupleCount::default()
        }
    }

    fn row(now: &TupleCount, before: &TupleCount, seconds: u64, capacity: u16) -> Row {
        let before = Some((before, Duration::from_secs(seconds)));
        Row::new(TupleKey::default(), now, before, Some(Limits::of(capacity)))
    }

    #[test]
    fn rates_are_per_second_between_two_readings() {
        let mut now = count(400, 100);
        now.failed[Cause::PortsExhausted as usize] = 7;
        now.failed[Cause::Refused as usize] = 3;
        let rates = row(&now, &count(200, 50), 5, 1000).rates.unwrap();
        assert_eq!(rates, Rates { opened: 40.0, released: 10.0, failed: 2.0 });
    }

    #[test]
    fn a_first_reading_has_no_rates_and_no_eta() {
        let row = Row::new(TupleKey::default(), &count(10, 0), None, Some(Limits::of(1000)));
        assert_eq!((row.rates, row.eta_s), (None, None));
        assert_eq!(row.saturation, Some(0.01));
    }

    #[test]
    fn a_tuple_that_can_hold_no_port_is_full() {
        let row = row(&count(0, 0), &count(0, 0), 1, 0);
        assert_eq!((row.capacity, row.saturation), (Some(0), Some(1.0)));
        let unknown = Row::new(TupleKey::default(), &count(0, 0), None, None);
        assert_eq!((unknown.capacity, unknown.saturation), (None, None));
    }

    #[test]
    fn ports_that_the_tuple_bound_itself_count_once() {
        // 20 of 40 ports, all of them bound by its own sockets: half.
        let now = TupleCount { held: 0, ..count(20, 0) };
        let limits = Limits { bound: 20, ..Limits::of(40) };
        let row = Row::new(TupleKey::default(), &now, None, Some(limits));
        assert_eq!((row.capacity, row.saturation), (Some(40), Some(0.5)));
    }

    #[test]
    fn a_tuple_that_started_anew_has_rate_0_and_not_a_huge_one() {
        let rates = row(&count(5, 0), &count(500, 400), 1, 1000).rates.unwrap();
        assert_eq!(rates, Rates::default());
    }

    #[test]
    fn the_p99_is_the_end_of_the_bucket_it_is_in() {
        let mut now = TupleCount::default();
        now.search[search_bucket(12_000)] = 99;
        now.search[search_bucket(700_000)] = 1;
        let end = search_bucket_end(search_bucket(12_000));
        assert_eq!(search_p99(&now, None), Some(P99 { ns: end, at_least: false }));
        now.search[search_bucket(700_000)] = 2;
        let end = search_bucket_end(search_bucket(700_000));
        assert_eq!(search_p99(&now, None), Some(P99 { ns: end, at_least: false }));
    }

    #[test]
    fn the_p99_is_of_the_newest_searches_where_there_were_any() {
        let mut before = TupleCount::default();
        before.search[search_bucket(700_000)] = 1000;
        let mut now = before;
        assert_eq!(search_p99(&now, Some(&before)), search_p99(&now, None));
        now.search[0] = 10;
        assert_eq!(search_p99(&now, Some(&before)), Some(P99 { ns: 1024, at_least: false }));
    }

    #[test]
    fn a_search_of_any_length_has_a_p99() {
        let mut now = TupleCount::default();
        assert_eq!(search_p99(&now, None), None);
        // Only the beginning of the last bucket is known. It is the end of the bucket before.
        now.search[SEARCH_BUCKETS - 1] = 1;
        let ns = search_bucket_end(SEARCH_BUCKETS - 2);
        assert_eq!(search_p99(&now, None), Some(P99 { ns, at_least: true }));
        now.search[SEARCH_BUCKETS - 2] = 99;
        assert_eq!(search_p99(&now, None), Some(P99 { ns, at_least: false }));
    }

    proptest! {
        #[test]
        fn any_tuple_is_found_in_any_order(
            before in prop::collection::btree_map(0_u16..40, any::<u64>(), 0..30),
            asked in prop::collection::vec(0_u16..40, 0..60),
        ) {
            let key = |port| TupleKey { destination_port: port, ..TupleKey::default() };
            let mut earlier = Earlier::default();
            for add in [0, 1] {
                let mut tuples: Vec<_> =
                    before.iter().map(|(port, opened)| (key(*port), count(*opened, add))).collect();
                earlier.replace(&mut tuples);
                for port in before.keys().chain(&asked) {
                    let expected = before.get(port).map(|opened| count(*opened, add));
                    prop_assert_eq!(earlier.get(&key(*port)), expected.as_ref());
                }
            }
        }

        #[test]
        fn any_two_readings_give_finite_numbers(
            now in any::<[u64; 4]>(), before in any::<[u64; 4]>(),
            search in any::<[u32; SEARCH_BUCKETS]>(), earlier in any::<[u32; SEARCH_BUCKETS]>(),
            nanos: u64, capacity in 0_u16..=32_768,
        ) {
            let fill = |[opened, released, a, b]: [u64; 4], search| {
                let mut count = TupleCount { search, ..count(opened, released) };
                count.failed[0] = a;
                count.failed[1] = b;
                count
            };
            let (now, before) = (fill(now, search), fill(before, earlier));
            let elapsed = Duration::from_nanos(nanos);
            let key = TupleKey::default();
            let row = Row::new(key, &now, Some((&before, elapsed)), Some(Limits::of(capacity)));
            prop_assert!(row.saturation.is_some_and(|share| (0.0..=1.0).contains(&share)) || row.in_use > u64::from(u32::MAX));
            if let Some(rates) = row.rates {
                prop_assert!(rates.opened >= 0.0 && rates.released >= 0.0 && rates.failed >= 0.0);
            }
        }
    }
}
