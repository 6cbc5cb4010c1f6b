//! The table of `tracer tuples`: rows, their order, and their three output forms.

mod column;
mod columns;
mod csv;
mod json;

pub use column::{CRITICAL, Column, HIGH, SLOW};

use crate::{cli::TableFormat, stats::Row};

/// Sorts rows, the most pressing one first. The order is total: equal rows by their key.
pub fn sort(rows: &mut [Row], by: Column) {
    rows.sort_unstable_by(|one, other| {
        by.order(one, other)
            .then_with(|| other.in_use.cmp(&one.in_use))
            .then_with(|| one.key.cmp(&other.key))
    });
}

/// One reading as text, with a newline at its end. `first`: the reading is the first one, which
/// has the header of CSV. `ns` is the wall clock, nanoseconds since 1970.
///
/// # Errors
/// None with these types: serde's, passed on.
pub fn render(
    rows: &[Row],
    format: TableFormat,
    ns: u64,
    first: bool,
) -> serde_json::Result<Vec<u8>> {
    match format {
        TableFormat::Columns => Ok(columns::render(rows).into_bytes()),
        TableFormat::Json => json::render(rows, ns),
        TableFormat::Csv => Ok(csv::render(rows, ns, first)),
    }
}

#[cfg(test)]
mod tests;
