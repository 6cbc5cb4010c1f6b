//! A tuple over time: ports in use against its capacity, connects, failures.

use ratatui::{
    style::Style,
    text::{Line, Span},
};
use tracer_common::TupleKey;

use super::{
    super::{
        fmt::{count, per_second},
        plot::{bars, squeezed, stacked},
    },
    heading,
};
use crate::{
    format::table::{SLOW, seconds},
    view::{model::Model, theme::Theme, tuple_history::Point},
};

/// Width of the scale on the left.
const SCALE: usize = 8;
/// Lines of each of the smaller plots.
const SMALL: usize = 2;

/// The plots of a tuple, in `room` columns; without a point yet, lines that say so. `height`: lines of the plot of its ports.
pub(crate) fn lines(
    model: &Model,
    key: &TupleKey,
    theme: Theme,
    (room, height): (usize, usize),
) -> Vec<Line<'static>> {
    let width = room.saturating_sub(SCALE);
    let points: Vec<Point> = match model.history.plot(key) {
        Some(plot) if width > 0 => plot.points.iter().copied().collect(),
        _ => Vec::new(),
    };
    let mut title = heading("Ports over time", theme);
    let (Some(first), Some(last)) = (points.first().copied(), points.last().copied()) else {
        return vec![title, Line::from("begins with the next reading")];
    };
    let points = squeezed(&points, width, larger);
    title.spans.extend([
        Span::raw("  █ in use "),
        Span::styled("▒ TIME_WAIT", theme.waiting()),
        Span::styled(" ─ all ~ 45 %", theme.faint()),
    ]);
    let mut lines = vec![title];
    lines.extend(ports(&points, last.capacity, theme, (width, height)));
    let span = f64::from(last.at_ms.wrapping_sub(first.at_ms)) / 1000.0;
    lines.push(axis(span, points.len(), width, theme));
    let opened: Vec<f64> = points.iter().map(|point| f64::from(point.opened)).collect();
    let failed: Vec<f64> = points.iter().map(|point| f64::from(point.failed)).collect();
    lines.extend(small("connects/s", &opened, width, (theme, Style::new())));
    lines.extend(small("failures/s", &failed, width, (theme, theme.bad())));
    lines
}

/// Two points as one: of each value the larger one; the time and the capacity are those of `other`, the later point.
fn larger(one: Point, other: Point) -> Point {
    Point {
        at_ms: other.at_ms,
        in_use: one.in_use.max(other.in_use),
        time_wait: one.time_wait.max(other.time_wait),
        capacity: other.capacity,
        opened: one.opened.max(other.opened),
        failed: one.failed.max(other.failed),
    }
}

/// The plot of the ports. Its top is the capacity (or the peak, if that is higher), so that the empty part is what is
/// left.
fn ports(
    points: &[Point],
    capacity: u32,
    theme: Theme,
    (width, height): (usize, usize),
) -> Vec<Line<'static>> {
    let peak = points.iter().map(|point| point.in_use).max().unwrap_or(0);
    let top = peak.max(capacity).max(1);
    let pairs: Vec<(f64, f64)> =
        points.iter().map(|point| (point.in_use.into(), point.time_wait.into())).collect();
    let rows = stacked(&pairs, (width, height), top.into());
    let share = |row: usize| (height - row, height);
    let mut lines = Vec::with_capacity(height);
    for (row, cells) in rows.into_iter().enumerate() {
        let (above, all) = share(row);
        // The line of the level from which connect() is slow.
        let slow_line = capacity > 0 && holds(f64::from(capacity) * SLOW, top, (above, all));
        let mut line =
            Line::from(Span::styled(label(row, top, capacity, slow_line), theme.faint()));
        let empty = match (row, slow_line) {
            (0, _) if capacity > 0 => '─',
            (_, true) => '~',
            _ => ' ',
        };
        for (letter, waiting) in cells {
            let (letter, style) = match (letter, waiting) {
                (' ', _) => (empty, theme.faint()),
                (letter, true) => (letter, theme.waiting()),
                (letter, false) => (letter, Style::new()),
            };
            line.push_span(Span::styled(letter.to_string(), style));
        }
        lines.push(line);
    }
    lines
}

/// Whether a value is in line `above`, counted from 1 at the bottom, of `all` lines. `top`: the value at the top of them all.
#[expect(clippy::cast_precision_loss, reason = "lines of a screen")]
fn holds(value: f64, top: u32, (above, all): (usize, usize)) -> bool {
    let line = f64::from(top) / all.max(1) as f64;
    let below = (above - 1) as f64 * line;
    value >= below && value < below + line
}

fn label(row: usize, top: u32, capacity: u32, slow_line: bool) -> String {
    let text = match (row, slow_line) {
        (0, _) => count(top.into()),
        (_, true) => {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "less")]
            let slow_line = (f64::from(capacity) * SLOW) as u64;
            count(slow_line)
        }
        _ => String::new(),
    };
    format!("{text:>7} ")
}

/// The time axis: how long ago (`span_s` seconds) its left end was, and "now" at its right end; only "now" if it is short.
/// `shown`: how many columns have a point.
fn axis(span_s: f64, shown: usize, width: usize, theme: Theme) -> Line<'static> {
    let begin = format!("-{}", seconds(span_s));
    let pad = SCALE + width.saturating_sub(shown);
    let gap = shown.saturating_sub(begin.len() + 3);
    let text = match gap {
        0 => format!("{:>1$}", "now", SCALE + width),
        _ => format!("{}{begin}{}now", " ".repeat(pad), " ".repeat(gap)),
    };
    Line::styled(text, theme.faint())
}

fn small(
    name: &str,
    values: &[f64],
    width: usize,
    (theme, style): (Theme, Style),
) -> Vec<Line<'static>> {
    let top = values.iter().copied().fold(0.0, f64::max);
    let now = values.last().copied().unwrap_or_default();
    let title = format!("{name}: {} now, {} at most", per_second(now), per_second(top));
    let mut lines = vec![Line::styled(title, theme.strong())];
    for (row, bar) in bars(values, (width, SMALL), top).into_iter().enumerate() {
        let label = if row == 0 { per_second(top) } else { String::new() };
        lines.push(Line::from(vec![
            Span::styled(format!("{label:>7} "), theme.faint()),
            Span::styled(bar, style),
        ]));
    }
    lines
}
