//! Makes the table of `tracer tuples` and `tracer top --batch`: chooses and orders its rows, and formats it as columns, JSON or
//! CSV.

mod column;
mod columns;
mod csv;
mod json;

pub(crate) use column::{BIND, nanoseconds, percent, rate, seconds};
pub use column::{CRITICAL, Column, HIGH, SLOW};

use std::{cmp::Ordering, collections::BTreeMap, hash::BuildHasher};

use foldhash::HashMap;
use tracer_common::TupleKey;

use crate::{cli::TableFormat, ledger::stats::Row};

/// With fewer rows than this, it is not worth removing those that will not be shown.
const SOME: usize = 64;

/// Collects the rows that a table shows, out of many. It keeps at most twice as many as are shown, or 64 if that is more;
/// without a limit, all.
#[derive(Debug)]
pub struct Top {
    by: Column,
    reverse: bool,
    limit: usize,
    rows: Vec<Row>,
    /// Whether the rows were cut to the best `limit` ones before: then the row at index `limit - 1` is the last of these, and
    /// a row that comes after it in the order is not shown.
    bounded: bool,
}

impl Top {
    /// No rows yet; of those that are added, keeps the first `limit` in the [`order`] of a column; 0: none; `None`: all rows.
    pub fn new(by: Column, limit: Option<usize>) -> Self {
        let limit = limit.unwrap_or(usize::MAX);
        Self { by, reverse: false, limit, rows: Vec::new(), bounded: false }
    }

    /// Reverses the order if `reverse`.
    #[must_use]
    pub fn reversed(self, reverse: bool) -> Self {
        Self { reverse, ..self }
    }

    fn order(&self) -> impl Fn(&Row, &Row) -> Ordering + use<> {
        let (by, reverse) = (self.by, self.reverse);
        move |one, other| if reverse { order(by, other, one) } else { order(by, one, other) }
    }

    /// Adds a row. Rows that cannot be among the first `limit` any more are dropped.
    pub fn add(&mut self, row: Row) {
        let last = self.limit.wrapping_sub(1);
        let order = self.order();
        if self.limit == 0
            || self.bounded && self.rows.get(last).is_some_and(|last| order(last, &row).is_lt())
        {
            return;
        }
        self.rows.push(row);
        if self.rows.len() >= self.limit.saturating_mul(2).max(SOME) {
            self.rows.select_nth_unstable_by(last, order);
            self.rows.truncate(self.limit);
            self.bounded = true;
        }
    }

    /// The first `limit` rows in the order of [`order`]: rows that are equal by the column are ordered by their ports in use
    /// (most first), then by what identifies them; all in reverse if [`Self::reversed`] was asked for that.
    pub fn sorted(mut self) -> Vec<Row> {
        let order = self.order();
        self.rows.sort_unstable_by(order);
        self.rows.truncate(self.limit);
        self.rows
    }
}

/// The order of a table that is sorted by a column; `Less`: `one` comes first. Rows that are equal by the column
/// ([`Column::order`]) are ordered by ports in use (most first), then by key, process id and name, and container, which rise. It
/// is total: rows of different subjects are never equal.
pub fn order(by: Column, one: &Row, other: &Row) -> Ordering {
    by.order(one, other)
        .then_with(|| other.in_use.cmp(&one.in_use))
        .then_with(|| one.key.cmp(&other.key))
        .then_with(|| (one.pid, one.called.name).cmp(&(other.pid, other.called.name)))
        .then_with(|| one.container.cmp(&other.container))
}

/// Finds out whether there are rows that differ only in their network namespace: only then the table has a column for it.
#[derive(Debug, Default)]
pub struct Alike {
    /// By the hash of a row's key without its namespace: the namespace of the first such row. Only hashes, because
    /// tables can have 100,000 rows. If two rows have the same hash by chance, the table has the column without need.
    seen: HashMap<u64, u32>,
    found: bool,
}

impl Alike {
    /// Adds a row by its key. A row with namespace 0, which stands for several namespaces, is ignored.
    pub fn add(&mut self, key: &TupleKey) {
        if self.found || key.netns == 0 {
            return;
        }
        let hash = self.seen.hasher().hash_one(TupleKey { netns: 0, ..*key });
        let netns = *self.seen.entry(hash).or_insert(key.netns);
        self.found = netns != key.netns;
    }

    /// Whether two of the rows that were added differ only in their network namespace. Also true if two keys have the same 64-bit
    /// hash by chance.
    pub fn found(&self) -> bool {
        self.found
    }

    /// An `Alike` to which all of these rows were added.
    pub fn of(rows: &[Row]) -> Self {
        let mut alike = Self::default();
        for row in rows {
            alike.add(&row.key);
        }
        alike
    }

    /// Those of these `columns` that a table shows, in the same order: without [`Column::Netns`], unless `found`, the result of
    /// [`Self::found`].
    pub fn columns(found: bool, columns: &[Column]) -> Vec<Column> {
        columns.iter().copied().filter(|column| found || *column != Column::Netns).collect()
    }
}

/// Values of a reading that do not belong to a row.
#[derive(Clone, Debug, Default)]
pub struct Reading<'a> {
    /// When the reading began: wall clock, ns since 1970.
    pub ns: u64,
    /// Corrections of the ledger so far, made by comparison with the kernel's sockets, that no loss explains.
    pub drift: u64,
    /// The losses by then: how many of each name, also those that are 0 if the source names them.
    pub lost: BTreeMap<&'a str, u64>,
}

/// One reading as text, with a newline at its end. `first`: whether it is the first reading; only then CSV has its header, and
/// later CSV of no rows is empty. The losses are keys in JSON and the last line of columns; CSV does not have them.
///
/// # Errors
/// That of `serde_json`, which does not occur with these types.
pub fn render(
    rows: &[Row],
    format: TableFormat,
    reading: &Reading<'_>,
    first: bool,
) -> serde_json::Result<Vec<u8>> {
    match format {
        TableFormat::Columns => Ok(columns::render(rows, reading).into_bytes()),
        TableFormat::Json => json::render(rows, reading),
        TableFormat::Csv => Ok(csv::render(rows, reading.ns, first)),
    }
}

#[cfg(test)]
mod tests;
