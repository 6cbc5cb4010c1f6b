//! One line of JSON for each reading.

use serde::{Serialize, Serializer};

use crate::{
    export::{record::terminal_safe, timestamp::Timestamp, tuple::Tuple},
    stats::Row,
};

#[derive(Serialize)]
struct Reading<'a> {
    ts: &'a str,
    #[serde(serialize_with = "one_by_one")]
    tuples: &'a [Row],
}

/// Each row becomes a [`Tuple`] only while it is written.
fn one_by_one<S: Serializer>(rows: &[Row], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(rows.iter().map(Tuple::from))
}

pub(super) fn render(rows: &[Row], ns: u64) -> serde_json::Result<Vec<u8>> {
    let ts = Timestamp::default().text(ns);
    let mut line = terminal_safe(&Reading { ts: &String::from_utf8_lossy(&ts), tuples: rows })?;
    line.push(b'\n');
    Ok(line)
}
