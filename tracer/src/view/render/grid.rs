//! Lays out a table: chooses the columns that there is room for, and their widths.

use ratatui::{
    style::Style,
    text::{Line, Span},
};

use super::fmt::{cut, cut_address, width};

/// A column of a grid.
#[derive(Clone, Debug)]
pub(super) struct ColumnSpec {
    pub(super) title: String,
    /// If there is no room for all, the column with the largest rank is left out first, that with the smallest never.
    pub(super) rank: u8,
    /// Least width in columns of the terminal, as all widths here: narrower it would be useless.
    pub(super) least: usize,
    /// Its width if there is room.
    pub(super) usual: usize,
    /// Whether cells are text, which is aligned to the left and can be cut; numbers are aligned to the right.
    pub(super) text: bool,
    /// Whether cells are addresses, which are cut in their middle.
    pub(super) address: bool,
}

/// Columns with their widths; 0: there is no room for it.
#[derive(Clone, Debug)]
pub(super) struct Grid {
    columns: Vec<ColumnSpec>,
    widths: Vec<usize>,
}

impl Grid {
    /// The grid in `room` columns of the terminal. `needed`: the width of each column's widest cell, as [`needed`] returns it. If
    /// not even the column with the smallest rank has room, the grid is wider.
    pub(super) fn new(columns: Vec<ColumnSpec>, needed: &[usize], room: usize) -> Self {
        // A number must not be cut: it would be another number.
        let least = |(column, need): (&ColumnSpec, &usize)| {
            let least = column.least.max(width(&column.title));
            if column.text { least } else { least.max(*need) }
        };
        let mut widths: Vec<usize> = columns.iter().zip(needed).map(least).collect();
        let mut by_rank: Vec<usize> = (0..columns.len()).collect();
        by_rank.sort_by_key(|at| columns.get(*at).map(|column| column.rank));
        let used = |widths: &[usize]| {
            let shown = widths.iter().filter(|width| **width > 0);
            shown.map(|width| width + 1).sum::<usize>().saturating_sub(1)
        };
        for at in by_rank.iter().skip(1).rev() {
            if used(&widths) > room {
                widths[*at] = 0;
            }
        }
        let mut left = room.saturating_sub(used(&widths));
        // First up to their usual widths, then up to what the cells need.
        for wanted in [true, false] {
            for at in &by_rank {
                let need = needed.get(*at).copied().unwrap_or(0);
                let aim =
                    columns.get(*at).map_or(0, |column| if wanted { column.usual } else { need });
                if let Some(width) = widths.get_mut(*at).filter(|width| **width > 0) {
                    let more = aim.saturating_sub(*width).min(left);
                    *width += more;
                    left -= more;
                }
            }
        }
        Self { columns, widths }
    }

    /// A row of these cells, one for each column, each with its style. Text that is too wide is cut.
    pub(super) fn line(&self, cells: Vec<(String, Style)>) -> Line<'static> {
        let mut spans: Vec<Span<'static>> = Vec::with_capacity(cells.len() * 2);
        for ((column, room), (cell, style)) in self.shown(cells) {
            if !spans.is_empty() {
                spans.push(Span::raw(" "));
            }
            let cell = if column.address { cut_address(&cell, room) } else { cut(&cell, room) };
            let gap = " ".repeat(room - width(&cell).min(room));
            let cell = if column.text { format!("{cell}{gap}") } else { format!("{gap}{cell}") };
            spans.push(Span::styled(cell, style));
        }
        Line::from(spans)
    }

    /// The row of the titles.
    pub(super) fn titles(&self, style: Style) -> Line<'static> {
        self.line(self.columns.iter().map(|column| (column.title.clone(), style)).collect())
    }

    fn shown<T>(&self, cells: Vec<T>) -> impl Iterator<Item = ((&ColumnSpec, usize), T)> {
        let columns = self.columns.iter().zip(self.widths.iter().copied());
        columns.zip(cells).filter(|((_, width), _)| *width > 0)
    }
}

/// The width of the widest cell of each of this number of columns; 0 without rows.
pub(super) fn needed<'a>(
    rows: impl Iterator<Item = &'a Vec<String>>,
    columns: usize,
) -> Vec<usize> {
    let mut needed = vec![0; columns];
    for cells in rows {
        for (need, cell) in needed.iter_mut().zip(cells) {
            *need = (*need).max(width(cell));
        }
    }
    needed
}
