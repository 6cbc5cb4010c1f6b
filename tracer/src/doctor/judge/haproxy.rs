//! What HAProxy's configuration and counters add to findings.
//!
//! In `mode http` HAProxy resets the connections to servers that it closes (SO_LINGER with 0 s), so they leave no TIME_WAIT.
//! Nothing here says anything about TIME_WAIT then.

mod churn;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    explanation::{self, Explanation, some},
    text::number,
};
use crate::{
    doctor::{
        config::{
            At,
            haproxy::{Config, Mode, Proxy, Shown},
        },
        finding::{Advice, Certainty, Finding, Place, Process},
    },
    host::capacity::PortRange,
};

pub use churn::{Counted, GOOD_HIT_RATE, churn};

/// `closes_first`: why HAProxy closes the connections to this backend's servers first. `None`: its mode is not `tcp`, so that
/// HAProxy leaves no TIME_WAIT, or the mode was not read.
pub fn closes_first(proxy: &Proxy) -> Option<Explanation> {
    if proxy.settings.mode.or(Mode::Tcp) != Some(Mode::Tcp) {
        return None;
    }
    let other = Advice::new(
        "let the server close first, for example by a shorter idle time-out there",
        "the port is free at once, and the TIME_WAIT is the server's",
    );
    Some(Explanation {
        why: format!(
            "{} is in mode tcp: when a client closes its connection, HAProxy closes that to the server, and keeps its port \
             in TIME_WAIT ({})",
            named(proxy),
            mode_at(proxy)
        ),
        certainty: Certainty::Inferred,
        advice: vec![mode_http(proxy), other],
    })
}

/// The advice to speak HTTP.
fn mode_http(proxy: &Proxy) -> Advice {
    let what = format!(
        "if it carries HTTP: \"mode http\" in {} and in the frontends that use it ({})",
        named(proxy),
        mode_at(proxy)
    );
    Advice::new(what, "connections to the servers carry many requests, and leave no TIME_WAIT")
        .risk("what is not HTTP is refused then")
}

/// Ports that HAProxy takes from all connect() calls of its namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct Poisoned {
    /// How many ports of the range that are not reserved it may bind by its configuration. Ports of clients, which `usesrc
    /// client` binds, are not counted: 0 if it binds only these.
    pub ports: u32,
    pub explanation: Explanation,
}

/// `poisoned_ports`: which settings bind ports of the range that are not reserved, or the ports of clients. `None`: none
/// does.
pub fn poisoned_ports(config: &Config, range: &PortRange) -> Option<Poisoned> {
    // By line, because one can hold for many servers.
    let mut bound: BTreeMap<&At, (IpAddr, u16, u16)> = BTreeMap::new();
    let mut clients: BTreeSet<&At> = BTreeSet::new();
    for it in config.sources() {
        match (it.source.shown, it.source.ports) {
            (Some(Shown::Client), _) => drop(clients.insert(it.at)),
            (_, Some((low, high))) if low <= range.high && high >= range.low => {
                bound.insert(it.at, (it.source.address, low, high));
            }
            _ => {}
        }
    }
    let ports = inside(bound.values().map(|(_, low, high)| (*low, *high)).collect(), range);
    let mut whys = Vec::new();
    let mut advice = Vec::new();
    if ports > 0 {
        let span = |low: &u16, high: &u16| {
            if low == high { low.to_string() } else { format!("{low}-{high}") }
        };
        let lines = bound
            .iter()
            .map(|(at, (address, low, high))| format!("{} of {address} ({at})", span(low, high)));
        let lines: Vec<String> = lines.collect();
        whys.push(format!("HAProxy binds ports itself: {}", some(&lines)));
        let gain = format!("{} more ports towards every destination", number(ports.into()));
        let what = "write \"source\" with the address alone: connect() then chooses the port";
        advice.push(Advice::new(what, gain).risk("a firewall may know the ports"));
    }
    if !clients.is_empty() {
        let lines: Vec<String> = clients.into_iter().map(ToString::to_string).collect();
        whys.push(format!("\"usesrc client\" binds the clients' ports ({})", some(&lines)));
        let what = "write \"usesrc clientip\": connect() then chooses the port";
        advice.push(Advice::new(what, "the clients' ports are free towards every destination"));
    }
    (!whys.is_empty()).then(|| Poisoned {
        ports,
        explanation: Explanation { why: whys.join("; "), certainty: Certainty::Measured, advice },
    })
}

/// How many ports that the kernel chooses from are in one of these spans.
fn inside(mut spans: Vec<(u16, u16)>, range: &PortRange) -> u32 {
    spans.sort_unstable();
    let mut ports = vec![false; 1 << 16];
    let mut set = |low: u16, high: u16, to: bool| {
        if let Some(ports) = ports.get_mut(usize::from(low)..=usize::from(high)) {
            ports.fill(to);
        }
    };
    // Where the next span begins that was not looked at: they can overlap, and there can be thousands.
    let mut next = range.low;
    for (low, high) in spans {
        let (low, high) = (low.max(next), high.min(range.high));
        if low <= high {
            set(low, high, true);
            let Some(after) = high.checked_add(1) else { break };
            next = after;
        }
    }
    for reserved in &range.reserved {
        if !reserved.is_empty() {
            set(*reserved.start(), *reserved.end(), false);
        }
    }
    ports.iter().map(|taken| u32::from(*taken)).sum()
}

/// `bad_source`: a finding for each address of the configuration that programs cannot bind in the namespace. `addresses`:
/// those that they can. This does not read `net.ipv4.ip_nonlocal_bind`, which lets programs bind any address: the caller
/// takes it into account.
pub fn bad_source(
    config: &Config,
    addresses: &BTreeSet<IpAddr>,
    place: &Place,
    process: &Process,
) -> Vec<Finding> {
    let sources = config.sources();
    let sources = sources.iter().map(|it| (it.source.address, it.at.to_string()));
    explanation::bad_source("HAProxy", sources, addresses, place, process)
}

fn named(proxy: &Proxy) -> String {
    format!("backend \"{}\"", proxy.name)
}

fn mode_at(proxy: &Proxy) -> &At {
    proxy.settings.mode.at().unwrap_or(&proxy.at)
}

#[cfg(test)]
mod tests;
