//! Squid: `tcp_outgoing_address`, chosen at random.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use super::{
    Plan, Version,
    block::{Block, count},
    notes,
};

/// From this version on, Squid binds the address alone (IP_BIND_ADDRESS_NO_PORT), and connect() chooses the port.
const BINDS_NO_PORT: Version = Version(6, 0, 1);

/// The blocks: one for each family of which the pool has several addresses (with networks in the plan: if one is of this
/// family). Without such a family: one block without lines, which says so.
pub(super) fn blocks(plan: &Plan) -> Vec<Block> {
    let of_family = |v4: bool| {
        let wanted =
            plan.networks.is_empty() || plan.networks.iter().any(|it| it.addr().is_ipv4() == v4);
        let sources = plan.family(v4);
        (wanted && sources.len() > 1).then(|| outgoing(plan, &sources, v4))
    };
    let blocks: Vec<Block> = [true, false].into_iter().filter_map(of_family).collect();
    if blocks.is_empty() {
        return vec![Block::new(
            "No line to print: name at least two source addresses of a family with --pool",
        )];
    }
    blocks
}

fn outgoing(plan: &Plan, sources: &[IpAddr], v4: bool) -> Block {
    let family = if v4 { 4 } else { 6 };
    let mut block = Block::new(&format!(
        "Spread new IPv{family} connections over {} source addresses: in squid.conf, before other tcp_outgoing_address lines",
        sources.len()
    ));
    block = block.gain(&notes::gain(plan, v4)).mind(binds(plan)).mind(notes::of_addresses(plan)).mind([
        "server_persistent_connections must stay on (the default): without it, the server closes first, and each request opens \
         a connection",
        "addresses that this host does not have give ERR_CONNECT_FAIL, and commBind with (99) in cache.log",
    ]);
    block = block.undo("remove these lines, then squid -k reconfigure");
    let networks: BTreeSet<IpNet> =
        plan.networks.iter().copied().filter(|it| it.addr().is_ipv4() == v4).collect();
    let to = format!("tracer_to_v{family}");
    let to = if networks.is_empty() {
        String::new()
    } else {
        let networks: Vec<String> = networks.iter().map(written).collect();
        block.line(format!("acl {to} dst {}", networks.join(" ")));
        format!(" {to}")
    };
    let chance = |left: usize| format!("tracer_v{family}_1of{left}");
    // The first line takes one of N, the second one of the N-1 that are left, and so on.
    let lefts = || (2..=sources.len()).rev();
    block = block.lines(lefts().map(|left| format!("acl {} random 1/{left}", chance(left))));
    let chosen = sources.iter().zip(lefts());
    block = block.lines(
        chosen.map(|(source, left)| format!("tcp_outgoing_address {source}{to} {}", chance(left))),
    );
    if let Some(last) = sources.last() {
        block.line(format!("tcp_outgoing_address {last}{to}"));
    }
    block
}

/// What the version means for the gain.
fn binds(plan: &Plan) -> Option<String> {
    let shared = format!(
        "binds a port with the address: all destinations share the {} ports of an address, and no other program of this network \
         namespace gets a port that Squid has",
        count(plan.settings.capacity.into())
    );
    match plan.version {
        Some(version) if version >= BINDS_NO_PORT => None,
        Some(_) => Some(format!("this version (before 6.0.1) {shared}")),
        None => Some(format!("Squid before 6.0.1 {shared}")),
    }
}

/// A network as Squid reads it: an address without the length of its prefix.
fn written(network: &IpNet) -> String {
    if network.prefix_len() == network.max_prefix_len() {
        network.addr().to_string()
    } else {
        network.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advise::tests::plan;

    /// The chance of each address, from the lines.
    fn chances(text: &str) -> Vec<f64> {
        let mut left = 1.0;
        let mut chances = Vec::new();
        for line in text.lines().filter(|line| line.starts_with("tcp_outgoing_address")) {
            let of = line.rsplit_once("1of").map_or(1.0, |(_, number)| number.parse().unwrap());
            chances.push(left / of);
            left -= left / of;
        }
        chances
    }

    #[test]
    fn each_address_has_the_same_chance() {
        for sources in [2_u32, 3, 7, 256] {
            let text: String = blocks(&plan(sources)).iter().map(Block::text).collect();
            let chances = chances(&text);
            let even = 1.0 / f64::from(sources);
            assert_eq!(chances.len(), usize::try_from(sources).unwrap());
            assert!(chances.iter().all(|chance| (chance - even).abs() < 1e-9), "{chances:?}");
        }
    }

    #[test]
    fn versions_that_bind_a_port_have_a_warning() {
        let text = |version| {
            let plan = Plan { version, ..plan(2) };
            blocks(&plan).iter().map(Block::text).collect::<String>()
        };
        assert!(text(Some(Version(5, 7, 0))).contains("this version (before 6.0.1) binds a port"));
        assert!(text(None).contains("Squid before 6.0.1 binds a port"));
        assert!(!text(Some(Version(6, 0, 1))).contains("binds a port"));
    }
}
