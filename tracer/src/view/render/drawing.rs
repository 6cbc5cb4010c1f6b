//! Draws lines and fields into cells.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    text::{Line, Span},
};

use super::fmt::{cut, width};

/// Draws a line into one row of an area, cut off at the area's right end; nothing if the area does not have this row.
pub(crate) fn line(buffer: &mut Buffer, area: Rect, row: usize, line: &Line<'_>) {
    let area = area.intersection(buffer.area);
    if let Some(y) = u16::try_from(row).ok().filter(|row| *row < area.height) {
        buffer.set_line(area.x, area.y + y, line, area.width);
    }
}

/// Draws lines from the top of an area on, without the first `skip`; fewer are skipped if the rest would not fill the
/// area.
pub(crate) fn scrolled(buffer: &mut Buffer, area: Rect, lines: &[Line<'_>], skip: usize) {
    let skip = skip.min(lines.len().saturating_sub(area.height.into()));
    for (row, text) in lines.iter().skip(skip).enumerate() {
        line(buffer, area, row, text);
    }
}

/// Sets the style of one row of an area; does nothing if the area does not have this row.
pub(crate) fn style(buffer: &mut Buffer, area: Rect, row: usize, style: Style) {
    let area = area.intersection(buffer.area);
    if let Some(y) = u16::try_from(row).ok().filter(|row| *row < area.height) {
        buffer.set_style(Rect::new(area.x, area.y + y, area.width, 1), style);
    }
}

/// A part of a line. If there is no room for all, the field with the largest rank is left out first.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    rank: u8,
    spans: Vec<Span<'static>>,
}

/// A field with this text; `rank` 0 is left out last.
pub(crate) fn field(rank: u8, text: impl Into<String>, style: Style) -> Field {
    Field { rank, spans: vec![Span::styled(text.into(), style)] }
}

impl Field {
    /// The field with more text, in another style.
    pub(crate) fn and(mut self, text: impl Into<String>, style: Style) -> Self {
        self.spans.push(Span::styled(text.into(), style));
        self
    }

    fn width(&self) -> usize {
        self.spans.iter().map(|span| width(&span.content)).sum()
    }
}

/// The text between two fields.
const GAP: &str = "  ";

/// A line of the fields that `room` columns have room for, in their order, with two spaces between them. Those with the largest
/// rank (of equal ones, the last) are left out first; the one that is left at the end stays even if it is wider.
pub(crate) fn fit(mut fields: Vec<Field>, room: usize) -> Line<'static> {
    let needed = |fields: &[Field]| {
        let text: usize = fields.iter().map(Field::width).sum();
        text + GAP.len() * fields.len().saturating_sub(1)
    };
    while fields.len() > 1 && needed(&fields) > room {
        let ranks = fields.iter().enumerate().map(|(at, field)| (field.rank, at));
        if let Some((_, at)) = ranks.max() {
            fields.remove(at);
        }
    }
    let mut spans = Vec::new();
    for (at, field) in fields.into_iter().enumerate() {
        if at > 0 {
            spans.push(Span::raw(GAP));
        }
        spans.extend(field.spans);
    }
    Line::from(spans)
}

/// A text as lines of at most `room` columns, broken at spaces; at least one line. A wider word has a wider line of its own.
pub(crate) fn wrapped(text: &str, room: usize, style: Style) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let mut now = String::new();
    for word in text.split(' ') {
        if !now.is_empty() && width(&now) + 1 + width(word) > room {
            lines.push(Line::styled(std::mem::take(&mut now), style));
        }
        if !now.is_empty() {
            now.push(' ');
        }
        now.push_str(word);
    }
    lines.push(Line::styled(now, style));
    lines
}

/// A line, cut to `room` columns.
fn shortened(line: Line<'static>, room: usize) -> Line<'static> {
    if line.width() <= room {
        return line;
    }
    let mut left = room;
    let mut short = Line::default().style(line.style);
    for span in line.spans {
        let text = cut(&span.content, left).into_owned();
        left -= width(&text).min(left);
        short.push_span(Span::styled(text, span.style));
    }
    short
}

/// Two blocks of lines side by side: the second one, which is not cut, from column `at` on; the first one cut to `at` - 1
/// columns. As many lines as the longer block has.
pub(crate) fn two_columns(
    left: Vec<Line<'static>>,
    right: Vec<Line<'static>>,
    at: usize,
) -> Vec<Line<'static>> {
    let height = left.len().max(right.len());
    let mut left = left.into_iter();
    let mut right = right.into_iter();
    let mut both = Vec::with_capacity(height);
    for _ in 0..height {
        let mut line = shortened(left.next().unwrap_or_default(), at.saturating_sub(1));
        if let Some(more) = right.next() {
            let used = line.width();
            line.push_span(Span::raw(" ".repeat(at.saturating_sub(used))));
            for span in more.spans {
                line.push_span(span.patch_style(more.style));
            }
        }
        both.push(line);
    }
    both
}
