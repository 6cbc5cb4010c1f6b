//! Formats the table as JSON: one line for each reading.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::Reading;
use crate::{
    format::json::terminal_safe,
    format::losses::lost_prefix,
    format::{
        timestamp::Timestamp,
        tuple::{AddressStats, Tuple},
    },
    ledger::stats::Row,
};

#[derive(Serialize)]
struct Line<'a> {
    ts: &'a str,
    drift: u64,
    #[serde(flatten, serialize_with = "lost_prefix")]
    lost: &'a BTreeMap<&'a str, u64>,
    #[serde(serialize_with = "tuples")]
    tuples: &'a [Row],
    /// All rows, as in `tuples`: there, only tuples are written; here, only the rows about bind(address, 0).
    #[serde(serialize_with = "addresses")]
    addresses: &'a [Row],
}

/// Serializes the rows of tuples. Each becomes a [`Tuple`] only while it is written.
fn tuples<S: Serializer>(rows: &[Row], serializer: S) -> Result<S::Ok, S::Error> {
    let tuples = rows.iter().filter(|row| !row.key.is_of_bind());
    serializer.collect_seq(tuples.map(Tuple::from))
}

/// Serializes the rows about bind(address, 0), by address.
fn addresses<S: Serializer>(rows: &[Row], serializer: S) -> Result<S::Ok, S::Error> {
    let addresses = rows.iter().filter(|row| row.key.is_of_bind());
    serializer.collect_seq(addresses.map(AddressStats::from))
}

/// The reading as a line of JSON, with its newline: `ts`, `drift`, the losses, `tuples` and `addresses`; a list can be empty.
///
/// # Errors
/// That of `serde_json`, which does not occur with these types.
pub(super) fn render(rows: &[Row], reading: &Reading<'_>) -> serde_json::Result<Vec<u8>> {
    let Reading { ns, drift, lost } = reading;
    let ts = Timestamp::default().text(*ns);
    let ts = &String::from_utf8_lossy(&ts);
    let mut line = terminal_safe(&Line { ts, drift: *drift, lost, tuples: rows, addresses: rows })?;
    line.push(b'\n');
    Ok(line)
}
