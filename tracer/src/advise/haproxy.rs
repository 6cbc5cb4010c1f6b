//! HAProxy: a `server` line for each source address, and connections that are reused.

use std::net::IpAddr;

use super::{
    Plan,
    block::{Block, count, socket},
    groups::{Group, groups},
    notes,
};

/// The blocks: one backend for each port of the destinations; none without destinations.
pub(super) fn blocks(plan: &Plan) -> Vec<Block> {
    groups(plan, false).iter().map(|group| backend(plan, group)).collect()
}

/// The plan for `mode http`, where HAProxy resets the connections to servers in place of closing them: if it is not known who
/// closes first, none is in TIME_WAIT.
pub(super) fn of_mode_http(plan: &Plan) -> Plan {
    if plan.is_assumed() { plan.closing(0.0) } else { plan.clone() }
}

/// The plan for `mode tcp`: if it is not known who closes first, it is this host.
fn of_mode_tcp(plan: &Plan) -> Plan {
    if plan.is_assumed() { plan.closing(1.0) } else { plan.clone() }
}

fn backend(plan: &Plan, group: &Group<'_>) -> Block {
    let lines = server_lines(plan, group);
    let v4 = group.scarcest(plan);
    let spreads = lines.len() > group.destinations.len();
    let title = if spreads {
        format!(
            "Reuse connections of backend {}, and spread new ones over source addresses",
            group.name
        )
    } else {
        format!("Reuse connections of backend {}", group.name)
    };
    let mut block = Block::new(&title).gain(
        "http-reuse always: requests of other clients use an open connection. With the default (safe), a client's first request \
         opens one",
    );
    block = block.gain(&concurrent(plan, spreads, v4));
    if spreads {
        block = block.gain(&format!("mode tcp, {}", notes::gain(&of_mode_tcp(plan), v4)));
    }
    block = block.mind([
        "http-reuse always: if the server closes the connection at that moment, a client's first request fails, and the client \
         does not try again. Only for servers that keep idle connections longer than HAProxy does (pool-purge-delay, 5 s)",
        "http-reuse is of mode http. There, HAProxy leaves no TIME_WAIT towards servers: ports run out by connections that are \
         open at the same time",
    ]);
    if spreads {
        block = block.mind(notes::of_addresses(plan)).mind([
            "each server line has health checks and a maxconn of its own: divide maxconn by the number of addresses",
            "do not name source ports (source A:1024-65000): other programs then lack them towards every destination",
        ]);
    }
    block = block.undo("restore the former backend and reload");
    block.line(format!("backend {}", group.name));
    block.line("    mode http");
    block.line("    http-reuse always");
    block.lines(lines)
}

/// How many connections can be open at the same time.
fn concurrent(plan: &Plan, spreads: bool, v4: bool) -> String {
    let capacity = u64::from(plan.settings.capacity);
    let now = capacity * u64::from(plan.sources_now(v4));
    if !spreads {
        return format!("{} connections to one server can be open at the same time", count(now));
    }
    let then = capacity * u64::from(plan.pool_size(v4));
    format!(
        "from {} to {} connections to one server that can be open at the same time",
        count(now),
        count(then)
    )
}

/// For each destination a line for each source address of its family, or one line if the pool has none.
fn server_lines(plan: &Plan, group: &Group<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    for (server, destination) in (1..).zip(&group.destinations) {
        let to = socket(destination.address, destination.port);
        let sources = plan.family(destination.address.is_ipv4());
        if sources.len() < 2 {
            lines.push(format!("    server s{server} {to}"));
            continue;
        }
        for (number, source) in (1..).zip(sources) {
            lines.push(format!("    server s{server}_{number} {to} source {}", written(source)));
        }
    }
    lines
}

/// An address as `source` reads it: what follows the last colon would be a port, if there were no brackets.
fn written(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}
