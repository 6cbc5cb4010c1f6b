use std::{net::Ipv4Addr, ops::RangeInclusive};

use tracer_common::Addr;

use super::*;
use crate::{
    doctor::{
        judge::test_sockets::{
            ANY, HERE, THERE, connection, listener, own, settings, tuples_of, unanswered,
        },
        tuples::Settings,
    },
    host::{
        capacity::PortRange,
        sockdiag::{DiagSocket, tcp_state},
    },
};

const OTHER: Addr = Addr::v4([10, 0, 0, 9]);

fn sockets(sockets: &[DiagSocket]) -> Tuples {
    tuples_of(&settings(40_000, 49_999), sockets)
}

fn ranged(low: u16, high: u16, reserved: &[RangeInclusive<u16>]) -> Settings {
    let range = PortRange { low, high, reserved: reserved.to_vec() };
    Settings { range, ..settings(low, high) }
}

fn small(settings: &Settings, of: &[DiagSocket], kubelet: bool) -> Option<Finding> {
    small_range(&own(), settings, &tuples_of(settings, of), Some(1024), kubelet)
}

#[test]
fn a_range_with_less_than_ten_thousand_ports_is_small() {
    let severity = |settings: &Settings| small(settings, &[], false).map(|it| it.severity);
    assert_eq!(severity(&ranged(50_000, 59_999, &[])), None);
    assert_eq!(severity(&ranged(50_000, 59_998, &[])), Some(Severity::Warning));
    let reserved = ranged(50_000, 59_999, &[1..=50_000]);
    assert_eq!(severity(&reserved), Some(Severity::Warning));
    assert_eq!(
        small(&reserved, &[], false).unwrap().what,
        "the range 50000-59999 has 9,999 ports, 1 more are reserved"
    );
    assert_eq!(severity(&ranged(10_240, 65_535, &[])), None);
    assert_eq!(severity(&ranged(32_768, 60_999, &[])), None);
}

#[test]
fn the_default_range_is_mentioned_only_while_a_tuple_uses_much_of_it() {
    let used = |settings: &Settings, count: usize| {
        let ports = (settings.range.low..).take(count);
        let open: Vec<_> = ports.map(|port| connection(tcp_state::ESTABLISHED, port)).collect();
        small(settings, &open, false).map(|it| it.severity)
    };
    let default = ranged(32_768, 60_999, &[]);
    assert_eq!((used(&default, 12_704), used(&default, 12_705)), (None, Some(Severity::Info)));
    assert_eq!(used(&ranged(10_240, 65_535, &[]), 30_000), None);
}

#[test]
fn the_wider_range_keeps_services_and_what_is_reserved_out() {
    let services =
        [listener(ANY, 11_211, 0, 9), listener(ANY, 9_200, 0, 9), listener(ANY, 32_800, 0, 9)];
    let settings = ranged(32_768, 33_767, &[8080..=8080]);
    let advice = small(&settings, &services, false).unwrap().advice.remove(0);
    assert_eq!(
        advice.command.as_deref(),
        Some(
            "sysctl -w net.ipv4.ip_local_reserved_ports=8080,11211 net.ipv4.ip_local_port_range=\"10240 65535\""
        )
    );
    // 55,296 − 11211 − 32800, of 1,000 − 32800 before.
    assert_eq!(advice.gain, "55,294 ports in place of 999: × 55");
    let on_kubernetes = small(&settings, &[], true).unwrap().advice.remove(0).command.unwrap();
    assert!(on_kubernetes.contains("=8080,30000-32767 net"), "{on_kubernetes}");
    let none = small(&ranged(50_000, 50_099, &[]), &[], false).unwrap().advice.remove(0);
    assert_eq!(
        none.command.as_deref(),
        Some("sysctl -w net.ipv4.ip_local_port_range=\"10240 65535\"")
    );
}

#[test]
fn the_range_is_never_advised_below_what_the_kernel_takes_nor_without_a_gain() {
    let settings = ranged(50_000, 50_099, &[]);
    let of =
        |first| small_range(&own(), &settings, &tuples_of(&settings, &[]), first, false).unwrap();
    let command = of(Some(20_000)).advice[0].command.clone().unwrap();
    assert!(command.contains("\"20000 65535\""), "{command}");
    let mut reserved = ranged(10_240, 65_535, &[10_240..=60_000]);
    assert_eq!(small(&reserved, &[], false).unwrap().advice, []);
    reserved.range.reserved.clear();
    assert_eq!(small(&reserved, &[], false), None);
}

#[test]
fn node_ports_in_the_range_matter_where_kubernetes_runs() {
    let of = |settings: &Settings, kubelet| nodeport_overlap(&own(), settings, kubelet);
    assert_eq!(of(&ranged(32_768, 60_999, &[]), true), None);
    let wide = ranged(10_240, 65_535, &[8080..=8080]);
    assert_eq!(of(&wide, false), None);
    let found = of(&wide, true).unwrap();
    assert_eq!(
        (found.severity, &found.evidence["ports.overlap"]),
        (Severity::Warning, &2_768.into())
    );
    let command = found.advice[0].command.as_deref();
    assert_eq!(command, Some("sysctl -w net.ipv4.ip_local_reserved_ports=8080,30000-32767"));
    assert_eq!(of(&ranged(10_240, 65_535, &[30_000..=32_767]), true), None);
    assert_eq!(of(&ranged(32_767, 60_999, &[]), true).unwrap().evidence["ports.overlap"], 1);
}

fn addresses(
    settings: &NetworkSettings,
    now: &Tuples,
    sources: &[IpAddr],
    drops: Option<u64>,
) -> [Option<Finding>; 2] {
    let (place, local) = (own(), [ip(HERE)]);
    let seen = Addresses { place: &place, settings, now, sources, local: Some(&local) };
    [nonlocal_bind(&seen), reverse_path(&seen, drops.map(|drops| (drops, 5.0)))]
}

#[test]
fn binding_foreign_addresses_is_good_to_know_and_a_warning_if_one_is_used() {
    let on = NetworkSettings { nonlocal_bind: Some(true), ..NetworkSettings::default() };
    let nonlocal = |settings: &NetworkSettings, of: &[DiagSocket], sources: &[IpAddr]| {
        let [found, _] = addresses(settings, &sockets(of), sources, None);
        found.map(|it| it.severity)
    };
    assert_eq!(nonlocal(&NetworkSettings::default(), &[unanswered(OTHER, 40_001)], &[]), None);
    assert_eq!(nonlocal(&on, &[], &[]), Some(Severity::Info));
    assert_eq!(nonlocal(&on, &[unanswered(HERE, 40_001)], &[ip(HERE)]), Some(Severity::Info));
    assert_eq!(nonlocal(&on, &[unanswered(OTHER, 40_001)], &[]), Some(Severity::Warning));
    assert_eq!(nonlocal(&on, &[], &[ip(OTHER)]), Some(Severity::Warning));
    assert_eq!(nonlocal(&on, &[], &[Ipv4Addr::LOCALHOST.into()]), Some(Severity::Info));
    // The address is there after all: its connections get answers.
    let answered = DiagSocket { source: OTHER, ..connection(tcp_state::ESTABLISHED, 40_003) };
    assert_eq!(nonlocal(&on, &[unanswered(OTHER, 40_001), answered], &[]), Some(Severity::Info));
    let v6_only = NetworkSettings { nonlocal_bind_v6: Some(true), ..NetworkSettings::default() };
    assert_eq!(nonlocal(&v6_only, &[unanswered(OTHER, 40_001)], &[]), Some(Severity::Info));
    let [found, _] = addresses(&on, &sockets(&[unanswered(OTHER, 40_001)]), &[], None);
    let advice = found.unwrap().advice;
    assert!(advice[0].what.contains("unless another host has it: ip addr add 10.0.0.9/32 dev"));
    assert_eq!(advice[0].command, None, "somebody has to look first");
    assert_eq!(advice[0].adds.as_ref().unwrap().towards, [ip(THERE)]);
}

#[test]
fn dropped_answers_are_those_of_a_source_that_is_set_or_that_alone_fails() {
    let strict =
        NetworkSettings { reverse_path: Some(ReversePath::Strict), ..NetworkSettings::default() };
    let silent = unanswered(OTHER, 40_001);
    let works = connection(tcp_state::ESTABLISHED, 40_003);
    let of = |of: &[DiagSocket], sources: &[IpAddr], drops| {
        let [_, found] = addresses(&strict, &sockets(of), sources, drops);
        found
    };
    let pool = [ip(OTHER)];
    let found = of(&[silent], &pool, Some(40)).unwrap();
    assert_eq!((found.severity, found.certainty), (Severity::Warning, Certainty::Inferred));
    assert_eq!(
        found.what,
        "the reverse path filter dropped 40 packets in 5 s, and SYNs from 10.0.0.9 are not answered"
    );
    let command = found.advice[0].command.as_deref();
    assert_eq!(command, Some("sysctl -w net.ipv4.conf.all.rp_filter=2"));
    assert_eq!(of(&[silent], &pool, Some(0)), None);
    assert_eq!(of(&[silent], &pool, None), None);
    // Scans from outside, while an upstream does not answer.
    assert_eq!(of(&[silent], &[], Some(40)), None);
    assert_eq!(of(&[works], &pool, Some(40)), None);
    assert!(
        of(&[silent, works], &[], Some(40)).is_some(),
        "another source reaches the destination"
    );
    let answered = DiagSocket { source: OTHER, ..works };
    assert_eq!(of(&[silent, answered], &pool, Some(40)), None);
    let loose =
        NetworkSettings { reverse_path: Some(ReversePath::Loose), ..NetworkSettings::default() };
    let [_, found] = addresses(&loose, &sockets(&[silent]), &pool, Some(40));
    assert_eq!(found.unwrap().advice.len(), 1, "it is loose already");
    assert!(THERE != OTHER);
}
