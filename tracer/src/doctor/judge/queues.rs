//! `upstream_queue`: a listener of this host has a full accept queue, and this host connects to it. SYNs are dropped, as if
//! the network lost them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use tracer_common::Addr;

use super::{
    listeners::Owner,
    set::set,
    text::{counted, ip, netns_option, number, seconds},
};
use crate::{
    doctor::{
        finding::{Advice, Certainty, Finding, Id, Place, Severity, Subject},
        tuples::{Listener, Tuples},
    },
    host::capacity::is_loopback,
};

/// The longest queue that is advised.
const LONGEST: u64 = 65_535;

/// A namespace with its listeners.
#[derive(Clone, Copy, Debug)]
pub struct Queues<'a> {
    pub place: &'a Place,
    pub now: &'a Tuples,
    /// At the beginning of the window; `None`: there was one look.
    pub before: Option<&'a Tuples>,
    /// By how much ListenOverflows grew during the window, and how long that was in seconds; `None`: not known.
    pub overflows: Option<(u64, f64)>,
    /// The most that a queue can have (net.core.somaxconn); `None`: not known.
    pub longest_backlog: Option<u64>,
    /// Addresses of the namespace, without those of 127.0.0.0/8 and ::1.
    pub local: &'a [IpAddr],
    /// Where the tuples of the whole host lead: see [`destinations`].
    pub destinations: &'a BTreeSet<(Addr, u16)>,
    /// The processes of listeners, by the socket's inode.
    pub owners: &'a HashMap<u32, Owner>,
}

/// The destinations of the tuples in these namespaces.
pub fn destinations<'a>(all: impl IntoIterator<Item = &'a Tuples>) -> BTreeSet<(Addr, u16)> {
    let ends = all.into_iter().flat_map(|tuples| tuples.by_ends.keys());
    ends.map(|ends| (ends.destination, ends.port)).collect()
}

/// Sockets that listen at the same address and port: they share the connections (SO_REUSEPORT).
type Group<'a> = Vec<&'a Listener>;

/// A finding for each listener with a full queue to which this host connects. If no queue is full now, but SYNs were
/// dropped in the window: one for each of these listeners whose queue is or was at least half full, and for the only
/// listener of the namespace.
pub fn upstream_queue(seen: &Queues<'_>) -> Vec<Finding> {
    let own = group(seen);
    let full: Vec<&Group<'_>> =
        own.values().filter(|it| it.iter().any(|it| it.is_full())).collect();
    if !full.is_empty() {
        return full.into_iter().filter_map(|it| finding(seen, it, Certainty::Measured)).collect();
    }
    if seen.overflows.is_none_or(|(grown, _)| grown == 0) {
        return Vec::new();
    }
    // A queue was full for a short time. The counter is of all listeners of the namespace: the one is named that fits.
    let others = seen.now.listeners.len() > own.values().map(Vec::len).sum();
    let fits =
        |group: &&Group<'_>| is_busy(group) || was_busy(seen, group) || !others && own.len() == 1;
    own.values().filter(fits).filter_map(|it| finding(seen, it, Certainty::Inferred)).collect()
}

/// The listeners to which this host connects, by address and port.
fn group<'a>(seen: &Queues<'a>) -> BTreeMap<(Addr, u16), Group<'a>> {
    let reached = reached(seen);
    let is_reached = |listener: &Listener| {
        let of_port = (listener.port, Addr([0; 16]))..=(listener.port, Addr([0xff; 16]));
        reached.range(of_port).any(|(port, address)| listener.is_for(*address, *port))
    };
    let mut groups: BTreeMap<(Addr, u16), Group<'a>> = BTreeMap::new();
    for listener in seen.now.listeners.iter().filter(|it| is_reached(it)) {
        groups.entry((listener.address, listener.port)).or_default().push(listener);
    }
    groups
}

/// Ports and addresses of this namespace to which this host connects. Loopback addresses are those of the tuples here: each
/// namespace has its own.
fn reached(seen: &Queues<'_>) -> BTreeSet<(u16, Addr)> {
    let local: HashSet<&IpAddr> = seen.local.iter().collect();
    let loopback = destinations([seen.now]).into_iter().filter(|(it, _)| is_loopback(*it));
    let others = seen.destinations.iter().copied();
    let others = others.filter(|(it, _)| !is_loopback(*it) && local.contains(&ip(*it)));
    loopback.chain(others).map(|(address, port)| (port, address)).collect()
}

/// Whether half of a queue is used.
fn is_busy(group: &[&Listener]) -> bool {
    group.iter().any(|it| it.queue > 0 && u64::from(it.queue) * 2 >= u64::from(it.longest))
}

fn was_busy(seen: &Queues<'_>, now: &[&Listener]) -> bool {
    let Some((before, first)) = seen.before.zip(now.first()) else { return false };
    let same = |it: &&Listener| (it.address, it.port) == (first.address, first.port);
    is_busy(&before.listeners.iter().filter(same).collect::<Vec<_>>())
}

fn finding(seen: &Queues<'_>, group: &[&Listener], certainty: Certainty) -> Option<Finding> {
    // Of several sockets, the fullest.
    let listener = group.iter().max_by_key(|it| (it.is_full(), it.queue))?;
    let queue = counted(listener.queue.into(), "connection waits", "connections wait");
    let longest = number(listener.longest.into());
    let mut what = if listener.is_full() {
        format!("the accept queue is full: {queue}, {longest} may")
    } else {
        format!("the accept queue was full: {queue} now, {longest} may")
    };
    if let Some((dropped, window_s)) = seen.overflows.filter(|(dropped, _)| *dropped > 0) {
        let dropped = counted(dropped, "SYN was dropped", "SYNs were dropped");
        write!(what, "; {dropped} in {}", seconds(window_s)).unwrap_or_default();
    }
    let owner = seen.owners.get(&listener.inode);
    let name = owner.map_or_else(
        || "the program".to_owned(),
        |owner| format!("{} (process {})", owner.process.name, owner.process.pid),
    );
    let subject = Subject::Address {
        place: seen.place.clone(),
        address: SocketAddr::new(ip(listener.address), listener.port),
    };
    let finding = Finding::new(Id::UpstreamQueue, Severity::Warning, subject, what)
        .sure(certainty)
        .with("queue.waiting", listener.queue)
        .with("queue.longest", listener.longest)
        .with("queue.sockets", group.len())
        .with("queue.dropped", serde_json::json!(seen.overflows.map(|(dropped, _)| dropped)))
        .with("process.pid", serde_json::json!(owner.map(|it| it.process.pid)))
        .because(format!(
            "{name} accepts more slowly than connections come; the kernel drops further SYNs, which are sent again after 1 s"
        ))
        .advise(longer(seen, listener, &name))
        .but_not("more source ports or addresses: the SYNs reach the listener, and wait there")
        .verify_by(format!("tracer doctor{}", netns_option(seen.place)));
    Some(finding)
}

/// The advice for a longer queue: the kernel's limit first, if that is what the program got.
fn longer(seen: &Queues<'_>, listener: &Listener, name: &str) -> Vec<Advice> {
    let longest = u64::from(listener.longest);
    let wanted = longest.saturating_mul(8).clamp(4_096, LONGEST);
    let mut all = Vec::new();
    let allowed = seen.longest_backlog.unwrap_or(u64::MAX);
    let gain =
        || format!("{} connections can wait in place of {}", number(wanted), number(longest));
    if longest >= allowed && wanted > allowed {
        let keys = [("net.core.somaxconn", wanted.to_string())];
        let what = format!(
            "allow longer accept queues, then restart {name}, which sets the length of its own"
        );
        all.push(set(seen.place, &keys, what, gain()));
    } else if wanted > longest {
        let what = format!(
            "have {name} call listen() with a backlog of {wanted} (nginx: listen … backlog={wanted};)"
        );
        let above = wanted > allowed;
        let above =
            if above { format!(", with net.core.somaxconn={wanted}") } else { String::new() };
        all.push(Advice::new(what + &above, gain()));
    }
    all.push(Advice::new(
        format!("give {name} more workers, or less work for each connection"),
        "a longer queue only delays what is not served",
    ));
    all
}

#[cfg(test)]
mod tests;
