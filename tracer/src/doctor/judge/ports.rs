//! `ports_exhausted`: a tuple has no source port left, or soon has none.

use std::fmt::Write as _;

use serde_json::json;

use super::{
    Around, BoundAddress, Seen, remedies,
    text::{counted, ip, number, percent, rate, rounded, seconds},
};
use crate::doctor::{
    activity::Activity,
    finding::{Advice, Finding, Id, Severity, Subject},
    flow::Flow,
    tuples::{Ends, Tuple},
};

/// Share of a tuple's ports in use from which on it is as good as full: the last ones take connect() longest, and are gone within
/// seconds.
pub(super) const FULL: f64 = 0.95;
/// From which on it may be full soon.
const NEARLY_FULL: f64 = 0.80;
/// A tuple that will be full within this time is a warning, in seconds.
const SOON_S: f64 = 600.0;

/// What is of no use against a lack of ports, though it is often advised.
const NOT: &str = "more file descriptors, net.ipv4.tcp_fin_timeout: neither is what runs out here";

/// A tuple with all that is known about it.
struct Case<'a> {
    seen: &'a Seen,
    around: &'a Around,
    ends: &'a Ends,
    tuple: &'a Tuple,
    activity: Option<&'a Activity>,
    flow: Option<Flow>,
}

/// A finding for each tuple of the namespace that is full (critical: a call failed, or 95 % of its ports are in use), or soon is
/// (a warning: 80 %, or it fills within 10 minutes).
pub(super) fn exhausted(seen: &Seen, around: &Around) -> Vec<Finding> {
    let empty = Tuple { capacity: seen.now.usable, ..Tuple::default() };
    let looked = seen.now.by_ends.iter();
    // Calls can fail for a tuple that holds no port: all are reserved, or taken by bind().
    let failing = seen.activity.iter().filter(|(ends, activity)| {
        activity.exhausted() > 0 && !seen.now.by_ends.contains_key(ends)
    });
    let all = looked.chain(failing.map(|(ends, _)| (ends, &empty)));
    let cases = all.map(|(ends, tuple)| Case {
        seen,
        around,
        ends,
        tuple,
        activity: seen.activity.get(ends),
        flow: seen.flow(ends),
    });
    cases.filter_map(|case| case.finding()).collect()
}

/// Whether this tuple is a critical `ports_exhausted`. `tuple`: that of `ends` in `seen`.
pub(super) fn is_exhausted(seen: &Seen, ends: &Ends, tuple: &Tuple) -> bool {
    severity_of(seen, ends, tuple) == Some(Severity::Critical)
}

/// How severe the finding of a tuple that [`exhausted`] makes is; `None`: it makes none. `tuple`: that of `ends` in `seen`.
pub(super) fn severity_of(seen: &Seen, ends: &Ends, tuple: &Tuple) -> Option<Severity> {
    severity(tuple, seen.activity.get(ends), seen.flow(ends))
}

/// Share of the ports that are in use, as findings have it; above 1 if it holds ports outside the range. 0 for a tuple that holds
/// none; 1 for one that holds some and has a capacity of 0.
pub(super) fn saturation(tuple: &Tuple) -> f64 {
    if tuple.held == 0 { 0.0 } else { tuple.saturation() }
}

fn severity(tuple: &Tuple, activity: Option<&Activity>, flow: Option<Flow>) -> Option<Severity> {
    let failed = activity.map_or(0, Activity::exhausted);
    let saturation = saturation(tuple);
    if failed > 0 || saturation >= FULL {
        return Some(Severity::Critical);
    }
    let soon = full_in_s(tuple, activity, flow).is_some_and(|eta| eta < SOON_S);
    (saturation >= NEARLY_FULL || soon).then_some(Severity::Warning)
}

/// Seconds until the tuple is full; `None`: it does not fill, its flow needs fewer ports than it has, or that is not known. The
/// growth alone says little: each flow grows until its first TIME_WAITs end.
fn full_in_s(tuple: &Tuple, activity: Option<&Activity>, flow: Option<Flow>) -> Option<f64> {
    let (activity, flow) = (activity?, flow?);
    if activity.growth <= 0.0 || flow.ports() < f64::from(tuple.capacity) {
        return None;
    }
    Some(f64::from(tuple.capacity.saturating_sub(tuple.in_use())) / activity.growth)
}

impl Case<'_> {
    fn finding(&self) -> Option<Finding> {
        let severity = severity(self.tuple, self.activity, self.flow)?;
        let finding =
            Finding::new(Id::PortsExhausted, severity, self.seen.tuple(self.ends), self.what());
        let finding = self.numbers(finding).because(self.why()).but_not(NOT);
        Some(finding.advise(self.advice()).verify_by(self.seen.look_again()))
    }

    fn what(&self) -> String {
        let Self { tuple, .. } = self;
        let (in_use, capacity) = (number(tuple.in_use().into()), number(tuple.capacity.into()));
        let mut what = format!("{in_use} of {capacity} ports in use");
        // Those that connect() takes over are not in use.
        let waiting = tuple.time_wait.saturating_sub(tuple.reusable);
        if waiting > 0 {
            write!(what, ", {} in TIME_WAIT", number(waiting.into())).unwrap_or_default();
        }
        if let (Some(activity), Some(flow)) = (self.activity, self.flow) {
            write!(what, "; {} {} connections/s", wants(activity), rate(flow.rate))
                .unwrap_or_default();
            let largest = flow.largest_rate(tuple.capacity);
            if largest.is_finite() {
                write!(what, "; {}/s is all that one source address can give", rate(largest))
                    .unwrap_or_default();
            }
        } else if self.is_drained() {
            let longest = seconds(self.seen.time_wait_s);
            write!(what, "; no connection is open: the ports come back within {longest}")
                .unwrap_or_default();
        }
        let eta = full_in_s(self.tuple, self.activity, self.flow);
        if let Some(eta) = eta.filter(|_| tuple.in_use() < tuple.capacity) {
            write!(what, "; full in {}", seconds(eta)).unwrap_or_default();
        }
        if let Some(activity) = self.activity.filter(|it| it.exhausted() > 0) {
            let failed = number(activity.exhausted());
            write!(what, "; {failed} connect() failed in {}", seconds(activity.seconds))
                .unwrap_or_default();
        }
        what
    }

    fn numbers(&self, finding: Finding) -> Finding {
        let Self { tuple, flow, activity, .. } = self;
        let finding = finding
            .with("ports.in_use", tuple.in_use())
            .with("ports.held", tuple.held)
            .with("ports.capacity", tuple.capacity)
            .with("ports.time_wait", tuple.time_wait)
            .with("ports.syn_sent", tuple.syn_sent)
            .with("ports.reusable", tuple.reusable)
            .with("saturation", rounded(saturation(tuple)))
            .with("time_wait_s", rounded(self.seen.time_wait_s))
            .with("failed", json!(activity.map(Activity::exhausted)))
            .with("eta_s", json!(full_in_s(tuple, *activity, *flow).map(rounded)));
        let Some(flow) = flow else { return finding };
        finding
            .with("connects_per_s", rounded(flow.rate))
            .with("connects_per_s.largest", json!(finite(flow.largest_rate(tuple.capacity))))
            .with(
                "connects_per_s.largest_fast",
                json!(finite(flow.largest_fast_rate(tuple.capacity))),
            )
            .with("connection.open_s", rounded(flow.open_s))
            .with("connection.closed_first", rounded(flow.closes_first))
            .with("addresses.needed", flow.addresses(tuple.capacity.max(1)))
    }

    /// Whether all its ports are in TIME_WAIT and no more of them come: the load has ended.
    fn is_drained(&self) -> bool {
        self.tuple.held > 0 && self.tuple.time_wait == self.tuple.held
    }

    /// Why the ports are in use: by the flow if it was watched, else by the states of the sockets.
    fn why(&self) -> Option<String> {
        let Self { tuple, .. } = self;
        if tuple.capacity == 0 {
            return Some(
                "every port of the range is reserved, or taken by bind() or listen()".into(),
            );
        }
        let most = |part: u32| f64::from(part) >= 0.5 * f64::from(tuple.held.max(1));
        if most(tuple.time_wait) {
            return Some(match self.flow.filter(|flow| flow.closes_first >= 0.5) {
                Some(flow) => format!(
                    "this host closes first ({}): each port stays in TIME_WAIT for {} afterwards",
                    percent(flow.closes_first),
                    seconds(self.seen.time_wait_s)
                ),
                None => format!(
                    "this host closed first: {} of the ports are in TIME_WAIT, a minute each",
                    percent(tuple.waiting())
                ),
            });
        }
        let open = counted(tuple.established.into(), "connection is", "connections are");
        most(tuple.established).then(|| format!("{open} open at the same time"))
    }

    fn advice(&self) -> Vec<Advice> {
        let Self { seen, ends, tuple, .. } = self;
        let waits = tuple.waiting() >= 0.5;
        if tuple.capacity == 0 {
            return remedies::no_port_at_all(seen);
        }
        let flow = self.flow.unwrap_or(Flow {
            rate: 0.0,
            open_s: 0.0,
            closes_first: if waits { 1.0 } else { 0.0 },
            time_wait_s: seen.held_by_time_wait_s(ends),
        });
        let need = remedies::Need {
            seen,
            around: self.around,
            ends,
            capacity: tuple.capacity,
            flow,
            measured: self.flow.is_some(),
        };
        if waits { need.of_time_waits() } else { need.of_open_connections() }
    }
}

/// `nginx opens`, or `programs open` if the process is not known; `wants` and `want` if calls fail.
fn wants(activity: &Activity) -> String {
    let caller = activity.caller.as_ref().filter(|it| !it.name.is_empty());
    let failing = activity.exhausted() > 0;
    match (caller, failing) {
        (Some(it), true) => format!("{} wants", it.name),
        (Some(it), false) => format!("{} opens", it.name),
        (None, true) => "programs want".to_owned(),
        (None, false) => "programs open".to_owned(),
    }
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then(|| rounded(value))
}

/// A finding for each address at which bind(address, 0) finds no port (critical: a call failed, or 95 % of the ports are taken),
/// or soon finds none (a warning: 80 %).
pub(super) fn bound(seen: &Seen) -> Vec<Finding> {
    seen.bound.iter().filter_map(|it| of_address(seen, it)).collect()
}

fn of_address(seen: &Seen, bound: &BoundAddress) -> Option<Finding> {
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    let share = |(in_use, capacity): (u64, u32)| in_use as f64 / f64::from(capacity.max(1));
    let saturation = bound.ports.map(share);
    let severity = match (bound.failed, saturation) {
        (1.., _) | (_, Some(FULL..)) => Severity::Critical,
        (_, Some(NEARLY_FULL..)) => Severity::Warning,
        _ => return None,
    };
    let address = std::net::SocketAddr::new(ip(bound.address), 0);
    let subject = Subject::Address { place: seen.place.clone(), address };
    let mut parts = Vec::new();
    if let Some((in_use, capacity)) = bound.ports {
        let (in_use, capacity) = (number(in_use), number(capacity.into()));
        parts.push(format!("{in_use} of {capacity} ports are bound at this address"));
    }
    if bound.failed > 0 {
        let (failed, time) = (number(bound.failed), seconds(bound.seconds));
        let who = bound.caller.as_ref().map(|it| format!(" ({})", it.name)).unwrap_or_default();
        parts.push(format!("{failed} bind() of port 0 failed in {time}{who}"));
    }
    let finding = Finding::new(Id::PortsExhausted, severity, subject, parts.join("; "))
        .with("ports.in_use", json!(bound.ports.map(|(in_use, _)| in_use)))
        .with("ports.capacity", json!(bound.ports.map(|(_, capacity)| capacity)))
        .with("saturation", json!(saturation.map(rounded)))
        .with("failed", bound.failed)
        .because("bind(address, 0) chooses a port for all destinations at once".to_owned())
        .verify_by(seen.look_again())
        .but_not(NOT);
    let what = "let the program set IP_BIND_ADDRESS_NO_PORT before bind() (nginx does; Squid from 6.0.1 on)";
    let gain = format!("{} ports towards each destination", number(seen.now.usable.into()));
    let spread = remedies::spread(seen, None, "--rebind ", "");
    Some(finding.advise([Advice::new(what, gain), spread]))
}

#[cfg(test)]
mod tests;
