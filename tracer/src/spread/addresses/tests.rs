//! Tests that what ip(8) sets up in a network namespace is read.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::{host::test_netns, spread::reach};

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
fn a_missing_address_belongs_to_the_interface_that_leads_to_its_network() {
    let found = test_netns::run(|| {
        veth();
        ip("addr add 10.1.0.1/24 dev va");
        ip("addr add 10.2.0.1/24 dev vb");
        ip("addr add fd00:1::1/64 dev vb nodad");
        let of = |address: &str, towards: &[&str]| {
            let towards: Vec<IpAddr> = towards.iter().map(|to| to.parse().unwrap()).collect();
            interface_for(address.parse().unwrap(), &towards).unwrap()
        };
        let without = of("192.0.2.9", &[]);
        ip("route add default via 10.1.0.9 dev va");
        let of_network = [of("10.2.0.77", &["10.1.0.5"]), of("fd00:1::9", &[])];
        // Only the default route leads there.
        let others = [of("192.0.2.9", &[]), of("192.0.2.9", &["fd00:1::5", "10.2.0.5"])];
        ip("route add local 192.0.2.0/24 dev lo");
        (without, of_network, others, of("192.0.2.9", &[]))
    });
    let named = |name: &str| Some(name.to_owned());
    let of_network = [named("vb"), named("vb")];
    assert_eq!(found, (None, of_network, [named("va"), named("vb")], None));
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

/// Whether `watch` becomes readable within 5 s and reports a change.
fn reports_change(watch: &Watch) -> bool {
    let mut fds = [PollFd::new(watch, PollFlags::IN)];
    let patience = Timespec { tv_sec: 5, tv_nsec: 0 };
    poll(&mut fds, Some(&patience)).unwrap() == 1 && watch.drain().unwrap()
}

#[test]
fn the_watch_reports_added_and_removed_addresses_to_any_thread() {
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
            // `watch` is used on a thread that is in another namespace.
            assert!(test_netns::run(|| reports_change(&watch)), "{change}");
            assert!(!watch.drain().unwrap(), "{change}");
        }
        ip("route add local 10.9.0.0/24 dev lo");
        assert!(!watch.drain().unwrap());
    });
}

#[test]
fn the_watch_reports_local_routes_only_if_asked_to_and_no_others() {
    test_netns::run(|| {
        let watch = Watch::open(true).unwrap();
        ip("route add local 10.9.0.0/24 dev lo");
        assert!(reports_change(&watch));
        ip("route add 10.8.0.0/24 dev lo");
        thread::sleep(Duration::from_millis(20));
        assert!(!watch.drain().unwrap());
        ip("route del local 10.9.0.0/24 dev lo");
        assert!(reports_change(&watch));
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
    // The address is too short for its family.
    assert_eq!(wire::address(&[10, 64, 0, 0, 1, 0, 0, 0, 8, 0, 1, 0, 10, 0, 0, 1]), None);
    assert_eq!(wire::address(&[7, 0, 0, 0, 1, 0, 0, 0]), Some(None));
    assert_eq!(wire::is_local_route(&[2; 11]), None);
    assert_eq!(wire::is_usable(&[2; 11]), None);
    assert_eq!(wire::route(&[2; 11]), None);
    assert_eq!(wire::route(&[7; 12]), Some(None));
    // The prefix is too long; the next hop is too short.
    assert_eq!(wire::route(&[2, 33, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]), None);
    let hop = [2, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 8, 0, 9, 0, 4, 0, 0, 0];
    assert_eq!(wire::route(&hop), None);
}

/// How a host reaches a network, as text: `first-last interfaces`.
fn routes_to(network: &str) -> Vec<String> {
    let target = reach::Target { text: String::new(), network: network.parse().unwrap() };
    let host = Host::read([]).unwrap();
    let [reach] = <[reach::Reach; 1]>::try_from(reaches(&[target], &host).unwrap()).unwrap();
    let show = |range: reach::RouteRange| {
        let route_type = match range.route_type {
            reach::RouteType::Unicast(names) => names.into_iter().collect::<Vec<_>>().join("+"),
            reach::RouteType::Local(name) => format!("local on {name}"),
            reach::RouteType::NotUnicast => return None,
            reach::RouteType::Unreachable => "unreachable".to_owned(),
        };
        Some(format!("{}-{} {route_type}", range.first, range.last))
    };
    reach.ranges.into_iter().filter_map(show).collect()
}

#[test]
fn the_routes_to_a_network_are_those_that_the_kernel_takes() {
    test_netns::run(|| {
        veth();
        ip("addr add 10.1.0.1/24 dev va");
        ip("addr add 10.2.0.1/24 dev vb");
        ip("addr add 10.7.0.1/32 dev lo");
        ip("route add 10.8.0.0/16 via 10.1.0.9");
        ip("route add unreachable 10.8.1.0/24");
        ip("route add 10.8.2.0/24 nexthop via 10.1.0.9 nexthop via 10.2.0.9");
        ip("route add 10.8.3.0/24 via 10.1.0.9 src 10.7.0.1");
        ip("route add blackhole 10.8.4.0/24");
        // Only a rule of policy routing uses this table, and only for 10.8.8.0/24.
        ip("route add 10.8.0.0/16 via 10.2.0.9 table 100");
        ip("rule add to 10.8.8.0/24 lookup 100");
        ip("rule add fwmark 7 lookup 100");
        let found = routes_to("10.8.0.0/20");
        let expected = [
            "10.8.0.0-10.8.0.255 va",
            "10.8.1.0-10.8.1.255 unreachable",
            "10.8.2.0-10.8.2.255 va+vb",
            "10.8.3.0-10.8.3.255 lo",
            "10.8.4.0-10.8.4.255 unreachable",
            "10.8.5.0-10.8.7.255 va",
            "10.8.8.0-10.8.8.255 vb",
            "10.8.9.0-10.8.15.255 va",
        ];
        assert_eq!(found, expected);
        assert_eq!(routes_to("10.1.0.1/32"), ["10.1.0.1-10.1.0.1 local on va"]);
        assert_eq!(
            routes_to("127.0.0.0/8").first().unwrap(),
            "127.0.0.0-127.255.255.254 local on lo"
        );
        assert_eq!(routes_to("192.0.2.0/24"), ["192.0.2.0-192.0.2.255 unreachable"]);
        // None of the route's interfaces has an address: the kernel uses one of the first interface that has one.
        ip("addr del 10.2.0.1/24 dev vb");
        ip("route add 10.10.0.0/16 dev vb");
        assert_eq!(routes_to("10.10.0.0/16"), ["10.10.0.0-10.10.255.255 lo"]);
    });
}

#[test]
fn the_routes_to_an_ipv6_network_are_too() {
    test_netns::run(|| {
        veth();
        ip("addr add fd01::1/64 dev va nodad");
        ip("addr add fd02::1/64 dev vb nodad");
        ip("route add fd08::/16 via fd01::9");
        ip("route add unreachable fd08:1::/32");
        ip("route add fd08:2::/32 nexthop via fd01::9 nexthop via fd02::9");
        let found = routes_to("fd08::/29");
        let expected = [
            "fd08::-fd08:0:ffff:ffff:ffff:ffff:ffff:ffff va",
            "fd08:1::-fd08:1:ffff:ffff:ffff:ffff:ffff:ffff unreachable",
            "fd08:2::-fd08:2:ffff:ffff:ffff:ffff:ffff:ffff va+vb",
            "fd08:3::-fd08:7:ffff:ffff:ffff:ffff:ffff:ffff va",
        ];
        assert_eq!(found, expected);
        // The kernel adds the route to its own address later, in a work item (addrconf_dad_work).
        let end = Instant::now() + Duration::from_secs(20);
        while routes_to("fd01::1/128") != ["fd01::1-fd01::1 local on va"] {
            assert!(Instant::now() < end, "{:?}", routes_to("fd01::1/128"));
            thread::sleep(Duration::from_millis(1));
        }
    });
}
