//! The dump against /proc/net/tcp, in a namespace of the test's own.

use std::{
    collections::BTreeSet,
    fs,
    net::{Shutdown, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::test_netns;

/// `(source port, destination port, state)` of every line of a /proc/net/tcp file.
fn proc_sockets(file: &str) -> BTreeSet<(u16, u16, u8)> {
    let text = fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
    let port = |field: &str| u16::from_str_radix(field.rsplit(':').next().unwrap(), 16).unwrap();
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (port(fields[1]), port(fields[2]), u8::from_str_radix(fields[3], 16).unwrap())
    };
    text.lines().skip(1).map(line).collect()
}

fn diag_sockets(family: Family) -> BTreeSet<(u16, u16, u8)> {
    let sockets = dump(family, ALL_STATES & !(1 << tcp_state::BOUND_INACTIVE)).unwrap();
    sockets.iter().map(|s| (s.source_port, s.destination_port, s.state)).collect()
}

/// Opens `count` connections; the client of every second one has closed first.
fn connections(address: &str, count: usize) -> (TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind(address).unwrap();
    let mut open = Vec::new();
    for index in 0..count {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        if index % 2 == 0 {
            client.shutdown(Shutdown::Write).unwrap();
            drop(client);
            drop(server);
        } else {
            open.extend([client, server]);
        }
    }
    (listener, open)
}

#[test]
fn a_dump_equals_proc_net_tcp_for_both_families() {
    test_netns::run(|| {
        let (_listener4, _open4) = connections("127.0.0.1:7000", 50);
        let (_listener6, _open6) = connections("[::1]:7001", 50);
        // The last FIN may still be on its way.
        let end = Instant::now() + Duration::from_secs(5);
        for (family, file) in [(Family::V4, "tcp"), (Family::V6, "tcp6")] {
            while diag_sockets(family) != proc_sockets(file) && Instant::now() < end {
                thread::sleep(Duration::from_millis(20));
            }
            assert_eq!(diag_sockets(family), proc_sockets(file));
        }
        let sockets = dump_all(ALL_STATES).unwrap();
        let count = |state| sockets.iter().filter(|socket| socket.state == state).count();
        assert_eq!(count(tcp_state::LISTEN), 2);
        assert_eq!(count(tcp_state::ESTABLISHED), 100);
        assert_eq!(count(tcp_state::TIME_WAIT), 50);
        let waiting: Vec<_> = sockets.iter().filter(|socket| socket.time_wait).collect();
        assert_eq!(waiting.len(), 50);
        assert!(waiting.iter().all(|socket| socket.expires_ms > 50_000 && socket.cookie != 0));
        let cookies: BTreeSet<u64> = sockets.iter().map(|socket| socket.cookie).collect();
        assert_eq!(cookies.len(), sockets.len());
    });
}

#[test]
fn a_v4_mapped_socket_has_the_address_of_its_ipv4_peer() {
    test_netns::run(|| {
        let listener = TcpListener::bind("[::]:7002").unwrap();
        let _client = TcpStream::connect("127.0.0.1:7002").unwrap();
        let _server = listener.accept().unwrap();
        let sockets = dump_all(1 << tcp_state::ESTABLISHED).unwrap();
        let families: Vec<Family> = sockets.iter().map(|socket| socket.family).collect();
        assert_eq!(families, [Family::V4, Family::V6]);
        for socket in &sockets {
            assert_eq!(socket.source.to_v4(), Some([127, 0, 0, 1]));
            assert_eq!(socket.destination.to_v4(), Some([127, 0, 0, 1]));
        }
        let listeners = dump(Family::V6, 1 << tcp_state::LISTEN).unwrap();
        assert_eq!(listeners.len(), 1);
        assert!(!listeners[0].v6_only);
        assert_eq!(listeners[0].source, Addr::UNSPECIFIED);
    });
}

#[test]
fn refusals_and_damaged_messages_are_told_apart_from_the_end() {
    let message = |kind: u16, flags: u16, payload: &[u8]| {
        let len = u32::try_from(16 + payload.len()).unwrap();
        let head = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8]];
        [&head.concat(), payload].concat()
    };
    let parse =
        |bytes: &[u8]| -> Vec<io::Result<wire::Message>> { wire::messages(bytes).collect() };

    let done = parse(&message(3, 0x12, &0_i32.to_ne_bytes()));
    assert!(done[0].as_ref().unwrap().interrupted);
    assert_eq!(done[0].as_ref().unwrap().reply, Reply::Done(0));
    let refused = parse(&message(2, 0, &(-2_i32).to_ne_bytes()));
    assert_eq!(refused[0].as_ref().unwrap().reply, Reply::Error(2));
    assert!(parse(&message(20, 2, &[0; 72]))[0].is_err());
    assert!(parse(&message(20, 2, &[2; 71]))[0].is_err());
    assert!(parse(&[0; 16])[0].is_err());
    assert!(parse(&[1; 3])[0].is_err());
    assert!(failed("x", Errno::NOENT).to_string().contains("modprobe tcp_diag"));
}
