use super::{
    super::test_seen::{ENDS, held, opened, seen},
    *,
};
use crate::doctor::tuples::Ends;

fn ids(seen: &Seen) -> Vec<(Id, Severity)> {
    flows(seen).into_iter().map(|it| (it.id, it.severity)).collect()
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
