use tracer_common::tuple::search_bucket;

use super::{
    super::test_seen::{ENDS, held, opened, seen},
    *,
};
use crate::doctor::activity::Activity;

/// A second half that is searched after the first one, which is full.
fn half_full(in_use: u32) -> Tuple {
    Tuple { first_half_full: true, ..held(in_use, in_use - 10) }
}

/// Searches of this many nanoseconds each.
fn searched(ns: u64, mut activity: Activity) -> Activity {
    activity.search[search_bucket(ns)] = u32::try_from(activity.opened).unwrap();
    activity
}

fn only(seen: &Seen) -> Option<(Severity, Certainty)> {
    slow(seen, &Around::default()).first().map(|it| (it.severity, it.certainty))
}

#[test]
fn long_searches_that_take_a_tenth_of_a_cpu_are_critical() {
    let with = |ns| seen(half_full(550)).watched(searched(ns, opened(1_500, 1_500)));
    assert_eq!(only(&with(700_000)), Some((Severity::Critical, Certainty::Measured)));
    assert_eq!(only(&with(70_000)), Some((Severity::Info, Certainty::Measured)));
    let what = &slow(&with(700_000), &Around::default())[0].what;
    let expected = "550 of 1,000 ports in use (55 %); a port search takes 655 µs: 20 % of a CPU at 300 connections/s";
    assert_eq!(what, expected);
}

#[test]
fn searches_that_take_twenty_times_as_long_as_in_an_empty_tuple_are_critical() {
    let empty = Ends { port: 9090, ..ENDS };
    let with = |ns| {
        let mut seen = seen(half_full(550)).watched(searched(ns, opened(5, 5)));
        seen.activity.insert(empty, searched(9_000, opened(5, 5)));
        only(&seen).map(|it| it.0)
    };
    assert_eq!(with(700_000), Some(Severity::Critical));
    assert_eq!(with(70_000), Some(Severity::Info));
}

#[test]
fn a_half_that_is_full_follows_from_the_sockets_alone() {
    assert_eq!(only(&seen(half_full(550))), Some((Severity::Info, Certainty::Inferred)));
    assert_eq!(only(&seen(held(550, 540))), None);
}

#[test]
fn a_tuple_to_which_nobody_connects_searches_nothing() {
    let idle = Activity { seconds: 5.0, ..Activity::default() };
    assert_eq!(only(&seen(half_full(550)).watched(idle)), None);
}

#[test]
fn a_tuple_that_fills_is_a_warning_from_45_percent_on() {
    let with = |in_use, growth, opened_in_5_s| {
        let activity = Activity { growth, ..opened(opened_in_5_s, opened_in_5_s) };
        only(&seen(held(in_use, in_use)).watched(activity)).map(|it| it.0)
    };
    assert_eq!(with(450, 5.0, 50), Some(Severity::Warning));
    assert_eq!(with(449, 5.0, 50), None);
    assert_eq!(with(450, -5.0, 50), None);
    assert_eq!(with(450, 5.0, 30), None, "6/s need 372 ports only");
}

#[test]
fn an_exhausted_tuple_is_not_also_slow() {
    assert_eq!(only(&seen(half_full(960))), None);
}
