//! The line that shows which part of a recording is played.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::{
    drawing::{self, field, fit},
    fmt::{clock, count, width},
};
use crate::{
    format::text,
    view::{
        model::{Model, Replay},
        theme::Theme,
    },
};

/// From this width on, words are not abbreviated.
const WIDE: usize = 60;
/// Least length of the bar: a shorter one would be useless.
const LEAST: usize = 8;

/// Draws the line into the first row of `area`. The bar is left out if the end of the recording is not known or not after its
/// begin, or there are fewer than 8 columns for it.
pub(super) fn draw(model: &Model, replay: &Replay, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let room = usize::from(area.width);
    let wide = room >= WIDE;
    let (sign, word, style) = match (replay.at_end, model.paused) {
        (true, _) => ("■", "end", theme.strong()),
        (_, true) => ("‖", "paused", theme.selected()),
        _ => ("▶", "playing", theme.strong()),
    };
    let state = if wide { format!("{sign} {word}") } else { sign.to_owned() };
    let mut fields = vec![
        field(0, state, style),
        field(1, clock(model.reading.wall_ns, &model.zone), theme.strong()),
        field(2, format!("x{}", replay.speed), Style::new()),
    ];
    if replay.missing > 0 {
        fields.push(field(3, format!("{} missing", count(replay.missing)), theme.bad()));
    }
    if replay.unreadable > 0 {
        fields.push(field(4, format!("{} unreadable", count(replay.unreadable)), theme.bad()));
    }
    for limit in &replay.limits {
        fields.push(field(5, text::line(limit), theme.bad()));
    }
    if !replay.name.is_empty() {
        fields.push(field(6, text::line(&replay.name), theme.faint()));
    }
    let ends = [replay.begin_ns, replay.end_ns].map(|ns| clock(ns, &model.zone));
    let [begin, end] =
        if wide { ends.map(|end| format!(" {end} ")) } else { [" ", ""].map(Into::into) };
    let labels = width(&begin) + width(&end) + 1;
    let known = replay.end_ns > replay.begin_ns;
    let mut line = fit(fields, room.saturating_sub(if known { labels + LEAST } else { 0 }));
    // The bar takes the rest of the line.
    let left = room.saturating_sub(line.width() + labels);
    if known && left >= LEAST {
        let at = place(model.reading.wall_ns, replay, left);
        line.push_span(begin);
        line.push_span(format!("{}●{}", "━".repeat(at), "─".repeat(left - 1 - at)));
        line.push_span(end);
    }
    drawing::line(buffer, area, 0, &line);
}

/// Index of the character for a moment (ns since 1970) in a bar of `length` characters; a moment outside of the recording is
/// at the nearer end.
fn place(at_ns: u64, replay: &Replay, length: usize) -> usize {
    let whole = u128::from(replay.end_ns.saturating_sub(replay.begin_ns)).max(1);
    // If the wall clock was set back, the moment and the end can be before the beginning.
    let at = u128::from(at_ns.saturating_sub(replay.begin_ns)).min(whole);
    let last = length.saturating_sub(1);
    usize::try_from(at * last as u128 / whole).unwrap_or(last).min(last)
}
