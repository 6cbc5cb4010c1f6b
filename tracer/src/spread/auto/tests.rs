//! Uses route tables of the tests, and takes the longest prefix, as a kernel with one table does.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::*;
use crate::spread::{
    addresses::{Host, HostAddress},
    destinations,
    notes::Notes,
    pool::{self, Spec},
    reach::{AutoChoice, Reach, Route, RouteAction, RouteType, Target, range_starts, ranges},
};

const LOCAL: &str = "local";

/// A route table, made of lines such as `network interfaces`, `network local interface` or `network unreachable`.
struct Table(Vec<(IpNet, RouteType)>);

fn table(lines: &[&str]) -> Table {
    let line = |line: &&str| {
        let (network, rest) = line.split_once(' ').unwrap();
        let route_type = match rest.split_once(' ') {
            Some((LOCAL, interface)) => RouteType::Local(interface.to_owned()),
            _ if rest == "unreachable" => RouteType::Unreachable,
            _ if rest == "broadcast" => RouteType::NotUnicast,
            _ => RouteType::Unicast(rest.split('+').map(str::to_owned).collect()),
        };
        (network.parse().unwrap(), route_type)
    };
    let base = ["127.0.0.0/8 local lo", "::1/128 local lo"];
    Table(lines.iter().chain(&base).map(line).collect())
}

impl Table {
    fn routes(&self) -> Vec<Route> {
        let route = |(network, route_type): &(IpNet, RouteType)| Route {
            table: 254,
            network: *network,
            // Routes that differ get different numbers.
            action: RouteAction { nexthop: number(route_type), ..RouteAction::default() },
        };
        self.0.iter().map(route).collect()
    }

    fn ask(&self, to: IpAddr) -> (RouteType, Option<IpNet>) {
        let of_it = self.0.iter().filter(|(network, _)| network.contains(&to));
        let found = of_it.max_by_key(|(network, _)| network.prefix_len());
        found.map_or((RouteType::Unreachable, None), |(network, route_type)| {
            (route_type.clone(), Some(*network))
        })
    }

    fn reaches(&self, to: &[&str]) -> Vec<Reach> {
        let texts: Vec<String> = to.iter().map(|it| (*it).to_owned()).collect();
        let targets = destinations::networks(&destinations::parse(&texts).unwrap());
        let reach = |target: Target| {
            let range_starts = range_starts(&self.routes(), &target.network).unwrap();
            let ranges = ranges(&target.network, &range_starts, |to| self.ask(to));
            Reach { target, ranges }
        };
        targets.into_iter().map(reach).collect()
    }

    fn choose(&self, to: &[&str]) -> Result<AutoChoice, Unclear> {
        choose(&self.reaches(to), 16 - to.len().max(1))
    }
}

fn number(route_type: &RouteType) -> u32 {
    let text = format!("{route_type:?}");
    text.bytes().fold(7, |sum: u32, byte| sum.wrapping_mul(31).wrapping_add(byte.into()))
}

fn host(addresses: &[&str]) -> Host {
    let address = |line: &&str| {
        let (address, interface) = line.split_once(' ').unwrap();
        let address: IpAddr = address.parse().unwrap();
        let scope = if address.is_loopback() { 254 } else { 0 };
        HostAddress { address, interface: interface.to_owned(), scope, flags: 0 }
    };
    Host { addresses: addresses.iter().map(address).collect(), ..Host::default() }
}

/// A proxy whose clients are behind eth0, which the default route uses, and whose servers are behind eth1.
fn proxy() -> (Table, Host) {
    let table = table(&[
        "0.0.0.0/0 eth0",
        "10.9.0.0/24 eth0",
        "10.9.0.1/32 local eth0",
        "10.9.0.255/32 broadcast",
        "10.1.0.0/24 eth1",
        "10.1.0.1/32 local eth1",
        "10.1.0.255/32 broadcast",
        "10.2.0.0/16 eth1",
        "10.3.0.0/16 eth1+eth2",
        "10.4.0.0/16 unreachable",
        "fd01::/64 eth1",
    ]);
    let addresses =
        ["127.0.0.1 lo", "10.9.0.1 eth0", "10.1.0.1 eth1", "10.1.0.2 eth1", "fd01::1 eth1"];
    (table, host(&addresses))
}

fn specs(texts: &[&str]) -> Vec<Spec> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// The notes of `--pool auto`, or its error.
fn auto(table: &Table, mut host: Host, to: &[&str]) -> String {
    match table.choose(to) {
        Ok(choice) => {
            host.auto = choice;
            Notes::new(&specs(&["auto"]), &host, &table.reaches(to)).text()
        }
        Err(error) => format!("error: {error}\n"),
    }
}

#[test]
fn auto_takes_addresses_of_the_interfaces_that_routes_to_the_destinations_use() {
    let (table, host) = proxy();
    let mut out = String::new();
    for to in [
        &[][..],
        &["10.1.0.0/24"],
        &["10.1.0.7"],
        &["10.2.3.0/24:443", "[fd01::/64]:80"],
        &["10.1.0.0/16"],
        &["10.3.0.0/16"],
        &["10.4.0.0/16"],
        &["10.4.0.0/16", "10.2.0.0/16"],
        &["10.0.0.0/8"],
        &["10.2.0.0/16", "10.9.0.0/24"],
        &["192.0.2.0/24"],
        &["127.0.0.0/8"],
        &["10.1.0.1/32"],
        &["*:443"],
        &["2000::/3"],
    ] {
        out.push_str("--to ");
        out.push_str(&to.join(" "));
        out.push('\n');
        out.push_str(&auto(&table, host.clone(), to));
        out.push('\n');
    }
    insta::assert_snapshot!(out);
}

#[test]
fn without_a_default_route_one_interface_is_clear_and_several_are_not() {
    let one = table(&["10.1.0.0/24 eth1", "10.2.0.0/16 eth1"]);
    assert!(one.choose(&[]).is_ok());
    let two = table(&["10.1.0.0/24 eth1", "10.9.0.0/24 eth0"]);
    let Err(Unclear::Several { reached }) = two.choose(&[]) else { panic!("clear") };
    assert_eq!(network_list(&reached), "10.1.0.0/24 (eth1), 10.9.0.0/24 (eth0)");
    let none = table(&[]);
    assert!(matches!(none.choose(&[]), Err(Unclear::NoRoute { .. })));
    let halves =
        table(&["0.0.0.0/1 tun0", "128.0.0.0/1 tun0", "0.0.0.0/0 eth0", "10.0.0.0/8 eth0"]);
    assert_eq!(network_list(&halves.choose(&[]).unwrap().elsewhere), "10.0.0.0/8 (eth0)");
}

#[test]
fn networks_that_other_interfaces_reach_are_not_spread() {
    let (table, _) = proxy();
    let is_spread = |to: &[&str], address: &str| {
        let texts: Vec<String> = to.iter().map(|it| (*it).to_owned()).collect();
        let targets = destinations::parse(&texts).unwrap();
        let of_rule: Vec<_> = targets.iter().map(|it| it.destination).collect();
        let list = table.choose(to).unwrap().destinations(&of_rule);
        let address = pool::to_addr(address.parse().unwrap());
        tracer_common::spread::Destination::is_spread(&list, &address, 443)
    };
    for (to, spread, alone) in [
        (
            &[][..],
            &["192.0.2.1", "10.9.0.7", "10.4.0.1"][..],
            &["10.1.0.7", "10.2.0.1", "10.3.0.1"][..],
        ),
        (&["*:443"], &["192.0.2.1"], &["10.1.0.7"]),
        (&["*:80"], &[], &["192.0.2.1", "10.1.0.7"]),
        (&["10.1.0.0/16"], &["10.1.0.7"], &["10.1.1.7", "10.2.0.1"]),
        (&["10.1.0.0/16:443", "10.2.0.0/16"], &["10.1.0.7", "10.2.0.1"], &["10.1.1.7"]),
    ] {
        assert!(spread.iter().all(|address| is_spread(to, address)), "{to:?}");
        assert!(!alone.iter().any(|address| is_spread(to, address)), "{to:?}");
    }
}

#[test]
fn more_networks_than_a_rule_holds_are_merged() {
    let lines: Vec<String> = (0..200).map(|pod| format!("10.244.3.{pod}/32 cali{pod}")).collect();
    let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    lines.extend(["0.0.0.0/0 eth0", "172.17.0.0/16 docker0"]);
    let choice = table(&lines).choose(&[]).unwrap();
    assert_eq!(choice.elsewhere.len(), 15);
    let list = choice.destinations(&[]);
    assert_eq!(list.len(), 16);
    let spread = |address: &str| {
        let address = pool::to_addr(address.parse().unwrap());
        tracer_common::spread::Destination::is_spread(&list, &address, 443)
    };
    let all = (0..200).map(|pod| format!("10.244.3.{pod}")).all(|address| !spread(&address));
    assert!(all && !spread("172.17.0.2") && spread("10.244.4.1") && spread("10.1.0.1"));
}

#[test]
fn a_router_is_asked_only_where_its_routes_change() {
    let mut routes: Vec<Route> = Vec::new();
    let route = |network: &str, table, nexthop| Route {
        table,
        network: network.parse().unwrap(),
        action: RouteAction { nexthop, ..RouteAction::default() },
    };
    routes.push(route("0.0.0.0/0", 254, 1));
    for number in 0..100_000_u32 {
        let network = Ipv4Addr::from_bits(0x2000_0000 + (number << 8));
        routes.push(route(&format!("{network}/24"), 254, 1));
    }
    routes.push(route("10.1.0.0/16", 254, 2));
    routes.push(route("10.1.2.0/24", 254, 1));
    // Only another table has this route.
    routes.push(route("10.3.0.0/16", 100, 1));
    let found = range_starts(&routes, &"0.0.0.0/0".parse().unwrap()).unwrap();
    let starts =
        ["0.0.0.0", "10.1.0.0", "10.1.2.0", "10.1.3.0", "10.2.0.0", "10.3.0.0", "10.4.0.0"];
    assert_eq!(found, starts.map(|it| it.parse::<IpAddr>().unwrap()));
    // Two routes to one network: the metric decides, which is not compared here.
    let twice =
        [route("10.0.0.0/8", 254, 1), route("10.0.0.0/8", 254, 2), route("10.1.0.0/16", 254, 2)];
    assert_eq!(range_starts(&twice, &"10.0.0.0/8".parse().unwrap()).unwrap().len(), 3);
    for number in 0..5000_u32 {
        let network = Ipv4Addr::from_bits(0x2000_0000 + (number << 8));
        routes.push(route(&format!("{network}/24"), 7, number));
    }
    assert_eq!(range_starts(&routes, &"0.0.0.0/0".parse().unwrap()), None);
}

#[test]
fn addresses_that_were_named_are_warned_about() {
    let (table, mut host) = proxy();
    host.addresses.extend(self::host(&["10.7.0.1 dummy0", "10.7.0.2 dummy0", "::1 lo"]).addresses);
    let mut out = String::new();
    for (pool, to) in [
        (&["10.1.0.1"][..], &["10.1.0.0/24"][..]),
        (&["10.1.0.1", "10.9.0.1"], &["10.1.0.0/24"]),
        (&["eth0"], &["10.1.0.0/24", "10.2.0.0/16"]),
        (&["10.9.0.1", "10.7.0.1-10.7.0.2"], &[]),
        (&["10.9.0.1", "::1"], &[]),
        (&["127.0.0.1"], &["127.0.0.0/8"]),
        (&["10.7.0.1"], &["10.1.0.1/32"]),
    ] {
        let found = warnings(&specs(pool), &host, &table.reaches(to)).join("\n");
        let (pool, to) = (pool.join(" "), to.join(" "));
        for part in ["--pool ", &pool, " --to ", &to, "\n", &found, "\n\n"] {
            out.push_str(part);
        }
    }
    insta::assert_snapshot!(out);
}
