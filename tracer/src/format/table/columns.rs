//! Formats a reading as a table of aligned columns, for people.

use std::fmt::Write;

use super::{Alike, Column, Reading};
use crate::{
    format::{losses, text},
    ledger::stats::Row,
};

/// The header, one line for each row in the order of `rows`, and if there are losses, one line for them; each with its newline.
/// The column of the namespace is there only if two rows differ in nothing else.
pub(super) fn render(rows: &[Row], reading: &Reading<'_>) -> String {
    let columns = Alike::columns(Alike::of(rows).found(), &Column::TUPLE);
    // One string has all cells, and `ends` where each ends: a table can have 100,000 rows, and a string for each cell
    // costs more.
    let (mut cells, mut ends) =
        (String::new(), Vec::with_capacity((rows.len() + 1) * columns.len()));
    let mut widths: Vec<_> = columns.iter().map(|column| column.width()).collect();
    let mut add = |index: usize, cell: &str| {
        cells.push_str(cell);
        ends.push(cells.len());
        widths[index] = widths[index].max(width(cell));
    };
    for (index, column) in columns.iter().enumerate() {
        add(index, column.title());
    }
    for row in rows {
        for (index, column) in columns.iter().enumerate() {
            add(index, &column.cell(row));
        }
    }
    let mut text = String::with_capacity(
        (rows.len() + 1) * (widths.iter().sum::<usize>() + 2 * columns.len()),
    );
    let mut begin = 0;
    for row in ends.chunks_exact(columns.len()) {
        for ((column, end), width) in columns.iter().zip(row).zip(&widths) {
            let cell = &cells[begin..*end];
            begin = *end;
            // Each character counts as one cell wide, so a name with wide ones moves what follows.
            let written = if column.is_text() {
                write!(text, "{cell:<width$}  ")
            } else {
                write!(text, "{cell:>width$}  ")
            };
            if written.is_err() {
                break;
            }
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    if let Some(lost) = losses::sentence(reading.lost.iter().map(|(name, count)| (*name, *count))) {
        text.extend([&*text::line(&lost), "\n"]);
    }
    text
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}
