//! `slow_search`: connect() tries every port of one half of the range before it finds a free one in the other half.

use std::fmt::Write as _;

use serde_json::json;

use super::{
    Around, Seen, ports, remedies,
    text::{duration_ns, number, percent, rate, rounded},
};
use crate::doctor::{
    activity::{Activity, Search},
    finding::{Certainty, Finding, Id, Severity},
    flow::FAST_SHARE,
    tuples::{Ends, Tuple},
};

/// Share of a CPU that the searches of one tuple may take before they are critical.
const CPU: f64 = 0.10;
/// How many times longer than in the namespace's empty tuples a search may take before it is critical.
const TIMES_LONGER: f64 = 20.0;
/// A tuple with less in use than this share of its ports is empty: its searches find a port at once.
const EMPTY: f64 = 0.10;

/// A finding for each tuple that is not exhausted and is slow or soon will be:
///
/// - Every port of the first parity is in use, so that connect() tries all of these before it finds one. Good to know; critical
///   if the searches take a tenth of a CPU, or 20 times as long as in empty tuples. None if the window saw no connection of it
///   opened.
/// - 45 % of its ports are in use and more every second, and its flow needs more than 45 %: a warning.
pub(super) fn slow(seen: &Seen, around: &Around) -> Vec<Finding> {
    let quick = quick_ns(seen);
    let cases =
        seen.now.by_ends.iter().filter(|(ends, tuple)| !ports::is_exhausted(seen, ends, tuple));
    cases.filter_map(|(ends, tuple)| of_tuple(seen, around, (ends, tuple), quick)).collect()
}

/// How long a search takes in the empty tuples of the namespace, in ns: the least of their medians. `None`: none was watched.
fn quick_ns(seen: &Seen) -> Option<f64> {
    let empty = seen
        .activity
        .iter()
        .filter(|(ends, _)| seen.now.by_ends.get(ends).is_none_or(|it| it.saturation() < EMPTY));
    empty.filter_map(|(_, activity)| Some(activity.search_ns()?.median)).reduce(f64::min)
}

fn of_tuple(
    seen: &Seen,
    around: &Around,
    (ends, tuple): (&Ends, &Tuple),
    quick: Option<f64>,
) -> Option<Finding> {
    let activity = seen.activity.get(ends);
    let flow = seen.flow(ends);
    let search = activity.and_then(Activity::search_ns);
    let cpu = search.zip(flow).map(|(search, flow)| flow.rate * search.mean / 1e9);
    let longer = search.zip(quick).map(|(search, quick)| search.median / quick);
    let costly = cpu.is_some_and(|it| it >= CPU) || longer.is_some_and(|it| it >= TIMES_LONGER);
    let severity = if tuple.first_half_full && costly {
        Severity::Critical
    } else if fills(seen, ends, tuple) {
        Severity::Warning
    } else if tuple.first_half_full && activity.is_none_or(|it| it.opened > 0) {
        Severity::Info
    } else {
        return None;
    };
    let what = what(tuple, search, flow.map(|it| it.rate), cpu);
    let certainty = if search.is_some() { Certainty::Measured } else { Certainty::Inferred };
    let finding = Finding::new(Id::SlowSearch, severity, seen.tuple(ends), what)
        .sure(certainty)
        .with("ports.in_use", tuple.in_use())
        .with("ports.capacity", tuple.capacity)
        .with("saturation", rounded(tuple.saturation()))
        .with("search.mean_ms", json!(search.map(|it| rounded(it.mean / 1e6))))
        .with("search.median_ms", json!(search.map(|it| rounded(it.median / 1e6))))
        .with("search.cpu", json!(cpu.map(rounded)))
        .because(tuple.first_half_full.then(|| {
            "the kernel tries the ports of one parity first, and all of these are taken".to_owned()
        }));
    let waits = tuple.waiting() >= 0.5;
    let advice = flow.map(|flow| {
        let need =
            remedies::Need { seen, around, ends, capacity: tuple.capacity, flow, measured: true };
        if waits { need.of_time_waits() } else { need.of_open_connections() }
    });
    let advice = advice.unwrap_or_else(|| vec![remedies::spread(seen, Some(ends), "", "")]);
    Some(finding.advise(advice).verify_by(seen.look_again()))
}

/// Whether nearly half of the ports are in use, and more every second.
fn fills(seen: &Seen, ends: &Ends, tuple: &Tuple) -> bool {
    let growth = seen.activity.get(ends).map_or(0.0, |it| it.growth);
    // The flow stays below the half: it grows only until its first TIME_WAITs end.
    let enough = FAST_SHARE * f64::from(tuple.capacity);
    growth > 0.0
        && tuple.saturation() >= FAST_SHARE
        && seen.flow(ends).is_some_and(|flow| flow.ports() > enough)
}

fn what(tuple: &Tuple, search: Option<Search>, opened: Option<f64>, cpu: Option<f64>) -> String {
    let mut what = format!(
        "{} of {} ports in use ({})",
        number(tuple.in_use().into()),
        number(tuple.capacity.into()),
        percent(tuple.saturation())
    );
    if let Some(search) = search {
        write!(what, "; a port search takes {}", duration_ns(search.mean)).unwrap_or_default();
    }
    if let (Some(opened), Some(cpu)) = (opened, cpu) {
        write!(what, ": {} of a CPU at {} connections/s", percent(cpu), rate(opened))
            .unwrap_or_default();
    }
    what
}

#[cfg(test)]
mod tests;
