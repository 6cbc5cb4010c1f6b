//! The help: the keys, and what the columns and signs mean.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    text::{Line, Span},
};

use super::{
    drawing::{self, two_columns, wrapped},
    fmt::width,
};
use crate::{
    format::table::Column,
    view::{
        keys,
        model::{Model, View},
        theme::Theme,
    },
};

/// From this width on there are two columns.
const WIDE: usize = 110;
/// Width of the keys, and of the titles of a table's columns, which the help lists with their meanings.
const KEYS: usize = 11;

/// Draws the help into `area`, without its first `scroll` lines; at the end, the last line stays at the bottom.
pub(super) fn draw(model: &Model, scroll: usize, theme: Theme, area: Rect, buffer: &mut Buffer) {
    drawing::scrolled(buffer, area, &lines(model, area.width.into(), theme), scroll);
}

/// All lines of the help, in `width` columns.
pub(super) fn lines(model: &Model, width: usize, theme: Theme) -> Vec<Line<'static>> {
    let half = if width >= WIDE { width / 2 } else { width };
    let keys = key_lines(model, half.saturating_sub(2), theme);
    let columns = column_lines(model, width - (width - half), theme);
    if width >= WIDE {
        two_columns(keys, columns, half)
    } else {
        [keys, vec![Line::default()], columns].concat()
    }
}

fn key_lines(model: &Model, room: usize, theme: Theme) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let mut section = "";
    for entry in keys::help(model.is_live()) {
        if entry.section != section {
            if !lines.is_empty() {
                lines.push(Line::default());
            }
            section = entry.section;
            lines.push(Line::styled(section, theme.title()));
        }
        lines.extend(pair(entry.keys, entry.help, room, theme));
    }
    lines
}

fn column_lines(model: &Model, room: usize, theme: Theme) -> Vec<Line<'static>> {
    let view = if model.view.columns().is_empty() { View::Tuples } else { model.view };
    let mut lines = vec![Line::styled("Columns", theme.title())];
    for column in view.columns().iter().filter(|column| **column != Column::Saturation) {
        lines.extend(pair(column.title(), column.meaning(), room, theme));
    }
    lines.extend(pair(Column::Saturation.title(), Column::Saturation.meaning(), room, theme));
    lines
}

/// The lines of a word and, to its right, its meaning, which is wrapped there. `room`: columns for both.
fn pair(word: &str, text: &str, room: usize, theme: Theme) -> Vec<Line<'static>> {
    let indent = KEYS + 2;
    let texts = wrapped(text, room.saturating_sub(indent).max(10), Style::new());
    let mut lines = Vec::with_capacity(texts.len());
    for (at, mut line) in texts.into_iter().enumerate() {
        let word = if at == 0 { word } else { "" };
        let gap = " ".repeat(indent.saturating_sub(width(word)));
        line.spans.insert(0, Span::raw(gap));
        line.spans.insert(0, Span::styled(word.to_owned(), theme.strong()));
        lines.push(line);
    }
    lines
}
