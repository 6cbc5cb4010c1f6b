use proptest::prelude::*;

use super::*;
use crate::spread::{
    auto,
    reach::{AutoChoice, Reach, RouteRange, RouteType, Target},
};

fn spec(text: &str) -> Spec {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn specs(texts: &[&str]) -> Vec<Spec> {
    texts.iter().copied().map(spec).collect()
}

fn address(address: &str, interface: &str, flags: u32) -> HostAddress {
    let address: IpAddr = address.parse().unwrap();
    let scope = if address.is_loopback() { 254 } else { 0 };
    HostAddress { address, interface: interface.to_owned(), scope, flags }
}

/// A choice where the default routes use two interfaces.
fn default_routes() -> AutoChoice {
    let reach = |network: &str, first: &str, last: &str| Reach {
        target: Target { text: String::new(), network: network.parse().unwrap() },
        ranges: vec![RouteRange {
            first: first.parse().unwrap(),
            last: last.parse().unwrap(),
            route_type: RouteType::Unicast(["eth0", "wg0"].map(str::to_owned).into()),
            route: Some(network.parse().unwrap()),
        }],
    };
    let last6 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let all = [reach("0.0.0.0/0", "0.0.0.0", "255.255.255.255"), reach("::/0", "::", last6)];
    auto::choose(&all, 15).unwrap()
}

fn host() -> Host {
    Host {
        interfaces: ["lo", "eth0", "eth1", "br-lan", "wg0"].map(str::to_owned).to_vec(),
        addresses: vec![
            address("127.0.0.1", "lo", 0),
            address("::1", "lo", 0),
            address("10.0.0.5", "eth0", 0),
            address("10.0.0.6", "eth0", flag::TEMPORARY),
            address("10.0.0.9", "eth0", flag::DEPRECATED),
            HostAddress { scope: 253, ..address("10.0.0.7", "eth1", 0) },
            address("169.254.1.1", "eth1", 0),
            address("10.0.0.5", "wg0", 0),
            address("fe80::1", "br-lan", 0),
            HostAddress { scope: 253, ..address("fe80::1", "eth0", 0) },
            address("fd00::5", "eth0", 0),
            address("fd00::6", "eth0", flag::TEMPORARY),
            address("fd00::7", "eth0", flag::TENTATIVE),
            address("fd00::8", "eth0", flag::TENTATIVE | flag::DAD_FAILED),
            address("fd00::9", "eth0", flag::DEPRECATED),
            address("fd00::a", "eth0", flag::TENTATIVE | flag::OPTIMISTIC),
            address("fd00::7", "wg0", 0),
        ],
        routed: ["10.9.0.7", "127.0.0.2"].map(|address| address.parse().unwrap()).to_vec(),
        auto: default_routes(),
    }
}

/// The addresses of a pool, each with its weight if that is not 1.
fn resolved(texts: &[&str]) -> Vec<String> {
    let pool = resolve(&specs(texts), &host()).unwrap_or_else(|error| panic!("{error}"));
    let show = |PoolAddress { address, weight }: PoolAddress| {
        let address = std::net::Ipv6Addr::from(address.0).to_canonical();
        if weight == 1 { address.to_string() } else { format!("{address}={weight}") }
    };
    pool.into_iter().map(show).collect()
}

fn range(text: &str) -> (String, String) {
    match spec(text).members {
        Members::Listed { first, last } => (first.to_string(), last.to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn addresses_ranges_and_networks_are_lists() {
    for (text, first, last) in [
        ("10.0.0.5", "10.0.0.5", "10.0.0.5"),
        ("10.0.0.5-10.0.0.20", "10.0.0.5", "10.0.0.20"),
        ("10.0.0.0/28", "10.0.0.1", "10.0.0.14"),
        ("10.0.0.0/24", "10.0.0.1", "10.0.0.254"),
        ("10.0.0.4/31", "10.0.0.4", "10.0.0.5"),
        ("10.0.0.5/32=3", "10.0.0.5", "10.0.0.5"),
        ("fd00::5", "fd00::5", "fd00::5"),
        ("fd00::/120", "fd00::1", "fd00::ff"),
        ("fd00::4/127", "fd00::4", "fd00::5"),
        ("::ffff:10.0.0.5-::ffff:10.0.0.6", "10.0.0.5", "10.0.0.6"),
        ("10.0.0.0-10.0.0.255", "10.0.0.0", "10.0.0.255"),
    ] {
        assert_eq!(range(text), (first.to_owned(), last.to_owned()), "{text}");
    }
}

#[test]
fn names_are_interfaces_unless_they_look_like_addresses() {
    for name in ["eth1", "br-lan", "eth0.100", "wg0", "Auto"] {
        assert_eq!(spec(name).members, Members::Interface(name.to_owned()));
    }
    assert_eq!(spec("auto=7"), Spec { text: "auto=7".into(), members: Members::Auto, weight: 7 });
}

#[test]
fn a_pool_is_in_order_with_the_weight_of_its_value() {
    let pool = resolved(&["fd00::5", "10.0.0.6=100", "10.0.0.5"]);
    assert_eq!(pool, ["10.0.0.5", "10.0.0.6=100", "fd00::5"]);
}

#[test]
fn auto_takes_addresses_that_any_program_may_use() {
    assert_eq!(resolved(&["auto"]), ["10.0.0.5", "10.0.0.6", "fd00::5", "fd00::7", "fd00::a"]);
}

#[test]
fn an_interface_gives_all_that_can_be_used() {
    let pool = ["10.0.0.5", "10.0.0.6", "10.0.0.9", "fd00::5", "fd00::6", "fd00::a"];
    assert_eq!(resolved(&["eth0"]), pool);
    assert_eq!(resolved(&["eth1=2"]), ["10.0.0.7=2"]);
}

#[test]
fn an_address_that_no_interface_has_can_be_the_hosts_by_a_route() {
    assert_eq!(resolved(&["10.9.0.7"]), ["10.9.0.7"]);
    assert_eq!(resolved(&["127.0.0.1-127.0.0.2"]), ["127.0.0.1", "127.0.0.2"]);
}

#[test]
fn an_address_that_is_usable_on_one_interface_is_usable() {
    assert_eq!(resolved(&["fd00::7"]), ["fd00::7"]);
}

#[test]
fn loopback_addresses_of_one_family_go_with_any_of_the_other() {
    assert_eq!(resolved(&["127.0.0.1", "fd00::5"]), ["127.0.0.1", "fd00::5"]);
}

#[test]
fn a_listed_address_stays_a_member_with_its_trouble_and_others_follow_the_host() {
    let specs = specs(&["10.0.0.5-10.0.0.6", "fd00::5", "eth1"]);
    let mut host = host();
    host.addresses.retain(|host| host.address.to_string() != "10.0.0.5");
    host.addresses.retain(|host| host.interface != "eth1");
    host.addresses.push(address("10.0.0.8", "eth1", 0));
    for host in &mut host.addresses {
        host.flags |= if host.address.is_ipv6() { flag::DAD_FAILED } else { 0 };
    }
    let members = members(&specs, &host);
    let show: Vec<_> = members.iter().map(|m| (m.address.to_string(), m.trouble)).collect();
    let expected = [
        ("10.0.0.5", Some(Trouble::Missing)),
        ("10.0.0.6", None),
        ("10.0.0.8", None),
        ("fd00::5", Some(Trouble::DadFailed)),
    ];
    assert_eq!(show, expected.map(|(address, trouble)| (address.to_owned(), trouble)));
    assert_eq!(members.iter().filter_map(Member::usable).count(), 2);
}

#[test]
fn every_mistake_is_named_with_what_to_do() {
    let mut errors = Vec::new();
    for text in [
        "",
        "10.0.0",
        "10.0.0.5-20",
        "10.0.0.300",
        "a-very-long-interface",
        "eth0:1",
        "10.0.0.0/33",
        "eth0/24",
        "10.0.0.5=0",
        "10.0.0.5=101",
        "10.0.0.5=",
        "=3",
        "10.0.0.20-10.0.0.5",
        "10.0.0.5-fd00::5",
        "10.0.0.5/28",
        "fd00::5/64",
        "10.0.0.0/16",
        "fd00::/64",
        "::/0",
        "fd00::-fd00::100",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "0.0.0.0",
        "::",
        "fe80::1",
        "255.255.255.250-255.255.255.255",
    ] {
        let error = text.parse::<Spec>().expect_err(text);
        errors.push(error.to_string());
    }
    for texts in [
        &["10.0.0.4"][..],
        &["fd00::4"],
        &["10.0.0.5-10.0.0.12"],
        &["fd00::8"],
        &["fd00::9"],
        &["10.0.0.5", "10.0.0.0-10.0.0.15"],
        &["10.0.0.5", "eth0=2"],
        &["10.0.0.5", "10.0.0.5"],
        &["eth7"],
        &["lo"],
        &["br-lan"],
        &["10.0.0.5", "127.0.0.1"],
        &["::1", "fd00::5"],
    ] {
        errors.push(resolve(&specs(texts), &host()).unwrap_err().to_string());
    }
    let empty = Host { interfaces: vec!["eth0".into()], ..Host::default() };
    errors.push(resolve(&specs(&["auto"]), &empty).unwrap_err().to_string());
    errors.push(resolve(&specs(&["lo"]), &Host::default()).unwrap_err().to_string());
    let mut elsewhere = host();
    elsewhere.addresses.retain(|host| !["eth0", "wg0"].contains(&&*host.interface));
    errors.push(resolve(&specs(&["auto"]), &elsewhere).unwrap_err().to_string());
    insta::assert_snapshot!(errors.join("\n"));
}

#[test]
fn a_pool_has_at_most_256_addresses_of_each_family() {
    let numbered = |number: u32| IpAddr::V4((0x0a01_0000 + number).into()).to_string();
    let addresses = (0..300).map(|number| address(&numbered(number), "eth9", 0)).collect();
    let host = Host { interfaces: vec!["eth9".into()], addresses, ..Host::default() };
    let error = resolve(&specs(&["eth9"]), &host).unwrap_err();
    assert_eq!(error.reason, Reason::TooMany { count: 300, family: "IPv4" });
    assert_eq!(members(&specs(&["eth9"]), &host).len(), 256);
    assert_eq!(resolve(&specs(&["10.1.0.0-10.1.0.255"]), &host).unwrap().len(), 256);
    assert_eq!(listed(&specs(&["10.1.0.0-10.1.0.255", "auto"])).count(), 256);
}

proptest! {
    #[test]
    fn any_text_is_a_value_or_refused(
        text in "[0-9a-f:./=-]{0,40}|\\PC{0,20}", host_has_nothing: bool,
    ) {
        if let Ok(spec) = text.parse::<Spec>() {
            let host = if host_has_nothing { Host::default() } else { host() };
            prop_assert!(members(std::slice::from_ref(&spec), &host).len() <= 512);
            drop(resolve(&[spec], &host));
        }
    }
}
