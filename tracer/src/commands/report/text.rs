//! The report as a text for people.

use std::collections::HashMap;

use super::{
    outcome::{Report, Worst},
    place::{RangeUse, Where},
};
use crate::format::{
    losses,
    table::{BIND, CRITICAL, HIGH, SLOW},
    text,
};

/// How the cells of a column are aligned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Side {
    Left,
    Right,
}

use Side::{Left, Right};

/// The report as lines of text, each with a newline, without control characters of what the recording names.
pub(super) fn render(report: &Report) -> String {
    let mut out = String::new();
    let notes = report.notes.iter().map(|note| ("note", note.to_string()));
    for (name, value) in head(report).into_iter().chain(notes) {
        out.extend([&format!("{name:<13}"), &*text::line(&value), "\n"]);
    }
    tuples(&mut out, report);
    advice(&mut out, report);
    failures(&mut out, report);
    losses(&mut out, report);
    if !report.limits.is_empty() {
        out.push('\n');
    }
    for limit in &report.limits {
        out.extend(["limit reached: ", &*text::line(limit), "\n"]);
    }
    if let Some(incomplete) = incomplete(report) {
        out.extend(["\n", &*text::line(&incomplete), "\n"]);
    }
    out
}

fn head(report: &Report) -> Vec<(&'static str, String)> {
    let known = |text: &str| if text.is_empty() { "not known".to_owned() } else { text.to_owned() };
    let mut head = vec![
        (
            "recording",
            format!(
                "{} to {} ({}), {} lines, {} readings{}",
                short(&report.begin),
                short(&report.end),
                span(report.duration_s),
                report.lines,
                report.readings,
                if report.runs > 1 { format!(", {} runs", report.runs) } else { String::new() },
            ),
        ),
        (
            "host",
            format!(
                "{}, Linux {}, tracer {}, backend {}{}",
                known(&report.host),
                known(&report.kernel),
                known(&report.version),
                known(&report.backend),
                report.range.as_ref().map(|range| format!(", ports {range}")).unwrap_or_default(),
            ),
        ),
    ];
    if !report.filter.is_empty() {
        let what =
            "tuples and single events passed it; failures by cause and losses are the whole host's";
        head.push(("filter", format!("{}: {what}", report.filter)));
    }
    head.extend(report.degraded.iter().map(|why| ("limitations", why.clone())));
    head.push(("out of ports", first(report)));
    if report.readings > 0 {
        let peak = report.peak.map(|share| {
            let mark = sign(share);
            format!("{} % of a tuple's ports in use {mark}", percent(share)).trim_end().to_owned()
        });
        head.push((
            "peak",
            peak.unwrap_or_else(|| "not known: no capacity in the recording".to_owned()),
        ));
        let above = span(report.above_s);
        head.push(("above 45 %", format!("connects to some tuple were slow for {above}")));
    }
    if let Some(slow) = &report.slowest {
        head.push((
            "port search",
            format!(
                "p99 up to {}{} ({}, {})",
                if slow.p99_at_least { "≥" } else { "" },
                duration(slow.p99_ns),
                tuple(report, &slow.at),
                short(&slow.ts)
            ),
        ));
    }
    head
}

/// When, where and by whom the first call found no port; `never`: the recording has no such call.
fn first(report: &Report) -> String {
    let Some(first) = &report.first else { return "never".to_owned() };
    let when = if first.source == "event" { "first at" } else { "first before" };
    let who = match (&first.comm, first.pid) {
        (Some(comm), Some(pid)) => format!(" by {comm} ({pid})"),
        (Some(comm), None) => format!(" by {comm}"),
        (None, _) => String::new(),
    };
    let what = if first.call == "bind" { "bind() to " } else { "" };
    let ports = match (first.in_use, first.capacity) {
        (Some(_), Some(0)) => format!(": there are no ports for it{}", without(&first.of)),
        (Some(in_use), Some(capacity)) => format!(": {in_use} of {capacity} ports in use"),
        (Some(in_use), None) => format!(": {in_use} ports in use"),
        (None, _) => String::new(),
    };
    let waiting = first.time_wait.map(|count| format!(", {count} in TIME_WAIT"));
    let waiting = waiting.unwrap_or_default();
    format!("{when} {}, {what}{}{who}{ports}{waiting}", first.ts, tuple(report, &first.at))
}

/// Why there are no ports: ` (of 40000-40015: 16 reserved, 0 bound)`; empty: the range is not known.
fn without(of: &RangeUse) -> String {
    match (&of.range, of.reserved, of.bound) {
        (Some(range), Some(reserved), Some(bound)) => {
            format!(" (of {range}: {reserved} reserved, {bound} bound)")
        }
        _ => String::new(),
    }
}

fn tuples(out: &mut String, report: &Report) {
    if report.tuples.is_empty() {
        return;
    }
    let shown = report.tuples.len();
    let total = report.tuples_total;
    let title =
        if shown < total { format!("Fullest {shown} of {total} tuples") } else { "Tuples".into() };
    let mut header = vec![
        "SRC", "DST:PORT", "%PEAK", "AT", "PORTS", "TW", "OF", ">45 %", ">80 %", ">95 %", "FAILED",
        "COMM",
    ];
    let mut sides =
        vec![Left, Left, Right, Left, Right, Right, Right, Right, Right, Right, Right, Left];
    let mut rows: Vec<_> = report.tuples.iter().map(cells).collect();
    if are_alike(&report.tuples) {
        header.insert(NETNS, "NETNS");
        sides.insert(NETNS, Left);
        for (row, worst) in rows.iter_mut().zip(&report.tuples) {
            row.insert(NETNS, netns(&worst.at));
        }
    }
    table(out, &title, (&header, &sides), rows);
}

/// What helps each tuple that ran out of ports, or was about to.
fn advice(out: &mut String, report: &Report) {
    let advised = report.tuples.iter().filter_map(|it| Some((it, it.advice.as_ref()?)));
    let lines: Vec<_> = advised
        .flat_map(|(worst, advice)| {
            let about = format!("  {}: {}", tuple(report, &worst.at), advice.what());
            let command = advice.command().map(|command| format!("    {command}"));
            [Some(about), command]
        })
        .flatten()
        .collect();
    if lines.is_empty() {
        return;
    }
    out.push_str("\nWhat to do first (tracer doctor --from FILES says more)\n");
    for line in lines {
        out.extend([&*text::line(&line), "\n"]);
    }
}

/// Index of the column with the network namespace, if there is one.
const NETNS: usize = 11;

/// Whether at least two tuples have the same addresses and port, in different network namespaces.
fn are_alike(tuples: &[Worst]) -> bool {
    let mut seen = HashMap::new();
    tuples.iter().any(|Worst { at, .. }| {
        let key = (&at.source, &at.destination, at.port, at.bind);
        seen.insert(key, at.netns).is_some_and(|other| other != at.netns)
    })
}

/// The namespace's name, or if it has none, its number.
fn netns(at: &Where) -> String {
    at.netns_name.clone().unwrap_or_else(|| at.netns.to_string())
}

fn cells(worst: &Worst) -> Vec<String> {
    let unknown = || "-".to_owned();
    vec![
        worst.at.source.clone(),
        destination(&worst.at).unwrap_or_else(unknown),
        worst
            .saturation
            .map_or_else(unknown, |share| format!("{}{:>2}", percent(share), sign(share))),
        worst.ts.as_deref().map_or_else(unknown, short),
        worst.in_use.to_string(),
        worst.time_wait.to_string(),
        worst.capacity.map_or_else(unknown, |capacity| match capacity {
            0 => format!("0{}", without(&worst.of)),
            capacity => capacity.to_string(),
        }),
        span(worst.above_45),
        span(worst.above_80),
        span(worst.above_95),
        worst.failures.to_string(),
        worst.comm.clone().unwrap_or_else(unknown),
    ]
}

fn failures(out: &mut String, report: &Report) {
    if report.by_cause.is_empty() && report.by_process.is_empty() {
        out.push_str("\nNo call failed.\n");
        return;
    }
    let sides = [Right, Left];
    let rows = report.by_cause.iter().map(|one| vec![one.count.to_string(), one.cause.to_owned()]);
    let title = match report.by_cause_source {
        "totals" => "Failures of the host by cause, from its totals",
        "events" => "Failures by cause, from single events",
        _ => {
            "Failures by cause, from the host's totals, or from single events where there are none"
        }
    };
    table(out, title, (&["COUNT", "CAUSE"], &sides), rows.collect());
    let rows = report.by_process.iter().map(|one| {
        let comm = if one.comm.is_empty() { "-" } else { &one.comm };
        vec![one.count.to_string(), comm.to_owned()]
    });
    let title = match report.by_process_source {
        "events" => "Failures by process, from single events",
        _ => {
            "Failures by process, from the tuples' counters, by who connected last (single events are missing)"
        }
    };
    table(out, title, (&["COUNT", "COMM"], &sides), rows.collect());
}

fn losses(out: &mut String, report: &Report) {
    let mut rows: Vec<_> =
        report.lost.iter().map(|(reason, count)| vec![count.to_string(), reason.clone()]).collect();
    if report.missing > 0 {
        rows.push(vec![report.missing.to_string(), "lines missing in the files".to_owned()]);
    }
    if report.unreadable > 0 {
        let first = report.first_unreadable.as_deref().unwrap_or_default();
        let what = format!("lines that cannot be read; the first: {first}");
        rows.push(vec![report.unreadable.to_string(), what]);
    }
    if rows.is_empty() {
        out.push_str("\nNothing was lost.\n");
        return;
    }
    table(out, "Losses", (&["COUNT", "WHAT"], &[Right, Left]), rows);
}

/// What is missing in the recording because of losses or unreadable lines, in one line for people; `None`: nothing.
pub(super) fn incomplete(report: &Report) -> Option<String> {
    let lost = losses::sentence(report.lost.iter().map(|(reason, count)| (&**reason, *count)));
    let lines = [
        (report.missing, "lines are missing in the files"),
        (report.unreadable, "lines cannot be read"),
    ];
    let lines = lines.into_iter().filter(|(count, _)| *count > 0);
    let lines = lines.map(|(count, what)| format!("{count} {what}"));
    let parts: Vec<_> = lines.chain(lost).collect();
    (!parts.is_empty()).then(|| format!("incomplete: {}", parts.join("; ")))
}

/// Adds a title, a header and the rows; nothing if there are no rows.
fn table(out: &mut String, title: &str, head: (&[&str], &[Side]), rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    let (header, sides) = head;
    let header: Vec<_> = header.iter().map(|&name| name.to_owned()).collect();
    let safe = |cell: String| text::line(&cell).into_owned();
    let rows: Vec<Vec<_>> = std::iter::once(header)
        .chain(rows)
        .map(|row| row.into_iter().map(safe).collect())
        .collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..sides.len()).map(width).collect();
    out.extend(["\n", title, "\n"]);
    for row in &rows {
        let cells = row.iter().zip(sides).zip(&widths).map(|((cell, side), width)| match side {
            Left => format!("{cell:<width$}"),
            Right => format!("{cell:>width$}"),
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        out.push_str("  ");
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

/// A tuple, with its network namespace if the rows have that column.
fn tuple(report: &Report, at: &Where) -> String {
    let destination = destination(at).map(|destination| format!(" to {destination}"));
    let netns = are_alike(&report.tuples).then(|| format!(" in {}", netns(at)));
    [at.source.clone(), destination.unwrap_or_default(), netns.unwrap_or_default()].concat()
}

fn destination(at: &Where) -> Option<String> {
    if at.bind {
        return Some(BIND.to_owned());
    }
    let (address, port) = (at.destination.as_ref()?, at.port?);
    Some(if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    })
}

/// A timestamp without the fraction of its second.
fn short(ts: &str) -> String {
    ts.split_once('.').map_or_else(|| ts.to_owned(), |(seconds, _)| format!("{seconds}Z"))
}

/// A share in per cent, rounded down.
fn percent(share: f64) -> String {
    format!("{:.1}", (share * 1000.0).floor() / 10.0)
}

/// The mark of a saturation, as in `tracer top`; empty below 45 %.
fn sign(share: f64) -> &'static str {
    match share {
        CRITICAL.. => "!!",
        HIGH.. => "!",
        SLOW.. => "~",
        _ => "",
    }
}

/// A time in seconds, minutes or hours: `0`, `12.3s`, `15m`, `2.5h`.
fn span(seconds: f64) -> String {
    match seconds {
        0.0 => "0".to_owned(),
        ..120.0 => format!("{seconds:.1}s"),
        ..7200.0 => format!("{:.0}m", seconds / 60.0),
        _ => format!("{:.1}h", seconds / 3600.0),
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with four digits")]
fn duration(ns: u64) -> String {
    match ns {
        0..1_000_000 => format!("{:.1} µs", ns as f64 / 1e3),
        _ => format!("{:.1} ms", ns as f64 / 1e6),
    }
}
