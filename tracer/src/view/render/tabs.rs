//! The line of the views, with the filters, the grouping and the window of the rates.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::{
    drawing::{self, Field, field, fit},
    fmt::{count, cut},
};
use crate::{
    format::text,
    view::{
        group::GroupBy,
        model::{Mode, Model, View},
        theme::Theme,
    },
};

/// Draws the line into the first row of `area`; what there is no room for is left out or cut.
pub(super) fn draw(model: &Model, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let room = usize::from(area.width);
    let long = |with_place| {
        let state = state(model, theme, usize::MAX, with_place);
        fit([tabs(model, theme, true), state].concat(), usize::MAX)
    };
    // The names of the views say more than the position in the list.
    let full = [true, false].into_iter().map(long).find(|line| line.width() <= room);
    let line = full.unwrap_or_else(|| {
        let tabs = tabs(model, theme, false);
        let left = room.saturating_sub(fit(tabs.clone(), usize::MAX).width() + 2);
        fit([tabs, state(model, theme, left, true)].concat(), room)
    });
    drawing::line(buffer, area, 0, &line);
}

/// The views as one field, so that all are shown or none. `long`: whether all have their names; else only the present one has.
fn tabs(model: &Model, theme: Theme, long: bool) -> Vec<Field> {
    let mut tabs = field(0, "", Style::new());
    for (number, view) in (1..).zip(View::ALL) {
        if number > 1 {
            tabs = tabs.and(" ", Style::new());
        }
        tabs = if view == model.view {
            tabs.and(format!("[{number} {}]", view.name()), theme.selected())
        } else if long {
            tabs.and(format!(" {number} {} ", view.name()), Style::new())
        } else {
            tabs.and(number.to_string(), theme.faint())
        };
    }
    vec![tabs]
}

/// The filters, the grouping, the window and, if `with_place`, the position in the list. A filter is cut to `room`, because it
/// must be visible that there is one.
fn state(model: &Model, theme: Theme, room: usize, with_place: bool) -> Vec<Field> {
    let mut fields = Vec::new();
    let has_rows = !model.view.columns().is_empty();
    let given = text::line(&model.about.filter);
    if !given.is_empty() {
        let tuples = (model.view, model.by) == (View::Tuples, GroupBy::Tuple);
        let only = if tuples {
            let (rows, all) = (model.list.total, model.list.unfiltered + model.reading.outside);
            format!("{} of {} rows: {given}", count(rows as u64), count(all as u64))
        } else {
            format!("only {given}")
        };
        fields.push(field(1, cut(&only, room), theme.warn()));
    }
    if !model.filter.is_empty() && has_rows {
        let (shown, all) = (count(model.list.total as u64), count(model.list.unfiltered as u64));
        let filter = format!("filter: {} ({shown} of {all})", model.filter);
        fields.push(field(2, cut(&filter, room), theme.warn()));
    }
    if model.view == View::Tuples && model.by != GroupBy::Tuple {
        fields.push(field(3, format!("by {}", model.by.name()), theme.strong()));
    }
    fields.push(field(4, format!("rates {}", model.window.name()), Style::new()));
    let all = &model.list;
    if with_place && has_rows && all.total > all.rows.len() && matches!(model.mode, Mode::Browse) {
        let (first, last) = (all.first + 1, all.first + all.rows.len());
        let place = format!("{first}-{last} of {}", count(all.total as u64));
        fields.push(field(5, place, Style::new()));
    }
    fields
}
