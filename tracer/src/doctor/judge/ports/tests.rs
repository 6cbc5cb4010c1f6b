use super::{
    super::test_seen::{ENDS, held, opened, seen},
    *,
};
use tracer_common::Cause;

use crate::{
    doctor::{finding::Process, tuples::Tuple},
    host::capacity::Reuse,
};

fn severity_of(seen: &Seen) -> Option<Severity> {
    exhausted(seen, &Around::default()).first().map(|it| it.severity)
}

fn failing(mut activity: Activity, count: u64) -> Activity {
    activity.failed[Cause::PortsExhausted as usize] = count;
    activity
}

#[test]
fn a_tuple_is_full_from_95_percent_on_and_nearly_full_from_80() {
    use Severity::{Critical, Warning};
    let of = [0, 799, 800, 949, 950, 1_000].map(|ports| severity_of(&seen(held(ports, 0))));
    let expected = [None, None, Some(Warning), Some(Warning), Some(Critical), Some(Critical)];
    assert_eq!(of, expected);
}

#[test]
fn time_waits_that_are_taken_over_are_room() {
    let tuple = Tuple { reusable: 900, ..held(1_000, 1_000) };
    assert_eq!(severity_of(&seen(tuple)), None);
}

#[test]
fn time_waits_that_are_taken_over_are_not_among_the_ports_in_use() {
    let tuple = Tuple { reusable: 900, ..held(1_000, 980) };
    let failed = seen(tuple).watched(failing(opened(50, 0), 3));
    let found = exhausted(&failed, &Around::default());
    assert!(found[0].what.starts_with("100 of 1,000 ports in use, 80 in TIME_WAIT; "), "{found:?}");
}

#[test]
fn a_failed_call_is_critical_however_few_ports_are_in_use() {
    let failed = seen(held(10, 0)).watched(failing(opened(50, 0), 3));
    let found = exhausted(&failed, &Around::default());
    assert_eq!(found[0].severity, Severity::Critical);
    assert!(found[0].what.ends_with("3 connect() failed in 5 s"), "{}", found[0].what);
    assert_eq!(found[0].evidence["failed"], 3);
}

#[test]
fn calls_that_fail_where_no_port_is_held_are_found() {
    let mut none =
        seen(held(0, 0)).watched(failing(Activity { seconds: 5.0, ..Activity::default() }, 4));
    none.now.by_ends.clear();
    none.now.usable = 0;
    let found = exhausted(&none, &Around::default());
    assert_eq!((found.len(), found[0].severity), (1, Severity::Critical));
    assert_eq!(found[0].evidence["saturation"], 0.0);
    assert!(found[0].advice[0].what.contains("unreserved"), "{:?}", found[0].advice);
    let why = found[0].why.as_deref();
    assert_eq!(why, Some("every port of the range is reserved, or taken by bind() or listen()"));
}

#[test]
fn a_flow_that_needs_more_ports_than_there_are_is_a_warning_before_they_are_gone() {
    // 20/s for 62 s are 1,240 ports of 1,000.
    let soon = |growth, rate: u64| {
        let activity = Activity { growth, ..opened(rate * 5, rate * 5) };
        severity_of(&seen(held(500, 490)).watched(activity))
    };
    assert_eq!(soon(20.0, 20), Some(Severity::Warning));
    assert_eq!(soon(0.5, 20), None, "in 1,000 s");
    assert_eq!(soon(20.0, 10), None, "620 ports are enough, though more are in use every second");
    assert_eq!(soon(-1.0, 20), None);
}

#[test]
fn a_tuple_that_is_full_already_is_not_full_soon_and_one_of_something_is_no_advice() {
    let growing = |ports| {
        let activity = Activity { growth: 20.0, ..opened(100, 100) };
        exhausted(&seen(held(ports, ports)).watched(activity), &Around::default()).remove(0)
    };
    assert!(growing(980).what.contains("full in 1 s"), "{}", growing(980).what);
    assert!(!growing(1_000).what.contains("full in"), "{}", growing(1_000).what);
    // 1/s for 62 s is a fraction of 450 ports: one address and one request are enough.
    let slow = seen(held(1_000, 1_000)).watched(opened(5, 5));
    let gains: String =
        exhausted(&slow, &Around::default())[0].advice.iter().map(|it| it.gain.as_str()).collect();
    let two = ["2 requests on each connection", "2 addresses in all"];
    assert!(two.iter().all(|text| gains.contains(text)), "{gains}");
}

#[test]
fn ports_in_time_wait_are_explained_and_helped_by_reuse_first() {
    let full = failing(opened(80, 80), 9);
    let found = exhausted(&seen(held(1_000, 990)).watched(full), &Around::default());
    let finding = &found[0];
    assert_eq!(
        finding.what,
        "1,000 of 1,000 ports in use, 990 in TIME_WAIT; nginx wants 17.8 connections/s; \
         16.1/s is all that one source address can give; 9 connect() failed in 5 s"
    );
    let why = finding.why.as_deref().unwrap();
    assert_eq!(
        why,
        "this host closes first (100 %): each port stays in TIME_WAIT for 63 s afterwards"
    );
    let commands: Vec<_> = finding.advice.iter().map(|it| it.command.as_deref()).collect();
    let expected = [
        Some("ip netns exec proxy sysctl -w net.ipv4.tcp_tw_reuse=1"),
        None,
        Some("tracer spread --pool auto --all --dry-run --netns proxy"),
        Some("ip netns exec proxy sysctl -w net.ipv4.ip_local_port_range=\"10240 65535\""),
    ];
    assert_eq!(commands, expected);
    assert!(finding.advice[0].gain.ends_with("(the setting is 2 now)"), "{:?}", finding.advice[0]);
    // (0.1 + 62.05) / (0.1 + 1)
    assert_eq!(finding.advice[0].factor.map(f64::round), Some(56.0));
    assert_eq!(finding.evidence["addresses.needed"], 3, "17.8 × 62.15 ÷ 450");
    assert_eq!(finding.verify.as_deref(), Some("tracer doctor --netns proxy"));
}

#[test]
fn the_factor_of_kept_connections_is_known_if_enough_of_them_were_seen_open() {
    let factor = |(calls, seen_open)| {
        let mut activity = failing(opened(calls, calls), 9);
        activity.open.seen = seen_open;
        let found = exhausted(&seen(held(1_000, 990)).watched(activity), &Around::default());
        let keep = found[0].advice.iter().find(|it| it.what.starts_with("reuse connections"));
        keep.unwrap().factor.map(f64::round)
    };
    // (0.1 + 62.05) / 0.1
    let all = [(100, 0), (100, 99), (99, 100), (100, 100)];
    assert_eq!(all.map(factor), [None, None, None, Some(622.0)]);
}

#[test]
fn reuse_is_not_advised_where_it_is_on_or_cannot_work() {
    let first = |setting, timestamps| {
        let mut seen = seen(held(1_000, 990)).watched(failing(opened(80, 80), 9));
        seen.settings.reuse = Reuse { setting, timestamps, ..seen.settings.reuse };
        exhausted(&seen, &Around::default())[0].advice[0].what.clone()
    };
    assert!(first(0, true).starts_with("let connect() take over"));
    assert!(first(0, false).starts_with("reuse connections"));
    assert!(first(1, true).starts_with("reuse connections"));
}

#[test]
fn open_connections_get_no_advice_about_time_waits() {
    let found = exhausted(&seen(held(1_000, 0)), &Around::default());
    assert_eq!(found[0].why.as_deref(), Some("1,000 connections are open at the same time"));
    assert!(found[0].advice.iter().all(|it| !it.what.contains("TIME_WAIT")), "{found:?}");
    assert!(found[0].advice[0].command.as_deref().unwrap().starts_with("tracer spread"));
}

#[test]
fn a_tuple_whose_load_has_ended_is_still_full_and_says_until_when() {
    let found = exhausted(&seen(held(1_000, 1_000)).after(held(1_000, 1_000)), &Around::default());
    assert_eq!(found[0].severity, Severity::Critical);
    let expected = "no connection is open: the ports come back within 63 s";
    assert!(found[0].what.ends_with(expected), "{}", found[0].what);
}

#[test]
fn an_address_without_a_port_for_bind_is_named() {
    let at = |ports, failed| {
        let caller = Process { pid: 7, name: "squid".into(), container: None };
        let caller = (failed > 0).then_some(caller);
        let address = BoundAddress {
            address: ENDS.source,
            ports,
            failed,
            not_local: 0,
            seconds: 5.0,
            caller,
        };
        let mut seen = seen(held(0, 0));
        seen.bound.push(address);
        bound(&seen)
    };
    assert_eq!(at(Some((79, 100)), 0), []);
    assert_eq!(at(Some((80, 100)), 0)[0].severity, Severity::Warning);
    assert_eq!(at(Some((95, 100)), 0)[0].severity, Severity::Critical);
    assert_eq!(at(None, 0), []);
    let found = at(Some((50, 100)), 2);
    assert_eq!(found[0].severity, Severity::Critical);
    let expected =
        "50 of 100 ports are bound at this address; 2 bind() of port 0 failed in 5 s (squid)";
    assert_eq!(found[0].what, expected);
    let spread = found[0].advice[1].command.as_deref();
    assert_eq!(spread, Some("tracer spread --pool auto --all --rebind --dry-run --netns proxy"));
    assert_eq!(at(None, 3)[0].what, "3 bind() of port 0 failed in 5 s (squid)");
}

#[test]
fn a_wider_range_leaves_the_ports_of_services_alone() {
    let command = |kubelet, port| {
        let mut full = seen(held(1_000, 0));
        let any = tracer_common::Addr::v4([0; 4]);
        let socket = crate::host::sockdiag::DiagSocket::between(
            crate::host::sockdiag::tcp_state::LISTEN,
            (any, port),
            (any, 0),
        );
        full.now.listeners = crate::doctor::tuples::tuples(&[socket], &full.settings).listeners;
        let around = Around { kubelet, ..Around::default() };
        let found = exhausted(&full, &around).remove(0);
        let commands: Vec<String> = found.advice.into_iter().filter_map(|it| it.command).collect();
        commands.into_iter().find(|it| it.contains("ip_local_port_range")).unwrap()
    };
    assert!(command(None, 80).contains("sysctl -w net.ipv4.ip_local_port_range="));
    let reserved = "sysctl -w net.ipv4.ip_local_reserved_ports=";
    assert!(command(None, 15_432).contains(&format!("{reserved}15432 ")));
    assert!(command(Some(1), 80).contains(&format!("{reserved}30000-32767 ")));
    assert!(!command(Some(2), 80).contains("reserved"), "a pod has a namespace of its own");
}
