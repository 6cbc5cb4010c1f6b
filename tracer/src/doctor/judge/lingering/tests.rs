use super::{
    super::test_seen::{held as tuple, seen},
    *,
};

fn close_wait(count: u32, first_cookie: u64) -> Tuple {
    let close_wait_cookies = (first_cookie..).take(count as usize).collect();
    Tuple { close_wait: count, close_wait_cookies, ..tuple(count, 0) }
}

fn fin_wait2(count: u32, first_cookie: u64) -> Tuple {
    let fin_wait2_cookies = (first_cookie..).take(count as usize).collect();
    Tuple { fin_wait2: count, fin_wait2_cookies, ..tuple(count, 0) }
}

fn ids(seen: &Seen) -> Vec<(Id, Certainty)> {
    held(seen, &Around::default()).into_iter().map(|it| (it.id, it.certainty)).collect()
}

#[test]
fn connections_that_the_program_does_not_close_are_a_leak() {
    let leak = seen(close_wait(100, 5)).after(close_wait(100, 5));
    assert_eq!(ids(&leak), [(Id::HeldOpen, Certainty::Measured)]);
    assert_eq!(ids(&seen(close_wait(99, 5)).after(close_wait(99, 5))), []);
    let mut many = close_wait(1_000, 5);
    many.capacity = 28_000;
    assert_eq!(ids(&seen(many.clone()).after(many)), [(Id::HeldOpen, Certainty::Measured)]);
}

#[test]
fn connections_that_come_and_go_are_none() {
    let others = seen(close_wait(100, 5)).after(close_wait(100, 500));
    assert_eq!(ids(&others), []);
    let mut new = seen(close_wait(100, 5)).after(tuple(0, 0));
    assert_eq!(ids(&new), []);
    new.before = None;
    assert_eq!(ids(&new), [(Id::HeldOpen, Certainty::Inferred)], "one look cannot know it");
}

#[test]
fn connections_that_the_other_end_does_not_close_are_said_with_the_time_out() {
    let held = seen(fin_wait2(100, 5)).after(fin_wait2(100, 5));
    assert_eq!(ids(&held), [(Id::FinWait2Held, Certainty::Measured)]);
    let finding = super::held(&held, &Around::default()).remove(0);
    let command = finding.advice[0].command.as_deref();
    assert_eq!(command, Some("ip netns exec proxy sysctl -w net.ipv4.tcp_fin_timeout=10"));
    assert_eq!(ids(&seen(fin_wait2(99, 5)).after(fin_wait2(99, 5))), []);
}

#[test]
fn where_nothing_lingers_there_is_no_finding_even_if_no_port_is_left() {
    // All ports of the range are reserved, and a program bound one outside of it.
    let none = Tuple { capacity: 0, ..tuple(1, 0) };
    assert_eq!(ids(&seen(none.clone())), []);
    assert_eq!(ids(&seen(none.clone()).after(none)), []);
}

#[test]
fn one_look_is_a_warning_only_where_most_ports_linger() {
    let severity = |waiting: u32, others: u32| {
        let tuple = Tuple { held: waiting + others, ..close_wait(waiting, 5) };
        held(&seen(tuple), &Around::default()).first().map(|it| it.severity)
    };
    assert_eq!(severity(100, 101), Some(Severity::Info));
    assert_eq!(severity(100, 100), Some(Severity::Warning));
}

#[test]
fn connections_that_wait_for_the_peer_do_not_hide_those_that_wait_for_the_program() {
    let with = |first_cookie| {
        let there = fin_wait2(900, first_cookie);
        let fin_wait2_cookies = there.fin_wait2_cookies;
        Tuple { held: 1_000, fin_wait2: 900, fin_wait2_cookies, ..close_wait(100, 5) }
    };
    // The peers close theirs, and others come.
    let found = ids(&seen(with(10_000)).after(with(20_000)));
    assert_eq!(found, [(Id::HeldOpen, Certainty::Measured)]);
}

#[test]
fn the_program_that_has_the_sockets_open_is_named() {
    let mut leak = close_wait(1, 5);
    (leak.capacity, leak.inodes) = (1, vec![7, 8, 9]);
    let owner = |pid, name: &str| super::super::listeners::Owner {
        process: crate::doctor::finding::Process { pid, name: name.into(), container: None },
        age: None,
    };
    let owners = [(7, owner(1, "curl")), (8, owner(2, "api")), (9, owner(2, "api"))].into();
    let around = Around { owners, ..Around::default() };
    let found = held(&seen(leak.clone()).after(leak), &around).remove(0);
    let expected = "1 connection is in CLOSE_WAIT (100 % of the ports): the other end has closed, api (process 2) has not";
    assert_eq!((found.what.as_str(), &found.evidence["process.pid"]), (expected, &2.into()));
    assert_eq!(found.advice[0].what, "restart api (process 2)");
    assert_eq!(found.advice[0].gain, "1 port comes back");
}

#[test]
fn a_time_out_that_is_short_already_is_not_shortened() {
    use crate::{doctor::snapshot::Details, host::network_settings::NetworkSettings};
    let with = |fin_wait2_s| {
        let network = NetworkSettings { fin_wait2_s, ..NetworkSettings::default() };
        let mut held = seen(fin_wait2(100, 5)).after(fin_wait2(100, 5));
        held.details = Some(Details { counters: None, network, local: None });
        super::held(&held, &Around::default()).remove(0).advice.remove(0)
    };
    assert_eq!(with(Some(10)).command, None);
    assert_eq!(with(Some(30)).gain, "ports come back after 10 s instead of 30 s");
    assert!(with(None).gain.ends_with("by default after 60 s"));
}
