//! Envoy: a cluster for each source address, and a route that chooses among them.
//!
//! Of several addresses of one family in `upstream_bind_config`, the default selector (DefaultLocalAddressSelector) uses the
//! first: `extra_source_addresses` takes one more, of the other family.

use std::net::IpAddr;

use super::{
    Plan,
    block::{Block, count},
    groups::{Group, groups},
    notes,
};

/// An element of `socket_options`: IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, also for IPv6 sockets.
const NO_PORT: &str = "    - {description: IP_BIND_ADDRESS_NO_PORT, level: 0, name: 24, int_value: 1, state: STATE_PREBIND}";

/// The blocks: for each port of the destinations one with clusters and one for its route. If the pool has two addresses
/// of neither family: one block without lines, which says so.
pub(super) fn blocks(plan: &Plan) -> Vec<Block> {
    if plan.family(true).len().max(plan.family(false).len()) < 2 {
        return vec![Block::new(
            "No cluster to print: name at least two source addresses of a family with --pool",
        )];
    }
    // An address of one family cannot connect to the other: without a pool for it, that family has a cluster of its own.
    let apart = plan.family(true).is_empty() || plan.family(false).is_empty();
    let groups = groups(plan, apart);
    groups.iter().flat_map(|group| [clusters(plan, group), route(plan, group)]).collect()
}

/// The source addresses of a cluster: one, and one of the other family where the destinations have both; `None`: the kernel
/// chooses.
type Pair = (Option<IpAddr>, Option<IpAddr>);

/// A pair for each cluster; at least one.
fn sources(plan: &Plan, group: &Group<'_>) -> Vec<Pair> {
    let family = |v4: bool| if group.has(v4) { plan.family(v4) } else { Vec::new() };
    let (v4, v6) = (family(true), family(false));
    let (longer, shorter) = if v4.len() >= v6.len() { (v4, v6) } else { (v6, v4) };
    if longer.is_empty() {
        return vec![(None, None)];
    }
    let others = shorter.iter().copied().map(Some).cycle().chain(std::iter::repeat(None));
    longer.iter().copied().map(Some).zip(others).collect()
}

fn clusters(plan: &Plan, group: &Group<'_>) -> Block {
    let sources = sources(plan, group);
    let mut block = Block::new(&format!(
        "A cluster of {} for each of {} source addresses: in static_resources",
        group.name,
        sources.len()
    ));
    block = block.gain(&notes::gain(plan, group.scarcest(plan))).gain(&format!(
        "IP_BIND_ADDRESS_NO_PORT (level 0, name 24): {} ports of an address to each destination. Without it, all destinations \
         share them, and no other program of this network namespace gets them",
        count(plan.settings.capacity.into())
    ));
    block = block.mind(notes::of_addresses(plan)).mind([
        "from the version on that has envoy.reloadable_features.upstream_bind_config_fix_port_exhaustion, socket_options is not \
         needed; it does no harm",
        "each cluster has connection pools, circuit breakers and health checks of its own",
        "extra_source_addresses takes only one more address, of the other family: several of one family need several clusters",
    ]);
    block = block.undo("restore the former cluster and route");
    block.line("clusters:");
    for (number, (first, other)) in (1..).zip(sources) {
        block = cluster(block, group, number, first, other);
    }
    block
}

fn cluster(
    block: Block,
    group: &Group<'_>,
    number: u32,
    first: Option<IpAddr>,
    other: Option<IpAddr>,
) -> Block {
    let name = format!("{}_{number}", group.name);
    let mut block =
        block.lines([&format!("- name: {name}"), "  type: STATIC", "  connect_timeout: 5s"]);
    if let Some(first) = first {
        block.line("  upstream_bind_config:");
        block.line(format!("    source_address: {{address: \"{first}\", port_value: 0}}"));
        if let Some(other) = other {
            block.line("    extra_source_addresses:");
            block.line(format!("    - address: {{address: \"{other}\", port_value: 0}}"));
        }
        block.line("    socket_options:");
        block.line(NO_PORT);
    }
    block = block.lines([
        "  load_assignment:",
        &format!("    cluster_name: {name}"),
        "    endpoints:",
        "    - lb_endpoints:",
    ]);
    for to in &group.destinations {
        block.line(format!(
            "      - endpoint: {{address: {{socket_address: {{address: \"{}\", port_value: {}}}}}}}",
            to.address, to.port
        ));
    }
    block
}

fn route(plan: &Plan, group: &Group<'_>) -> Block {
    let clusters = sources(plan, group).len();
    let title =
        format!("Choose among the clusters of {}: in its route, in place of cluster", group.name);
    let mut block = Block::new(&title).mind([
        "tcp_proxy has weighted_clusters, too",
        "the weights add up to 100, which older versions ask for by default (total_weight)",
    ]);
    block.line("weighted_clusters:");
    block.line("  clusters:");
    for (number, weight) in (1..).zip(weights(clusters)) {
        let number: u32 = number;
        block.line(format!("  - {{name: {}_{number}, weight: {weight}}}", group.name));
    }
    block
}

/// Even weights of so many clusters, which add up to 100 if there are at most 100.
fn weights(clusters: usize) -> Vec<usize> {
    let (each, more) = match clusters {
        1..=100 => (100 / clusters, 100 % clusters),
        _ => (1, 0),
    };
    (0..clusters).map(|index| each + usize::from(index < more)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_even_and_add_up() {
        for clusters in 1..=100 {
            let all = weights(clusters);
            assert_eq!(all.iter().sum::<usize>(), 100, "{clusters}");
            assert!(all.iter().max().unwrap() - all.iter().min().unwrap() <= 1, "{all:?}");
        }
        assert_eq!(weights(256), vec![1; 256]);
    }
}
