use super::{
    super::test_seen::{ENDS, held, opened, seen},
    *,
};
use crate::{
    doctor::{
        activity::Activity,
        open_ports::Open,
        tuples::{Ends, Tuple},
    },
    ledger::uses::Closed,
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
    long.open = Open::of_two(30.0);
    assert_eq!(ids(&seen(held(300, 0)).watched(long)), [], "3 s each");
}

#[test]
fn one_segment_on_each_connection_is_one_request_and_more_are_not_known() {
    let of = |connections, segments| {
        let mut activity = opened(50, 0);
        activity.closed = Closed { here: connections, segments, ..Closed::default() };
        activity.closed_first = 50;
        let all = flows(&seen(held(620, 610)).watched(activity), &Around::default());
        let find = |id| all.iter().find(|it| it.id == id).unwrap();
        let (churn, first) = (find(Id::Churn), find(Id::ClosesFirst));
        let why = first.why.clone().unwrap_or_default();
        let requests = first.evidence.get("connection.requests").cloned();
        assert_eq!(churn.evidence.get("connection.requests").cloned(), requests);
        (churn.certainty, churn.what.contains("one request each"), why, requests)
    };
    let one = |requests: f64| {
        let why = "each connection carries one request".to_owned();
        (Certainty::Measured, true, why, Some(requests.into()))
    };
    assert_eq!((of(50, 50), of(50, 55)), (one(1.0), one(1.1)));
    let why = "each connection carries 1.1 segments with data".to_owned();
    assert_eq!(of(50, 56), (Certainty::Inferred, false, why, Some(1.12.into())));
    // They end without a request.
    assert!(!of(50, 20).1);
    assert_eq!(of(0, 0), (Certainty::Inferred, false, String::new(), None));
}

#[test]
fn keepalive_is_advised_as_a_factor_where_connections_carry_several_requests() {
    let of = |connections, segments| {
        let closed = Closed { here: connections, segments, ..Closed::default() };
        let activity = Activity { closed, ..opened(50, 48) };
        let all = flows(&seen(held(620, 610)).watched(activity), &Around::default());
        let first = all.into_iter().find(|it| it.id == Id::ClosesFirst).unwrap();
        first.advice.first().unwrap().gain.contains("times as many requests on each connection as")
    };
    assert!(of(50, 1_250));
    // One each, none (a check whether the port is open), and not known.
    assert!(!of(50, 50) && !of(50, 0) && !of(0, 0));
}

#[test]
fn the_evidence_says_who_closed_first_if_the_ledger_knows_it() {
    let of = |closed| {
        let activity = Activity { closed, ..opened(50, 48) };
        let all = flows(&seen(held(620, 610)).watched(activity), &Around::default());
        let first = all.into_iter().find(|it| it.id == Id::ClosesFirst).unwrap();
        ["here", "by_peer"]
            .map(|who| first.evidence.get(&format!("connections.closed_{who}")).cloned())
    };
    let closed = Closed { here: 48, by_peer: 2, aborted: 0, segments: 50 };
    assert_eq!(of(closed), [Some(48.into()), Some(2.into())]);
    // A recording of an older version does not say it.
    assert_eq!(of(Closed::default()), [None, None]);
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
