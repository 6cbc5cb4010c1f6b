//! What the configurations, counters and logs of proxies add to the findings, and what only they show.

mod logged;
mod tuple;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::{Around, Seen, explanation::Explanation, haproxy, squid};
use crate::doctor::{
    config::{
        haproxy::Target,
        nginx::{Peer, Server},
    },
    finding::{Advice, Certainty, Finding, Id, Subject},
    logs,
    proxies::{Config, Proxies, Proxy},
    verdict::{Check, Missing},
};

/// The findings, in no order: with what proxies explain of them, without each `churn` that a proxy's counters disprove (at least
/// 90 % of its requests found an open connection), and with those that only configurations and logs show. `seen`: the judged
/// namespaces; a tuple in another one stays unexplained. `watched`: whether failing calls were counted in a window, which shows
/// more than any log: then no `ports_exhausted` of a log is added.
pub fn add(
    findings: Vec<Finding>,
    seen: &[Seen],
    around: &Around,
    read: &Proxies,
    watched: bool,
) -> Vec<Finding> {
    let explained = findings.into_iter().filter_map(|finding| match finding.id {
        Id::PortsExhausted | Id::SlowSearch | Id::ClosesFirst | Id::Churn => {
            tuple::explain(finding, seen, around, read)
        }
        Id::PoisonedPorts => Some(poisoned(finding, seen, read)),
        _ => Some(finding),
    });
    let mut findings: Vec<Finding> = explained.collect();
    for proxy in &read.all {
        for finding in bad_sources(proxy, &read.not_here) {
            add_or_merge(&mut findings, finding);
        }
    }
    logged::add(&mut findings, seen, read, watched);
    findings
}

/// The checks `configurations` and `logs`: what was not read of the configurations and logs that were found or named; each names
/// the first, and how many more there are. Neither is a core check.
pub fn checks(read: &Proxies) -> [Check; 2] {
    let missing = read.unread.first().map(|first| {
        let more = match read.unread.len() {
            1 => String::new(),
            all => format!(", and {} more", all.saturating_sub(1)),
        };
        let needs = read.hidden.then(|| "CAP_SYS_PTRACE".to_owned());
        Missing { why: format!("{first}{more}"), needs }
    });
    let all = read.all.iter().flat_map(|proxy| &proxy.logs).chain(&read.given);
    let all: Vec<_> = all.cloned().collect();
    [Check { id: "configurations", core: false, missing }, logs::check(&all, &read.asked)]
}

/// The finding with the setting of the program that takes ports by bind().
fn poisoned(finding: Finding, seen: &[Seen], read: &Proxies) -> Finding {
    let explains = |proxy: &Proxy| {
        let range = &seen.iter().find(|it| it.place.inum == proxy.place.inum)?.settings.range;
        match &proxy.config {
            Config::Nginx(_) => None,
            Config::Haproxy(config, _) => {
                haproxy::poisoned_ports(config, range).map(|it| it.explanation)
            }
            Config::Squid(config, version) => squid::poisoned_ports(config, version.as_ref()),
        }
    };
    let explanation = match &finding.subject {
        Subject::Process(process) => {
            let proxy = read.all.iter().find(|it| it.pids.contains(&process.pid));
            proxy.and_then(explains)
        }
        // Whose ports they are is not known: it is named if only one proxy can be meant.
        Subject::Netns(place) => {
            let here = read.all.iter().filter(|it| it.place.inum == place.inum);
            let mut all = here.filter_map(explains);
            all.next().filter(|_| all.next().is_none())
        }
        _ => None,
    };
    let Some(Explanation { why, advice, .. }) = explanation else { return finding };
    let mut finding = with_reason(finding, why);
    if let Some((first, rest)) = advice.split_first() {
        // The same advice with the line to change, in place of one for all programs; what it gives is the same.
        let general = finding.advice.first();
        let factor = general.and_then(|it| it.factor);
        finding.advice =
            [Advice { factor, ..first.clone() }].into_iter().chain(rest.iter().cloned()).collect();
    }
    finding
}

/// Source addresses of the configuration that cannot be bound.
fn bad_sources(proxy: &Proxy, not_here: &BTreeMap<u32, BTreeSet<IpAddr>>) -> Vec<Finding> {
    let Some(missing) = not_here.get(&proxy.place.inum) else { return Vec::new() };
    let here = |all: BTreeSet<IpAddr>| all.difference(missing).copied().collect::<BTreeSet<_>>();
    match &proxy.config {
        Config::Nginx(_) => Vec::new(),
        Config::Haproxy(config, _) => {
            let all = config.sources().iter().map(|it| it.source.address).collect();
            haproxy::bad_source(config, &here(all), &proxy.place, &proxy.process)
        }
        Config::Squid(config, _) => {
            let all = config.outgoing.iter().map(|it| it.address).collect();
            squid::bad_source(config, &here(all), &proxy.place, &proxy.process)
        }
    }
}

/// Adds a `bad_source`, or its reason to the one of the same address that is there already: calls that failed, lines of a log
/// and a configuration can all say the same.
fn add_or_merge(findings: &mut Vec<Finding>, finding: Finding) {
    let address = source_of(&finding);
    let place = finding.subject.place();
    let same = findings.iter_mut().find(|it| {
        // Two namespaces can lack the same address.
        let apart = it.subject.place().zip(place).is_some_and(|(one, other)| one != other);
        it.id == Id::BadSource && !apart && address.is_some() && source_of(it) == address
    });
    let Some(same) = same else { return findings.push(finding) };
    if same.certainty != Certainty::Measured {
        same.certainty = finding.certainty;
    }
    if let Some(why) = finding.why {
        *same = with_reason(same.clone(), why);
    }
    for (key, value) in finding.evidence {
        same.evidence.entry(key).or_insert(value);
    }
}

/// The address that a `bad_source` is about; `None`: it does not say.
fn source_of(finding: &Finding) -> Option<IpAddr> {
    if let Subject::Address { address, .. } = finding.subject {
        return Some(address.ip());
    }
    let named = ["source", "source.address"].iter().find_map(|key| finding.evidence.get(*key));
    named?.as_str()?.parse().ok()
}

/// The finding with one more reason, after the one that it has.
fn with_reason(finding: Finding, why: String) -> Finding {
    let why = match &finding.why {
        Some(before) => format!("{before}; {why}"),
        None => why,
    };
    finding.because(why)
}

/// The addresses of a proxy's upstreams by name; without those of which not all addresses are known.
fn upstreams(proxy: &Proxy) -> BTreeMap<String, Vec<SocketAddr>> {
    match &proxy.config {
        Config::Nginx(nginx) => {
            let address = |server: &Server| match &server.peer {
                Peer::Address(address) => Some(*address),
                _ => None,
            };
            let known = nginx.facts.upstreams.iter().filter(|it| it.unread.is_none());
            let all = known.filter_map(|it| {
                let servers = it.servers.iter().map(address).collect::<Option<Vec<_>>>()?;
                Some((it.name.clone(), servers))
            });
            all.collect()
        }
        Config::Haproxy(config, _) => {
            let address = |target: &Target| match target {
                Target::Ip(ip, Some(port)) => Some(SocketAddr::new(*ip, *port)),
                _ => None,
            };
            let known = config.proxies.iter().filter(|it| it.opens() && !it.more_servers);
            let all = known.filter_map(|it| {
                let servers = it.servers.iter().map(|it| address(&it.target));
                Some((it.name.clone(), servers.collect::<Option<Vec<_>>>()?))
            });
            all.collect()
        }
        Config::Squid(..) => BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests;
