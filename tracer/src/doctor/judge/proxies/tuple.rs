//! Which proxy a tuple belongs to, and what its configuration explains.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use tracer_common::Addr;

use super::with_reason;
use crate::doctor::{
    config::{haproxy as haproxy_config, nginx as nginx_config, squid as squid_config},
    finding::{Certainty, Finding, Id, Subject},
    judge::{
        Around, Seen,
        explanation::Explanation,
        haproxy::{self, Counted},
        nginx::{self, Load},
        squid,
        text::rounded,
    },
    proxies::{Config, Counters, Proxies, Proxy},
    tuples::{Ends, Tuple},
};

/// The most letters of a name: another process chose it.
const LONGEST: usize = 120;

/// A tuple, and who opens its connections.
struct Case<'a> {
    id: Id,
    seen: &'a Seen,
    ends: Ends,
    tuple: Option<&'a Tuple>,
    destination: SocketAddr,
    /// The process that connected last, and those that have its sockets open, each with how many; empty: not known.
    pids: BTreeMap<u32, u32>,
}

/// What a proxy knows of a destination.
struct Known {
    /// Whether its configuration has the address.
    sure: bool,
    /// The part of its configuration that leads there, as a text for people: `upstream "api" (/etc/nginx/nginx.conf:7)`.
    part: String,
    /// The name of that part; `None`: it has none.
    name: Option<String>,
    explanation: Option<Explanation>,
    notes: Vec<String>,
    /// Share of the requests to the destination that found an open connection, 0 to 1; `None`: not counted.
    reused: Option<f64>,
}

/// The finding with what the proxy explains that opens the connections of its tuple; unchanged if no such proxy is known, or it
/// is not about a tuple. `None`: a `churn` that is none, because that proxy has counted that nearly all requests (90 %) find an
/// open connection.
pub(super) fn explain(
    finding: Finding,
    seen: &[Seen],
    around: &Around,
    read: &Proxies,
) -> Option<Finding> {
    let Subject::Tuple { place, source, destination } = &finding.subject else {
        return Some(finding);
    };
    let Some(seen) = seen.iter().find(|it| it.place.inum == place.inum) else {
        return Some(finding);
    };
    let ends = Ends {
        source: addr(*source),
        destination: addr(destination.ip()),
        port: destination.port(),
    };
    let tuple = seen.now.by_ends.get(&ends);
    let mut pids = BTreeMap::new();
    for inode in tuple.into_iter().flat_map(|it| &it.inodes) {
        if let Some(owner) = around.owners.get(inode) {
            *pids.entry(owner.process.pid).or_insert(0) += 1;
        }
    }
    if let Some(caller) = seen.activity.get(&ends).and_then(|it| it.caller.as_ref()) {
        pids.entry(caller.pid).or_insert(0);
    }
    let (id, destination) = (finding.id, *destination);
    let case = Case { id, seen, ends, tuple, destination, pids };
    match case.proxy(read) {
        Some((_, known)) if case.is_disproved(&known) => None,
        Some((proxy, known)) => Some(known.add_to(finding, proxy)),
        None => Some(finding),
    }
}

fn addr(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(ip) => Addr::v4(ip.octets()),
        IpAddr::V6(ip) => Addr(ip.octets()),
    }
}

impl Case<'_> {
    /// The proxy that opens the connections: the one whose process does, or, if that is not known, the only one whose
    /// configuration has the address. `None`: another program does, or it is not known which one.
    fn proxy<'a>(&self, read: &'a Proxies) -> Option<(&'a Proxy, Known)> {
        let here = read.all.iter().filter(|it| it.place.inum == self.seen.place.inum);
        let opens = |proxy: &Proxy| self.pids.keys().any(|pid| proxy.pids.contains(pid));
        if !self.pids.is_empty() {
            let mut all = here.filter(|proxy| opens(proxy));
            return all.find_map(|proxy| Some((proxy, self.known(proxy)?)));
        }
        let mut all = here.filter_map(|proxy| {
            let known = self.known(proxy)?;
            known.sure.then_some((proxy, known))
        });
        all.next().filter(|_| all.next().is_none())
    }

    /// Whether it is a `churn`, and the proxy whose process opens the connections has counted that they are used again.
    fn is_disproved(&self, known: &Known) -> bool {
        let reused = known.reused.is_some_and(|it| it >= haproxy::GOOD_HIT_RATE);
        self.id == Id::Churn && !self.pids.is_empty() && reused
    }

    fn known(&self, proxy: &Proxy) -> Option<Known> {
        match &proxy.config {
            Config::Nginx(nginx) => self.nginx(proxy, nginx),
            Config::Haproxy(config, counters) => self.haproxy(config, counters.as_ref()),
            Config::Squid(config, _) => Some(self.squid(config)),
        }
    }

    /// Whether TIME_WAITs are what holds the ports.
    fn waits(&self) -> bool {
        let watched = self.seen.flow(&self.ends).map(|it| it.closes_first);
        self.tuple.map(Tuple::waiting).or(watched).is_some_and(|share| share >= 0.5)
    }

    /// Connections of the window; the most that one of the proxy's processes is known to have had open at the same time.
    fn load(&self, proxy: &Proxy) -> Load {
        let now = self.tuple.map_or(0, |it| it.established);
        let before = self.seen.earlier(&self.ends).map_or(0, |it| it.established);
        let of_one = self.pids.iter().filter(|(pid, _)| proxy.pids.contains(pid));
        let of_one = of_one.map(|(_, sockets)| *sockets).max().unwrap_or(0);
        // As many as there are, one process has at least its share.
        let share = now.max(before).div_ceil(proxy.workers.max(1));
        let peak = of_one.max(share);
        Load {
            rate: self.seen.flow(&self.ends).map(|it| it.rate),
            peak: (peak > 0).then_some(peak),
        }
    }

    fn nginx(&self, proxy: &Proxy, config: &nginx_config::Nginx) -> Option<Known> {
        let explained = nginx::explain(config, self.destination, self.load(proxy))?;
        let why = match self.id {
            Id::Churn => explained.churn,
            Id::ClosesFirst => explained.closes_first,
            _ if self.waits() => explained.closes_first,
            _ => None,
        };
        let name = explained.upstream.as_deref();
        let at = config.facts.upstreams.iter().find(|it| name == Some(it.name.as_str()));
        let part =
            at.map(|it| format!("upstream \"{}\" ({})", cut(&it.name), cut(&it.at.to_string())));
        let certainty = explained.certainty;
        let advice = explained.advice;
        Some(Known {
            sure: certainty == Certainty::Inferred,
            part: part.unwrap_or_default(),
            name: explained.upstream,
            explanation: why.map(|why| Explanation { why, certainty, advice }),
            notes: explained.notes,
            reused: None,
        })
    }

    fn haproxy(
        &self,
        config: &haproxy_config::Config,
        counters: Option<&Counters>,
    ) -> Option<Known> {
        let mut all = config.towards(self.destination);
        let sure = !all.is_empty();
        // Names that HAProxy has resolved.
        if let Some(counters) = counters.filter(|_| !sure) {
            let rows = counters.now.towards(self.destination);
            all.extend(rows.filter_map(|row| {
                let proxy = config.backend(&row.proxy)?;
                Some((proxy, proxy.servers.iter().find(|it| it.name == row.server)?))
            }));
        }
        let counted = |proxy: &haproxy_config::Proxy, server: &haproxy_config::Server| {
            counters.and_then(|it| counted(it, &proxy.name, &server.name))
        };
        let opened = |it: &(&haproxy_config::Proxy, &haproxy_config::Server)| {
            counted(it.0, it.1).and_then(|it| it.counters.connects)
        };
        // The first one if nothing was counted.
        let (proxy, server) = all.iter().rev().max_by_key(|it| opened(it)).copied()?;
        let explanation = match self.id {
            Id::Churn => haproxy::churn(proxy, server, counted(proxy, server)),
            Id::ClosesFirst => haproxy::closes_first(proxy),
            _ if self.waits() => haproxy::closes_first(proxy),
            _ => None,
        };
        let more = all.len().saturating_sub(1);
        let servers = all.iter().map(|(proxy, server)| (proxy.name.as_str(), server.name.as_str()));
        Some(Known {
            reused: counters.and_then(|it| reused(it, servers)),
            sure,
            part: format!(
                "backend \"{}\", server \"{}\" ({})",
                cut(&proxy.name),
                cut(&server.name),
                cut(&server.at.to_string())
            ),
            name: Some(proxy.name.clone()),
            explanation,
            notes: (more > 0)
                .then(|| format!("{more} more of its servers are there"))
                .into_iter()
                .collect(),
        })
    }

    fn squid(&self, config: &squid_config::Config) -> Known {
        let peer = config.towards(self.destination).next();
        Known {
            sure: peer.is_some(),
            part: peer.map_or_else(String::new, |it| {
                format!("cache_peer \"{}\" ({})", cut(&it.name), cut(&it.at.to_string()))
            }),
            name: peer.map(|it| it.name.clone()),
            // Who closes first, it does not say.
            explanation: if self.id == Id::Churn { squid::churn(config) } else { None },
            notes: Vec::new(),
            reused: None,
        }
    }
}

/// What HAProxy counted of a server in the window, or since it was started.
fn counted(counters: &Counters, proxy: &str, server: &str) -> Option<Counted> {
    let now = counters.now.server(proxy, server)?.counters;
    if let Some((before, time)) = &counters.before
        && let Some(before) = before.server(proxy, server)
    {
        let grown = now.since(&before.counters);
        if grown.connects.is_some_and(|it| it > 0) {
            return Some(Counted { counters: grown, seconds: Some(time.as_secs_f64()) });
        }
    }
    let uptime = counters.now.info.get("Uptime_sec").and_then(|it| it.parse().ok());
    Some(Counted { counters: now, seconds: uptime })
}

/// Share of the requests to these servers (each with the name of its backend) that found an open connection: of those in the window,
/// or, without one, since HAProxy was started. `None`: there were none, or one of the servers was not counted.
fn reused<'a>(
    counters: &Counters,
    servers: impl Iterator<Item = (&'a str, &'a str)>,
) -> Option<f64> {
    let mut all = haproxy_config::stats::Counters::default();
    for (proxy, server) in servers {
        let now = counters.now.server(proxy, server)?.counters;
        let of_window = match &counters.before {
            Some((before, _)) => now.since(&before.server(proxy, server)?.counters),
            None => now,
        };
        let sum = |all: Option<u64>, one: Option<u64>| Some(all.unwrap_or(0).saturating_add(one?));
        all.connects = sum(all.connects, of_window.connects);
        all.reuses = sum(all.reuses, of_window.reuses);
        all.connects.zip(all.reuses)?;
    }
    all.hit_rate()
}

impl Known {
    fn add_to(self, finding: Finding, proxy: &Proxy) -> Finding {
        let program = proxy.program.name();
        let mut finding = finding
            .with("proxy.program", program)
            .with("proxy.pid", proxy.process.pid)
            .with("proxy.upstream", self.name)
            .with("requests.reused", serde_json::json!(self.reused.map(rounded)));
        let mut why = match &self.explanation {
            Some(it) if it.certainty == Certainty::Possible => format!("possibly: {}", it.why),
            Some(it) => it.why.clone(),
            None => {
                let by = format!("{program} (process {}) opens them", proxy.process.pid);
                if self.part.is_empty() { by } else { format!("{by}: {}", self.part) }
            }
        };
        for note in &self.notes {
            why = format!("{why}; {note}");
        }
        let advice = self.explanation.map(|it| it.advice).unwrap_or_default();
        let lasting = finding.advice.iter().position(|it| it.persists);
        let lasting = lasting.unwrap_or(finding.advice.len());
        finding.advice.splice(lasting..lasting, advice);
        with_reason(finding, why)
    }
}

/// A name, not too long to be read.
fn cut(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
