//! `closes_first`, `churn`, `health_checks` and `hot_spot`: how connections of a tuple come and go, and where to.

use std::{collections::BTreeMap, net::SocketAddr};

use serde_json::json;

use super::{
    Around, Seen, remedies,
    text::{ip, number, percent, rate, rounded, seconds},
};
use crate::{
    doctor::{
        finding::{Advice, Certainty, Finding, Id, Severity, Subject},
        flow::{FAST_SHARE, Flow},
        tuples::Ends,
    },
    ledger::uses::{Carried, Closed},
};

/// Share of the connections that this host closes first from which on it is the cause.
const MOSTLY: f64 = 0.5;
/// Share of a tuple's ports that a flow of short connections may need.
const CHURN: f64 = 0.20;
/// Connections that are open for a shorter time than this carry few requests, in seconds.
const SHORT_S: f64 = 1.0;
/// Share of a tuple's ports that connections by a clock may need.
const CHECKS: f64 = 0.10;
/// Fewer connections than this say nothing about when they come.
const FEW: u64 = 20;
/// Health checks of one destination are not more frequent than this, per second: a load is.
const MOST_CHECKS: f64 = 200.0;
/// Share of all ports in use that one destination may have.
const ONE_DESTINATION: f64 = 0.80;

/// The findings about how connections of a namespace's tuples come and go (`closes_first`, `churn`, `health_checks`), and one
/// `hot_spot` at most. Without activity in the window, only the latter.
pub(super) fn flows(seen: &Seen, around: &Around) -> Vec<Finding> {
    let mut all: Vec<Finding> = Vec::new();
    for ends in seen.activity.keys() {
        let Some(flow) = seen.flow(ends) else { continue };
        let tuple = seen.now.by_ends.get(ends);
        let capacity = tuple.map_or(seen.now.usable, |it| it.capacity);
        let need = remedies::Need { seen, around, ends, capacity, flow, measured: true };
        all.extend(closes_first(&need));
        all.extend(churn(&need));
        all.extend(health_checks(&need));
    }
    all.extend(hot_spot(seen));
    all
}

/// This host closes first, and at this rate the TIME_WAITs take nearly half of the ports.
fn closes_first(need: &remedies::Need<'_>) -> Option<Finding> {
    let remedies::Need { seen, ends, capacity, flow, .. } = *need;
    let waits = Flow { open_s: 0.0, ..flow }.ports();
    if flow.closes_first < MOSTLY || waits < FAST_SHARE * f64::from(capacity) {
        return None;
    }
    let what = format!(
        "this host closes first in {} of {} connections/s: they need {} ports in TIME_WAIT, and there are {}",
        percent(flow.closes_first),
        rate(flow.rate),
        number(whole(waits)),
        number(capacity.into())
    );
    let finding = Finding::new(Id::ClosesFirst, Severity::Warning, seen.tuple(ends), what);
    let closed = closed(seen, ends);
    let finding = with_closed(finding, closed)
        .because(closed.and_then(|it| carried(it.carried())))
        .with("connection.closed_first", rounded(flow.closes_first))
        .with("connects_per_s", rounded(flow.rate))
        .with("ports.needed", rounded(waits))
        .with("ports.capacity", capacity);
    Some(finding.advise([need.keep_connections()]).verify_by(seen.look_again()))
}

/// Short connections, one after the other, need a fifth of the ports or more.
fn churn(need: &remedies::Need<'_>) -> Option<Finding> {
    let remedies::Need { seen, ends, capacity, flow, .. } = *need;
    if flow.open_s >= SHORT_S || flow.ports() < CHURN * f64::from(capacity) {
        return None;
    }
    // Connections that the other end closes leave no port behind.
    let severity = if flow.closes_first > 0.0 { Severity::Warning } else { Severity::Info };
    let closed = closed(seen, ends);
    let one = closed.is_some_and(|it| it.carried().is_one_each());
    let what = format!(
        "{} connections/s of {} {}: they hold {} of {} ports",
        rate(flow.rate),
        seconds(flow.open_s),
        if one { "and one request each" } else { "each" },
        number(whole(flow.ports())),
        number(capacity.into())
    );
    // More segments than connections can be many requests on each, or large ones.
    let certainty = if one { Certainty::Measured } else { Certainty::Inferred };
    let finding = Finding::new(Id::Churn, severity, seen.tuple(ends), what).sure(certainty);
    let finding = with_closed(finding, closed)
        .with("connects_per_s", rounded(flow.rate))
        .with("connection.open_s", rounded(flow.open_s))
        .with("ports.needed", rounded(flow.ports()));
    Some(finding.advise([need.keep_connections()]).verify_by(seen.look_again()))
}

/// Connections at a constant rate, as health checks open them, need a tenth of the ports. What the requests ask for is not
/// known, so that this is never more than possible.
fn health_checks(need: &remedies::Need<'_>) -> Option<Finding> {
    let remedies::Need { seen, ends, capacity, flow, .. } = *need;
    let activity = seen.activity.get(ends)?;
    let few = activity.opened < FEW || activity.exhausted() > 0 || flow.rate > MOST_CHECKS;
    let brief = flow.open_s < SHORT_S && flow.ports() >= CHECKS * f64::from(capacity);
    if few || !brief || activity.constant != Some(true) {
        return None;
    }
    let what = format!(
        "{} connections/s at a constant rate, open for {} each, as health checks are: they need {} of {} ports",
        rate(flow.rate),
        seconds(flow.open_s),
        number(whole(flow.ports())),
        number(capacity.into())
    );
    let finding = Finding::new(Id::HealthChecks, Severity::Info, seen.tuple(ends), what)
        .sure(Certainty::Possible);
    let finding = with_closed(finding, closed(seen, ends))
        .with("connects_per_s", rounded(flow.rate))
        .with("connection.open_s", rounded(flow.open_s))
        .with("ports.needed", rounded(flow.ports()))
        .because(
            "a load of people or programs is not that even; that of a benchmark can be".to_owned(),
        );
    let advice = [
        Advice::new(
            "let the checker check less often",
            "with twice the interval, half of these ports come back",
        ),
        Advice::new("let the checker keep its connection open", "all but one come back"),
    ];
    Some(finding.advise(advice).verify_by(seen.look_again()))
}

/// The connections that ended while the tuple was watched; `None`: none ended that was established, or that is not known.
fn closed(seen: &Seen, ends: &Ends) -> Option<Closed> {
    Some(seen.activity.get(ends)?.closed).filter(|closed| closed.all() > 0)
}

/// What connections are used for, as a reason; `None`: there is no connection.
fn carried(carried: Carried) -> Option<String> {
    let requests = carried.per_connection()?;
    Some(if carried.is_one_each() {
        "each connection carries one request".to_owned()
    } else {
        format!("each connection carries {} segments with data", rate(requests))
    })
}

/// The finding with the connections that ended, and what they carried, in its evidence.
fn with_closed(finding: Finding, closed: Option<Closed>) -> Finding {
    let Some(closed) = closed else { return finding };
    finding
        .with("connection.requests", json!(closed.carried().per_connection().map(rounded)))
        .with("connections.closed_here", closed.here)
        .with("connections.closed_by_peer", closed.by_peer)
        .with("connections.aborted", closed.aborted)
}

/// One destination has most of the ports that are in use, and its tuples have nearly half of theirs.
fn hot_spot(seen: &Seen) -> Option<Finding> {
    let mut by_destination: BTreeMap<(tracer_common::Addr, u16), (u64, f64)> = BTreeMap::new();
    let mut all = 0_u64;
    for (ends, tuple) in &seen.now.by_ends {
        let (ports, fullest) = by_destination.entry((ends.destination, ends.port)).or_default();
        *ports += u64::from(tuple.in_use());
        *fullest = fullest.max(tuple.saturation());
        all += u64::from(tuple.in_use());
    }
    let ((destination, port), (ports, fullest)) =
        by_destination.into_iter().max_by_key(|it| it.1.0)?;
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    let share = ports as f64 / all.max(1) as f64;
    if share < ONE_DESTINATION || fullest < FAST_SHARE {
        return None;
    }
    let destination = SocketAddr::new(ip(destination), port);
    let what = format!(
        "{} of all outgoing ports ({}) lead to {destination}",
        number(ports),
        percent(share)
    );
    let subject = Subject::Address { place: seen.place.clone(), address: destination };
    let more = Advice::new(
        "give the upstream more addresses or ports: each has all source ports of this host for itself",
        "× the number of its addresses; needs nothing here",
    );
    let finding = Finding::new(Id::HotSpot, Severity::Info, subject, what);
    Some(finding.with("ports.in_use", ports).with("ports.share", rounded(share)).advise([more]))
}

/// The nearest whole number; 0 for one below 0.
fn whole(count: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    let whole = count.round() as u64;
    whole
}

#[cfg(test)]
mod tests;
