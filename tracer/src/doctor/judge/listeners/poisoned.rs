//! `poisoned_ports`: programs take ports of the range by bind(), which connect() is then not given towards any destination.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::BuildHasher,
};

use super::{Owner, is_reserved, netns_option, number, percent, size};
use crate::{
    doctor::{
        finding::{Advice, Certainty, Finding, Id, Place, Process, Severity, Subject},
        judge::text::{rounded, short},
        tuples::{Ends, Settings, Tuples},
    },
    host::capacity::{PackedPorts, PortRange},
};

/// From so many ports of one program on, or this share of the range, it is a warning.
const MANY: u32 = 100;
const MANY_SHARE: f64 = 0.01;
/// Share of the range from which on it is critical.
const MOST_SHARE: f64 = 0.20;

/// Ports of the range that one program holds by bind(), without those on which it listens.
#[derive(Clone, Debug, PartialEq)]
pub struct BoundBy {
    /// The process with the lowest id of those that hold them; `None`: not known.
    pub process: Option<Process>,
    /// How many processes of the program hold some of them; 0: not known.
    pub processes: usize,
    /// How many ports; one that is bound at several addresses, or by several processes, counts once.
    pub ports: u32,
}

/// How many ports of the range each program holds by sockets that are only bound; those whose process is not known are together.
/// Processes with one name are one program, such as the workers of a proxy; one without a name is a program of its own. Reserved
/// ports do not count: connect() is not given them anyway. Empty before Linux 6.8, which does not list these sockets.
/// `owners`: processes by the inode of their socket.
pub fn by_owner(
    settings: &Settings,
    now: &Tuples,
    owners: &HashMap<u32, Owner, impl BuildHasher>,
) -> Vec<BoundBy> {
    let range = &settings.range;
    let counts = |port: u16| range.contains(port) && !is_reserved(range, port);
    let program = |process: &Process| {
        let unnamed = process.name.is_empty().then_some(process.pid);
        (process.name.clone(), unnamed)
    };
    let mut all: BTreeMap<_, (BTreeSet<&Process>, BTreeSet<u16>)> = BTreeMap::new();
    for idle in now.idle.iter().filter(|idle| counts(idle.port)) {
        let process = owners.get(&idle.inode).map(|owner| &owner.process);
        let (processes, ports) = all.entry(process.map(program)).or_default();
        processes.extend(process);
        ports.insert(idle.port);
    }
    let bound = all.into_values().map(|(processes, ports)| BoundBy {
        process: processes.first().map(|process| (*process).clone()),
        processes: processes.len(),
        ports: count(ports.len()),
    });
    bound.collect()
}

/// Findings for the programs that hold at least 100 ports of the range, or 1 % of it, by bind(); critical from 20 % on. `bound`:
/// all such ports, as the hooks or [`by_owner`] know them. `fast`: how many ports of the second parity of each tuple a spreader
/// bound; a tuple that is missing: none; [`u32::MAX`]: not known, so that the tuple's parity says nothing.
///
/// Connected sockets do not show that their port was bound, but parity does: see [`crate::doctor::tuples::Parity`]. What it shows
/// beyond `bound` is one more finding, without a process. It says nothing about a tuple in which connect() has to use both
/// parities.
pub fn poisoned_ports(
    place: &Place,
    settings: &Settings,
    now: &Tuples,
    bound: &[BoundBy],
    fast: &BTreeMap<Ends, u32>,
) -> Vec<Finding> {
    let all = size(&settings.range);
    let mut found: Vec<Finding> =
        bound.iter().filter_map(|it| finding(place, settings, it, Certainty::Measured)).collect();
    let known = bound.iter().map(|it| it.ports).fold(0_u32, u32::saturating_add);
    let PortRange { low, high, reserved: _ } = settings.range;
    let has_first = (low..=high).step_by(2).any(|port| !is_reserved(&settings.range, port));
    let by_parity = now.by_ends.iter().filter(|(_, tuple)| has_first && !tuple.first_half_full);
    let by_parity =
        by_parity.map(|(ends, tuple)| tuple.parity.bound(fast.get(ends).copied().unwrap_or(0)));
    // Two tuples can hold the same port: of both, there are no more than half of the range.
    let inferred = by_parity.fold(0_u32, u32::saturating_add).min(all.div_ceil(2));
    // What the hooks know has those of connections, too.
    if inferred > known {
        let rest = BoundBy { process: None, processes: 0, ports: inferred - known };
        found.extend(finding(place, settings, &rest, Certainty::Inferred));
    }
    found
}

fn finding(
    place: &Place,
    settings: &Settings,
    bound: &BoundBy,
    certainty: Certainty,
) -> Option<Finding> {
    let all = size(&settings.range);
    let share = f64::from(bound.ports) / f64::from(all.max(1));
    if bound.ports == 0 || bound.ports < MANY && share < MANY_SHARE {
        return None;
    }
    let severity = if share >= MOST_SHARE { Severity::Critical } else { Severity::Warning };
    let ports = format!("{} ports of the range ({})", number(bound.ports.into()), percent(share));
    let (subject, what) = match (&bound.process, certainty) {
        (Some(process), _) => {
            let what = match bound.processes {
                0 | 1 => format!("holds {ports} by bind()"),
                several => format!("holds {ports} by bind(), in {several} processes"),
            };
            (Subject::Process(process.clone()), what)
        }
        (None, Certainty::Measured) => {
            (Subject::Netns(place.clone()), format!("programs hold {ports} by bind()"))
        }
        (None, _) => (
            Subject::Netns(place.clone()),
            format!(
                "{ports} were taken by bind(), by their parity: connect() begins with the other one"
            ),
        ),
    };
    let finding = Finding::new(Id::PoisonedPorts, severity, subject, what)
        .sure(certainty)
        .with("ports.bound", bound.ports)
        .with("ports.share", rounded(share))
        .with("netns", place.inum)
        .because(
            "a port that bind() took at any address is given to no connect(), towards any destination"
                .to_owned(),
        )
        .advise([advice(settings, bound)])
        .but_not("a wider range: the program takes ports of that, too")
        .verify_by(format!("tracer doctor{}", netns_option(place)));
    Some(finding)
}

fn advice(settings: &Settings, bound: &BoundBy) -> Advice {
    let what = match bound.process.as_ref().map_or("", |process| process.name.as_str()) {
        "squid" => {
            "use Squid 6.0.1 or later, which connects without taking a port by bind(), or remove tcp_outgoing_address"
        }
        "haproxy" => "give `source` no ports, or ports outside of the range: `source ADDRESS`",
        "envoy" => {
            "add to upstream_bind_config: socket_options: [{level: 0, name: 24, int_value: 1, state: STATE_PREBIND}]"
        }
        "nginx" => "give proxy_bind no port",
        _ => {
            "have the program set IP_BIND_ADDRESS_NO_PORT (level 0, option 24) before bind(), or not call bind()"
        }
    };
    let PortRange { low, high, reserved } = &settings.range;
    let unreserved = PackedPorts::without(*low, *high, reserved).count();
    let left = unreserved.saturating_sub(bound.ports).max(1);
    let factor = f64::from(unreserved) / f64::from(left);
    let gain = format!(
        "{} more ports towards every destination: × {}",
        number(bound.ports.into()),
        short(factor)
    );
    Advice::new(what, gain).factor(factor)
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
