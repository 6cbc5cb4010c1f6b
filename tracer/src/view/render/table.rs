//! The table of a view: one row for each tuple, group, process or source.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    text::{Line, Span},
};

use super::{
    drawing::{self, wrapped},
    fmt::several,
    grid::{ColumnSpec, Grid, needed},
};
use crate::{
    format::{
        table::{Alike, Column},
        text,
    },
    ledger::stats::Row,
    view::{
        model::{Model, View},
        theme::Theme,
    },
};

/// Draws the titles and the rows of [`Model::list`] into `area`; without a row, why there is none and what to do.
pub(super) fn draw(model: &Model, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let columns = Alike::columns(model.list.alike, model.view.columns());
    let rows = &model.list.rows;
    let room = usize::from(area.width);
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| columns.iter().map(|column| column.cell(row)).collect()).collect();
    let specs = columns.iter().map(|column| column_spec(*column, model)).collect();
    let grid = Grid::new(specs, &needed(cells.iter(), columns.len()), room);
    drawing::style(buffer, area, 0, theme.title());
    drawing::line(buffer, area, 0, &grid.titles(theme.title()));
    if rows.is_empty() {
        for (row, line) in empty_text(model, room).iter().enumerate() {
            drawing::line(buffer, area, row + 2, line);
        }
    }
    for ((place, row), cells) in (1..).zip(rows).zip(cells) {
        let style = theme.level(row.saturation);
        let cells = columns.iter().zip(cells);
        let cells = cells.map(|(column, cell)| (cell, cell_style(*column, row, theme, style)));
        drawing::style(buffer, area, place, style);
        drawing::line(buffer, area, place, &grid.line(cells.collect()));
        if model.list.cursor == Some(place - 1) {
            drawing::style(buffer, area, place, theme.selected());
        }
    }
}

/// The style of a cell: that of its row (`style`). While calls of the row fail, the cells about failures have their own,
/// unless the row has the style of an alarm.
fn cell_style(column: Column, row: &Row, theme: Theme, style: Style) -> Style {
    let failing = row.rates.is_some_and(|rates| rates.failed > 0.0);
    match column {
        Column::Failed | Column::Error if failing && style.bg.is_none() => theme.bad(),
        _ => style,
    }
}

fn column_spec(column: Column, model: &Model) -> ColumnSpec {
    let sort = model.sort();
    let mark = match (sort.by == column, sort.reverse) {
        (false, _) => "",
        (true, false) => "▼",
        (true, true) => "▲",
    };
    let least = match column {
        Column::Source => 9,
        Column::Destination => 13,
        Column::Comm | Column::Pool => 7,
        _ => column.width(),
    };
    ColumnSpec {
        title: format!("{}{mark}", column.title()),
        rank: column.rank(),
        least,
        usual: column.width(),
        text: column.is_text(),
        address: matches!(column, Column::Source | Column::Destination),
    }
}

/// Why the table is empty, and what to do.
fn empty_text(model: &Model, room: usize) -> Vec<Line<'static>> {
    let hidden = model.list.unfiltered as u64;
    let (outside, given) = (model.reading.outside as u64, text::line(&model.about.filter));
    let texts: &[String] = if hidden > 0 && !model.filter.is_empty() {
        let rows = several(hidden, "row");
        &[
            format!(
                "The filter hides {}: {}",
                if hidden == 1 { "the only row".into() } else { format!("all {rows}") },
                model.filter
            ),
            "Esc removes it, / changes it.".to_owned(),
        ]
    } else if outside > 0 && !given.is_empty() {
        let rows = several(outside, "row");
        &[
            format!(
                "The filter of the command line hides {}: {given}",
                if outside == 1 { "the only row".into() } else { format!("all {rows}") },
            ),
            "Start tracer with another filter to see them.".to_owned(),
        ]
    } else if model.view == View::Sources && model.filter.is_empty() {
        &[
            "No source address in use.".to_owned(),
            "One appears with the first outgoing connection, or with a pool of tracer spread."
                .to_owned(),
        ]
    } else if !model.is_live() {
        &[
            "No connection is open at this time of the recording.".to_owned(),
            "Space resumes, j goes to another time.".to_owned(),
        ]
    } else {
        &[
            "No outgoing connections yet.".to_owned(),
            "A row appears with the first connect() on this host, in any network namespace."
                .to_owned(),
        ]
    };
    let indent = |mut line: Line<'static>| {
        line.spans.insert(0, Span::raw("  "));
        line
    };
    let lines = texts.iter().flat_map(|text| wrapped(text, room.saturating_sub(2), Style::new()));
    lines.map(indent).collect()
}
