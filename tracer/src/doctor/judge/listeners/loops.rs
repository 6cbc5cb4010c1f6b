//! `self_connect`: a connection whose two ends are the same socket.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt::Write as _,
    hash::BuildHasher,
    net::{IpAddr, SocketAddr},
};

use super::{Owner, is_reserved, netns_option, set};
use crate::{
    doctor::{
        finding::{Advice, Certainty, Finding, Id, Place, Severity, Subject},
        judge::text::{counted, ip},
        tuples::{Ends, Listener, Settings, Tuples},
    },
    host::capacity::is_loopback,
};

const WHY: &str = "connect() can be given, as its source, the very port that it connects to if nothing listens there: the \
                   socket is then connected to itself, and the program that should listen cannot bind the port";

/// Findings `self_connect`: a critical one for each address and port of the range at which a socket is connected to itself; and
/// one, good to know, for each at which that could come about, because connect() to it was refused: an address of this namespace,
/// and a port of the range that is not reserved and on which nothing listens. `refused`: how many calls of the window were
/// refused, by tuple. `local`: addresses of the namespace, without those of 127.0.0.0/8 and ::1, which always count.
pub fn self_connect(
    place: &Place,
    settings: &Settings,
    now: &Tuples,
    owners: &HashMap<u32, Owner, impl BuildHasher>,
    refused: impl IntoIterator<Item = (Ends, u64)>,
    local: &[IpAddr],
) -> Vec<Finding> {
    let range = &settings.range;
    let mut by_port: HashMap<u16, Vec<&Listener>> = HashMap::new();
    for listener in &now.listeners {
        by_port.entry(listener.port).or_default().push(listener);
    }
    let listens = |ends: &Ends| {
        let of_port = by_port.get(&ends.port);
        of_port.is_some_and(|all| all.iter().any(|it| it.is_for(ends.destination, ends.port)))
    };
    let local: HashSet<&IpAddr> = local.iter().collect();
    let can_be = |ends: &Ends| {
        range.contains(ends.port)
            && !is_reserved(range, ends.port)
            && !listens(ends)
            && (is_loopback(ends.destination) || local.contains(&ip(ends.destination)))
    };
    let mut seen = BTreeSet::new();
    let mut all: Vec<Finding> = Vec::new();
    for it in now.loops.iter().filter(|it| range.contains(it.port)) {
        let address = SocketAddr::new(ip(it.address), it.port);
        if seen.insert(address) {
            all.push(is_one(place, settings, address, owners.get(&it.inode)));
        }
    }
    // Several sources can have the same destination.
    let mut by_address: BTreeMap<SocketAddr, u64> = BTreeMap::new();
    for (ends, count) in refused.into_iter().filter(|(ends, count)| *count > 0 && can_be(ends)) {
        let address = SocketAddr::new(ip(ends.destination), ends.port);
        let sum = by_address.entry(address).or_default();
        *sum = sum.saturating_add(count);
    }
    let others = by_address.into_iter().filter(|(address, _)| !seen.contains(address));
    all.extend(others.map(|(address, count)| can_come(place, settings, address, count)));
    all
}

fn is_one(
    place: &Place,
    settings: &Settings,
    address: SocketAddr,
    owner: Option<&Owner>,
) -> Finding {
    let mut advice = vec![reserve(place, settings, address.port())];
    let mut what = format!("a connection from {address} to itself");
    if let Some(Owner { process, .. }) = owner {
        write!(what, ", of {} (process {})", process.name, process.pid).unwrap_or_default();
        advice.push(Advice::new(
            format!("restart {} (process {}), which holds the port", process.name, process.pid),
            "the program that listens there can start",
        ));
    }
    Finding::new(Id::SelfConnect, Severity::Critical, subject(place, address), what)
        .with("port", address.port())
        .with("process.pid", serde_json::json!(owner.map(|it| it.process.pid)))
        .because(WHY.to_owned())
        .advise(advice)
        .verify_by(format!("tracer doctor{}", netns_option(place)))
}

fn can_come(place: &Place, settings: &Settings, address: SocketAddr, refused: u64) -> Finding {
    let what = format!(
        "nothing listens on {address}, a port of the range; {} refused",
        counted(refused, "connect() to it was", "connect() to it were")
    );
    Finding::new(Id::SelfConnect, Severity::Info, subject(place, address), what)
        .sure(Certainty::Inferred)
        .with("port", address.port())
        .with("refused", refused)
        .because(WHY.to_owned())
        .advise([reserve(place, settings, address.port())])
        .verify_by(format!("tracer doctor{}", netns_option(place)))
}

fn subject(place: &Place, address: SocketAddr) -> Subject {
    Subject::Address { place: place.clone(), address }
}

fn reserve(place: &Place, settings: &Settings, port: u16) -> Advice {
    let what = format!("reserve port {port}");
    let gain = "connect() is never given it as its source";
    set::reserve(place, &settings.range, [port..=port], Vec::new(), what, gain)
}
