use std::net::Ipv4Addr;

use super::*;
use crate::host::sockdiag::Family;

const SOURCE: Addr = Addr::v4([10, 0, 0, 1]);
const PEER: Addr = Addr::v4([10, 0, 1, 1]);

fn settings(low: u16, high: u16) -> Settings {
    let reuse = Reuse { setting: 0, delay_ms: None, timestamps: true };
    Settings { range: PortRange { low, high, reserved: Vec::new() }, reuse }
}

fn socket(state: u8, port: u16) -> DiagSocket {
    let socket = DiagSocket::between(state, (SOURCE, port), (PEER, 80));
    DiagSocket { cookie: port.into(), inode: 0, ..socket }
}

fn listener(port: u16) -> DiagSocket {
    DiagSocket {
        source: Addr::v4(Ipv4Addr::UNSPECIFIED.octets()),
        destination: Addr::UNSPECIFIED,
        destination_port: 0,
        ..socket(tcp_state::LISTEN, port)
    }
}

fn only(found: &Tuples) -> &Tuple {
    assert_eq!(found.by_ends.len(), 1, "{found:?}");
    found.by_ends.values().next().unwrap()
}

#[test]
fn states_of_a_tuple_are_counted() {
    use tcp_state::{CLOSE_WAIT, ESTABLISHED, FIN_WAIT2, SYN_SENT, TIME_WAIT};
    let mut sockets: Vec<_> = [ESTABLISHED, CLOSE_WAIT, FIN_WAIT2, TIME_WAIT, SYN_SENT, SYN_SENT]
        .into_iter()
        .zip(40_000..)
        .map(|(state, port)| socket(state, port))
        .collect();
    sockets[5].sent_again = 2;
    sockets[0].inode = 7;
    let found = tuples(&sockets, &settings(40_000, 40_009));
    let tuple = only(&found);
    assert_eq!((tuple.held, tuple.capacity, tuple.in_use()), (6, 10, 6));
    let states = [tuple.established, tuple.close_wait, tuple.fin_wait2, tuple.time_wait];
    assert_eq!(states, [1; 4]);
    assert_eq!((tuple.syn_sent, tuple.unanswered), (2, 1));
    assert_eq!(tuple.inodes, [7]);
    assert!((tuple.saturation() - 0.6).abs() < 1e-9);
}

#[test]
fn accepted_connections_are_of_no_tuple() {
    let accepted = [listener(40_001), socket(tcp_state::TIME_WAIT, 40_001)];
    let found = tuples(&accepted, &settings(40_000, 40_009));
    assert!(found.by_ends.is_empty(), "{found:?}");
    assert_eq!((found.listening, found.usable), (vec![40_001], 9));
}

#[test]
fn a_port_that_the_tuple_holds_itself_is_in_its_capacity() {
    // Ports that bind() took, of which the tuple holds one.
    let bound = |port| DiagSocket { destination_port: 0, ..socket(tcp_state::CLOSE, port) };
    let sockets = [bound(40_001), bound(40_003), socket(tcp_state::ESTABLISHED, 40_001)];
    let found = tuples(&sockets, &settings(40_000, 40_009));
    assert_eq!((only(&found).capacity, found.usable), (9, 8));
    assert_eq!(found.bound, [40_001, 40_003]);
}

#[test]
fn old_time_waits_are_room_only_where_they_are_reused() {
    let waiting = |port, age_ms| DiagSocket {
        expires_ms: TIME_WAIT_MS - age_ms,
        ..socket(tcp_state::TIME_WAIT, port)
    };
    let sockets = [waiting(40_000, 5_000), waiting(40_001, 1_500), waiting(40_002, 100)];
    let mut settings = settings(40_000, 40_009);
    let reusable = |settings: &Settings| only(&tuples(&sockets, settings)).reusable;
    assert_eq!(reusable(&settings), 0);
    settings.reuse.setting = 2;
    assert_eq!(reusable(&settings), 0, "only those of loopback addresses");
    settings.reuse.setting = 1;
    assert_eq!(reusable(&settings), 1, "from the next second on");
    settings.reuse.delay_ms = Some(1_000);
    assert_eq!(reusable(&settings), 2);
    settings.reuse.timestamps = false;
    assert_eq!(reusable(&settings), 0);
}

/// The kernel's default is 2.
#[test]
fn with_the_default_setting_time_waits_of_loopback_addresses_are_room() {
    let between = |source, destination| DiagSocket {
        source,
        destination,
        expires_ms: 0,
        ..socket(tcp_state::TIME_WAIT, 40_000)
    };
    let mut settings = settings(40_000, 40_009);
    let v4 = Addr::v4([127, 0, 0, 9]);
    let v6 = Addr(Ipv6Addr::LOCALHOST.octets());
    let reusable = |settings: &Settings| {
        [(v4, v4), (v6, v6), (SOURCE, v4), (v4, PEER), (SOURCE, SOURCE)]
            .map(|(source, peer)| only(&tuples(&[between(source, peer)], settings)).reusable)
    };
    assert_eq!(reusable(&settings), [0; 5]);
    settings.reuse.setting = 2;
    assert_eq!(reusable(&settings), [1, 1, 1, 1, 0]);
    settings.reuse.timestamps = false;
    assert_eq!(reusable(&settings), [0; 5]);
}

#[test]
fn the_first_half_is_full_when_its_parity_is_held_or_taken() {
    let half = |ports: &[u16], settings: &Settings| {
        let mut sockets: Vec<_> =
            ports.iter().map(|port| socket(tcp_state::ESTABLISHED, *port)).collect();
        sockets.push(listener(40_008));
        tuples(&sockets, settings).by_ends.values().next().is_some_and(|it| it.first_half_full)
    };
    let mut settings = settings(40_000, 40_009);
    assert!(!half(&[40_000, 40_002, 40_004], &settings));
    assert!(half(&[40_000, 40_002, 40_004, 40_006], &settings));
    assert!(!half(&[40_001, 40_003, 40_005, 40_007, 40_009], &settings), "the other parity");
    settings.range.reserved.push(40_006..=40_006);
    assert!(half(&[40_000, 40_002, 40_004], &settings), "a reserved port is no port of it");
}

#[test]
fn ports_that_are_taken_over_are_free_for_a_search() {
    let waiting = |port| DiagSocket { expires_ms: 0, ..socket(tcp_state::TIME_WAIT, port) };
    let sockets = [waiting(40_000), waiting(40_002)];
    let mut settings = settings(40_000, 40_003);
    assert!(only(&tuples(&sockets, &settings)).first_half_full);
    settings.reuse.setting = 1;
    assert!(!only(&tuples(&sockets, &settings)).first_half_full);
}

#[test]
fn sockets_that_wait_for_one_end_to_close_are_known_again() {
    let with = |state, cookie| DiagSocket {
        cookie,
        ..socket(state, 40_000 + u16::try_from(cookie).unwrap())
    };
    let sockets = [
        with(tcp_state::CLOSE_WAIT, 7),
        with(tcp_state::FIN_WAIT2, 3),
        with(tcp_state::ESTABLISHED, 5),
        with(tcp_state::CLOSE_WAIT, 2),
    ];
    let found = tuples(&sockets, &settings(40_000, 40_009));
    assert_eq!(only(&found).close_wait_cookies, [2, 7]);
    assert_eq!(only(&found).fin_wait2_cookies, [3]);
}

#[test]
fn ports_by_parity_tell_whether_bind_chose_them() {
    let parity = |sockets: &[DiagSocket]| only(&tuples(sockets, &settings(40_000, 40_099))).parity;
    let open = |ports: &[u16]| -> Vec<DiagSocket> {
        ports.iter().map(|port| socket(tcp_state::ESTABLISHED, *port)).collect()
    };
    let waiting = |port, age_ms| DiagSocket {
        expires_ms: TIME_WAIT_MS - age_ms,
        ..socket(tcp_state::TIME_WAIT, port)
    };
    let bound = parity(&open(&[40_001, 40_003, 40_005, 40_099, 50_001]));
    let expected = Parity { second: 4, recent_second: 4, ..Parity::default() };
    assert_eq!(bound, expected, "a port outside of the range is of neither");
    assert_eq!((bound.bound(0), bound.bound(3), bound.bound(4)), (4, 1, 0));
    let connected = parity(&open(&[40_000, 40_002, 40_004, 40_001]));
    assert_eq!((connected.first, connected.second, connected.bound(0)), (3, 1, 0));
    let most = parity(&open(&[40_000, 40_001, 40_003, 40_005, 40_007]));
    assert_eq!(most.bound(0), 4, "four times as many");
    let one_less = parity(&open(&[40_000, 40_001, 40_003, 40_005]));
    assert_eq!(one_less.bound(0), 0);
    // After a peak, TIME_WAITs of the second parity are left: nothing new takes these ports.
    let left = parity(&[waiting(40_001, 11_000), waiting(40_003, 30_000)]);
    assert_eq!((left.second, left.recent_second, left.bound(0)), (2, 0, 0));
    let now = parity(&[waiting(40_001, 9_000), waiting(40_003, 30_000)]);
    assert_eq!(now.bound(0), 2);
    // One connection of the peak is still open: it does not make thousands of ports bound ones.
    let peak = Parity { first: 900, second: 9_000, recent_second: 1, ..Parity::default() };
    assert_eq!(peak.bound(0), 8);
    // A program that binds ports at a steady rate has a sixth of them taken of late.
    let steady = Parity { second: 6_200, recent_second: 1_000, ..Parity::default() };
    assert_eq!(steady.bound(0), 6_200);
    // With an odd first port, even ports are the second parity.
    let odd = tuples(&open(&[40_002, 40_004]), &settings(40_001, 40_099));
    assert_eq!(only(&odd).parity.bound(0), 2);
}

#[test]
fn connect_uses_the_second_parity_once_the_first_one_is_held() {
    // 100 connections within a second, 10 s ago: the older half of their TIME_WAITs, of the first parity, is no longer recent.
    let waiting = |port: u16| {
        let age_ms = if port.is_multiple_of(2) { 10_100 } else { 9_900 };
        DiagSocket { expires_ms: TIME_WAIT_MS - age_ms, ..socket(tcp_state::TIME_WAIT, port) }
    };
    let mut settings = settings(40_000, 40_099);
    settings.reuse.setting = 1;
    let all: Vec<_> = (40_000..=40_099).map(waiting).collect();
    let parity = |sockets: &[DiagSocket]| only(&tuples(sockets, &settings)).parity;
    assert_eq!((parity(&all).recent_second, parity(&all).bound(0)), (50, 0));
    assert_eq!(parity(&all[1..]).bound(0), 50, "connect() could have had 40,000");
}

#[test]
fn listeners_idle_sockets_and_connections_to_themselves_are_listed() {
    let any_v6 = DiagSocket {
        family: Family::V6,
        source: Addr::UNSPECIFIED,
        receive_queue: 5,
        send_queue: 4,
        inode: 9,
        ..listener(80)
    };
    let only_v6 = DiagSocket { v6_only: true, receive_queue: 4, send_queue: 4, ..any_v6 };
    let at = DiagSocket { source: SOURCE, ..listener(8080) };
    let idle = DiagSocket { destination_port: 0, inode: 3, ..socket(tcp_state::CLOSE, 40_007) };
    let itself = DiagSocket {
        destination: SOURCE,
        destination_port: 40_001,
        ..socket(tcp_state::ESTABLISHED, 40_001)
    };
    let ended = DiagSocket { state: tcp_state::TIME_WAIT, ..itself };
    let sockets = [at, any_v6, idle, itself, ended];
    let found = tuples(&sockets, &settings(40_000, 40_009));
    let ports: Vec<_> = found.listeners.iter().map(|it| (it.port, it.is_full())).collect();
    assert_eq!(ports, [(80, true), (8080, false)]);
    assert_eq!(found.idle, [Idle { port: 40_007, inode: 3 }]);
    assert_eq!(found.loops, [Loop { address: SOURCE, port: 40_001, inode: 0 }]);
    let [http, other] = found.listeners[..] else { panic!("{found:?}") };
    let v6 = Addr([0xfd; 16]);
    let is_for = |it: Listener| {
        [(PEER, it.port), (SOURCE, it.port), (v6, it.port), (SOURCE, 1)]
            .map(|(address, port)| it.is_for(address, port))
    };
    assert_eq!(is_for(http), [true, true, true, false]);
    assert_eq!(is_for(other), [false, true, false, false]);
    let v6_only = tuples(&[only_v6], &settings(40_000, 40_009)).listeners[0];
    assert_eq!((is_for(v6_only), v6_only.is_full()), ([false, false, true, false], false));
    let v4 = tuples(&[listener(80)], &settings(40_000, 40_009)).listeners[0];
    assert_eq!(is_for(v4), [true, true, false, false]);
}

/// The sockets that the kernel lists have these states and queues.
#[test]
fn a_full_accept_queue_and_a_bound_socket_are_seen() {
    use std::{
        net::{SocketAddr, TcpStream},
        os::fd::OwnedFd,
        time::{Duration, Instant},
    };

    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

    use crate::host::{sockdiag, test_netns};

    let new = |port: u16| -> OwnedFd {
        let new = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .unwrap();
        bind(&new, &SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
        new
    };
    let (sockets, lists_idle) = test_netns::run(|| {
        let server = new(7000);
        listen(&server, 3).unwrap();
        let _bound = new(40_001);
        let server_at = SocketAddr::from(([127, 0, 0, 1], 7000));
        let _waiting: Vec<_> = (0..4).map(|_| TcpStream::connect(server_at).unwrap()).collect();
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let sockets = sockdiag::dump_all(sockdiag::ALL_STATES).unwrap();
            let is_full =
                sockets.iter().any(|it| it.state == tcp_state::LISTEN && it.receive_queue == 4);
            if is_full || end < Instant::now() {
                break (sockets, sockdiag::lists_idle().unwrap());
            }
        }
    });
    let found = tuples(&sockets, &settings(40_000, 40_009));
    let queues: Vec<_> =
        found.listeners.iter().map(|it| (it.port, it.queue, it.longest, it.is_full())).collect();
    assert_eq!(queues, [(7000, 4, 3, true)]);
    let idle: Vec<_> = found.idle.iter().map(|it| it.port).collect();
    let expected: &[u16] = if lists_idle { &[40_001] } else { &[] };
    assert_eq!((&idle[..], &found.bound[..]), (expected, expected));
    assert!(found.idle.iter().all(|it| it.inode != 0));
}
