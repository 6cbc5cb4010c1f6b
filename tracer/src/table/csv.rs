//! RFC 4180, with the keys of the JSON form as its header.

use std::borrow::Cow;

use crate::{
    export::{timestamp::Timestamp, tuple::Tuple},
    stats::Row,
    text,
};

/// The header, in the order of [`fields`].
const HEADER: &str = "ts,netns,netns.name,network.local.address,network.peer.address,network.peer.port,\
ports.in_use,ports.time_wait,ports.capacity,ports.saturation,rate.opened,rate.failed,\
search.p99_ns,eta_s,ports.opened,ports.released,connect.failures,errno,process.pid,\
process.executable.name,container.id\r\n";

pub(super) fn render(rows: &[Row], ns: u64, header: bool) -> Vec<u8> {
    let ts = Timestamp::default().text(ns);
    let ts = String::from_utf8_lossy(&ts);
    let mut out = if header { HEADER.to_owned() } else { String::new() };
    for row in rows {
        let cells = fields(&ts, &Tuple::from(row), row.failures());
        let quoted: Vec<_> = cells.iter().map(|cell| quoted(cell)).collect();
        out.push_str(&quoted.join(","));
        out.push_str("\r\n");
    }
    out.into_bytes()
}

fn fields(ts: &str, tuple: &Tuple<'_>, failures: u64) -> [String; 21] {
    [
        ts.to_owned(),
        tuple.netns.to_string(),
        known(tuple.netns_name.as_deref()),
        tuple.local_address.clone(),
        tuple.peer_address.clone(),
        tuple.peer_port.to_string(),
        tuple.in_use.to_string(),
        tuple.time_wait.to_string(),
        known(tuple.capacity),
        known(tuple.saturation),
        known(tuple.rate_opened),
        known(tuple.rate_failed),
        known(tuple.search_p99_ns),
        known(tuple.eta_s),
        tuple.opened.to_string(),
        tuple.released.to_string(),
        failures.to_string(),
        known(tuple.errno),
        known(tuple.pid),
        known(tuple.comm.as_deref()),
        known(tuple.container),
    ]
}

fn known(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// A field that no reader splits, and that is fit for a terminal.
fn quoted(cell: &str) -> Cow<'_, str> {
    let cell = text::line(cell);
    if cell.contains([',', '"', ' ']) {
        Cow::Owned(format!("\"{}\"", cell.replace('"', "\"\"")))
    } else {
        cell
    }
}
