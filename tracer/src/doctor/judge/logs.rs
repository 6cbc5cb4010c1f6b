//! Findings from the logs of proxies: `blamed_upstream`, `bad_source`, `descriptors`, and `ports_exhausted` where only a log saw
//! it.

mod blamed;
mod lines;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use lines::{Lines, times};

use super::{new_address, text::netns_option};
use crate::doctor::{
    finding::{Advice, Certainty, Finding, Id, NewAddress, Place, Process, Severity, Subject},
    logs::{Group, Kind, Program, Report},
};

/// The logs of one process, and what is known about it.
#[derive(Clone, Copy, Debug)]
pub struct Logged<'a> {
    pub report: &'a Report,
    /// The path of the log; of several, that of the first that says something.
    pub path: &'a Path,
    /// The process that wrote them; `None`: not known, as with `--log`.
    pub process: Option<&'a Process>,
    /// Its network namespace; `None`: not known.
    pub place: Option<&'a Place>,
    /// The addresses of its upstreams (backends) by name, from its configuration; empty: not known.
    pub upstreams: &'a BTreeMap<String, Vec<SocketAddr>>,
}

impl Logged<'_> {
    /// What a finding about the process is about.
    fn subject(&self) -> Subject {
        match (self.process, self.place) {
            (Some(process), _) => Subject::Process(process.clone()),
            (None, Some(place)) => Subject::Netns(place.clone()),
            (None, None) => Subject::Host,
        }
    }

    /// The command that shows whether it is gone.
    fn verify(&self) -> String {
        format!("tracer doctor{}", self.place.map(netns_option).unwrap_or_default())
    }

    /// The groups of these kinds.
    fn of(&self, kinds: &[Kind]) -> impl Iterator<Item = (Kind, Program, Option<&str>, &Group)> {
        self.report.groups().filter(|(kind, ..)| kinds.contains(kind))
    }

    /// Whether the destination is one of an upstream's servers; `None`: the upstream's servers are not known.
    fn has_server(&self, upstream: Option<&str>, destination: SocketAddr) -> Option<bool> {
        Some(self.upstreams.get(upstream?)?.contains(&destination))
    }
}

/// A tuple that was seen full.
#[derive(Clone, Copy, Debug)]
struct Full {
    source: IpAddr,
    destination: SocketAddr,
}

/// The findings in the logs of one process: `ports_exhausted` that no full tuple explains, `blamed_upstream`, `bad_source` and
/// `descriptors`. `others`: what was found without logs; its critical `ports_exhausted` of tuples explain what a log says.
pub fn judge(logged: &Logged<'_>, others: &[Finding]) -> Vec<Finding> {
    let full = full(logged, others);
    let mut found = no_ports(logged, &full);
    let known = !full.is_empty() || !found.is_empty();
    found.extend(blamed::upstreams(logged, &full, known));
    found.extend(bad_sources(logged));
    found.extend(descriptors(logged));
    found
}

/// The tuples that are full, of the process's namespace if that is known.
fn full(logged: &Logged<'_>, others: &[Finding]) -> Vec<Full> {
    let full =
        others.iter().filter(|it| it.id == Id::PortsExhausted && it.severity == Severity::Critical);
    let tuples = full.filter_map(|it| match &it.subject {
        Subject::Tuple { place, source, destination } => {
            let here = logged.place.is_none_or(|own| own == place);
            here.then_some(Full { source: *source, destination: *destination })
        }
        _ => None,
    });
    tuples.collect()
}

/// `ports_exhausted`: connect() found no port, and no full tuple was seen that explains it: it lasted too short a time, or its
/// sockets could not be seen.
fn no_ports(logged: &Logged<'_>, full: &[Full]) -> Vec<Finding> {
    let seen = |kind: Kind, program: Program, name: Option<&str>| {
        let address = name.and_then(address_in);
        full.iter().any(|it| match (kind, program) {
            // It names the backend only.
            (_, Program::Haproxy) => true,
            (Kind::NoPort, _) => address == Some(it.destination),
            (..) => address.is_some_and(|address| address.ip() == it.source),
        })
    };
    let mut found: BTreeMap<(Kind, Program), Lines> = BTreeMap::new();
    for (kind, program, name, group) in logged.of(&[Kind::NoPort, Kind::AddressInUse]) {
        if !seen(kind, program, name) {
            found.entry((kind, program)).or_default().add(name, group);
        }
    }
    found.iter().map(|((kind, program), lines)| no_port(logged, *kind, *program, lines)).collect()
}

fn no_port(logged: &Logged<'_>, kind: Kind, program: Program, lines: &Lines) -> Finding {
    let (call, why) = match (kind, program) {
        (Kind::NoPort, Program::Haproxy) => {
            ("connect() for backend", "\"no free ports\": the kernel found no source port")
        }
        (Kind::NoPort, _) => {
            ("connect() to", "errno 99 of connect(): the kernel found no source port")
        }
        (_, Program::Haproxy) => (
            "connect() for backend",
            "\"local address already in use\": the range of ports in `source` is used up",
        ),
        (..) => (
            "bind() to",
            "errno 98 of bind(): the address has no free port, or the port in the configuration is taken",
        ),
    };
    // A host without an IPv6 address of its own cannot connect to any: the same error.
    let v6 = kind == Kind::NoPort && lines.names.iter().any(|name| name.starts_with('['));
    let (certainty, or) = if v6 {
        (Certainty::Possible, ", or this host has no IPv6 address")
    } else {
        (Certainty::Inferred, "")
    };
    let what =
        format!("{}: {call} {} failed {}", program.name(), lines.named(), times(lines.count));
    let verify = logged.verify();
    let watch = Advice::new("watch for longer: a tuple is seen full only while it is", "")
        .command(format!("{verify} --window 60"));
    let finding = Finding::new(Id::PortsExhausted, Severity::Critical, logged.subject(), what)
        .sure(certainty)
        .because(format!("{why}{or}"))
        .advise([watch])
        .verify_by(verify)
        .but_not("more file descriptors: they are not what runs out here");
    lines.put_into(finding, program, logged.path)
}

/// `bad_source`: a program binds an address that this host does not have.
fn bad_sources(logged: &Logged<'_>) -> Vec<Finding> {
    let found = logged.of(&[Kind::BadSource]);
    found.map(|(_, program, name, group)| bad_source(logged, program, name, group)).collect()
}

fn bad_source(logged: &Logged<'_>, program: Program, name: Option<&str>, group: &Group) -> Finding {
    let address = name.and_then(address_in);
    let subject = match (address, logged.place) {
        (Some(address), Some(place)) => Subject::Address { place: place.clone(), address },
        _ => logged.subject(),
    };
    let setting = match program {
        Program::Nginx => "proxy_bind",
        Program::Haproxy => "source",
        Program::Squid => "tcp_outgoing_address",
    };
    let ip = address.map(|address| address.ip());
    let what = match (ip, program) {
        (Some(ip), _) => {
            format!("{}: bind() to {ip} failed {}", program.name(), times(group.lines))
        }
        (None, Program::Haproxy) => format!(
            "HAProxy: bind() to the source address of backend {} failed {}",
            name.unwrap_or("of other names"),
            times(group.lines)
        ),
        (None, _) => {
            format!("{}: bind() to other addresses failed {}", program.name(), times(group.lines))
        }
    };
    // Whoever writes a log can name any address: only one that a host can have is advised.
    let add = ip.filter(|ip| !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback());
    let add = add.map(|ip| {
        let advice = if let Some(place) = logged.place {
            let servers = logged.upstreams.values().flatten();
            let new = NewAddress {
                place: place.clone(),
                address: ip,
                towards: servers.map(SocketAddr::ip).collect(),
                may_be_elsewhere: false,
            };
            new_address::add(new, "bind() finds it at once")
        } else {
            // It could be added to the wrong namespace.
            let what = format!("add {ip} to the interface that it belongs to");
            Advice::new(what, "bind() finds it at once").until_reboot()
        };
        advice.risk("the network must route answers for this address to this host")
    });
    let range = if program == Program::Haproxy { ", or widen its range of ports" } else { "" };
    let change = format!(
        "set `{setting}` in the configuration of {} to an address of this host{range}",
        program.name()
    );
    let (why, certainty) = if program == Program::Haproxy {
        (
            "the address is not on this host, or the range of ports in `source` is used up",
            Certainty::Possible,
        )
    } else {
        (
            "this network namespace does not have the address (EADDRNOTAVAIL of bind())",
            Certainty::Measured,
        )
    };
    let finding = Finding::new(Id::BadSource, Severity::Critical, subject, what)
        .sure(certainty)
        .because(why.to_owned())
        .advise(add)
        .advise([Advice::new(change, "")])
        .with("source", ip.map(|ip| ip.to_string()))
        .verify_by(logged.verify())
        .but_not("more ports: it is the address that is missing");
    Lines::of(name, group).put_into(finding, program, logged.path)
}

/// `descriptors`: a process, or the host, had no descriptor left.
fn descriptors(logged: &Logged<'_>) -> Vec<Finding> {
    let mut found: BTreeMap<(Kind, Program), Lines> = BTreeMap::new();
    for (kind, program, name, group) in logged.of(&[Kind::Descriptors, Kind::HostDescriptors]) {
        found.entry((kind, program)).or_default().add(name, group);
    }
    found
        .iter()
        .map(|((kind, program), lines)| descriptor(logged, *kind, *program, lines))
        .collect()
}

fn descriptor(logged: &Logged<'_>, kind: Kind, program: Program, lines: &Lines) -> Finding {
    let whole = kind == Kind::HostDescriptors;
    let (who, errno) = if whole { ("the host", 23) } else { ("the process", 24) };
    let subject = if whole { Subject::Host } else { logged.subject() };
    let advice = if whole {
        Advice::new("raise fs.file-max, which limits the first number of fs.file-nr", "")
            .command("sysctl fs.file-nr fs.file-max")
    } else {
        let settings = match program {
            Program::Nginx => "LimitNOFILE= of its unit, or worker_rlimit_nofile",
            Program::Haproxy => "LimitNOFILE= of its unit, with maxconn below half of it",
            Program::Squid => "LimitNOFILE= of its unit, or max_filedescriptors",
        };
        Advice::new(format!("raise {settings}, and restart it"), "")
    };
    let what = format!(
        "{}: {who} had no file descriptor left {} ({})",
        program.name(),
        times(lines.count),
        lines.named()
    );
    let finding = Finding::new(Id::Descriptors, Severity::Critical, subject, what)
        .because(format!("its log has errno {errno} or says so: this is not port exhaustion"))
        .advise([advice])
        .verify_by(logged.verify())
        .but_not("more ports or addresses: they are not what runs out here");
    lines.put_into(finding, program, logged.path)
}

/// An address with or without a port; port 0: without.
fn address_in(text: &str) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let ip = || bare.parse::<IpAddr>().ok();
    text.parse().ok().or_else(|| Some(SocketAddr::new(ip()?, 0)))
}

#[cfg(test)]
mod tests;
