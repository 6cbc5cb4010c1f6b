use super::{
    super::test_seen::{ENDS, held, opened, seen},
    *,
};
use crate::doctor::{
    activity::Activity,
    tuples::{Ends, Tuple},
};

fn ids(seen: &Seen) -> Vec<(Id, Severity)> {
    flows(seen, &Around::default()).into_iter().map(|it| (it.id, it.severity)).collect()
}

#[test]
fn a_host_that_closes_first_and_fills_nearly_half_with_it_is_said() {
    // 10/s × 62.05 s = 620 of 1,000 ports.
    let of = |closed_first| ids(&seen(held(620, 610)).watched(opened(50, closed_first)));
    assert!(of(50).contains(&(Id::ClosesFirst, Severity::Warning)));
    assert!(of(37).contains(&(Id::ClosesFirst, Severity::Warning)), "459 ports");
    assert!(!of(36).contains(&(Id::ClosesFirst, Severity::Warning)), "447 ports");
    let slow = ids(&seen(held(100, 90)).watched(opened(20, 20)));
    assert!(!slow.contains(&(Id::ClosesFirst, Severity::Warning)), "248 ports");
}

#[test]
fn short_connections_one_after_the_other_are_churn() {
    let of = |count| ids(&seen(held(200, 190)).watched(opened(count, count)));
    assert_eq!(of(17), [(Id::Churn, Severity::Warning)], "211 of 1,000 ports");
    assert_eq!(of(16), [], "199");
    let mut long = opened(50, 0);
    long.open = 30.0;
    assert_eq!(ids(&seen(held(300, 0)).watched(long)), [], "3 s each");
}

#[test]
fn churn_that_costs_no_port_is_only_said() {
    // 2,500/s of 0.1 s each hold 250 ports.
    assert_eq!(ids(&seen(held(250, 0)).watched(opened(12_500, 0))), [(Id::Churn, Severity::Info)]);
}

#[test]
fn one_destination_with_most_of_the_ports_is_said_where_it_fills() {
    let of = |in_use, other| {
        let mut seen = seen(held(in_use, 0));
        seen.now.by_ends.insert(Ends { port: 9090, ..ENDS }, held(other, 0));
        ids(&seen)
    };
    assert_eq!(of(450, 110), [(Id::HotSpot, Severity::Info)]);
    assert_eq!(of(450, 120), [], "79 %");
    assert_eq!(of(449, 10), [], "there is room");
}

#[test]
fn connections_by_a_clock_that_need_a_tenth_of_the_ports_may_be_health_checks() {
    let of = |count: u64, constant| {
        let activity = Activity { constant, ..opened(count, count) };
        let found = flows(&seen(held(200, 190)).watched(activity), &Around::default());
        found.into_iter().find(|it| it.id == Id::HealthChecks)
    };
    let found = of(20, Some(true)).unwrap();
    assert_eq!((found.severity, found.certainty), (Severity::Info, Certainty::Possible));
    let expected = "4.0 connections/s at a constant rate, open for 0.10 s each, as health checks are: they need 249 of 1,000 ports";
    assert_eq!(found.what, expected);
    assert_eq!(of(20, Some(false)), None);
    assert_eq!(of(20, None), None, "it was not watched long enough");
    assert_eq!(of(19, Some(true)), None, "these few come evenly by chance");
    assert_eq!(of(1_001, Some(true)), None, "200.2/s: a load");
}

#[test]
fn health_checks_that_cost_few_ports_are_well() {
    let ids = |count, closed_first, capacity| {
        let activity = Activity { constant: Some(true), ..opened(count, closed_first) };
        let tuple = Tuple { capacity, ..held(20, 0) };
        ids(&seen(tuple).watched(activity))
    };
    // One in a quarter of a second: 249 ports.
    assert_eq!(ids(20, 20, 28_232), []);
    assert_eq!(ids(50, 0, 1_000), [], "the other end closes: 1 port");
}
