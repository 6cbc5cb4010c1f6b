//! For tests: findings about sockets, counters and settings of a real kernel, in a network namespace of the test's own; and
//! whether the command of the first advice removes the finding.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, listen, socket_with};

use super::{
    listeners::{listeners_in_range, poisoned_ports, self_connect},
    queues::{Queues, destinations, upstream_queue},
    sysctls::{nodeport_overlap, small_range},
    test_sockets::own,
    time_wait::{TimeWaits, overflow, reuse_ineffective},
};
use crate::{
    doctor::{
        finding::{Certainty, Finding, Severity},
        tuples::{Settings, Tuples, tuples},
    },
    host::{
        capacity::{PortRange, Reuse},
        counters::Reading,
        network_settings::NetworkSettings,
        sockdiag, test_netns,
    },
};

fn set(name: &str, value: &str) {
    fs::write(format!("/proc/sys/net/{name}"), value).unwrap();
}

fn look() -> (Settings, Tuples) {
    let settings = Settings { range: PortRange::read().unwrap(), reuse: Reuse::read() };
    let sockets = sockdiag::dump_all(sockdiag::ALL_STATES).unwrap();
    let seen = tuples(&sockets, &settings);
    (settings, seen)
}

/// Looks until the findings are as wanted, for 5 s at most.
fn look_until<T>(findings: impl Fn() -> T, wanted: impl Fn(&T) -> bool) -> T {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let found = findings();
        if wanted(&found) || end < Instant::now() {
            return found;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs the command of the first advice, as an operator would.
fn obey(finding: &Finding) {
    let command = finding.advice[0].command.as_deref().unwrap();
    let done = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(done.status.success(), "{command}: {done:?}");
}

fn socket() -> OwnedFd {
    socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap()
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[test]
fn ports_that_bind_chose_are_counted_by_their_parity() {
    let found = |binds: bool| {
        test_netns::run(|| {
            set("ipv4/ip_local_port_range", "40000 49999");
            let server = TcpListener::bind(local(7000)).unwrap();
            let open = |_| {
                let client = socket();
                if binds {
                    bind(&client, &local(0)).unwrap();
                }
                connect(&client, &local(7000)).unwrap();
                (client, server.accept().unwrap())
            };
            let held: Vec<_> = (0..150).map(open).collect();
            let (settings, seen) = look();
            drop(held);
            poisoned_ports(&own(), &settings, &seen, &[], &BTreeMap::new())
        })
    };
    let bound = found(true);
    assert_eq!(bound.len(), 1, "{bound:?}");
    assert_eq!(
        (bound[0].certainty, &bound[0].evidence["ports.bound"]),
        (Certainty::Inferred, &150.into())
    );
    assert_eq!(found(false), []);
}

#[test]
fn a_listener_of_the_range_is_found_until_its_port_is_reserved() {
    test_netns::run(|| {
        set("ipv4/ip_local_port_range", "40000 49999");
        set("ipv4/ip_local_reserved_ports", "8080,9100-9102");
        let _below = TcpListener::bind(local(7000)).unwrap();
        let find = || {
            let (settings, seen) = look();
            listeners_in_range(&own(), &settings, &seen, &HashMap::new())
        };
        assert_eq!(find(), None);
        let _inside = TcpListener::bind(local(40_007)).unwrap();
        let found = find().unwrap();
        assert_eq!(found.severity, Severity::Info);
        obey(&found);
        assert_eq!(find(), None);
        let reserved = PortRange::read().unwrap().reserved;
        assert_eq!(reserved, [8080..=8080, 9100..=9102, 40_007..=40_007]);
    });
}

#[test]
fn a_small_range_is_widened_with_services_and_node_ports_reserved() {
    test_netns::run(|| {
        set("ipv4/ip_local_port_range", "40000 40099");
        let _service = TcpListener::bind(local(11_211)).unwrap();
        let find = || {
            let (settings, seen) = look();
            let first = NetworkSettings::read().first_unprivileged_port;
            small_range(&own(), &settings, &seen, first, true)
        };
        let found = find().unwrap();
        obey(&found);
        assert_eq!(find(), None);
        let (settings, seen) = look();
        let range = settings.range.clone();
        assert_eq!((range.low, range.high), (10_240, 65_535));
        assert_eq!(range.reserved, [11_211..=11_211, 30_000..=32_767]);
        assert_eq!(nodeport_overlap(&own(), &settings, true), None);
        let gain = format!("{} ports", super::text::number(seen.usable.into()));
        assert!(found.advice[0].gain.starts_with(&gain), "{gain}: {found:?}");
        set("ipv4/ip_local_reserved_ports", "11211");
        let overlap = nodeport_overlap(&own(), &look().0, true).unwrap();
        obey(&overlap);
        assert_eq!(nodeport_overlap(&own(), &look().0, true), None);
    });
}

#[test]
fn a_socket_connected_to_itself_is_found_until_it_is_closed() {
    test_netns::run(|| {
        set("ipv4/ip_local_port_range", "40000 49999");
        let find = || {
            let (settings, seen) = look();
            self_connect(&own(), &settings, &seen, &HashMap::new(), [], &[])
        };
        assert_eq!(find(), []);
        let socket = socket();
        bind(&socket, &local(40_007)).unwrap();
        connect(&socket, &local(40_007)).unwrap();
        let found = find();
        assert_eq!((found.len(), found[0].severity), (1, Severity::Critical));
        obey(&found[0]);
        drop(socket);
        // A process that another test starts has a copy of the socket for a moment.
        assert_eq!(look_until(find, Vec::is_empty), []);
        assert_eq!(PortRange::read().unwrap().reserved, [40_007..=40_007]);
    });
}

#[test]
fn a_full_accept_queue_is_found_with_what_it_dropped() {
    test_netns::run(|| {
        set("core/somaxconn", "3");
        let server = socket();
        bind(&server, &local(7000)).unwrap();
        listen(&server, 128).unwrap();
        let before = Reading::here().unwrap().counters;
        let find = || {
            let (_, now) = look();
            let dropped = Reading::here().unwrap().counters.since(&before).listen_overflows;
            upstream_queue(&Queues {
                place: &own(),
                now: &now,
                before: None,
                overflows: dropped.map(|dropped| (dropped, 1.0)),
                longest_backlog: NetworkSettings::read().longest_backlog,
                local: &[IpAddr::from(Ipv4Addr::new(10, 0, 0, 1))],
                destinations: &destinations([&now]),
                owners: &HashMap::new(),
            })
        };
        let held: Vec<_> = (0..3).map(|_| TcpStream::connect(local(7000)).unwrap()).collect();
        assert_eq!(find(), []);
        let fourth = TcpStream::connect(local(7000)).unwrap();
        let fifth = TcpStream::connect_timeout(&local(7000), Duration::from_millis(300));
        assert!(fifth.is_err());
        let found = look_until(find, |found| !found.is_empty());
        assert_eq!(found.len(), 1);
        assert!(
            found[0].what.starts_with("the accept queue is full: 4 connections wait, 3 may; "),
            "{found:?}"
        );
        assert!(found[0].evidence["queue.dropped"].as_u64() > Some(0), "{found:?}");
        obey(&found[0]);
        assert_eq!(NetworkSettings::read().longest_backlog, Some(4_096));
        // The program listens again, and serves.
        listen(&server, 4_096).unwrap();
        drop((held, fourth));
        let overflows = Reading::here().unwrap().counters.since(&before).listen_overflows;
        let _served = TcpStream::connect(local(7000)).unwrap();
        let now = Reading::here().unwrap().counters.since(&before).listen_overflows;
        assert_eq!(now, overflows, "nothing more is dropped");
        assert!(!look().1.listeners[0].is_full());
    });
}

#[test]
fn connections_without_time_wait_are_found_until_more_are_allowed() {
    test_netns::run(|| {
        set("ipv4/tcp_max_tw_buckets", "20");
        let server = TcpListener::bind(local(7000)).unwrap();
        let place = own();
        let find = || {
            let before = Reading::here().unwrap();
            for _ in 0..30 {
                let client = TcpStream::connect(local(7000)).unwrap();
                let (accepted, _) = server.accept().unwrap();
                drop(client);
                drop(accepted);
            }
            look_until(
                || {
                    let now = Reading::here().unwrap();
                    let growth = now.counters.since(&before.counters);
                    let ended = growth.time_waits.unwrap() + growth.time_wait_overflows.unwrap();
                    let most = NetworkSettings::read().most_time_waits;
                    let seen = TimeWaits {
                        place: &place,
                        growth: Some((growth, 1.0)),
                        now: now.sockets.time_waits,
                        most,
                        lasts_s: 62.05,
                    };
                    (ended, overflow(&seen))
                },
                |(ended, _)| *ended == 30,
            )
        };
        let (_, found) = find();
        let found = found.unwrap();
        assert_eq!(found.severity, Severity::Warning);
        assert_eq!(
            (&found.evidence["time_waits"], &found.evidence["time_waits.lost"]),
            (&20.into(), &10.into())
        );
        obey(&found);
        assert_eq!(find(), (30, None));
    });
}

#[test]
fn reuse_without_timestamps_is_found_until_they_are_on() {
    test_netns::run(|| {
        let find = || reuse_ineffective(&own(), Reuse::read(), 62.05);
        assert_eq!(find(), None);
        set("ipv4/tcp_timestamps", "0");
        assert_eq!(find(), None);
        set("ipv4/tcp_tw_reuse", "1");
        obey(&find().unwrap());
        assert_eq!(find(), None);
    });
}
