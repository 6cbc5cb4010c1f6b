//! Findings by settings of a namespace: `small_range`, `nodeport_overlap`, `nonlocal_bind`, `reverse_path`.

mod range;

pub(super) use range::wider;
pub use range::{nodeport_overlap, small_range};

use std::{
    collections::{BTreeSet, HashSet},
    fmt::Write as _,
    net::IpAddr,
};

use super::{
    new_address,
    set::set,
    text::{counted, ip, netns_option, seconds},
};
use crate::{
    doctor::{
        finding::{Advice, Certainty, Finding, Id, NewAddress, Place, Severity, Subject},
        tuples::{Tuple, Tuples},
    },
    host::{
        capacity::is_loopback,
        network_settings::{NetworkSettings, ReversePath},
    },
};

/// How many addresses are named.
const NAMED: usize = 5;

/// A namespace with its addresses.
#[derive(Clone, Copy, Debug)]
pub struct Addresses<'a> {
    pub place: &'a Place,
    pub settings: &'a NetworkSettings,
    pub now: &'a Tuples,
    /// Addresses that programs are set to use as sources: of a pool, or of a proxy's configuration.
    pub sources: &'a [IpAddr],
    /// Addresses of the namespace, without those of 127.0.0.0/8 and ::1; `None`: not known.
    pub local: Option<&'a [IpAddr]>,
}

/// A finding if programs may bind addresses that the namespace does not have; a warning if one is used. `None`: they may
/// not, or that is not known.
///
/// An address that connections use and get answers at is there after all: a route makes it local (AnyIP), or it has just
/// moved to another host (VRRP).
pub fn nonlocal_bind(seen: &Addresses<'_>) -> Option<Finding> {
    let NetworkSettings { nonlocal_bind, nonlocal_bind_v6, .. } = seen.settings;
    let (v4, v6) = (*nonlocal_bind == Some(true), *nonlocal_bind_v6 == Some(true));
    if !v4 && !v6 {
        return None;
    }
    let foreign = seen.local.map(|local| foreign(seen, local)).unwrap_or_default();
    let foreign: Vec<IpAddr> =
        foreign.into_iter().filter(|it| if it.is_ipv4() { v4 } else { v6 }).collect();
    let key = |on: bool, family: &str| on.then(|| format!("net.{family}.ip_nonlocal_bind"));
    let keys: Vec<String> = [key(v4, "ipv4"), key(v6, "ipv6")].into_iter().flatten().collect();
    let severity = if foreign.is_empty() { Severity::Info } else { Severity::Warning };
    let mut what =
        format!("{}=1: programs may bind addresses that are not here", keys.join("=1, "));
    if !foreign.is_empty() {
        write!(what, "; {} is used as a source", names(&foreign)).unwrap_or_default();
    }
    let finding = Finding::new(Id::NonlocalBind, severity, Subject::Netns(seen.place.clone()), what)
        .with("addresses.missing", foreign.iter().map(IpAddr::to_string).collect::<Vec<_>>())
        .because(
            "bind() of an address that is not here succeeds; the SYN leaves, and its answer does not come back"
                .to_owned(),
        )
        .verify_by(format!("tracer doctor{}", netns_option(seen.place)));
    let Some(first) = foreign.first() else { return Some(finding) };
    let from_it = seen.now.by_ends.keys().filter(|ends| ends.from() == *first);
    let new = NewAddress {
        place: seen.place.clone(),
        address: *first,
        towards: from_it.map(|ends| ends.peer().ip()).collect(),
        may_be_elsewhere: true,
    };
    let add = new_address::add(new, "answers to it arrive")
    .risk("of a pair with VRRP, the other host may have it now: with one address, both lose connections");
    let off: Vec<(&str, String)> = keys.iter().map(|key| (key.as_str(), "0".to_owned())).collect();
    let off = set(seen.place, &off, "let bind() fail instead", "the program reports what is wrong")
        .risk("a pair of hosts with VRRP needs it for the addresses of the other one");
    Some(finding.advise([add, off]))
}

/// Sources that the namespace does not have: those that are set, and those of connections of which none is answered.
fn foreign(seen: &Addresses<'_>, local: &[IpAddr]) -> BTreeSet<IpAddr> {
    let local: HashSet<&IpAddr> = local.iter().collect();
    let silent = sources(seen.now, |tuple| tuple.syn_sent > 0);
    let answered = sources(seen.now, is_answered);
    let used = silent.difference(&answered).copied();
    let all = seen.sources.iter().copied().chain(used);
    let is_here = |it: &IpAddr| it.is_loopback() || it.is_unspecified() || local.contains(it);
    all.filter(|it| !is_here(it)).collect()
}

/// The sources of tuples like these.
fn sources(tuples: &Tuples, is_like: impl Fn(&Tuple) -> bool) -> BTreeSet<IpAddr> {
    let like = tuples.by_ends.iter().filter(|(_, tuple)| is_like(tuple));
    like.filter(|(ends, _)| !is_loopback(ends.source)).map(|(ends, _)| ip(ends.source)).collect()
}

/// Whether a connection of it is, or was, established.
fn is_answered(tuple: &Tuple) -> bool {
    tuple.held > tuple.syn_sent
}

/// A finding if the reverse path filter seems to drop the answers to connections: it dropped packets in the window, and
/// an IPv4 source gets no answer that programs are set to use, or to whose destination another source has connections.
/// `drops`: by how much IPReversePathFilter grew, and how long the window was in seconds; `None`: not known.
pub fn reverse_path(seen: &Addresses<'_>, drops: Option<(u64, f64)>) -> Option<Finding> {
    let (drops, window_s) = drops.filter(|(drops, _)| *drops > 0)?;
    let silent: Vec<IpAddr> = silent_sources(seen).into_iter().collect();
    if silent.is_empty() {
        return None;
    }
    let what = format!(
        "the reverse path filter dropped {} in {}, and SYNs from {} are not answered",
        counted(drops, "packet", "packets"),
        seconds(window_s),
        names(&silent)
    );
    let finding = Finding::new(Id::ReversePath, Severity::Warning, Subject::Netns(seen.place.clone()), what)
        .sure(Certainty::Inferred)
        .with("packets.dropped", drops)
        .with("addresses.silent", silent.iter().map(IpAddr::to_string).collect::<Vec<_>>())
        .because(
            "an answer that arrives at another interface than that by which its sender is reached is dropped (rp_filter=1)"
                .to_owned(),
        )
        .but_not("more source ports or addresses: the SYNs leave, and their answers are dropped here")
        .verify_by(format!("tracer doctor{}", netns_option(seen.place)));
    let loose = (seen.settings.reverse_path == Some(ReversePath::Strict)).then(|| {
        let keys = [("net.ipv4.conf.all.rp_filter", "2".to_owned())];
        set(seen.place, &keys, "accept answers at any interface", "the answers arrive")
            .risk("packets with a forged source address that has a route are accepted, too")
    });
    let from = silent.first().map(|it| format!(" {it}")).unwrap_or_default();
    let route = Advice::new(
        format!(
            "route by source: ip rule add from{from} table N, with N a free number and a default route in that table"
        ),
        "each answer arrives at the interface by which it is expected",
    );
    Some(finding.advise(loose).advise([route.until_reboot()]))
}

/// Sources with SYNs that are not answered: those that are set for programs, and those to whose destination another source
/// has connections.
fn silent_sources(seen: &Addresses<'_>) -> BTreeSet<IpAddr> {
    let given: HashSet<&IpAddr> = seen.sources.iter().collect();
    let tuples = &seen.now.by_ends;
    let reached: HashSet<_> = tuples
        .iter()
        .filter(|(_, tuple)| is_answered(tuple))
        .map(|(ends, _)| (ends.destination, ends.port))
        .collect();
    let silent = tuples.iter().filter(|(ends, tuple)| {
        let used =
            given.contains(&ip(ends.source)) || reached.contains(&(ends.destination, ends.port));
        tuple.unanswered > 0 && !is_answered(tuple) && used && ends.source.to_v4().is_some()
    });
    silent.map(|(ends, _)| ip(ends.source)).collect()
}

/// The first addresses, and how many more there are.
fn names(all: &[IpAddr]) -> String {
    let mut names: Vec<String> = all.iter().take(NAMED).map(IpAddr::to_string).collect();
    if let Some(more) = all.len().checked_sub(NAMED).filter(|more| *more > 0) {
        names.push(format!("{more} more"));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests;
