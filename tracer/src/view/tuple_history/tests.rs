#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::float_cmp,
    reason = "small numbers, and rates that come out exact"
)]

use proptest::prelude::*;
use tracer_common::{Addr, Cause, Ends, TupleCount, tuple::search_bucket};

use super::*;
use crate::ledger::stats;

fn key(number: u8) -> TupleKey {
    TupleKey {
        destination: Addr::v4([10, 0, 1, number]),
        destination_port: 80,
        ..TupleKey::default()
    }
}

/// A history to which [`Self::next`] adds the reading of the next second, and [`Self::at`] one at any time.
#[derive(Default)]
struct Feed {
    history: TupleHistory,
    second: u64,
}

impl Feed {
    const CAPACITY: u32 = 28_232;

    fn at(&mut self, second: f64, tuples: &[(TupleKey, TupleCount)]) {
        self.history.begin((second * 1e9) as u64);
        for (key, count) in tuples {
            self.history.add(&TupleSample {
                key: *key,
                count,
                has_states: true,
                has_uses: true,
                capacity: Some(Self::CAPACITY),
                limits: None,
                reuse: None,
                older: None,
                search_p99: None,
                called: crate::host::process::Called::of(count.pid, 0, count.comm),
                cgroup: None,
                container: None,
                netns_name: None,
            });
        }
        self.history.end(&Snapshot::default());
    }

    fn next(&mut self, tuples: &[(TupleKey, TupleCount)]) {
        self.second += 1;
        self.at(self.second as f64, tuples);
    }

    fn row(&self, key: &TupleKey) -> Row {
        self.history.detail(key, Window::Second).unwrap().row
    }
}

fn count(opened: u64, released: u64) -> TupleCount {
    TupleCount { opened, released, ..TupleCount::default() }
}

/// The counters after `second` seconds with `each` connections a second, which are closed immediately, and then are in
/// TIME_WAIT for a minute.
fn closed_at_once(each: u64, second: u64) -> TupleCount {
    let ended = each * second.saturating_sub(60);
    TupleCount {
        opened: each * second,
        released: ended,
        time_wait_begun: each * second,
        time_wait_ended: ended,
        ..TupleCount::default()
    }
}

#[test]
fn linear_growth_has_a_forecast_a_minute_ahead_that_is_right_within_a_tenth() {
    // Connections that stay open, at several rates a second. `end`: after how many seconds the last port is taken.
    for each in [50_u64, 100, 235] {
        let end = f64::from(Feed::CAPACITY) / each as f64;
        let mut feed = Feed::default();
        while (feed.second as f64) < end - 60.0 {
            let opened = each * (feed.second + 1);
            feed.next(&[(key(1), count(opened, 0))]);
        }
        let left = end - feed.second as f64;
        let eta = feed.row(&key(1)).eta_s.unwrap();
        assert!((eta - left).abs() <= 0.1 * left, "{each} a second: {eta} for {left}");
    }
}

#[test]
fn growth_with_jitter_has_a_forecast() {
    let mut random = 1_u64;
    let mut feed = Feed::default();
    let mut opened = 0;
    while opened + 6_000 < u64::from(Feed::CAPACITY) {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        opened += 80 + (random >> 33) % 41;
        feed.next(&[(key(1), count(opened, 0))]);
    }
    let left = (u64::from(Feed::CAPACITY) - opened) as f64 / 100.0;
    let eta = feed.row(&key(1)).eta_s.unwrap();
    assert!((eta - left).abs() <= 0.1 * left, "{eta} for {left}");
}

#[test]
fn growth_that_ends_of_time_waits_compensate_has_no_forecast() {
    // 24,000 at most: a straight line would predict that it is full after 70 s.
    let mut feed = Feed::default();
    for second in 1..200 {
        feed.next(&[(key(1), closed_at_once(400, second))]);
        let row = feed.row(&key(1));
        assert_eq!(row.eta_s, None, "after {second} s, at {}", row.in_use);
    }
}

#[test]
fn growth_that_ends_of_time_waits_do_not_compensate_has_a_forecast() {
    // Full after 57 s, before the first one ends.
    let mut feed = Feed::default();
    for second in 1..50 {
        feed.next(&[(key(1), closed_at_once(500, second))]);
    }
    let left = f64::from(Feed::CAPACITY) / 500.0 - 49.0;
    let eta = feed.row(&key(1)).eta_s.unwrap();
    assert!((eta - left).abs() <= 1.0, "{eta} for {left}");
}

#[test]
fn an_eta_does_not_flicker() {
    let mut feed = Feed::default();
    let mut opened = 0;
    let mut shown = Vec::new();
    for second in 0..100 {
        // Nothing opens in every seventh second.
        opened += if second % 7 == 3 { 0 } else { 100 };
        feed.next(&[(key(1), count(opened, 0))]);
        shown.push(feed.row(&key(1)).eta_s.is_some());
    }
    let changes = shown.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert_eq!(changes, 1, "{shown:?}");
}

#[test]
fn an_eta_ends_when_the_tuple_stops_filling_up() {
    let mut feed = Feed::default();
    for second in 1..60 {
        feed.next(&[(key(1), count(100 * second, 0))]);
    }
    assert!(feed.row(&key(1)).eta_s.is_some());
    for _ in 0..75 {
        feed.next(&[(key(1), count(5_900, 0))]);
    }
    assert_eq!(feed.row(&key(1)).eta_s, None);
}

#[test]
fn a_full_tuple_has_no_time_left_at_once() {
    let mut feed = Feed::default();
    feed.next(&[(key(1), count(28_232, 0))]);
    assert_eq!(feed.row(&key(1)).eta_s, Some(0.0));
}

#[test]
fn a_tuple_that_is_empty_or_has_room_again_is_not_full() {
    let mut feed = Feed::default();
    feed.next(&[(key(1), count(28_232, 0)), (key(2), count(28_232, 0))]);
    feed.next(&[(key(1), count(28_232, 28_232)), (key(2), count(28_232, 10))]);
    assert_eq!((feed.row(&key(1)).eta_s, feed.row(&key(2)).eta_s), (None, None));
}

#[test]
fn a_first_reading_has_no_rates_and_a_new_tuple_counts_from_0() {
    let mut feed = Feed::default();
    feed.next(&[(key(1), count(500, 0))]);
    assert_eq!(feed.row(&key(1)).rates, None);
    feed.next(&[(key(1), count(500, 0)), (key(2), count(30, 10))]);
    assert_eq!(feed.row(&key(1)).rates.unwrap().opened, 0.0);
    let rates = feed.row(&key(2)).rates.unwrap();
    assert_eq!((rates.opened, rates.released), (30.0, 10.0));
    assert_eq!(feed.history.host().rates(Window::Second).unwrap().opened, 30.0);
}

#[test]
fn a_tuple_that_was_removed_and_is_there_again_counts_from_0() {
    let mut feed = Feed::default();
    feed.next(&[(key(1), count(500, 500))]);
    feed.next(&[(key(1), count(7, 0))]);
    assert_eq!(feed.row(&key(1)).rates.unwrap().opened, 7.0);
}

#[test]
fn a_reading_may_leave_out_idle_tuples() {
    let mut feed = Feed::default();
    feed.next(&[(key(1), count(5, 0)), (key(2), count(5, 0))]);
    feed.next(&[(key(1), count(5, 5)), (key(2), count(6, 0))]);
    let keys = |feed: &Feed| {
        let mut keys: Vec<_> =
            feed.history.rows(Window::Second).map(|row| row.key.destination.0[15]).collect();
        keys.sort_unstable();
        keys
    };
    // A missing tuple that held ports is gone; one that held none is idle, and hidden after a minute.
    feed.next(&[]);
    assert_eq!(keys(&feed), [1]);
    feed.second += 60;
    feed.next(&[]);
    assert_eq!(keys(&feed), [0_u8; 0]);
    assert!(feed.history.detail(&key(1), Window::Second).is_some());
    feed.second += 600;
    feed.next(&[]);
    assert!(feed.history.detail(&key(1), Window::Second).is_none());
}

#[test]
fn the_p99_is_of_the_newest_searches() {
    let mut feed = Feed::default();
    let mut now = count(10, 0);
    now.search[search_bucket(1_000_000)] = 1000;
    feed.next(&[(key(1), now)]);
    let slow = feed.row(&key(1)).search_p99.unwrap().ns;
    now.search[search_bucket(5_000)] += 10;
    feed.next(&[(key(1), now)]);
    let fast = feed.row(&key(1)).search_p99.unwrap().ns;
    assert!(fast < 10_000 && slow > 900_000, "{fast} {slow}");
    feed.next(&[(key(1), now)]);
    assert_eq!(feed.row(&key(1)).search_p99.map(|p99| p99.ns), Some(fast));
}

#[test]
fn only_watched_tuples_have_a_plot() {
    let mut feed = Feed::default();
    let tuples: Vec<_> = (0..100).map(|number| (key(number), count(1, 0))).collect();
    feed.next(&tuples);
    for number in 0..100 {
        feed.history.watch(&key(number));
    }
    feed.next(&tuples);
    feed.next(&tuples);
    let points = |number| feed.history.plot(&key(number)).map(|plot| plot.points.len());
    assert_eq!((points(0), points(35), points(36), points(99)), (None, None, Some(2), Some(2)));
}

#[test]
fn the_host_has_its_failures_by_cause() {
    let mut history = TupleHistory::default();
    let mut reading = Snapshot::default();
    for second in 0..30 {
        history.begin(second * 1_000_000_000);
        reading.failed[Cause::PortsExhausted as usize] = second * 5;
        history.end(&reading);
    }
    let rates = history.host().rates(Window::TenSeconds).unwrap();
    assert_eq!((rates.failed[0], rates.failures()), (5.0, 5.0));
    assert_eq!(history.host().series(1000).len(), 29);
    assert_eq!(history.host().series(7), vec![(0.0, 5.0); 7]);
}

proptest! {
    #[test]
    fn any_readings_give_finite_rows_and_find_every_tuple(
        readings in prop::collection::vec(
            (0_u64..100_000, prop::collection::btree_map(0_u8..20, any::<(u64, u64, u64, u64)>(), 0..20)),
            1..20,
        ),
    ) {
        let mut feed = Feed::default();
        let mut at = 0.0;
        for (gap_ms, tuples) in readings {
            at += gap_ms as f64 / 1000.0;
            let tuples: Vec<_> = tuples
                .into_iter()
                .map(|(number, (opened, released, begun, ended))| {
                    let (time_wait_begun, time_wait_ended) = (begun, ended);
                    let count =
                        TupleCount { time_wait_begun, time_wait_ended, ..count(opened, released) };
                    (key(number), count)
                })
                .collect();
            feed.at(at, &tuples);
            for (key, count) in &tuples {
                prop_assert_eq!(feed.row(key).opened, count.opened);
            }
            for row in feed.history.rows(Window::Minute) {
                prop_assert!(row.saturation.is_none_or(f64::is_finite));
                prop_assert!(row.eta_s.is_none_or(|eta| (0.0..=86_400.0).contains(&eta)));
                let sound = |rates: stats::Rates| {
                    rates.opened.is_finite() && rates.released.is_finite() && rates.failed >= 0.0
                };
                prop_assert!(row.rates.is_none_or(sound));
            }
        }
    }
}

#[test]
fn the_worst_fails_then_is_full_then_fills_up_and_the_others_are_counted() {
    fn failing(second: u64, cause: Cause, each: u64) -> TupleCount {
        let mut now = count(100, 0);
        now.failed[cause as usize] = each * second;
        now
    }
    type At = Box<dyn Fn(u64) -> TupleCount>;
    let mut feed = Feed::default();
    let exhausted = |second| failing(second, Cause::PortsExhausted, 2);
    let refused = |second| failing(second, Cause::Refused, 50);
    let filling = |second: u64| count(300 * second, 0);
    let full = count(28_232, 0);
    let idle = count(28_000, 0);
    let mut tuples: Vec<(u8, At)> = vec![
        (1, Box::new(move |_| idle)),
        (2, Box::new(filling)),
        (3, Box::new(move |_| full)),
        (4, Box::new(refused)),
        (5, Box::new(exhausted)),
    ];
    // Removes the tuple with the worst problem, again and again.
    for (others, of) in [(3, 5), (2, 4), (1, 3), (0, 2), (0, 1)] {
        for _ in 0..15 {
            let second = feed.second + 1;
            let now: Vec<_> =
                tuples.iter().map(|(number, at)| (key(*number), at(second))).collect();
            feed.next(&now);
        }
        let worst = feed.history.worst(Window::Second).unwrap();
        assert_eq!((worst.row.key, worst.others), (key(of), others), "{:?}", worst.problem);
        tuples.pop();
    }
}

#[test]
fn requests_are_of_the_connections_that_ended_last_and_stay_until_others_end() {
    let with = |closed_here, segments| {
        let ends = Ends { closed_here, segments, ..Ends::NONE };
        TupleCount { ends, syns_again: 3, ..count(closed_here + 1, closed_here) }
    };
    let mut feed = Feed::default();
    let requests = |feed: &Feed| feed.row(&key(1)).uses.unwrap().recent.per_connection();
    feed.next(&[(key(1), with(0, 0))]);
    assert_eq!(requests(&feed), None);
    feed.next(&[(key(1), with(100, 100))]);
    assert_eq!(requests(&feed), Some(1.0));
    feed.next(&[(key(1), with(102, 150))]);
    feed.next(&[(key(1), with(102, 150))]);
    assert_eq!(requests(&feed), Some(25.0));
    let uses = feed.row(&key(1)).uses.unwrap();
    assert_eq!((uses.closed.all(), uses.closed.segments, uses.syns_again), (102, 150, 3));
    // The tuple was removed, and is there again.
    feed.next(&[(key(1), with(0, 0))]);
    assert_eq!(requests(&feed), None);
}
