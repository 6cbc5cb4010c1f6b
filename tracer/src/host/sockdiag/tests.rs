//! Compares dumps with /proc/net/tcp, in a network namespace of the test's own.

use std::{
    collections::BTreeSet,
    fs,
    net::{Shutdown, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::host::{test_mutations, test_netns};

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

/// Opens `count` connections; every second one is closed again, by the client first.
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
        // The last FIN may not have arrived yet.
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
        let mut families: Vec<Family> = sockets.iter().map(|socket| socket.family).collect();
        families.sort_by_key(|family| *family == Family::V6);
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
fn one_list_of_both_families_has_what_a_list_of_each_has() {
    test_netns::run(|| {
        let (_listener4, _open4) = connections("127.0.0.1:7004", 6);
        let (_listener6, _open6) = connections("[::1]:7005", 6);
        let mapped = TcpListener::bind("[::]:7006").unwrap();
        let _client = TcpStream::connect("127.0.0.1:7006").unwrap();
        let idle = |family| socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let (idle4, idle6) =
            (idle(AddressFamily::INET).unwrap(), idle(AddressFamily::INET6).unwrap());
        bind(&idle4, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7007)).unwrap();
        bind(&idle6, &"[::1]:7008".parse::<std::net::SocketAddrV6>().unwrap()).unwrap();
        let comparable = |mut sockets: Vec<DiagSocket>| {
            for socket in &mut sockets {
                socket.expires_ms = 0;
            }
            sockets.sort_by_key(|socket| socket.cookie);
            sockets
        };
        let each = |port| comparable(dump_each(port, MAX_SOCKETS, ALL_STATES).unwrap());
        let both = |port| {
            let request = wire::request_for_both(port, ALL_STATES);
            let sockets = ask(&request, wire::TCPDIAG_GETSOCK, MAX_SOCKETS, ALL_STATES);
            comparable(sockets.unwrap())
        };
        // The last FIN may not have arrived yet.
        let end = Instant::now() + Duration::from_secs(5);
        while both(0) != each(0) && Instant::now() < end {
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(both(0), each(0));
        assert_eq!(both(7006), each(7006));
        // The kernel lists idle sockets of every port.
        let mut there = each(7006);
        there.retain(|socket| socket.source_port == 7006);
        assert_eq!(comparable(dump_port(7006, 10, ALL_STATES).unwrap()), there);
        let bound = both(0).iter().filter(|socket| socket.state == tcp_state::CLOSE).count();
        assert_eq!(bound, if lists_idle().unwrap() { 2 } else { 0 });
        drop(mapped);
    });
}

#[test]
fn a_kernel_that_refuses_the_request_for_both_is_asked_for_each() {
    for kind in [io::ErrorKind::Unsupported, io::ErrorKind::InvalidInput, io::ErrorKind::NotFound] {
        assert!(is_refused(&io::Error::from(kind)));
    }
    assert!(!is_refused(&io::Error::from(io::ErrorKind::QuotaExceeded)));
    assert!(!is_refused(&io::Error::from(io::ErrorKind::Interrupted)));
}

#[test]
fn more_sockets_than_wanted_are_an_error_and_other_states_are_left_out() {
    test_netns::run(|| {
        let (_listener, _open) = connections("127.0.0.1:7003", 20);
        let error = dump_all_up_to(20, ALL_STATES).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
        assert!(error.to_string().contains("more than 20 TCP sockets"), "{error}");
        assert_eq!(dump_all_up_to(20, 1 << tcp_state::LISTEN).unwrap().len(), 1);
    });
    assert!(is_wanted(tcp_state::CLOSE, 1 << tcp_state::BOUND_INACTIVE));
    assert!(!is_wanted(tcp_state::CLOSE, 1 << tcp_state::ESTABLISHED));
    assert!(!is_wanted(200, ALL_STATES));
}

#[test]
fn damaged_answers_and_a_missing_module_are_errors() {
    assert!(wire::socket(&[0; 72]).is_none());
    assert!(wire::socket(&[2; 71]).is_none());
    assert!(wire::socket(&[2; 72]).is_some());
    let missing = with_advice(io::Error::from(io::ErrorKind::NotFound));
    assert!(missing.to_string().contains("modprobe tcp_diag"));
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
}

/// An answer of the kernel about a listener, with the attributes that are read.
fn listening() -> Vec<u8> {
    let mut answer = vec![2, tcp_state::LISTEN, 0, 0];
    answer.resize(56, 7);
    answer.extend([4, 3, 1000, 12].map(u32::to_ne_bytes).concat());
    answer.extend([5, 0, 11, 0, 1, 0, 0, 0]);
    answer.extend([12, 0, 21, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
    answer
}

#[test]
fn queues_of_a_listener_are_the_connections_that_wait_and_how_many_may() {
    let socket = wire::socket(&listening()).unwrap();
    assert_eq!((socket.receive_queue, socket.send_queue), (4, 3));
    assert_eq!((socket.uid, socket.inode, socket.v6_only, socket.cgroup), (1000, 12, true, 9));
}

#[test]
fn mutations_of_answers_do_no_harm() {
    let mut v6 = listening();
    (v6[0], v6[1], v6[2], v6[3]) = (10, tcp_state::SYN_SENT, 1, 2);
    let waiting = [&[2, tcp_state::TIME_WAIT, 3, 0][..], &[1; 68]].concat();
    test_mutations::run("sock_diag", &[&listening(), &v6, &waiting], |input| {
        std::hint::black_box(wire::socket(input));
    });
}
