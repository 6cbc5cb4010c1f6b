//! `snat_exhausted`: source NAT on this host has no port left for an address and a destination.

use std::fmt::Write as _;

use super::{Growth, Tracking, full::dropped};
use crate::{
    doctor::{
        finding::{Advice, Certainty, Finding, Id, Severity, Subject},
        judge::{
            set::set,
            text::{counted, netns_option, number, percent, short},
        },
        nat::Mapping,
    },
    host::{
        conntrack::protocol,
        nat_rules::{ALL_PORTS, Capacity},
    },
};

/// Share of the ports in use from which on NAT finds none now and then: it tries 248 of them, at random.
const FULL: f64 = 0.95;
/// Share of the ports with live connections from which on there may be none soon.
const NEARLY_FULL: f64 = 0.80;
/// So many ports next to each other, and hardly any other, are no coincidence: the rule gives no others.
const DENSE: u32 = 16;
/// The most findings of a namespace, the fullest first.
const MOST: usize = 16;
/// What is advised for how long an ended connection keeps its port, in seconds, and how long it is by default.
const SHORT_TIME_WAIT_S: u32 = 30;
const TIME_WAIT_S: u32 = 120;

/// A finding for each SNAT address and destination that is full (95 % of its ports are in use, and entries could not be inserted)
/// or nearly so (80 % have live connections), at most 16, the worst and fullest first. If there is none, but entries could not be
/// inserted: one, good to know, that says so.
pub(super) fn exhausted(seen: &Tracking) -> Vec<Finding> {
    let growth = seen.growth();
    let mut found: Vec<_> = mappings(seen)
        .filter_map(|it| {
            let it = Mapping { capacity: capacity(it, growth), ..*it };
            let (severity, certainty) = grade(&it, growth, seen.unanswered(it.snat.destination))?;
            Some((severity, certainty, it))
        })
        .collect();
    if found.is_empty() {
        return race(seen, growth).into_iter().collect();
    }
    let full = found.len();
    found.sort_by(|(one, _, a), (other, _, b)| {
        other.cmp(one).then(share(b).total_cmp(&share(a))).then(a.snat.cmp(&b.snat))
    });
    found.truncate(MOST);
    let finding = |(severity, certainty, it): (Severity, Certainty, Mapping)| {
        of_mapping(seen, growth, &it, severity).sure(certainty).with("snat.full_destinations", full)
    };
    found.into_iter().map(finding).collect()
}

fn mappings(seen: &Tracking) -> impl Iterator<Item = &Mapping> {
    seen.now.translated.iter().flat_map(|translated| &translated.mappings)
}

/// How many ports there are. If the rules do not say it, and entries could not be inserted, the ports in use do: a rule with a
/// range that is used up leaves no gaps.
fn capacity(mapping: &Mapping, growth: Growth) -> Capacity {
    let Mapping { ports, capacity, .. } = *mapping;
    let is_dense = ports.all() >= DENSE && f64::from(ports.all()) >= FULL * f64::from(ports.span());
    if capacity.exact || growth.counters.insert_failed == 0 || !is_dense {
        return capacity;
    }
    Capacity { ports: capacity.ports.min(ports.span()), ..capacity }
}

/// Share of the ports in use, those of connections that are over included.
fn share(mapping: &Mapping) -> f64 {
    f64::from(mapping.ports.all()) / f64::from(mapping.capacity.ports.max(1))
}

/// How bad it is, and how sure; `None`: there is room. `unanswered`: SYNs to the destination without an answer. The counters are
/// of all protocols: without such a SYN they may speak of others.
fn grade(
    mapping: &Mapping,
    growth: Growth,
    unanswered: Option<u32>,
) -> Option<(Severity, Certainty)> {
    let live = f64::from(mapping.ports.live) / f64::from(mapping.capacity.ports.max(1));
    let fails = share(mapping) >= FULL && growth.counters.insert_failed > 0;
    let is_tcp = mapping.snat.protocol == protocol::TCP;
    let known = if mapping.capacity.exact { Certainty::Measured } else { Certainty::Inferred };
    match unanswered {
        Some(1..) if fails && is_tcp => Some((Severity::Critical, known)),
        None if fails && is_tcp => Some((Severity::Critical, Certainty::Inferred)),
        _ if live >= NEARLY_FULL => Some((Severity::Warning, known)),
        _ if fails => Some((Severity::Warning, Certainty::Inferred)),
        _ => None,
    }
}

fn of_mapping(seen: &Tracking, growth: Growth, mapping: &Mapping, severity: Severity) -> Finding {
    let Mapping { snat, ports, capacity } = mapping;
    let about = if capacity.exact { "" } else { "about " };
    let mut what = format!(
        "{} of {about}{} {}ports of this SNAT address have live connections ({})",
        number(ports.live.into()),
        number(capacity.ports.into()),
        if snat.protocol == protocol::UDP { "UDP " } else { "" },
        percent((f64::from(ports.live) / f64::from(capacity.ports.max(1))).min(1.0))
    );
    for (count, state) in [(ports.time_wait, "in TIME_WAIT"), (ports.closed, "reset")] {
        if count > 0 {
            write!(what, ", {} {state}", counted(count.into(), "more is", "more are"))
                .unwrap_or_default();
        }
    }
    let failed = growth.counters.insert_failed;
    if failed > 0 {
        write!(what, "; {} in {}", dropped(failed), growth.time()).unwrap_or_default();
    }
    let subject = Subject::Tuple {
        place: seen.place.clone(),
        source: snat.address,
        destination: snat.destination,
    };
    let finding = Finding::new(Id::SnatExhausted, severity, subject, what)
        .with("snat.protocol", snat.protocol)
        .with("snat.live", ports.live)
        .with("snat.time_wait", ports.time_wait)
        .with("snat.closed", ports.closed)
        .with("snat.untranslated", ports.untranslated)
        .with("snat.capacity", capacity.ports)
        .with("snat.capacity_exact", capacity.exact)
        .with("syn.unanswered", seen.unanswered(snat.destination))
        .because(Some(why(mapping)))
        .advise(advice(seen, mapping));
    ended(finding, seen, growth)
}

/// What all findings of this kind have in common.
fn ended(finding: Finding, seen: &Tracking, growth: Growth) -> Finding {
    let known = seen.before.is_some() && seen.now.counters.is_ok();
    finding
        .with("conntrack.insert_failed", known.then_some(growth.counters.insert_failed))
        .with("conntrack.drop", known.then_some(growth.counters.drop))
        .verify_by(format!("tracer doctor{}", netns_option(&seen.place)))
        .but_not(
            "more source addresses behind this NAT, tracer spread: it maps them all to this one",
        )
}

fn why(mapping: &Mapping) -> String {
    let mut why = "NAT on this host gives each connection to one destination a port of its own; without one its SYN is dropped here"
        .to_owned();
    if is_mostly_over(mapping) {
        why += ", and an ended connection keeps its port for two minutes, unless the kernel takes it earlier";
    }
    if !mapping.capacity.exact {
        why += "; how many ports the rule gives is not known exactly";
    }
    why
}

/// Whether at least half of the ports are of connections that both ends have closed.
fn is_mostly_over(mapping: &Mapping) -> bool {
    mapping.ports.time_wait.saturating_mul(2) >= mapping.ports.all()
}

fn advice(seen: &Tracking, mapping: &Mapping) -> Vec<Advice> {
    let (ports, capacity) = (mapping.ports, mapping.capacity);
    let mut all = Vec::new();
    let time_wait_s = seen.now.fill.time_wait_s.unwrap_or(TIME_WAIT_S);
    if ports.time_wait > 0 && is_mostly_over(mapping) && time_wait_s > SHORT_TIME_WAIT_S {
        let name = "net.netfilter.nf_conntrack_tcp_timeout_time_wait";
        let rate = f64::from(capacity.ports) / f64::from(SHORT_TIME_WAIT_S);
        let gain =
            format!("up to {} connections/s, with connections that end from now on", short(rate));
        let factor = f64::from(time_wait_s) / f64::from(SHORT_TIME_WAIT_S);
        let what = "let ended connections give their ports back earlier";
        let shorter = set(&seen.place, &[(name, SHORT_TIME_WAIT_S.to_string())], what, gain);
        all.push(shorter.factor(factor).risk(
            "packets of an ended connection that come later than that are not translated any more",
        ));
    }
    if capacity.exact && capacity.ports < ALL_PORTS {
        let what = "let the NAT rule give all ports (nft `to :1024-65535`, iptables `--to-ports 1024-65535`)";
        let gain =
            format!("{} in place of {}", number(ALL_PORTS.into()), number(capacity.ports.into()));
        all.push(
            Advice::new(what, gain).factor(f64::from(ALL_PORTS) / f64::from(capacity.ports.max(1))),
        );
    }
    let more =
        "translate to more addresses (nft `snat to FIRST-LAST`, iptables `--to-source FIRST-LAST`)";
    let gain =
        format!("{} more ports to each destination with each address", number(ALL_PORTS.into()));
    all.push(Advice::new(more, gain).risk("the destination must accept these addresses"));
    all.push(Advice::new("reuse connections behind the NAT", "fewer connections need fewer ports"));
    all
}

/// A finding, good to know, if entries could not be inserted though nothing is full.
fn race(seen: &Tracking, growth: Growth) -> Option<Finding> {
    let counters = growth.counters;
    if counters.insert_failed == 0 || counters.chain_too_long > 0 {
        return None;
    }
    let what = format!(
        "{} in {} because another connection had the same addresses and ports",
        dropped(counters.insert_failed),
        growth.time()
    );
    let (certainty, why) = match &seen.now.translated {
        Err(unread) => (
            Certainty::Possible,
            format!(
                "no port of NAT was left, or two CPUs chose the same one: which is not known ({})",
                unread.why
            ),
        ),
        Ok(_) if mappings(seen).next().is_none() => (
            Certainty::Inferred,
            "two packets of one flow came at the same time; no source is translated here"
                .to_owned(),
        ),
        Ok(_) => (
            Certainty::Inferred,
            "two CPUs chose the same port at the same time: no address of NAT is full".to_owned(),
        ),
    };
    let chooses_in_order = mappings(seen).any(|it| !it.capacity.fully_random);
    let random = chooses_in_order.then(|| {
        Advice::new(
            "let NAT begin its search at a random port (nft `masquerade fully-random`, iptables `--random-fully`)",
            "two connections hardly ever choose the same one",
        )
    });
    let subject = Subject::Netns(seen.place.clone());
    let finding = Finding::new(Id::SnatExhausted, Severity::Info, subject, what);
    Some(ended(finding.sure(certainty).because(Some(why)).advise(random), seen, growth))
}
