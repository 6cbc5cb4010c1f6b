//! Where a recording is being played.

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

/// From this width on, words are written out.
const WIDE: usize = 60;
/// A shorter bar says nothing.
const LEAST: usize = 8;

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
    let beside = width(&begin) + width(&end) + 1;
    let known = replay.end_ns > replay.begin_ns;
    let mut line = fit(fields, room.saturating_sub(if known { beside + LEAST } else { 0 }));
    // The bar takes what is left.
    let left = room.saturating_sub(line.width() + beside);
    if known && left >= LEAST {
        let at = place(model.reading.wall_ns, replay, left);
        line.push_span(begin);
        line.push_span(format!("{}●{}", "━".repeat(at), "─".repeat(left - 1 - at)));
        line.push_span(end);
    }
    drawing::line(buffer, area, 0, &line);
}

/// Index of a moment in a bar of `length` letters.
fn place(at_ns: u64, replay: &Replay, length: usize) -> usize {
    let whole = u128::from(replay.end_ns.saturating_sub(replay.begin_ns)).max(1);
    // A wall clock that stepped can put the moment, and the end, before the beginning.
    let at = u128::from(at_ns.saturating_sub(replay.begin_ns)).min(whole);
    let last = length.saturating_sub(1);
    usize::try_from(at * last as u128 / whole).unwrap_or(last).min(last)
}
