//! What HAProxy answers on its stats socket: counters of its servers (management.txt, 9.1 and 9.3).

mod client;
mod table;

use std::{collections::BTreeMap, net::SocketAddr};

pub use client::{COMMANDS, ask};

/// Rows that are read of an answer at most.
const MOST_ROWS: usize = 50_000;
/// Values of `show info` that are read at most, and bytes of each line with its name.
const MOST_VALUES: usize = 200;
const LONGEST_VALUE: usize = 256;

/// The answer to [`COMMANDS`]; what is not in it is missing here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// `show stat`, at most 50,000 rows.
    pub rows: Vec<Row>,
    /// `show info`, at most 200 values by their names, for example `Version`, `Pid`, `Uptime_sec`, `Maxconn`, `CurrConns`. Name
    /// and value have at most 256 bytes together.
    pub info: BTreeMap<String, String>,
}

/// What a row of `show stat` is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RowKind {
    Frontend,
    Backend,
    Server,
    Listener,
}

/// A row of `show stat`.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub kind: RowKind,
    /// The section.
    pub proxy: String,
    /// `FRONTEND`, `BACKEND`, or the name of a server or listener.
    pub server: String,
    /// Address and port, host names resolved. `None`: a unix socket, a row without an address (such as a frontend's), or
    /// the socket's level is `user`, which does not see it.
    pub address: Option<SocketAddr>,
    /// Whether its mode is `http`; `None`: not in the answer.
    pub http: Option<bool>,
    pub counters: Counters,
}

/// Counters and gauges of a server or backend. `None`: not in the answer, or no number.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Connections that HAProxy tried to open (`connect`).
    pub connects: Option<u64>,
    /// Requests that were sent over a connection that was open before (`reuse`).
    pub reuses: Option<u64>,
    /// Connections that could not be opened (`econ`), retries not included.
    pub errors: Option<u64>,
    /// Retries of connections (`wretr`).
    pub retries: Option<u64>,
    /// Connections in use now (`used_conn_cur`).
    pub used: Option<u64>,
    /// Idle connections now over which the first request of a client may not be sent (`idle_conn_cur`).
    pub idle_unsafe: Option<u64>,
    /// Idle connections now over which any request may be sent (`safe_conn_cur`).
    pub idle_safe: Option<u64>,
    /// Connections that HAProxy expects to need (`need_conn_est`).
    pub needed: Option<u64>,
}

impl Counters {
    /// Share of the requests that were sent over a connection that was open before, 0 to 1; `None`: there were no connections and
    /// no such requests, or one of both is not in the answer.
    pub fn hit_rate(&self) -> Option<f64> {
        let (connects, reuses) = (float(self.connects?), float(self.reuses?));
        (connects + reuses > 0.0).then(|| reuses / (connects + reuses))
    }

    /// Idle connections now; `None`: one of the two kinds is not in the answer.
    pub fn idle(&self) -> Option<u64> {
        Some(self.idle_unsafe?.saturating_add(self.idle_safe?))
    }

    /// These counters minus those of an earlier answer; the gauges are those of now. `None` where a counter is missing in one of
    /// both answers, or is less than before: HAProxy was started again, or its counters were cleared.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let less = |now: Option<u64>, before: Option<u64>| now?.checked_sub(before?);
        Self {
            connects: less(self.connects, before.connects),
            reuses: less(self.reuses, before.reuses),
            errors: less(self.errors, before.errors),
            retries: less(self.retries, before.retries),
            ..*self
        }
    }
}

fn float(number: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    let number = number as f64;
    number
}

impl Stats {
    /// The rows of servers.
    pub fn servers(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.kind == RowKind::Server)
    }

    /// The first row of a server, by the names of its section and of itself; `None`: not in the answer.
    pub fn server(&self, proxy: &str, server: &str) -> Option<&Row> {
        self.servers().find(|row| row.proxy == proxy && row.server == server)
    }

    /// The rows of the servers at an address; none if the socket's level is `user`.
    pub fn towards(&self, destination: SocketAddr) -> impl Iterator<Item = &Row> {
        self.servers().filter(move |row| row.address == Some(destination))
    }
}

/// Reads the answer to [`COMMANDS`], in any order. Rows of an unknown type or without names, and lines of `show info` without a
/// colon, are skipped; an empty answer has neither rows nor values. Reading ends after 50,000 rows, so that what follows these is
/// missing; of `show info`, the first 200 values are kept.
pub fn parse(answer: &[u8]) -> Stats {
    let mut stats = Stats::default();
    let mut rest = answer;
    while !rest.is_empty() {
        rest = if rest.starts_with(b"# pxname,") {
            rows(rest, &mut stats)
        } else {
            info(rest, &mut stats)
        };
    }
    stats
}

/// Reads a line `Name: value`, and returns what is after it.
fn info<'a>(text: &'a [u8], stats: &mut Stats) -> &'a [u8] {
    let (line, rest) = match text.iter().position(|byte| *byte == b'\n') {
        Some(end) => (text.get(..end).unwrap_or_default(), text.get(end + 1..).unwrap_or_default()),
        None => (text, &[][..]),
    };
    let line = line.get(..line.len().min(LONGEST_VALUE)).unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    if let Some((name, value)) = line.split_once(':')
        && stats.info.len() < MOST_VALUES
    {
        stats.info.insert(name.to_owned(), value.trim().to_owned());
    }
    rest
}

/// Reads a table with its head, and returns what is after its last row: an empty line, or the end.
fn rows<'a>(text: &'a [u8], stats: &mut Stats) -> &'a [u8] {
    let mut lines = table::Rows::new(text);
    let head = lines.next().unwrap_or_default();
    let columns = Columns::of(&head);
    for line in lines.by_ref() {
        if stats.rows.len() >= MOST_ROWS {
            return &[];
        }
        stats.rows.extend(columns.row(&line));
    }
    lines.rest()
}

/// Where the columns are that are read. They are found by their names.
#[derive(Debug, Default)]
struct Columns {
    by_name: BTreeMap<String, usize>,
}

impl Columns {
    fn of(head: &[String]) -> Self {
        let names = head.iter().map(|name| name.trim_start_matches("# ").to_owned());
        Self { by_name: names.zip(0..).collect() }
    }

    /// `None`: it is no row of a known kind.
    fn row(&self, line: &[String]) -> Option<Row> {
        let text = |name: &str| {
            let value = line.get(*self.by_name.get(name)?)?;
            (!value.is_empty()).then_some(value.as_str())
        };
        let number = |name: &str| text(name)?.parse().ok();
        let kind = match text("type")? {
            "0" => RowKind::Frontend,
            "1" => RowKind::Backend,
            "2" => RowKind::Server,
            "3" => RowKind::Listener,
            _ => return None,
        };
        Some(Row {
            kind,
            proxy: text("pxname")?.to_owned(),
            server: text("svname")?.to_owned(),
            address: text("addr").and_then(|address| address.parse().ok()),
            http: text("mode").map(|mode| mode == "http"),
            counters: Counters {
                connects: number("connect"),
                reuses: number("reuse"),
                errors: number("econ"),
                retries: number("wretr"),
                used: number("used_conn_cur"),
                idle_unsafe: number("idle_conn_cur"),
                idle_safe: number("safe_conn_cur"),
                needed: number("need_conn_est"),
            },
        })
    }
}

/// A row of `show servers conn`: the connections to a server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Held {
    pub proxy: String,
    pub server: String,
    /// Address and port; `None`: a unix socket, or not in the answer.
    pub address: Option<SocketAddr>,
    /// Connections in use now; `None`: not in the answer.
    pub used: Option<u64>,
    /// Idle connections now; `None`: not in the answer.
    pub idle: Option<u64>,
}

/// Reads the answer to `show servers conn`, at most 50,000 rows; those before the line that names the columns, and those without
/// a section and a server, are skipped. It has the addresses of host names whatever the socket's level is.
pub fn parse_connections(answer: &[u8]) -> Vec<Held> {
    let text = String::from_utf8_lossy(answer);
    let mut columns: Vec<&str> = Vec::new();
    let mut found = Vec::new();
    for line in text.lines() {
        let words = line.split_ascii_whitespace();
        if let Some(head) = line.strip_prefix("# ") {
            columns = head.split_ascii_whitespace().collect();
            continue;
        }
        let words: Vec<&str> = words.take(columns.len()).collect();
        let value =
            |name: &str| words.get(columns.iter().position(|column| *column == name)?).copied();
        let number = |name: &str| value(name)?.parse::<u64>().ok();
        let Some((proxy, server)) = value("bkname/svname").and_then(|names| names.split_once('/'))
        else {
            continue;
        };
        let ip = value("addr").and_then(|address| address.parse().ok());
        let port = value("port").and_then(|port| port.parse().ok());
        found.push(Held {
            proxy: proxy.to_owned(),
            server: server.to_owned(),
            address: ip.zip(port).map(|(ip, port)| SocketAddr::new(ip, port)),
            used: number("used_cur"),
            idle: number("idle_cur"),
        });
        if found.len() >= MOST_ROWS {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests;
