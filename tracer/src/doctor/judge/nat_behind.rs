//! `nat_behind`: a NAT between this host and a destination seems to have no port left.
//!
//! It cannot be seen from here, so that it is never more than possible: a destination whose accept queue is full looks the same.

mod addresses;
#[cfg(test)]
mod tests;
mod vendor;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

pub use addresses::is_global;
pub use vendor::Vendor;

use super::text::{netns_option, number};
use crate::doctor::finding::{Advice, Certainty, Finding, Id, Place, Severity, Subject};
use addresses::is_private;

/// So many SYNs must have been sent again, and so many connections established.
const LEAST: u32 = 5;
/// Share of a tuple's own ports in use below which it has enough of them.
const ROOM: f64 = 0.45;
/// How near the number of connections must be to a limit to be called near, as shares of the limit.
const NEAR: std::ops::RangeInclusive<f64> = 0.75..=1.05;

/// What became of the SYNs of a tuple, and how many ports it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Syns {
    /// Connections in SYN_SENT at the end of the window whose SYN was sent again.
    pub unanswered: u32,
    /// Connections that were established in the window, at the least.
    pub established: u32,
    /// Share of the tuple's own ports in use: 0 to 1, or above 1 if it holds ports outside of the range.
    pub fill: f64,
    /// Ports that the tuple holds: by open connections, and by those in TIME_WAIT, which ended within the last minute.
    pub connections: u32,
}

/// What was seen of one network namespace, and of the host around it.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub place: Place,
    /// By source and destination.
    pub syns: BTreeMap<(IpAddr, SocketAddr), Syns>,
    /// By how much `insert_failed` of conntrack grew in the window, in all namespaces together; `None`: not known.
    pub insert_failed: Option<u32>,
    /// Destinations towards which a namespace of this host translates the source to a global address: no other NAT follows. Lacks
    /// those of tables with few entries.
    pub translated_here: BTreeSet<SocketAddr>,
    /// The cloud that this host is in.
    pub vendor: Vendor,
}

/// A destination, from all private sources together.
#[derive(Clone, Debug, Default)]
struct Destination {
    unanswered: u32,
    established: u32,
    connections: u32,
    /// Of the fullest source.
    fill: f64,
    /// The source with the most unanswered SYNs, and how many.
    source: Option<(u32, IpAddr)>,
}

impl Destination {
    fn add(&mut self, source: IpAddr, syns: Syns) {
        self.unanswered = self.unanswered.saturating_add(syns.unanswered);
        self.established = self.established.saturating_add(syns.established);
        self.connections = self.connections.saturating_add(syns.connections);
        self.fill = self.fill.max(syns.fill);
        if self.source.is_none_or(|(most, _)| syns.unanswered > most) {
            self.source = Some((syns.unanswered, source));
        }
    }

    /// Whether too many of its SYNs had no answer.
    fn is_unwell(&self) -> bool {
        self.unanswered >= LEAST
    }
}

/// A finding for each global destination to which, from private sources, at least five connections were established and at least
/// five SYNs were sent again, while this host has used less than 45 % of its ports to it, and most other destinations answer.
/// None at all if conntrack on this host could not insert entries: then this host is the reason; none for destinations of
/// [`Outgoing::translated_here`].
pub fn judge(seen: &Outgoing) -> Vec<Finding> {
    if seen.insert_failed.is_some_and(|failed| failed > 0) {
        return Vec::new();
    }
    let mut all: BTreeMap<SocketAddr, Destination> = BTreeMap::new();
    for ((source, destination), syns) in &seen.syns {
        if is_private(*source) && is_global(destination.ip()) {
            all.entry(*destination).or_default().add(*source, *syns);
        }
    }
    // A link that loses packets, or a route that leads nowhere, is felt by all.
    let unwell = all.values().filter(|it| it.is_unwell()).count();
    let others_are_well = |it: &Destination| {
        let (unwell, others) = (unwell - usize::from(it.is_unwell()), all.len() - 1);
        others == 0 || unwell * 2 < others
    };
    let explained = |address: &SocketAddr| seen.translated_here.contains(address);
    all.iter()
        .filter(|(address, it)| {
            it.is_unwell() && it.established >= LEAST && it.fill < ROOM && !explained(address)
        })
        .filter(|(_, it)| others_are_well(it))
        .filter_map(|(address, it)| Some(finding(seen, *address, it, it.source?.1, all.len() - 1)))
        .collect()
}

fn finding(
    seen: &Outgoing,
    destination: SocketAddr,
    it: &Destination,
    source: IpAddr,
    others: usize,
) -> Finding {
    let mut what = format!(
        "{} connections were established and {} got no answer to their SYN, though this host has ports left",
        number(it.established.into()),
        number(it.unanswered.into())
    );
    if others > 0 {
        what += "; other destinations answer";
    }
    let mut why = format!(
        "{source} is private and the destination global, so there is a NAT between: it, or the destination's accept queue, may be full"
    );
    if let Some(limit) = seen.vendor.limit_near(it.connections, &NEAR) {
        write!(
            why,
            "; {} connections, those that ended within a minute included, are near {limit}",
            number(it.connections.into())
        )
        .unwrap_or_default();
    }
    let subject = Subject::Tuple { place: seen.place.clone(), source, destination };
    Finding::new(Id::NatBehind, Severity::Warning, subject, what)
        .sure(Certainty::Possible)
        .with("syn.unanswered", it.unanswered)
        .with("syn.established", it.established)
        .with("connections", it.connections)
        .with("saturation", (it.fill * 1e4).round() / 1e4)
        .with("cloud", seen.vendor.name())
        .because(Some(why))
        .advise(seen.vendor.proofs())
        .advise(advice())
        .verify_by(format!("tracer doctor{}", netns_option(&seen.place)))
        .but_not(
            "more source addresses on this host, tracer spread: a NAT maps them to its own address",
        )
}

/// What helps whichever NAT it is.
fn advice() -> [Advice; 3] {
    [
        Advice::new(
            "look at TcpExtListenOverflows of the destination (nstat -az): if it grows, its accept queue is full, and no NAT",
            "tells the two apart",
        ),
        Advice::new("reuse connections", "fewer connections need fewer ports of the NAT"),
        Advice::new(
            "give the NAT more public addresses",
            "its ports to each destination, times the addresses",
        ),
    ]
}
