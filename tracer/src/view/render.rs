//! Stands in until the panels are there.

use ratatui::{Frame, widgets::Paragraph};

use super::model::Model;
use crate::table::Column;

/// Draws the model.
pub fn draw(model: &Model, frame: &mut Frame<'_>) {
    let mut text = format!(
        "{:?} {:?} {:?} {:?}\n",
        model.view,
        model.mode,
        model.message,
        model.book.host().rates(model.window)
    );
    for row in &model.list.rows {
        for column in Column::TUPLE {
            text.push_str(&column.cell(row));
            text.push(' ');
        }
        text.push('\n');
    }
    frame.render_widget(Paragraph::new(text), frame.area());
}
