//! Draws the view of tracer itself: its version and host, what limits it, what it costs, what it has lost.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    text::{Line, Span},
};

use super::{
    drawing::{self, wrapped},
    fmt::{count, width},
};
use crate::{
    format::text,
    view::{model::Model, theme::Theme},
};

/// The name of each loss, and what it means and what to do (`tracer/doc/losses.md` has more).
const LOSSES: &[(&str, &str)] = &[
    (
        "event_ring_full",
        "events came faster than tracer read them: their detail is missing, counts are right",
    ),
    (
        "events_limited",
        "one user had more failures a second than get an event each: all are counted",
    ),
    (
        "conns_share",
        "one user filled 8/9 of the table of held ports: more of its ports are not counted",
    ),
    (
        "tuples_share",
        "one user filled 8/9 of the table of tuples: more of its ports are not counted",
    ),
    (
        "binds_share",
        "one user filled 8/9 of the table of bound ports: its capacities are shown too large",
    ),
    (
        "touched_share",
        "one user bound very many ports: some that connect() cannot use count as free",
    ),
    ("conns_full", "table of held ports full: set a larger --max-conns"),
    ("tuples_full", "table of tuples full: set a larger --max-tuples"),
    ("binds_full", "table of bound ports full, capacities are too large: set a larger --max-binds"),
    ("attempts_full", "the callers of these connect() calls are not known; the calls are counted"),
    (
        "tombstones_full",
        "more sockets ended during the start than were noted; the comparison removes them",
    ),
    ("map_busy", "the kernel refused to change a table for the moment; the comparison corrects it"),
    ("read_failed", "a kernel structure could not be read: please report it"),
    ("no_cookie", "sockets without an identity are not counted: please report it"),
    (
        "hook_missed",
        "the kernel skipped a hook; the comparison with its sockets corrects the counts",
    ),
    ("output_full", "the disk is full: socket events were not written"),
    ("output_full_other", "the disk is full: tuple.stats and lost lines were not written"),
    ("failures_untold", "more failures in a second than the screen lists: all are counted"),
    ("undecodable", "this version does not know these records: please report it"),
];

const LABEL: usize = 18;

/// Draws the view into `area`, without its first [`Model::scroll`] lines; at the end, the last line stays at the bottom.
pub(super) fn draw(model: &Model, theme: Theme, area: Rect, buffer: &mut Buffer) {
    drawing::scrolled(buffer, area, &lines(model, area.width.into(), theme), model.scroll);
}

/// All lines of the view, wrapped to `room` columns; a line is wider if `room` is less than 28, or a word does not fit.
pub(super) fn lines(model: &Model, room: usize, theme: Theme) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let about = &model.about;
    let mut pair = |label: &str, text: String, style| {
        lines.extend(labelled(label, &text::line(&text), room, (theme.strong(), style)));
    };
    let plain = Style::new();
    pair("tracer", format!("{} on {}", known(&about.version), known(&about.host)), plain);
    pair("kernel", known(&about.kernel).to_owned(), plain);
    pair("backend", known(&about.backend).to_owned(), plain);
    if about.degraded.is_empty() {
        pair("limitations", "none".to_owned(), plain);
    }
    for (at, reason) in about.degraded.iter().enumerate() {
        pair(if at == 0 { "limitations" } else { "" }, reason.clone(), theme.warn());
    }
    cost(model, &mut pair);
    let reading = &model.reading;
    let losses: Vec<_> = reading.lost.iter().filter(|(_, lost)| *lost > 0).collect();
    if losses.is_empty() {
        pair("lost", "0: every event was recorded".to_owned(), plain);
    }
    for (reason, lost) in losses {
        let meaning = LOSSES.iter().find(|(name, _)| name == reason).map_or("", |(_, text)| text);
        pair(&text::line(reason), format!("{} lost. {meaning}", count(*lost)), theme.bad());
    }
    lines
}

fn cost(model: &Model, pair: &mut impl FnMut(&str, String, Style)) {
    let (own, plain) = (&model.reading.self_stats, Style::new());
    let live = model.is_live();
    if live || own.cpu_ns > 0 {
        let now = model.cpu_share.map(|share| format!("{:.1} % of a core, ", share * 100.0));
        let so_far = format!("{} so far", milliseconds(own.cpu_ns));
        pair("CPU", now.unwrap_or_default() + &so_far, plain);
    }
    if live || own.rss_kib > 0 {
        let without_ring = own.rss_kib.saturating_sub(own.ring_kib);
        let memory = format!("{}, and a ring buffer of {}", mib(without_ring), mib(own.ring_kib));
        pair("memory", memory, plain);
    }
    let programs = match own.programs_ns {
        Some(ns) => format!("{} so far, over all traced calls", milliseconds(ns)),
        None if live => "not measured (sysctl kernel.bpf_stats_enabled=1 turns it on)".to_owned(),
        None => "not in a recording".to_owned(),
    };
    pair("BPF programs", programs, plain);
    // 0 in a recording is taken to mean that the recording does not say it.
    let events = match own.seen {
        0 if !live => "not in a recording".to_owned(),
        seen => format!("{} seen, {} emitted", count(seen), count(own.emitted)),
    };
    pair("events", events, plain);
    let tuples = model.history.rows(model.window).count() as u64;
    pair("tuples", format!("{} hold ports, or did within the last minute", count(tuples)), plain);
    let drift = match own.drift {
        0 if !live => "not in a recording".to_owned(),
        0 => "0: counts match the kernel's sockets".to_owned(),
        drift => {
            format!("{}: corrected after a comparison with the kernel's sockets", count(drift))
        }
    };
    pair("drift", drift, plain);
}

fn known(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

fn milliseconds(ns: u64) -> String {
    let ms = ns / 1_000_000;
    if ms < 10_000 { format!("{} ms", count(ms)) } else { format!("{} s", count(ms / 1000)) }
}

fn mib(kib: u64) -> String {
    format!("{}.{} MiB", count(kib / 1024), kib % 1024 * 10 / 1024)
}

/// The lines of a label and, from column 18 on (the first is 0; after a wider label, later), a text, which is wrapped there.
/// `room`: columns for both; the text has at least 10, and a word that does not fit has a wider line. `bold`: the style of the
/// label; `style`: that of the text.
pub(super) fn labelled(
    label: &str,
    text: &str,
    room: usize,
    (bold, style): (Style, Style),
) -> Vec<Line<'static>> {
    let texts = wrapped(text, room.saturating_sub(LABEL).max(10), style);
    let mut lines = Vec::with_capacity(texts.len());
    for (at, line) in texts.into_iter().enumerate() {
        let label = if at == 0 { label } else { "" };
        let gap = " ".repeat(LABEL.saturating_sub(width(label)).max(1));
        let mut spans = vec![Span::styled(label.to_owned(), bold), Span::raw(gap)];
        spans.extend(line.spans.into_iter().map(|span| span.patch_style(style)));
        lines.push(Line::from(spans));
    }
    lines
}
