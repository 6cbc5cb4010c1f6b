#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::float_cmp,
    reason = "small numbers"
)]

use super::*;

fn sample(at_s: f64, opened: u32, begun: u32) -> Sample {
    Sample { at_ms: (at_s * 1000.0) as u32, opened, begun, ..Sample::default() }
}

/// One reading every `every` seconds: `opened(second)` ports were taken until then, all of them in TIME_WAIT.
fn run(seconds: u32, every: f64, opened: impl Fn(f64) -> u32) -> (Activity, Sample) {
    let mut before = sample(0.0, opened(0.0), opened(0.0));
    let mut activity = Activity::new(before);
    let mut at = 0.0;
    while at < f64::from(seconds) {
        at += every;
        let now = sample(at, opened(at), opened(at));
        activity.add(&before, &now, 0);
        before = now;
    }
    (activity, before)
}

#[test]
fn rates_are_over_their_own_windows() {
    // 100 a second, for the last five seconds 200.
    let opened = |at: f64| (at * 100.0 + (at - 115.0).max(0.0) * 100.0) as u32;
    for every in [0.1, 0.5, 1.0] {
        let (activity, now) = run(120, every, opened);
        let rate = |seconds| activity.change(&now, seconds).unwrap().opened;
        assert!((rate(1.0) - 200.0).abs() < 2.0, "{every}: {}", rate(1.0));
        assert!((rate(10.0) - 150.0).abs() < 6.0, "{every}: {}", rate(10.0));
        assert!((rate(60.0) - 108.0).abs() < 3.0, "{every}: {}", rate(60.0));
    }
}

#[test]
fn with_long_intervals_a_rate_is_over_one_interval() {
    let (activity, now) = run(60, 10.0, |at| (at * 100.0) as u32);
    assert_eq!(activity.change(&now, 1.0).unwrap().seconds, 10.0);
    assert_eq!(activity.change(&now, 60.0).unwrap().seconds, 60.0);
}

#[test]
fn the_first_reading_has_no_rate() {
    let first = sample(0.0, 5, 0);
    assert_eq!(Activity::new(first).change(&first, 1.0), None);
}

#[test]
fn time_waits_are_known_by_the_second_for_a_minute() {
    let (activity, now) = run(200, 1.0, |at| if at < 150.0 { 0 } else { 300 });
    let begun = activity.begun(now.at_ms);
    assert_eq!((begun[50], begun.iter().sum::<u32>()), (300, 300));
    // 15 s later, without a reading, they are 15 s older; after 16 s they are too old to be counted.
    assert_eq!(activity.begun(now.at_ms + 15_000)[65], 300);
    assert_eq!(activity.begun(now.at_ms + 16_000), [0; BEGUN_S]);
}

#[test]
fn time_waits_of_a_long_interval_are_spread_over_it() {
    let (activity, now) = run(60, 10.0, |at| (at * 7.0) as u32);
    let begun = activity.begun(now.at_ms);
    assert_eq!(begun.iter().sum::<u32>(), 420);
    assert!(begun[..60].iter().all(|count| (6..=8).contains(count)), "{begun:?}");
}

#[test]
fn an_activity_is_over_a_minute_after_the_last_change() {
    let (activity, now) = run(60, 1.0, |at| at.min(5.0) as u32);
    assert!(!activity.is_over(&now));
    let (activity, now) = run(90, 1.0, |at| at.min(5.0) as u32);
    assert!(activity.is_over(&now));
    let (activity, now) = run(80, 1.0, |at| at as u32);
    assert!(!activity.is_over(&now));
}
