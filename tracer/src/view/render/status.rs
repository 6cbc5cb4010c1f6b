//! The bottom line: the keys, what is being typed, or a message.

use ratatui::{
    buffer::Buffer,
    layout::{Position, Rect},
    style::Style,
    text::{Line, Span},
};

use super::{
    drawing::{self, field, fit},
    fmt::{cut, width},
};
use crate::{
    format::text,
    view::{
        input::Input,
        keys,
        model::{Mode, Model},
        theme::Theme,
    },
};

/// Draws the line; while something is typed, also the line above it (an error, or what can be typed). Returns where the cursor
/// is; `None`: nothing is being typed, or there is no room for the cursor. `body`: the area above, of which the last line is
/// used; `area`: that of the bottom line.
pub(super) fn draw(
    model: &Model,
    theme: Theme,
    (body, area): (Rect, Rect),
    buffer: &mut Buffer,
) -> Option<Position> {
    match &model.mode {
        Mode::Filter { input, error } => {
            typed("filter: ", (input, error.as_deref()), model, theme, (body, area), buffer)
        }
        Mode::Jump { input, error, .. } => {
            typed("go to: ", (input, error.as_deref()), model, theme, (body, area), buffer)
        }
        _ => {
            drawing::line(buffer, area, 0, &message(model, theme, area.width.into()));
            None
        }
    }
}

/// The message; if there is none, the keys.
fn message(model: &Model, theme: Theme, room: usize) -> Line<'static> {
    match &model.message {
        Some(message) => Line::styled(cut(&text::line(message), room).into_owned(), theme.warn()),
        None => hints(model, theme, room),
    }
}

fn hints(model: &Model, theme: Theme, room: usize) -> Line<'static> {
    let hints = keys::hints(model);
    let fields = (0..).zip(hints).map(|(rank, (keys, help))| {
        // `?` and the first key are left out last.
        let rank = if *keys == "?" { 0 } else { rank + 1 };
        field(rank, *keys, theme.selected()).and(format!(" {help}"), Style::new())
    });
    fit(fields.collect(), room)
}

fn typed(
    label: &'static str,
    (input, error): (&Input, Option<&str>),
    model: &Model,
    theme: Theme,
    (body, area): (Rect, Rect),
    buffer: &mut Buffer,
) -> Option<Position> {
    let room = usize::from(area.width);
    // The error, or what can be typed, is in the line above.
    let (above, style) = match error {
        Some(error) => (cut(&text::line(error), room).into_owned().into(), theme.bad()),
        None => (hints(model, theme, room), Style::new()),
    };
    let above: Line<'_> = above;
    if let Some(last) = usize::from(body.height).checked_sub(1) {
        let y = body.y + body.height - 1;
        let row = Rect { y, height: 1, ..body };
        ratatui::widgets::Widget::render(ratatui::widgets::Clear, row, buffer);
        drawing::style(buffer, body, last, style);
        drawing::line(buffer, body, last, &above);
    }
    let label = if room > 2 * label.len() { label } else { "/" };
    let before = text::line(input.before()).into_owned();
    // The text before the cursor is cut at its beginning, so that its end is visible.
    let mut start = 0;
    let space = room.saturating_sub(label.len() + 1);
    while width(before.get(start..).unwrap_or_default()) > space {
        start += before.get(start..)?.chars().next().map_or(1, char::len_utf8);
    }
    let all = text::line(input.text()).into_owned();
    let shown = all.get(start..).unwrap_or_default().to_owned();
    let at = label.len() + width(before.get(start..).unwrap_or_default());
    let line = Line::from(vec![Span::styled(label, theme.strong()), Span::raw(shown)]);
    drawing::line(buffer, area, 0, &line);
    let x = area.x.saturating_add(u16::try_from(at).ok()?);
    (area.height > 0 && x < area.right()).then(|| Position::new(x, area.y))
}
