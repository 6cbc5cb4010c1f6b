//! One line of JSON for each reading.

use serde::Serialize;

use crate::{
    export::{record::terminal_safe, timestamp::Timestamp, tuple::Tuple},
    stats::Row,
};

#[derive(Serialize)]
struct Reading<'a> {
    ts: &'a str,
    tuples: Vec<Tuple>,
}

pub(super) fn render(rows: &[Row], ns: u64) -> serde_json::Result<Vec<u8>> {
    let ts = Timestamp::default().text(ns);
    let ts = String::from_utf8_lossy(&ts);
    let reading = Reading { ts: &ts, tuples: rows.iter().map(Tuple::from).collect() };
    let mut line = terminal_safe(&reading)?;
    line.push(b'\n');
    Ok(line)
}
