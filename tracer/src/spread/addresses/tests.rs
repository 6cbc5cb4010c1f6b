//! Against ip(8), in a namespace of the test's own.

use std::{process::Command, thread, time::Duration};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::test_netns;

fn ip(line: &str) {
    let output = Command::new("ip").args(line.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A pair of interfaces that are up, `va` and `vb`.
fn veth() {
    ip("link add va type veth peer name vb");
    ip("link set va up");
    ip("link set vb up");
}

fn find(host: &Host, address: &str) -> HostAddress {
    let address: IpAddr = address.parse().unwrap();
    let mut found = host.addresses.iter().filter(|host| host.address == address);
    found.next().unwrap_or_else(|| panic!("{address} is not in {host:?}")).clone()
}

#[test]
fn addresses_are_read_with_their_interface_scope_and_flags() {
    let host = test_netns::run(|| {
        veth();
        ip("addr add 10.1.0.1/24 dev va");
        ip("addr add 10.1.0.2/24 dev va");
        ip("addr add 10.2.0.1 peer 10.2.0.9 dev vb");
        ip("addr add fd00:1::1/64 dev va nodad");
        ip("addr add fd00:1::2/64 dev va");
        ip("addr add fd00:1::3/64 dev va nodad preferred_lft 0");
        Host::read([]).unwrap()
    });
    let mut interfaces = host.interfaces.clone();
    interfaces.retain(|name| ["lo", "va", "vb"].contains(&name.as_str()));
    assert_eq!(interfaces.len(), 3);
    for (address, interface, scope) in [
        ("127.0.0.1", "lo", 254),
        ("::1", "lo", 254),
        ("10.1.0.1", "va", 0),
        ("10.1.0.2", "va", 0),
        ("10.2.0.1", "vb", 0),
        ("fd00:1::1", "va", 0),
    ] {
        let found = find(&host, address);
        assert_eq!((found.interface.as_str(), found.scope), (interface, scope), "{address}");
        assert_eq!(found.flags & (flag::TENTATIVE | flag::DEPRECATED), 0, "{address}");
    }
    assert_eq!(find(&host, "fd00:1::2").flags & flag::TENTATIVE, flag::TENTATIVE);
    assert_eq!(find(&host, "fd00:1::3").flags & flag::DEPRECATED, flag::DEPRECATED);
    assert!(!host.addresses.iter().any(|host| host.address.to_string() == "10.2.0.9"));
}

#[test]
fn an_address_of_a_local_route_is_found_only_when_asked_for() {
    let host = test_netns::run(|| {
        ip("addr add 10.1.0.1/32 dev lo");
        ip("route add local 10.9.0.0/24 dev lo");
        Host::read(["10.9.0.7", "10.1.0.1", "10.8.0.1", "fd00::1"].map(|a| a.parse().unwrap()))
            .unwrap()
    });
    assert_eq!(host.routed, [Ipv4Addr::new(10, 9, 0, 7)]);
}

#[test]
fn a_route_is_looked_for_from_one_source_and_from_any() {
    test_netns::run(|| {
        veth();
        ip("addr add 10.1.0.1/24 dev va");
        ip("addr add 10.2.0.1/32 dev lo");
        ip("addr add fd00:1::1/64 dev va nodad");
        ip("addr add fd00:2::1/128 dev lo nodad");
        ip("rule add from 10.2.0.0/24 prohibit");
        ip("-6 rule add from fd00:2::/64 prohibit");
        let has = |to: &str, from: Option<&str>| {
            has_route(to.parse().unwrap(), from.map(|from| from.parse().unwrap()))
        };
        for (to, good, bad) in
            [("10.1.0.9", "10.1.0.1", "10.2.0.1"), ("fd00:1::9", "fd00:1::1", "fd00:2::1")]
        {
            assert!(has(to, None) && has(to, Some(good)) && !has(to, Some(bad)), "{to}");
        }
        assert!(!has("192.0.2.1", None) && !has("2001:db8::1", None));
        ip("route add blackhole 192.0.2.1");
        ip("route add unreachable 2001:db8::1");
        assert!(!has("192.0.2.1", None) && !has("2001:db8::1", None));
    });
}

#[test]
fn an_address_can_be_bound_while_the_host_has_it() {
    test_netns::run(|| {
        let can = |address: &str| can_be_bound(address.parse().unwrap());
        ip("addr add 10.1.0.1/32 dev lo");
        ip("addr add fd00::1/128 dev lo nodad");
        assert!(can("10.1.0.1") && can("fd00::1") && !can("10.1.0.2") && !can("fd00::2"));
        ip("addr del 10.1.0.1/32 dev lo");
        ip("addr del fd00::1/128 dev lo");
        assert!(!can("10.1.0.1") && !can("fd00::1"));
    });
}

/// Whether `watch` becomes readable in time, and what it says then.
fn told(watch: &Watch) -> bool {
    let mut fds = [PollFd::new(watch, PollFlags::IN)];
    let patience = Timespec { tv_sec: 5, tv_nsec: 0 };
    poll(&mut fds, Some(&patience)).unwrap() == 1 && watch.drain().unwrap()
}

#[test]
fn the_watch_tells_of_addresses_that_come_and_go_to_any_thread() {
    test_netns::run(|| {
        let watch = Watch::open(false).unwrap();
        assert!(!watch.drain().unwrap());
        for change in [
            "addr add 10.1.0.1/32 dev lo",
            "addr del 10.1.0.1/32 dev lo",
            "addr add fd00::1/128 dev lo nodad",
            "addr del fd00::1/128 dev lo",
        ] {
            ip(change);
            // On a thread that is in another namespace.
            assert!(test_netns::run(|| told(&watch)), "{change}");
            assert!(!watch.drain().unwrap(), "{change}");
        }
        ip("route add local 10.9.0.0/24 dev lo");
        assert!(!watch.drain().unwrap());
    });
}

#[test]
fn the_watch_tells_of_local_routes_only_when_asked_to_and_of_no_others() {
    test_netns::run(|| {
        let watch = Watch::open(true).unwrap();
        ip("route add local 10.9.0.0/24 dev lo");
        assert!(told(&watch));
        ip("route add 10.8.0.0/24 dev lo");
        thread::sleep(Duration::from_millis(20));
        assert!(!watch.drain().unwrap());
        ip("route del local 10.9.0.0/24 dev lo");
        assert!(told(&watch));
    });
}

#[test]
fn more_changes_than_the_socket_holds_are_a_change() {
    test_netns::run(|| {
        let watch = Watch::open(false).unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(&watch, 1).unwrap();
        for last in 1..60 {
            ip(&format!("addr add 10.1.0.{last}/32 dev lo"));
        }
        assert!(watch.drain().unwrap());
        assert!(!watch.drain().unwrap());
    });
}

#[test]
fn damaged_answers_are_refused() {
    assert_eq!(wire::link(&[0; 15]), None);
    assert_eq!(wire::link(&[0; 16]), None);
    assert_eq!(wire::address(&[2, 32, 0, 0, 1, 0, 0, 0]), None);
    // Too short an address for the family.
    assert_eq!(wire::address(&[10, 64, 0, 0, 1, 0, 0, 0, 8, 0, 1, 0, 10, 0, 0, 1]), None);
    assert_eq!(wire::address(&[7, 0, 0, 0, 1, 0, 0, 0]), Some(None));
    assert_eq!(wire::is_local_route(&[2; 11]), None);
    assert_eq!(wire::is_way(&[2; 11]), None);
}
