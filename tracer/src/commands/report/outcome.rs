//! [`Report`]: a report as one value. Serialized, it is the JSON form.

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use serde::Serialize;
use tracer_common::{Cause, TupleKey};

use super::{
    notes::{limits, notes},
    place::{RangeUse, Where},
    summary::{Exhaustion, Slowest, Summary},
    tally::Tally,
    to_do::ToDo,
};
use crate::{
    doctor::recorded::{Advised, Cases},
    format::{text::until_nul, timestamp::Timestamp},
    ledger::stats::P99,
    recording::Reader,
    view::reading::Call,
};

/// A report on a recording: what ran out of ports, when, and which calls failed. Times are texts in UTC, such as
/// `2026-11-21T02:44:53.123456789Z`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// The time of the first line.
    pub(super) begin: String,
    /// The time of the last line.
    pub(super) end: String,
    /// From the first line to the last one, in seconds.
    pub(super) duration_s: f64,
    /// Name of the host, as the newest `tracer.start` says it; empty: not known.
    #[serde(rename = "host.name")]
    pub(super) host: String,
    /// Its kernel release; empty: not known.
    pub(super) kernel: String,
    /// The version of its tracer; empty: not known.
    pub(super) version: String,
    /// The kernel backend of its tracer; empty: not known.
    pub(super) backend: String,
    /// What did not work as well as it could, one text each; empty: nothing.
    pub(super) degraded: Vec<String>,
    /// The port range of the namespace in which the tracer was started, as `32768-60999`; absent: not known.
    #[serde(rename = "ports.range", skip_serializing_if = "Option::is_none")]
    pub(super) range: Option<String>,
    /// The filter of the recording, as command-line options: it has only tuples and single events that pass the filter; empty
    /// (left out of the JSON): there was none. Failures by cause that come from totals, and losses, are always those of the whole
    /// host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) filter: String,
    /// How many lines were read.
    pub(super) lines: u64,
    /// How many readings of the tuples it has.
    pub(super) readings: u64,
    /// How many times a tracer was started for it, each with a `tracer.start` (except perhaps the first).
    pub(super) runs: u64,
    /// The first call that found no port; absent: the recording has none.
    #[serde(rename = "exhaustion.first", skip_serializing_if = "Option::is_none")]
    pub(super) first: Option<First>,
    /// Saturation of the fullest tuple at its peak: 1 is full; absent: the recording has no reading with a capacity.
    #[serde(rename = "ports.saturation.peak", skip_serializing_if = "Option::is_none")]
    pub(super) peak: Option<f64>,
    /// How long at least one tuple had a saturation of 45 % or more, in seconds.
    #[serde(rename = "time.above_45_s")]
    pub(super) above_s: f64,
    /// The slowest port searches of a reading; absent: none were recorded.
    #[serde(rename = "search.slowest", skip_serializing_if = "Option::is_none")]
    pub(super) slowest: Option<Slow>,
    /// The tuples that were fullest at their peak, fullest first; at most as many as the user asked for.
    pub(super) tuples: Vec<Worst>,
    /// How many tuples there were. Tuples that were forgotten in between can count several times.
    #[serde(rename = "tuples.total")]
    pub(super) tuples_total: usize,
    /// Failed calls by cause, most first, without causes that did not occur.
    #[serde(rename = "failures.by_cause")]
    pub(super) by_cause: Vec<ByCause>,
    /// Where `by_cause` is from: `totals` (of the whole host), `events`, or `totals and events` (of different runs).
    #[serde(rename = "failures.by_cause.source")]
    pub(super) by_cause_source: &'static str,
    /// Failed calls by the name of the process, most first.
    #[serde(rename = "failures.by_process")]
    pub(super) by_process: Vec<ByProcess>,
    /// Where `by_process` is from: `events`; or `counters` of the tuples, because events are missing.
    #[serde(rename = "failures.by_process.source")]
    pub(super) by_process_source: &'static str,
    /// What the tracer could not record, by the name of the loss.
    pub(super) lost: BTreeMap<String, u64>,
    /// How many lines are missing, by gaps in their sequence numbers.
    #[serde(rename = "lines.missing")]
    pub(super) missing: u64,
    /// How many lines, or ends of compressed files, could not be read.
    #[serde(rename = "lines.unreadable")]
    pub(super) unreadable: u64,
    /// Where the first of `unreadable` is, and why it could not be read; absent: there is none.
    #[serde(rename = "lines.unreadable.first", skip_serializing_if = "Option::is_none")]
    pub(super) first_unreadable: Option<String>,
    /// What was left out because a limit of memory was reached, one text each; absent: nothing was.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) limits: Vec<String>,
    /// What else the report lacks, and how to record it, one text each; empty: nothing.
    pub(super) notes: Vec<Cow<'static, str>>,
}

/// The first call that found no port, with the ports that its tuple had then. Absent values are not known.
#[derive(Debug, Serialize)]
pub(super) struct First {
    /// When it failed, or the time of the reading by which it had failed.
    pub(super) ts: String,
    /// `connect` or `bind`.
    pub(super) call: &'static str,
    /// The tuple; of a bind(), its address.
    #[serde(flatten)]
    pub(super) at: Where,
    /// Id of the process; absent: not known.
    #[serde(rename = "process.pid", skip_serializing_if = "Option::is_none")]
    pub(super) pid: Option<u32>,
    /// Name of the process.
    #[serde(rename = "process.executable.name", skip_serializing_if = "Option::is_none")]
    pub(super) comm: Option<String>,
    /// Ports in use, those in TIME_WAIT included; absent: not known.
    #[serde(rename = "ports.in_use", skip_serializing_if = "Option::is_none")]
    pub(super) in_use: Option<u64>,
    /// Ports in TIME_WAIT; absent: not known.
    #[serde(rename = "ports.time_wait", skip_serializing_if = "Option::is_none")]
    pub(super) time_wait: Option<u64>,
    /// Ports that the tuple could hold; absent: not known.
    #[serde(rename = "ports.capacity", skip_serializing_if = "Option::is_none")]
    pub(super) capacity: Option<u32>,
    /// The range of its namespace.
    #[serde(flatten)]
    pub(super) of: RangeUse,
    /// `event`: the call was recorded. `counters`: the call was between the reading at `ts` and the reading before it.
    pub(super) source: &'static str,
}

/// The reading of a tuple that has the highest 99th percentile of the durations of port searches.
#[derive(Debug, Serialize)]
pub(super) struct Slow {
    /// The 99th percentile, in ns.
    #[serde(rename = "search.p99_ns")]
    pub(super) p99_ns: u64,
    /// Whether it is at least that: it is in the last bucket of the histogram, which has no upper end.
    #[serde(rename = "search.p99_at_least", skip_serializing_if = "std::ops::Not::not")]
    pub(super) p99_at_least: bool,
    /// The time of the reading.
    pub(super) ts: String,
    /// The tuple.
    #[serde(flatten)]
    pub(super) at: Where,
}

/// One of the fullest tuples, with its ports at its peak. A tuple that is in no reading has only failures, and 0 for the rest.
#[derive(Debug, Serialize)]
pub(super) struct Worst {
    /// The tuple, or the address at which bind(address, 0) took ports.
    #[serde(flatten)]
    pub(super) at: Where,
    /// When it was fullest; absent: it is in no reading, only in failures.
    #[serde(rename = "peak.ts", skip_serializing_if = "Option::is_none")]
    pub(super) ts: Option<String>,
    /// 1 is full; absent: the capacity is not known.
    #[serde(rename = "ports.saturation.peak", skip_serializing_if = "Option::is_none")]
    pub(super) saturation: Option<f64>,
    /// Ports in use, those in TIME_WAIT included.
    #[serde(rename = "ports.in_use.peak")]
    pub(super) in_use: u64,
    /// Ports in TIME_WAIT.
    #[serde(rename = "ports.time_wait")]
    pub(super) time_wait: u64,
    /// Ports that it could hold; absent: not known.
    #[serde(rename = "ports.capacity", skip_serializing_if = "Option::is_none")]
    pub(super) capacity: Option<u32>,
    /// The range of its namespace.
    #[serde(flatten)]
    pub(super) of: RangeUse,
    /// How long its saturation was 45 % or more, in seconds.
    #[serde(rename = "time.above_45_s")]
    pub(super) above_45: f64,
    /// How long its saturation was 80 % or more, in seconds.
    #[serde(rename = "time.above_80_s")]
    pub(super) above_80: f64,
    /// How long its saturation was 95 % or more, in seconds.
    #[serde(rename = "time.above_95_s")]
    pub(super) above_95: f64,
    /// Failed connect() calls: by the tuple's counters or by single events, whichever is more.
    #[serde(rename = "connect.failures")]
    pub(super) failures: u64,
    /// The process that connected last; absent: not known.
    #[serde(rename = "process.executable.name", skip_serializing_if = "Option::is_none")]
    pub(super) comm: Option<String>,
    /// What to do first; absent: it did not run out of ports and was not about to, or nothing is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) advice: Option<ToDo>,
}

/// How many calls failed for a cause ([`Cause::name`]).
#[derive(Debug, Serialize)]
pub(super) struct ByCause {
    pub(super) cause: &'static str,
    pub(super) count: u64,
}

/// How many calls of processes of a name failed.
#[derive(Debug, Serialize)]
pub(super) struct ByProcess {
    /// Name of the process; empty: not known.
    #[serde(rename = "process.executable.name")]
    pub(super) comm: String,
    pub(super) count: u64,
}

impl Report {
    /// The report on a recording that was read to its end by `reader`, with at most `limit` tuples. `summary`: finished
    /// ([`Summary::finish`]); `advised`: what helps its tuples.
    pub(super) fn new(summary: Summary, reader: &Reader, advised: &Advised, limit: usize) -> Self {
        let (first, last) = summary.span.unwrap_or_default();
        // The first and last line can be of kinds that the summary does not use.
        let (begin, end) = reader.span();
        let begin = if begin == 0 { first } else { begin };
        let end = last.max(end);
        let notes = notes(&summary);
        let mut limits = limits(&summary);
        if advised.left_out > 0 {
            limits.push("too many tuples: what to do is not known for all of them".to_owned());
        }
        let forgotten = usize::try_from(summary.forgotten).unwrap_or(usize::MAX);
        let tuples_total = summary.tuples.len().saturating_add(forgotten);
        let (by_process, by_process_source) = by_process(&summary);
        let about = summary.about;
        let namespaces = &summary.namespaces;
        let unreadable = reader.first_unreadable().map(ToString::to_string);
        let causes = Cause::ALL.into_iter().zip(summary.by_cause.counts);
        let mut by_cause: Vec<_> = causes
            .filter(|(_, count)| *count > 0)
            .map(|(cause, count)| ByCause { cause: cause.name(), count })
            .collect();
        by_cause.sort_by_key(|one| Reverse(one.count));
        let peaks = summary.tuples.values().filter_map(|tally| tally.peak.saturation);
        Self {
            begin: ts(begin),
            end: ts(end),
            duration_s: seconds(end.saturating_sub(begin)),
            host: about.host,
            kernel: about.kernel,
            version: about.version,
            backend: about.backend,
            degraded: about.degraded,
            range: about.range.map(|(low, high)| format!("{low}-{high}")),
            filter: about.filter,
            lines: reader.lines(),
            readings: summary.readings,
            runs: summary.runs,
            first: summary.first.map(|first| {
                let limits = summary.tuples.get(&first.key).and_then(|tally| tally.peak.limits);
                First { of: limits.into(), ..First::new(first, namespaces) }
            }),
            peak: peaks.reduce(f64::max).map(rounded),
            above_s: seconds(summary.above),
            slowest: summary.slowest.map(|slowest| Slow::new(slowest, namespaces)),
            tuples: worst(summary.tuples.iter(), namespaces, &advised.cases, limit),
            tuples_total,
            by_cause,
            by_cause_source: match (summary.by_cause.from_totals, summary.by_cause.from_events) {
                (true, false) => "totals",
                (true, true) => "totals and events",
                (false, _) => "events",
            },
            by_process,
            by_process_source,
            lost: summary.lost.into_map(),
            missing: reader.missing(),
            unreadable: reader.unreadable(),
            first_unreadable: unreadable,
            limits,
            notes,
        }
    }
}

/// Failed calls by the name of the process (empty: not known), most first, and where the numbers are from: `events` if at
/// least as many failures of connect() were recorded as the tuples counted; else `counters`, because events are missing. The
/// counters have no failures of bind(), and count all failures of a tuple between two readings for the process that connected
/// last.
fn by_process(summary: &Summary) -> (Vec<ByProcess>, &'static str) {
    let sum = |sum: u64, count: &u64| sum.saturating_add(*count);
    let counted: u64 = summary.by_tuple.values().fold(0, sum);
    let exact = summary.connects >= counted;
    let counts = if exact { &summary.by_event } else { &summary.by_tuple };
    let mut list: Vec<_> = counts
        .iter()
        .map(|(comm, count)| ByProcess { comm: name(comm).unwrap_or_default(), count: *count })
        .collect();
    list.sort_by(|one, other| (other.count, &one.comm).cmp(&(one.count, &other.comm)));
    (list, if exact { "events" } else { "counters" })
}

/// At most `limit` tuples: those that were fullest at their peak, fullest first; of equally full ones, those with the most
/// failures first, then those with the most ports in use at their peak. A tuple whose capacity is not known counts as empty.
fn worst<'a>(
    tuples: impl Iterator<Item = (&'a TupleKey, &'a Tally)>,
    namespaces: &HashMap<u32, String>,
    cases: &Cases,
    limit: usize,
) -> Vec<Worst> {
    let mut tuples: Vec<_> = tuples.collect();
    let rank = |tally: &Tally| {
        let saturation = tally.peak.saturation.unwrap_or(0.0);
        (saturation, tally.failed.max(tally.events), tally.peak.in_use)
    };
    tuples.sort_by(|(key, one), (other_key, other)| {
        let ((share, failed, ports), (other_share, other_failed, other_ports)) =
            (rank(one), rank(other));
        let numbers = (other_failed, other_ports).cmp(&(failed, ports));
        other_share.total_cmp(&share).then(numbers).then(key.cmp(other_key))
    });
    let shown = tuples.into_iter().take(limit);
    shown
        .map(|(key, tally)| Worst {
            advice: ToDo::new(cases, key),
            ..Worst::new(key, tally, namespaces)
        })
        .collect()
}

impl Worst {
    fn new(key: &TupleKey, tally: &Tally, namespaces: &HashMap<u32, String>) -> Self {
        let peak = tally.peak;
        let [above_45, above_80, above_95] = tally.above.map(seconds);
        Self {
            at: Where::new(key, namespaces),
            ts: (peak.wall_ns != 0).then(|| ts(peak.wall_ns)),
            saturation: peak.saturation.map(rounded),
            in_use: peak.in_use,
            time_wait: peak.time_wait,
            capacity: peak.capacity,
            of: peak.limits.into(),
            above_45,
            above_80,
            above_95,
            failures: tally.failed.max(tally.events),
            comm: name(&tally.comm),
            advice: None,
        }
    }
}

impl First {
    fn new(first: Exhaustion, namespaces: &HashMap<u32, String>) -> Self {
        Self {
            ts: ts(first.wall_ns),
            call: match first.call {
                Call::Connect => "connect",
                Call::Bind => "bind",
            },
            at: Where::new(&first.key, namespaces),
            pid: (first.pid != 0).then_some(first.pid),
            comm: name(&first.comm),
            in_use: first.in_use,
            time_wait: first.time_wait,
            capacity: first.capacity,
            of: RangeUse::default(),
            source: if first.exact { "event" } else { "counters" },
        }
    }
}

impl Slow {
    fn new(slowest: Slowest, namespaces: &HashMap<u32, String>) -> Self {
        let P99 { ns: p99_ns, at_least: p99_at_least } = slowest.p99;
        let at = Where::new(&slowest.key, namespaces);
        Self { p99_ns, p99_at_least, ts: ts(slowest.wall_ns), at }
    }
}

/// A time, in ns since 1970, as text: `2026-11-21T02:44:53.123456789Z`.
pub(super) fn ts(ns: u64) -> String {
    String::from_utf8_lossy(&Timestamp::default().text(ns)).into_owned()
}

fn name(comm: &[u8; 16]) -> Option<String> {
    let comm = until_nul(comm);
    (!comm.is_empty()).then(|| String::from_utf8_lossy(comm).into_owned())
}

/// ns as seconds, cut to milliseconds.
#[expect(clippy::cast_precision_loss, reason = "2^53 ms are 285,000 years")]
fn seconds(ns: u64) -> f64 {
    (ns / 1_000_000) as f64 / 1e3
}

/// Rounds to six decimals.
fn rounded(share: f64) -> f64 {
    (share * 1e6).round() / 1e6
}
