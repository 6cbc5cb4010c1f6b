use std::net::IpAddr;

use super::{
    PortChoice::{All, Range, Unknown},
    *,
};
use crate::host::{conntrack::protocol, test_mutations, test_netns};

const V4: u8 = nft::IPV4;
const V6: u8 = nft::IPV6;
const INET: u8 = 1;

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn nest(kind: u16, inside: &[Vec<u8>]) -> Vec<u8> {
    attribute(0x8000 | kind, &inside.concat())
}

fn expression(name: &str, data: &[Vec<u8>]) -> Vec<u8> {
    let name = attribute(1, &[name.as_bytes(), &[0]].concat());
    nest(1, &[name, nest(2, data)])
}

fn immediate(register: u32, value: &[u8]) -> Vec<u8> {
    expression("immediate", &[number(1, register), nest(2, &[attribute(1, value)])])
}

fn port(register: u32, port: u16) -> Vec<u8> {
    immediate(register, &port.to_be_bytes())
}

/// `meta l4proto PROTOCOL`
fn only(protocol: u8) -> [Vec<u8>; 2] {
    [
        expression("meta", &[number(2, 16), number(1, 1)]),
        expression("cmp", &[number(1, 1), number(2, 0), nest(3, &[attribute(1, &[protocol])])]),
    ]
}

fn message(family: u8, expressions: &[Vec<u8>]) -> Vec<u8> {
    [
        vec![family, 0, 0, 7],
        attribute(1, b"nat\0"),
        attribute(2, b"postrouting\0"),
        attribute(3, &[0; 8]),
        nest(4, expressions),
    ]
    .concat()
}

/// The rules in a message.
fn read_of(family: u8, expressions: &[Vec<u8>]) -> Vec<Rule> {
    let mut found = Vec::new();
    nft::rules(&message(family, expressions), |rule| found.push(rule));
    found
}

const PLAIN: Rule =
    Rule { v4: true, v6: false, protocol: None, addresses: None, ports: All, fully_random: false };

fn addresses(first: &str, last: &str) -> (IpAddr, IpAddr) {
    (first.parse().unwrap(), last.parse().unwrap())
}

/// `meta l4proto tcp masquerade to :LOW-HIGH`
fn narrow(low: u16, high: u16) -> Vec<Vec<u8>> {
    let masquerade = expression("masq", &[number(2, 1), number(3, 2)]);
    let [meta, cmp] = only(protocol::TCP);
    vec![meta, cmp, port(1, low), port(2, high), masquerade]
}

/// `snat to 192.0.2.1-192.0.2.4:2000-2999 fully-random`
fn source_nat() -> Vec<Vec<u8>> {
    let nat = [
        number(1, 0),
        number(2, 2),
        number(3, 1),
        number(4, 2),
        number(5, 3),
        number(6, 4),
        number(7, 0x13),
    ];
    vec![
        immediate(1, &[192, 0, 2, 1]),
        immediate(2, &[192, 0, 2, 4]),
        port(3, 2_000),
        port(4, 2_999),
        expression("nat", &nat),
    ]
}

/// A target of iptables.
fn target(name: &str, revision: u32, info: &[u8]) -> Vec<Vec<u8>> {
    let name = attribute(1, &[name.as_bytes(), &[0]].concat());
    vec![expression("target", &[name, number(2, revision), attribute(3, info)])]
}

/// The information of MASQUERADE and of the first SNAT: 24 bytes.
fn short(flags: u32, first: [u8; 4], last: [u8; 4], ports: [u16; 2]) -> Vec<u8> {
    let [low, high] = ports.map(u16::to_be_bytes);
    let start = [1_u32.to_ne_bytes(), flags.to_ne_bytes(), first, last].concat();
    [&start[..], &low, &high, &[0; 4]].concat()
}

#[test]
fn masquerade_has_all_ports_or_a_range() {
    assert_eq!(read_of(V4, &[expression("masq", &[])]), [PLAIN]);
    let both = Rule { v6: true, ..PLAIN };
    assert_eq!(
        read_of(INET, &[expression("masq", &[number(1, 0x10)])]),
        [Rule { fully_random: true, ..both }]
    );
    let range = Rule { protocol: Some(6), ports: Range(2_000, 2_049), ..PLAIN };
    assert_eq!(read_of(V4, &narrow(2_000, 2_049)), [range]);
    let one = [port(1, 2_000), expression("masq", &[number(2, 1)])];
    assert_eq!(read_of(V4, &one), [Rule { ports: Range(2_000, 2_000), ..PLAIN }]);
}

#[test]
fn source_nat_has_addresses_and_ports() {
    let expected = Rule {
        addresses: Some(addresses("192.0.2.1", "192.0.2.4")),
        ports: Range(2_000, 2_999),
        fully_random: true,
        ..PLAIN
    };
    assert_eq!(read_of(INET, &source_nat()), [expected]);
    let one = [
        immediate(1, &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        expression("nat", &[number(1, 0), number(2, 10), number(3, 1)]),
    ];
    let six = Rule {
        v4: false,
        v6: true,
        addresses: Some(addresses("2001:db8::1", "2001:db8::1")),
        ..PLAIN
    };
    assert_eq!(read_of(INET, &one), [six]);
}

#[test]
fn the_destination_is_not_the_source() {
    let nat = [immediate(1, &[10, 0, 0, 1]), expression("nat", &[number(1, 1), number(3, 1)])];
    assert_eq!(read_of(V4, &nat), []);
    assert_eq!(read_of(V4, &[expression("redir", &[]), expression("counter", &[])]), []);
    assert_eq!(read_of(7, &[expression("masq", &[])]), [], "of a bridge");
}

#[test]
fn what_comes_from_a_map_is_not_known() {
    let lookup = expression("lookup", &[attribute(1, b"map\0"), number(2, 1), number(3, 1)]);
    let nat = [number(1, 0), number(2, 2), number(3, 1), number(5, 2)];
    let found = read_of(V4, &[immediate(1, &[10, 0, 0, 1]), lookup, expression("nat", &nat)]);
    assert_eq!(found, [Rule { ports: Unknown, ..PLAIN }]);
}

#[test]
fn only_a_protocol_that_the_rule_asks_for_counts() {
    let [meta, _] = only(6);
    let not = expression("cmp", &[number(1, 1), number(2, 1), nest(3, &[attribute(1, &[6])])]);
    let masquerade = expression("masq", &[]);
    let protocol = |rule: &[Vec<u8>]| read_of(V4, rule)[0].protocol;
    assert_eq!(protocol(&[meta.clone(), not, masquerade.clone()]), None);
    let [_, cmp] = only(6);
    assert_eq!(protocol(&[cmp.clone(), masquerade.clone()]), None, "of something else");
    let mark = expression("meta", &[number(2, 3), number(1, 1)]);
    assert_eq!(protocol(&[meta.clone(), mark, cmp, masquerade.clone()]), None);
    assert_eq!(
        protocol(&[&only(17)[..], &[expression("counter", &[]), masquerade]].concat()),
        Some(17)
    );
}

#[test]
fn targets_of_iptables_are_read() {
    let none = short(0, [0; 4], [0; 4], [0, 0]);
    assert_eq!(none.len(), 24);
    assert_eq!(read_of(V4, &target("MASQUERADE", 0, &none)), [PLAIN]);
    let ports = short(0x12, [0; 4], [0; 4], [2_000, 2_049]);
    let expected = Rule { ports: Range(2_000, 2_049), fully_random: true, ..PLAIN };
    assert_eq!(read_of(V4, &target("MASQUERADE", 0, &ports)), [expected]);
    let to = short(1, [192, 0, 2, 1], [192, 0, 2, 2], [0, 0]);
    let expected = Rule { addresses: Some(addresses("192.0.2.1", "192.0.2.2")), ..PLAIN };
    assert_eq!(read_of(V4, &target("SNAT", 0, &to)), [expected]);
    assert_eq!(read_of(V4, &target("DNAT", 0, &to)), []);
    assert_eq!(read_of(V4, &target("SNAT", 0, &to[..19])), [], "damaged");
}

#[test]
fn newer_targets_of_iptables_are_read() {
    let mut info = 3_u32.to_ne_bytes().to_vec();
    info.extend([192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    info.extend([192, 0, 2, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    info.extend([1_024_u16.to_be_bytes(), 2_047_u16.to_be_bytes(), [0; 2], [0; 2]].concat());
    let four = Rule {
        addresses: Some(addresses("192.0.2.1", "192.0.2.9")),
        ports: Range(1_024, 2_047),
        ..PLAIN
    };
    assert_eq!(read_of(V4, &target("SNAT", 2, &info)), [four]);
    let six = Rule {
        v4: false,
        v6: true,
        addresses: Some(addresses("c000:201::", "c000:209::")),
        ..four
    };
    assert_eq!(read_of(V6, &target("SNAT", 2, &info)), [six]);
    assert_eq!(read_of(V6, &target("MASQUERADE", 0, &info)), [six]);
}

fn rules(all: &[Rule]) -> NatRules {
    let mut rules = NatRules::default();
    for rule in all {
        rules.add(*rule);
    }
    rules
}

fn capacity(rules: &NatRules, address: &str, protocol: u8) -> (u32, bool) {
    let Capacity { ports, exact, .. } = rules.capacity(address.parse().unwrap(), protocol);
    (ports, exact)
}

#[test]
fn a_capacity_is_that_of_the_rules_that_can_give_the_address() {
    let range = Rule { protocol: Some(6), ports: Range(2_000, 2_049), ..PLAIN };
    let one = rules(&[range]);
    assert_eq!(capacity(&one, "192.0.2.1", 6), (50, true));
    assert_eq!((one.least(), rules(&[PLAIN]).least(), rules(&[]).least()), (50, 64_512, 64_512));
    assert_eq!(capacity(&one, "192.0.2.1", 17), (64_512, false), "no rule");
    assert_eq!(capacity(&one, "2001:db8::1", 6), (64_512, false), "no rule");
    let turned = rules(&[Rule { ports: Range(2_049, 2_000), ..range }]);
    assert_eq!(capacity(&turned, "192.0.2.1", 6), (50, true));
    assert_eq!(capacity(&rules(&[PLAIN]), "192.0.2.1", 6), (64_512, true));
    assert_eq!(capacity(&rules(&[PLAIN, range]), "192.0.2.1", 6), (64_512, false));
    let unknown = rules(&[Rule { ports: Unknown, ..PLAIN }]);
    assert_eq!(capacity(&unknown, "192.0.2.1", 6), (64_512, false));
    let other = Rule { addresses: Some(addresses("192.0.2.2", "192.0.2.4")), ..PLAIN };
    assert_eq!(capacity(&rules(&[range, other]), "192.0.2.1", 6), (50, true));
    assert_eq!(capacity(&rules(&[range, other]), "192.0.2.2", 6), (64_512, false));
}

#[test]
fn rules_that_are_not_seen_make_a_capacity_inexact() {
    let range = Rule { ports: Range(2_000, 2_049), ..PLAIN };
    let mut some = rules(&[range]);
    some.more = true;
    assert_eq!(capacity(&some, "192.0.2.1", 6), (64_512, false));
    let many: Vec<_> = (0..5_000).map(|port| Rule { ports: Range(port, port), ..PLAIN }).collect();
    let many = rules(&many);
    assert_eq!((many.rules.len(), many.more), (MOST, true));
    assert!(!rules(&[range, range]).more);
}

#[test]
fn every_rule_must_be_random() {
    let random = Rule { fully_random: true, ..PLAIN };
    let of = |all: &[Rule]| rules(all).capacity("192.0.2.1".parse().unwrap(), 6).fully_random;
    assert_eq!((of(&[random]), of(&[random, PLAIN]), of(&[])), (true, false, false));
}

#[test]
fn mutations_of_rules_do_no_harm() {
    let ports = short(0x12, [0; 4], [0; 4], [2_000, 2_049]);
    let corpus = [
        message(V4, &narrow(2_000, 2_049)),
        message(INET, &source_nat()),
        message(V4, &target("MASQUERADE", 0, &ports)),
        message(V6, &target("SNAT", 2, &[7; 44])),
    ];
    let corpus: Vec<&[u8]> = corpus.iter().map(Vec::as_slice).collect();
    test_mutations::run("nfnetlink", &corpus, |input| {
        let mut all = NatRules::default();
        nft::rules(input, |rule| all.add(rule));
        let _capacity = all.capacity("192.0.2.1".parse().unwrap(), 6);
    });
}

#[test]
fn a_namespace_without_rules_has_none() {
    let rules = test_netns::run(|| read().unwrap());
    assert!(rules.rules.is_empty());
}
