//! Formats the table as CSV (RFC 4180), with the keys of the JSON form as its header.

use std::borrow::Cow;

use crate::{
    format::{
        text,
        timestamp::Timestamp,
        tuple::{Tuple, address},
    },
    ledger::stats::Row,
};

/// The header, in the order of [`fields`].
const HEADER: &str = "ts,netns,netns.name,network.local.address,network.peer.address,network.peer.port,\
ports.in_use,ports.time_wait,ports.capacity,ports.saturation,rate.opened,rate.failed,\
search.p99_ns,eta_s,ports.opened,ports.released,connect.failures,errno,process.pid,\
process.executable.name,container.id,search.p99_at_least,ports.reusable,ports.connecting,ports.unanswered,\
ports.established,ports.close_wait,ports.closing,ports.range,ports.reserved,ports.bound,\
process.executable.name.source,thread.name,systemd.unit,connections.closed_here,connections.closed_by_peer,\
connections.aborted,connections.segments,connections.requests,syns.sent_again,syns.unanswered\r\n";

/// The rows as lines of CSV, each with `\r\n` at its end, after the header if `header`; empty without both. `ns`: wall clock of
/// the reading, ns since 1970. A value that is not known is an empty cell. A row about bind(address, 0) has no peer address, and
/// 0 as its port.
pub(super) fn render(rows: &[Row], ns: u64, header: bool) -> Vec<u8> {
    let ts = Timestamp::default().text(ns);
    let ts = String::from_utf8_lossy(&ts);
    let mut out = if header { HEADER.to_owned() } else { String::new() };
    for row in rows {
        let mut tuple = Tuple::from(row);
        if row.key.is_of_bind() {
            tuple.local_address = address(row.key.source);
            tuple.peer_address = String::new();
        }
        let cells = fields(&ts, &tuple, row.failures());
        let quoted: Vec<_> = cells.iter().map(|cell| quoted(cell)).collect();
        out.push_str(&quoted.join(","));
        out.push_str("\r\n");
    }
    out.into_bytes()
}

fn fields(ts: &str, tuple: &Tuple<'_>, failures: u64) -> [String; 41] {
    [
        ts.to_owned(),
        tuple.netns.to_string(),
        as_text(tuple.netns_name.as_deref()),
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
        as_text(tuple.comm.as_deref()),
        as_text(tuple.container),
        known(tuple.search_p99_ns.map(|_| tuple.search_p99_at_least)),
        known(tuple.reusable),
        known(tuple.connecting),
        known(tuple.unanswered),
        known(tuple.established),
        known(tuple.close_wait),
        known(tuple.closing),
        tuple.range.clone().unwrap_or_default(),
        known(tuple.reserved),
        known(tuple.bound),
        known(tuple.comm_source),
        as_text(tuple.thread.as_deref()),
        as_text(tuple.unit),
        known(tuple.closed_here),
        known(tuple.closed_by_peer),
        known(tuple.aborted),
        known(tuple.segments),
        known(tuple.requests),
        known(tuple.syns_again),
        known(tuple.syns_unanswered),
    ]
}

/// The cell of a number or word; empty if there is none.
fn known(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// Characters that a spreadsheet takes for the beginning of a formula, also in their wide forms (OWASP, CSV
/// injection).
const FORMULA: [char; 10] = ['=', '+', '-', '@', '\t', '\r', '＝', '＋', '－', '＠'];

/// The cell of a name; empty if there is none. Other users choose names, so one that a spreadsheet would take for a formula gets
/// an apostrophe before it.
fn as_text(name: Option<&str>) -> String {
    match name.unwrap_or_default() {
        name if name.starts_with(FORMULA) => format!("'{name}"),
        name => name.to_owned(),
    }
}

/// A field that a CSV reader does not split, and that is safe to print on a terminal.
fn quoted(cell: &str) -> Cow<'_, str> {
    let cell = text::line(cell);
    if cell.contains([',', '"', ' ']) {
        Cow::Owned(format!("\"{}\"", cell.replace('"', "\"\"")))
    } else {
        cell
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::stats::Row;
    use tracer_common::{TupleCount, TupleKey};

    #[test]
    fn a_name_is_never_a_formula_and_a_number_stays_one() {
        let names = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1"];
        for name in names {
            let mut row = Row::new(TupleKey::default(), &TupleCount::default(), None, None);
            row.called.name[..name.len()].copy_from_slice(name.as_bytes());
            row.called.thread = row.called.name;
            row.container = Some(name.into());
            row.netns_name = Some(name.into());
            row.eta_s = Some(-1.5);
            let text = String::from_utf8(render(&[row], 0, false)).unwrap();
            let cells: Vec<_> = text.trim_end().split(',').collect();
            for place in [2, 19, 20, 32] {
                assert!(cells[place].starts_with('\''), "{name:?} is written as {}", cells[place]);
            }
            assert_eq!(cells[13], "-1.5");
        }
        for name in ["nginx", "a=b", "'=1", ""] {
            assert_eq!(as_text(Some(name)), name);
        }
    }
}
