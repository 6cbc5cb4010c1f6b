//! The choice of a column to sort by, drawn over a list.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    widgets::{Block, Clear, Widget},
};

use super::{
    drawing::{self, field, fit},
    fmt::{cut, width},
};
use crate::view::{model::Model, theme::Theme};

/// Draws the columns of the view, with their meanings, over the top left of `area`. `at`: index of the marked one, which is
/// always visible.
pub(super) fn sort(model: &Model, at: usize, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let columns = model.view.columns();
    let widest = columns.iter().map(|column| width(column.meaning())).max().unwrap_or(0);
    let wanted = u16::try_from(widest + 18).unwrap_or(u16::MAX);
    let rows = u16::try_from(columns.len() + 2).unwrap_or(u16::MAX);
    let size = (wanted.min(area.width), rows.min(area.height));
    let place = Rect::new(area.x, area.y, size.0, size.1);
    Clear.render(place, buffer);
    let inner = if place.height > 4 && place.width > 20 {
        let block = Block::bordered().title("Sort by");
        let inner = block.inner(place);
        block.render(place, buffer);
        inner
    } else {
        place
    };
    let height = usize::from(inner.height);
    let room = usize::from(inner.width);
    let first = (at + 1).saturating_sub(height);
    for (row, (index, column)) in columns.iter().enumerate().skip(first).take(height).enumerate() {
        let mark = if index == at { '>' } else { ' ' };
        let title = format!("{mark} {:<12}", column.title());
        let meaning = cut(column.meaning(), room.saturating_sub(width(&title) + 1)).into_owned();
        let line = fit(vec![field(0, title, theme.strong()).and(meaning, Style::new())], room);
        drawing::line(buffer, inner, row, &line);
        if index == at {
            drawing::style(buffer, inner, row, theme.selected());
        }
    }
}
