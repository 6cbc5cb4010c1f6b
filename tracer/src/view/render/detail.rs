//! Draws the details of one tuple: its usage, advice, forecast, plot, rates, failures, port searches and users.

mod search;
mod users;
mod uses;

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    text::{Line, Span},
};
use tracer_common::{Ports, TupleKey};

use super::{
    doctor,
    drawing::{self, field, fit, two_columns, wrapped},
    fmt::{container, count, ends, per_second, several, who, width},
    self_stats::labelled,
};
use crate::{
    format::{
        errno,
        table::{CRITICAL, SLOW, percent, seconds},
        text,
    },
    host::{capacity::Limits, cgroups::is_unit},
    ledger::stats::Row,
    view::{
        failures::is_exhaustion,
        model::Model,
        theme::Theme,
        tuple_history::{Detail, Window},
    },
};

/// How many columns the line of the addresses leaves for saturation and ports.
const USAGE_WIDTH: usize = 20;
/// From this width on there are two columns.
const WIDE: usize = 120;

/// Draws the details of a tuple into `area`, without the first [`Model::scroll`] lines; at the end, the last line stays at the
/// bottom.
pub(super) fn draw(model: &Model, key: &TupleKey, theme: Theme, area: Rect, buffer: &mut Buffer) {
    drawing::scrolled(buffer, area, &lines(model, key, area.width.into(), theme), model.scroll);
}

/// All lines of a tuple's details, in `room` columns; if the tuple is gone, lines that say so.
pub(super) fn lines(
    model: &Model,
    key: &TupleKey,
    room: usize,
    theme: Theme,
) -> Vec<Line<'static>> {
    let Some(detail) = model.history.detail(key, model.window) else {
        let mut lines = vec![Line::styled(ends(key), theme.strong())];
        let gone =
            "This tuple is gone: it has held no port for minutes. Esc goes back to the list.";
        lines.extend(wrapped(gone, room, Style::new()));
        return lines;
    };
    let mut lines = title(&detail, theme, room);
    let found = doctor::of_tuple(model, key, room, theme);
    lines.extend(states(&detail.row, found.is_empty(), theme, room));
    lines.extend(forecast_lines(&detail, theme, room));
    if !found.is_empty() {
        lines.push(Line::default());
        lines.extend(found);
    }
    let wide = room >= WIDE;
    let half = if wide { room / 2 } else { room };
    let column = if wide { half - 2 } else { room };
    let rates = rates(&detail, theme);
    let plot = sparkline::lines(model, key, theme, (column, if wide { 10 } else { 6 }));
    let failures = failures(&detail, theme, column);
    let search = search::lines(&detail.search, theme, column);
    let users = users::lines(model, &detail, theme, column);
    let ended = uses::lines(&detail, theme, column);
    lines.push(Line::default());
    if wide {
        let left = blocks(vec![plot, search]);
        let right = blocks(vec![rates, failures, users, ended]);
        lines.extend(two_columns(left, right, half));
    } else {
        lines.extend(blocks(vec![plot, failures, rates, users, ended, search]));
    }
    lines
}

/// Blocks of lines, with an empty line between two; empty blocks are left out.
fn blocks(blocks: Vec<Vec<Line<'static>>>) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for block in blocks.into_iter().filter(|block| !block.is_empty()) {
        if !lines.is_empty() {
            lines.push(Line::default());
        }
        lines.extend(block);
    }
    lines
}

/// The title of a block.
fn heading(text: impl Into<String>, theme: Theme) -> Line<'static> {
    Line::from(Span::styled(text.into(), theme.title()))
}

fn title(detail: &Detail, theme: Theme, room: usize) -> Vec<Line<'static>> {
    let row = &detail.row;
    let style = theme.level(row.saturation).patch(theme.strong());
    let ends = ends(&row.key);
    let mut fields = Vec::new();
    if let Some(share) = row.saturation {
        fields.push(field(1, percent_and_sign(share), style));
    }
    let ports = match row.capacity {
        Some(capacity) => format!("{} of {} ports", count(row.in_use), count(capacity.into())),
        None => several(row.in_use, "port"),
    };
    fields.push(field(2, ports, Style::new()));
    fields.push(field(3, format!("{} in TIME_WAIT", count(row.time_wait)), Style::new()));
    let mut lines = Vec::new();
    if width(&ends) + USAGE_WIDTH <= room {
        fields.insert(0, field(0, ends, style));
    } else {
        lines.extend(wrapped(&ends, room, style));
    }
    lines.push(fit(fields, room));
    let mut by = vec![field(0, format!("by {}", who(&row.called.shown(), row.pid)), Style::new())];
    if let Some(id) = container(row.container.as_deref()) {
        by.push(field(
            1,
            format!("{} {id}", if is_unit(&id) { "unit" } else { "container" }),
            Style::new(),
        ));
    }
    let netns = row.netns_name.as_deref().map_or_else(
        || row.key.netns.to_string(),
        |name| format!("{} ({})", text::line(name), row.key.netns),
    );
    by.push(field(2, format!("netns {netns}"), Style::new()));
    if let Some(cgroup) = &detail.cgroup {
        by.push(field(3, format!("cgroup {}", text::line(cgroup)), Style::new()));
    }
    lines.push(fit(by, room));
    if let Some(limits) = row.limits {
        lines.push(fit(vec![field(0, range(limits), Style::new())], room));
    }
    lines
}

/// The port range of the tuple's namespace, and what takes ports of it, as a line of text.
pub(super) fn range(limits: Limits) -> String {
    let [all, reserved, bound] =
        [limits.all(), limits.reserved, limits.bound].map(|ports| count(ports.into()));
    format!(
        "range {} of its namespace: {all} ports, {reserved} reserved, {bound} bound",
        limits.range()
    )
}

/// A saturation (1: full) in per cent, rounded down, with its mark (see [`percent`]): `46.1 % ~`. Below 45 % there is none:
/// `12.0 %`.
pub(super) fn percent_and_sign(share: f64) -> String {
    let text = percent(share);
    let number = text.trim_end_matches([' ', '~', '!']);
    let sign = text.get(number.len()..).unwrap_or_default().trim();
    if sign.is_empty() { format!("{number} %") } else { format!("{number} % {sign}") }
}

/// How many ports are in each state, and if `with_advice` [`advice`], if there is one; a line that says so if the states are not
/// known.
fn states(row: &Row, with_advice: bool, theme: Theme, room: usize) -> Vec<Line<'static>> {
    let Some(ports) = row.states else {
        return wrapped("Ports by state: not in this recording.", room, Style::new());
    };
    let connecting = match ports.unanswered {
        0 => count(ports.connecting),
        some => format!("{} ({} without an answer)", count(ports.connecting), count(some)),
    };
    let text = format!(
        "{connecting} connecting, {} established, {} closed by the peer only, {} closing, {} in TIME_WAIT",
        count(ports.established),
        count(ports.close_wait),
        count(ports.closing),
        count(row.time_wait),
    );
    let mut lines = wrapped(&text, room, Style::new());
    let advice = advice(&ports, row.in_use).filter(|_| with_advice);
    let Some(advice) = advice else { return lines };
    lines.extend(wrapped(advice, room, theme.warn()));
    lines
}

/// What it means that a state holds half of the ports or more, and what to do; `None`: no such state needs advice.
fn advice(ports: &Ports, in_use: u64) -> Option<&'static str> {
    let most = |some: u64| some > 0 && some * 2 >= in_use;
    if most(ports.close_wait) {
        Some(
            "The peer closed most of these connections, the process did not (CLOSE_WAIT): each holds its port until the process closes it.",
        )
    } else if most(ports.unanswered) {
        Some(
            "Most of these connects sent their SYN again and got no answer: check the peer, the firewalls and the route. More ports do not help.",
        )
    } else if most(ports.closing) {
        Some(
            "Most of these connections are closed here and wait for the peer: if it is gone, it takes minutes until their ports are free.",
        )
    } else {
        None
    }
}

/// How long until no port is left, or why there is no such time; whether connect() is slow; when TIME_WAITs end.
fn forecast_lines(detail: &Detail, theme: Theme, room: usize) -> Vec<Line<'static>> {
    let row = &detail.row;
    let (text, style) = match row.eta_s {
        Some(0.0) if row.capacity == Some(0) => {
            let by = row.limits.map(|limits| limits.taken_by()).unwrap_or_default();
            let by = if by.is_empty() { by.to_owned() } else { format!(" (all are {by})") };
            (format!("There is no port for connect(){by}: it fails."), theme.alarm())
        }
        Some(0.0) => ("No port is left: connect() fails.".to_owned(), theme.alarm()),
        Some(eta) => {
            let style = if eta < 60.0 { theme.alarm() } else { theme.warn() };
            (format!("Full in {} at this rate.", seconds(eta)), style)
        }
        None if row.capacity.is_none() => {
            ("No ETA: how many ports there are is not known.".to_owned(), Style::new())
        }
        None if row.rates.is_none() => {
            ("No ETA yet: it needs a few readings.".to_owned(), Style::new())
        }
        None if row.reusable.is_some_and(|reusable| reusable > 0) => (
            format!(
                "Not filling up: connect() can take over {} of {} TIME_WAITs (tcp_tw_reuse).",
                count(row.reusable.unwrap_or(0)),
                count(row.time_wait)
            ),
            Style::new(),
        ),
        None if is_at_limit(row) => {
            let failed = row.rates.map_or(0.0, |rates| rates.failed);
            (format!("At its limit: {} calls/s fail.", per_second(failed)), theme.alarm())
        }
        None => ("Not filling up: usage is flat or noisy.".to_owned(), Style::new()),
    };
    let mut lines = wrapped(&text, room, style);
    if row.saturation.is_some_and(|share| (SLOW..1.0).contains(&share)) {
        let slow = "connect() is slow from 45 % on.";
        match lines.last_mut() {
            Some(last) if last.width() + 1 + slow.len() <= room => {
                last.spans = std::mem::take(&mut last.spans)
                    .into_iter()
                    .map(|span| span.patch_style(style))
                    .chain([Span::raw(" "), Span::raw(slow)])
                    .collect();
                last.style = Style::new();
            }
            _ => lines.extend(wrapped(slow, room, Style::new())),
        }
    }
    if row.time_wait > 0 {
        let within =
            |seconds| detail.ending.iter().take(seconds).map(|count| u64::from(*count)).sum();
        let [ten, thirty, minute] = [10, 30, 60].map(within);
        let unseen = row.time_wait.saturating_sub(minute);
        let mut back = match minute {
            0 => format!("{} TIME_WAITs of unknown age: free within 60 s", count(unseen)),
            _ => format!(
                "TIME_WAITs that end: {} in 10 s, {} in 30 s, {} in 60 s",
                count(ten),
                count(thirty),
                count(minute)
            ),
        };
        if minute > 0 && unseen > 0 {
            back = format!("{back}; {} of unknown age: free within 60 s", count(unseen));
        }
        lines.extend(wrapped(&back, room, Style::new()));
    }
    lines
}

/// Whether the tuple is nearly full, calls fail now, and at least one call, now or earlier, failed for lack of ports.
fn is_at_limit(row: &Row) -> bool {
    let failing = row.rates.is_some_and(|rates| rates.failed > 0.0);
    let nearly_full = row.saturation.is_some_and(|share| share >= CRITICAL);
    let lacked = row.failures_by_cause().any(|(cause, _)| is_exhaustion(cause));
    failing && nearly_full && lacked
}

fn rates(detail: &Detail, theme: Theme) -> Vec<Line<'static>> {
    let mut title = format!("{:<14}", "Per second");
    for window in Window::ALL {
        title = format!("{title}{:>9}", window.name());
    }
    let mut lines = vec![heading(title, theme)];
    let names = ["ports taken", "ports released", "failed calls"];
    for (at, name) in names.into_iter().enumerate() {
        let mut line = Line::from(format!("{name:<14}"));
        for change in detail.changes {
            let number = change.map(|it| [it.opened, it.released, it.failed]);
            let number = number.and_then(|numbers| numbers.get(at).copied());
            let bad = at == 2 && number.is_some_and(|number| number > 0.0);
            let style = if bad { theme.bad() } else { Style::new() };
            let number = number.map_or_else(|| "-".to_owned(), per_second);
            line.push_span(Span::styled(format!("{number:>9}"), style));
        }
        lines.push(line);
    }
    lines
}

fn failures(detail: &Detail, theme: Theme, room: usize) -> Vec<Line<'static>> {
    let row = &detail.row;
    let mut causes: Vec<_> = row.failures_by_cause().collect();
    causes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    if causes.is_empty() {
        return vec![heading("Failures", theme), Line::from("none so far")];
    }
    let mut lines = vec![heading("Failures so far", theme)];
    for (cause, number) in causes {
        let style = if is_exhaustion(cause) { theme.alarm() } else { theme.bad() };
        lines.extend(labelled(cause.name(), &count(number), room, (style, Style::new())));
    }
    if let Ok(errno @ 1..) = u16::try_from(row.last_errno) {
        let name = errno::name(errno);
        lines.extend(labelled("newest errno", &name, room, (Style::new(), Style::new())));
    }
    lines
}

pub(crate) mod sparkline;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_that_holds_half_of_the_ports_is_explained() {
        let says = |ports: Ports, words: &str| {
            let text = advice(&ports, 10).unwrap_or_default();
            assert!(text.contains(words) && !words.is_empty(), "{ports:?}: {text:?}");
        };
        says(Ports { close_wait: 5, ..Ports::default() }, "CLOSE_WAIT");
        says(Ports { connecting: 5, unanswered: 5, ..Ports::default() }, "no answer");
        says(Ports { closing: 5, ..Ports::default() }, "wait for the peer");
        for few in [
            Ports { close_wait: 4, closing: 4, unanswered: 2, ..Ports::default() },
            Ports { established: 10, ..Ports::default() },
        ] {
            assert_eq!(advice(&few, 10), None);
        }
        assert_eq!(advice(&Ports::default(), 0), None);
    }
}
