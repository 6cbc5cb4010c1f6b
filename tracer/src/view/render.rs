//! Draws a model into the cells of a terminal. Widths, and the `room` of a text, are in columns of the terminal, heights in
//! lines.

mod detail;
mod doctor;
mod failures;
mod grid;
mod header;
mod help;
mod overlay;
mod plot;
mod self_stats;
mod status;
mod table;
mod tabs;
mod time_bar;

#[cfg(test)]
mod test_fixtures;
#[cfg(test)]
mod tests;

use ratatui::{Frame, buffer::Buffer, layout::Rect};

use super::{
    layout,
    model::{Mode, Model, View},
    theme::Theme,
};

/// Draws the whole screen, and shows the cursor if something is being typed.
pub fn draw(model: &Model, frame: &mut Frame<'_>) {
    let theme = Theme::new(model.colour);
    let areas = layout::areas(model).within(frame.area());
    let buffer = frame.buffer_mut();
    header::draw(model, theme, areas.header, buffer);
    tabs::draw(model, theme, areas.tabs, buffer);
    body(model, theme, areas.body, buffer);
    if let (Some(area), Some(replay)) = (areas.time_bar, &model.replay) {
        time_bar::draw(model, replay, theme, area, buffer);
    }
    if let Some(cursor) = status::draw(model, theme, (areas.body, areas.status), buffer) {
        frame.set_cursor_position(cursor);
    }
}

fn body(model: &Model, theme: Theme, area: Rect, buffer: &mut Buffer) {
    match &model.mode {
        Mode::Help { scroll, .. } => return help::draw(model, *scroll, theme, area, buffer),
        Mode::Detail(key) => return detail::draw(model, key, theme, area, buffer),
        _ => {}
    }
    match model.view {
        View::Tuples | View::Processes | View::Sources => table::draw(model, theme, area, buffer),
        View::Failures => failures::draw(model, theme, area, buffer),
        View::SelfStats => self_stats::draw(model, theme, area, buffer),
        View::Doctor => doctor::draw(model, theme, area, buffer),
    }
    if let Mode::Sort(at) = model.mode {
        overlay::sort(model, at, theme, area, buffer);
    }
}

/// How many lines the open view has if it is scrolled without a cursor, else 0. [`Model::scroll`] and the help's scroll
/// are at most this, less the height of the body.
pub fn lines(model: &Model) -> usize {
    let (theme, width) = (Theme::new(model.colour), model.size.width.into());
    match (&model.mode, model.view) {
        (Mode::Help { .. }, _) => help::lines(model, width, theme).len(),
        (Mode::Detail(key), _) => detail::lines(model, key, width, theme).len(),
        (_, View::Failures) => failures::lines(model, width, theme),
        (_, View::SelfStats) => self_stats::lines(model, width, theme).len(),
        (_, View::Doctor) => doctor::lines(model, width, theme).len(),
        _ => 0,
    }
}

pub(crate) mod drawing;
pub(crate) mod fmt;
