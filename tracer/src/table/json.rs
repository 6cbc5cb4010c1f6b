//! One line of JSON for each reading.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::Reading;
use crate::{
    export::{
        record::{lost_prefix, terminal_safe},
        timestamp::Timestamp,
        tuple::Tuple,
    },
    stats::Row,
};

#[derive(Serialize)]
struct Line<'a> {
    ts: &'a str,
    drift: u64,
    #[serde(flatten, serialize_with = "lost_prefix")]
    lost: &'a BTreeMap<&'a str, u64>,
    #[serde(serialize_with = "one_by_one")]
    tuples: &'a [Row],
}

/// Each row becomes a [`Tuple`] only while it is written.
fn one_by_one<S: Serializer>(rows: &[Row], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(rows.iter().map(Tuple::from))
}

pub(super) fn render(rows: &[Row], reading: &Reading<'_>) -> serde_json::Result<Vec<u8>> {
    let Reading { ns, drift, lost } = reading;
    let ts = Timestamp::default().text(*ns);
    let ts = &String::from_utf8_lossy(&ts);
    let mut line = terminal_safe(&Line { ts, drift: *drift, lost, tuples: rows })?;
    line.push(b'\n');
    Ok(line)
}
