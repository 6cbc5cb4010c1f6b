//! Aligned columns, for people.

use std::fmt::Write;

use super::Column;
use crate::stats::Row;

/// The header and one line for each row.
pub(super) fn render(rows: &[Row]) -> String {
    let cells: Vec<[String; 12]> =
        rows.iter().map(|row| Column::ALL.map(|column| column.cell(row))).collect();
    let titles = Column::ALL.map(|column| column.title().to_owned());
    let widths: Vec<usize> = Column::ALL
        .iter()
        .enumerate()
        .map(|(index, column)| {
            cells.iter().map(|row| width(&row[index])).max().unwrap_or(0).max(column.width())
        })
        .collect();
    let mut text = String::new();
    for row in std::iter::once(&titles).chain(&cells) {
        let mut line = String::new();
        for ((column, cell), width) in Column::ALL.iter().zip(row).zip(&widths) {
            // A character is taken for one cell wide; a comm of wide ones shifts what is behind.
            let written = if column.is_text() {
                write!(line, "{cell:<width$}  ")
            } else {
                write!(line, "{cell:>width$}  ")
            };
            if written.is_err() {
                break;
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}
