use std::{net::IpAddr, time::Duration};

use rustix::net::{SocketFlags, netlink::NETFILTER};

use super::{
    entry::{CTNETLINK, Entry, State, entry},
    *,
};
use crate::host::{netlink, test_mutations, test_netns};

/// The first bits of the type of an attribute that has others.
const NESTED: u16 = 0x8000;
/// `IPCTNL_MSG_CT_NEW`
const NEW: u16 = CTNETLINK;
const NLM_F_CREATE: u16 = 0x400;

const STAT: &str = "entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart
0000c350  00000000 00000001 00000000 00000002 00000000 00000000 00000003 00000000 00000010 00000020 00000004 00000000  00000000 00000000 00000000 00000000
0000c350  00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 ffffffff 00000001 00000000 00000000  00000000 00000000 00000000 00000000
";
/// Before Linux 5.15.
const OLD_STAT: &str = "entries  searched found new invalid ignore delete delete_list insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart
00000002  00000000 00000001 00000000 00000002 00000000 00000000 00000009 00000000 00000003 00000005 00000000 00000000  00000000 00000000 00000000 00000000
";

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn nest(kind: u16, inside: &[Vec<u8>]) -> Vec<u8> {
    attribute(NESTED | kind, &inside.concat())
}

fn octets(address: &str) -> (bool, Vec<u8>) {
    match address.parse::<IpAddr>().unwrap() {
        IpAddr::V4(address) => (true, address.octets().to_vec()),
        IpAddr::V6(address) => (false, address.octets().to_vec()),
    }
}

/// One direction of a connection.
fn tuple(kind: u16, protocol: u8, from: (&str, u16), to: (&str, u16)) -> Vec<u8> {
    let ((is_v4, source), (_, destination)) = (octets(from.0), octets(to.0));
    let (first, second) = if is_v4 { (1, 2) } else { (3, 4) };
    let addresses = nest(1, &[attribute(first, &source), attribute(second, &destination)]);
    let ports = [
        attribute(1, &[protocol]),
        attribute(2, &from.1.to_be_bytes()),
        attribute(3, &to.1.to_be_bytes()),
    ];
    nest(kind, &[addresses, nest(2, &ports)])
}

/// An answer of the kernel about a connection whose source address became 192.0.2.1.
fn answer(protocol: u8, status: u32, state: u8) -> Vec<u8> {
    let tcp = nest(1, &[attribute(1, &[state]), attribute(2, &[7]), attribute(3, &[7])]);
    [
        vec![2, 0, 0, 0],
        tuple(1, protocol, ("10.0.0.2", 40_001), ("10.0.1.7", 443)),
        tuple(2, protocol, ("10.0.1.7", 443), ("192.0.2.1", 1_077)),
        attribute(3, &status.to_be_bytes()),
        nest(4, &[tcp]),
        attribute(7, &100_u32.to_be_bytes()),
        attribute(12, &[1, 2, 3, 4]),
    ]
    .concat()
}

fn snat() -> Snat {
    Snat {
        address: "192.0.2.1".parse().unwrap(),
        destination: "10.0.1.7:443".parse().unwrap(),
        protocol: protocol::TCP,
        zone: 0,
    }
}

#[test]
fn counters_of_all_cpus_are_added_and_entries_are_not() {
    let (entries, counters) = counters::parse(STAT).unwrap();
    assert_eq!(entries, 50_000);
    let expected = Counters { drop: 33, insert_failed: 15, early_drop: 4, chain_too_long: 3 };
    assert_eq!(counters, expected, "16 and -1 are 15: they wrap");
    let (entries, counters) = counters::parse(OLD_STAT).unwrap();
    let expected = Counters { drop: 5, insert_failed: 3, early_drop: 0, chain_too_long: 0 };
    assert_eq!((entries, counters), (2, expected));
    assert_eq!(expected.since(&Counters { drop: u32::MAX, ..expected }).drop, 6);
}

#[test]
fn text_that_is_not_of_counters_is_damaged() {
    let no_rows = STAT.lines().next().unwrap();
    let short_row = STAT.rsplit_once(" 00000004").unwrap().0;
    let no_column = STAT.replace("early_drop", "other");
    for text in ["", "\n", no_rows, short_row, &no_column, &STAT.replace("0000c350", "x")] {
        assert_eq!(counters::parse(text), None, "{text}");
    }
}

#[test]
fn an_entry_is_the_way_back() {
    let found = entry(&answer(protocol::TCP, 0x19e, 3)).unwrap();
    assert_eq!(found, Entry { snat: snat(), port: 1_077, state: State::Live, translated: true });
    let found = entry(&answer(protocol::TCP, 0x18e, 3)).unwrap();
    assert!(!found.translated);
}

#[test]
fn only_tcp_has_ended_connections() {
    let state = |protocol, state| entry(&answer(protocol, 0x10, state)).unwrap().state;
    let live = [0, 1, 2, 3, 4, 5, 6, 9].map(|it| state(protocol::TCP, it));
    assert_eq!(live, [State::Live; 8]);
    assert_eq!(state(protocol::TCP, 7), State::TimeWait);
    assert_eq!(state(protocol::TCP, 8), State::Closed);
    assert_eq!(state(protocol::UDP, 7), State::Live);
}

#[test]
fn addresses_of_ipv6_and_zones_are_read() {
    let back = tuple(2, protocol::TCP, ("2001:db8::7", 443), ("fd00::1", 5));
    let with = |more: &[u8]| entry(&[&[10, 0, 0, 0], &back[..], more].concat()).unwrap().snat;
    let found = with(&[]);
    let expected: (IpAddr, _, _) =
        ("fd00::1".parse().unwrap(), "[2001:db8::7]:443".parse().unwrap(), 0);
    assert_eq!((found.address, found.destination, found.zone), expected);
    assert_eq!(with(&attribute(18, &9_u16.to_be_bytes())).zone, 9);
}

#[test]
fn what_has_no_ports_is_no_entry() {
    let addresses = nest(1, &[attribute(1, &[10, 0, 1, 7]), attribute(2, &[192, 0, 2, 1])]);
    let icmp = nest(2, &[addresses, nest(2, &[attribute(1, &[1]), attribute(4, &[0, 1])])]);
    assert_eq!(entry(&[&[2, 0, 0, 0][..], &icmp].concat()), None);
    assert_eq!(entry(&[2, 0, 0, 0]), None);
    assert_eq!(entry(&[]), None);
}

#[test]
fn mutations_of_answers_do_no_harm() {
    let answers: Vec<_> = [3, 7, 8].iter().map(|it| answer(protocol::TCP, 0x19e, *it)).collect();
    let back = tuple(2, protocol::UDP, ("2001:db8::7", 53), ("fd00::1", 5));
    let six = [&[10, 0, 0, 0][..], &back, &attribute(18, &[0, 9])].concat();
    let statistics: Vec<u8> =
        (1..=15).flat_map(|kind| attribute(kind, &u32::from(kind).to_be_bytes())).collect();
    let statistics = [&[0, 0, 0, 1][..], &statistics].concat();
    let mut corpus: Vec<&[u8]> = answers.iter().map(Vec::as_slice).collect();
    corpus.extend([&six[..], &statistics]);
    test_mutations::run("ctnetlink", &corpus, |input| {
        let _entry = entry(input);
        let _row = counters::row(input);
    });
    test_mutations::run("nf_conntrack", &[STAT.as_bytes(), OLD_STAT.as_bytes()], |input| {
        let _counters = counters::parse(&String::from_utf8_lossy(input));
    });
}

#[test]
fn statistics_of_a_cpu_are_read() {
    let all: Vec<u8> =
        (1..=15).flat_map(|kind| attribute(kind, &u32::from(kind).to_be_bytes())).collect();
    let row = counters::row(&[&[0, 0, 0, 1][..], &all].concat()).unwrap();
    let expected = Counters { drop: 10, insert_failed: 9, early_drop: 11, chain_too_long: 15 };
    assert_eq!(row, expected);
    assert_eq!(counters::row(&[0; 3]), None);
    assert_eq!(counters::row(&[&[0; 4][..], &attribute(10, &[1])].concat()), None);
}

/// Makes the kernel of the calling thread's namespace track a connection, whose source is translated to 192.0.2.1, or is it.
fn track(port: u16, state: u8, translated: bool) {
    let source = if translated { "10.0.0.2" } else { "192.0.2.1" };
    let nat = nest(6, &[attribute(1, &[192, 0, 2, 1]), attribute(2, &[192, 0, 2, 1])]);
    let body = [
        vec![2, 0, 0, 0],
        tuple(1, protocol::TCP, (source, port), ("10.0.1.7", 443)),
        tuple(2, protocol::TCP, ("10.0.1.7", 443), (source, port)),
        attribute(7, &600_u32.to_be_bytes()),
        nest(4, &[nest(1, &[attribute(1, &[state])])]),
        if translated { nat } else { Vec::new() },
    ]
    .concat();
    let request = netlink::request(NEW, NLM_F_CREATE | netlink::NLM_F_ACK, &body);
    let socket = netlink::Socket::open(Some(NETFILTER), SocketFlags::CLOEXEC, 0).unwrap();
    socket.send(&request).unwrap();
    let mut buffer = [0; 4096];
    let len = socket.receive(&mut buffer).unwrap().unwrap();
    let answer = netlink::messages(&buffer[..len]).next().unwrap().unwrap();
    assert_eq!(answer.payload[..4], [0; 4], "the kernel refuses the entry of port {port}");
}

#[test]
fn the_kernels_entries_are_counted() {
    test_netns::run(|| {
        let Some(before) = fill().unwrap() else { return };
        assert_eq!(before.count, 0);
        assert!(before.max.is_some_and(|max| max > 0), "{before:?}");
        for port in 2_000..2_300 {
            track(port, 3, true);
        }
        for port in 3_000..3_020 {
            track(port, 7, true);
        }
        for port in 4_000..4_007 {
            track(port, 3, false);
        }
        assert_eq!(fill().unwrap().unwrap().count, 327);
        let mut found = mappings(Bounds::default()).unwrap();
        assert!(
            [320, 327].contains(&found.read),
            "without the kernel's filter it is all: {found:?}"
        );
        let (lowest, highest) = (2_000, 3_019);
        let ports = Ports { live: 300, time_wait: 20, closed: 0, untranslated: 0, lowest, highest };
        assert_eq!(found.sorted(), [(snat(), ports)]);
        assert_eq!((found.part, found.left_out), (None, 0));

        count_untranslated(&mut found, Bounds::default()).unwrap();
        let ports = Ports { live: 307, untranslated: 7, highest: 4_006, ..ports };
        assert_eq!(found.sorted(), [(snat(), ports)]);

        assert_eq!(counters().unwrap(), Counters::default());
        assert_eq!(counters::by_netlink().unwrap(), Counters::default());
    });
}

#[test]
fn a_list_that_is_too_long_is_read_in_part() {
    test_netns::run(|| {
        if fill().unwrap().is_none() {
            return;
        }
        (2_000..2_300).for_each(|port| track(port, 3, true));
        let found = mappings(Bounds { entries: 100, ..Bounds::default() }).unwrap();
        assert_eq!((found.read, found.part), (100, Some(Part::Entries)));
        assert_eq!(found.sorted()[0].1.live, 100);
        let found = mappings(Bounds { entries: 300, ..Bounds::default() }).unwrap();
        assert_eq!((found.read, found.part), (300, None), "exactly as many");
        let found = mappings(Bounds { time: Duration::ZERO, ..Bounds::default() }).unwrap();
        assert_eq!((found.read, found.part), (0, Some(Part::Time)));
    });
}
