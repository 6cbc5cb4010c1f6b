//! The table of `tracer tuples`: rows, their order, and their three output forms.

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

/// Rows that are worth choosing from.
const SOME: usize = 64;

/// The rows that a table shows, out of many: at no time many more are kept than are shown.
#[derive(Debug)]
pub struct Top {
    by: Column,
    reverse: bool,
    limit: usize,
    rows: Vec<Row>,
    /// At `limit - 1` is a row that none behind it belongs before.
    bounded: bool,
}

impl Top {
    /// The first rows by a column; `None`: all of them.
    pub fn new(by: Column, limit: Option<usize>) -> Self {
        let limit = limit.unwrap_or(usize::MAX);
        Self { by, reverse: false, limit, rows: Vec::new(), bounded: false }
    }

    /// The last rows come first.
    #[must_use]
    pub fn reversed(self, reverse: bool) -> Self {
        Self { reverse, ..self }
    }

    fn order(&self) -> impl Fn(&Row, &Row) -> Ordering + use<> {
        let (by, reverse) = (self.by, self.reverse);
        move |one, other| if reverse { order(by, other, one) } else { order(by, one, other) }
    }

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

    /// The rows, the most pressing one first. The order is total: equal rows by their key.
    pub fn sorted(mut self) -> Vec<Row> {
        let order = self.order();
        self.rows.sort_unstable_by(order);
        self.rows.truncate(self.limit);
        self.rows
    }
}

/// The most pressing row first. Total: rows of different subjects are never equal.
pub fn order(by: Column, one: &Row, other: &Row) -> Ordering {
    by.order(one, other)
        .then_with(|| other.in_use.cmp(&one.in_use))
        .then_with(|| one.key.cmp(&other.key))
        .then_with(|| (one.pid, one.called.name).cmp(&(other.pid, other.called.name)))
        .then_with(|| one.container.cmp(&other.container))
}

/// Whether there are rows that differ in nothing but their network namespace, which is a column then.
#[derive(Debug, Default)]
pub struct Alike {
    /// Rows seen so far, as hashes without their namespace, each with one: tables can have 100,000 rows. Two
    /// that share a hash by chance show a column more.
    seen: HashMap<u64, u32>,
    found: bool,
}

impl Alike {
    pub fn add(&mut self, key: &TupleKey) {
        if self.found || key.netns == 0 {
            return;
        }
        let hash = self.seen.hasher().hash_one(TupleKey { netns: 0, ..*key });
        let netns = *self.seen.entry(hash).or_insert(key.netns);
        self.found = netns != key.netns;
    }

    pub fn found(&self) -> bool {
        self.found
    }

    /// Of these rows.
    pub fn of(rows: &[Row]) -> Self {
        let mut alike = Self::default();
        for row in rows {
            alike.add(&row.key);
        }
        alike
    }

    /// The columns, without that of the namespaces where it would say nothing.
    pub fn columns(found: bool, columns: &[Column]) -> Vec<Column> {
        columns.iter().copied().filter(|column| found || *column != Column::Netns).collect()
    }
}

/// What a reading says beside its rows.
#[derive(Clone, Debug, Default)]
pub struct Reading<'a> {
    /// When it was begun: the wall clock, nanoseconds since 1970.
    pub ns: u64,
    /// Corrections that the reconciliation made to the ledger until then.
    pub drift: u64,
    /// What the kernel side lost until then, by name.
    pub lost: BTreeMap<&'a str, u64>,
}

/// One reading as text, with a newline at its end. `first`: the reading is the first one, which
/// has the header of CSV. What was lost is in JSON's keys and in the last line of columns; CSV has no place for it.
///
/// # Errors
/// None with these types: serde's, passed on.
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
