//! Which rows are shown: what is typed after `/`.
//!
//! Words with spaces between, all of which have to match:
//!
//! | word | matches |
//! |---|---|
//! | `nginx` | text in SRC, DST:PORT, ERR, COMM or CONTAINER, in any case |
//! | `src:10.0.0.0/8`, `dst:10.1.2.3` | an address or a network, or a part of the address as text |
//! | `port:8080`, `port:8000-8099` | the destination's port |
//! | `comm:nginx`, `container:3f1c`, `err:99`, `netns:blue`, `pid:812` | that column only |
//! | `sat>45`, `ports>=100`, `tw`, `conn`, `fail`, `eta<60`, `search` | numbers: %, ports, per second, s, µs |
//! | `!word` | what the word does not match |
//!
//! A value with spaces stands in quotes: `comm:"nginx: worker"`.

use std::net::IpAddr;

use ipnet::IpNet;
use tracer_common::{Addr, filter::Ports};

use super::group::GroupBy;
use crate::{
    cli,
    format::{table::Column, text},
    ledger::stats::Row,
};

/// A filter that was understood.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    terms: Vec<Term>,
    text: String,
}

#[derive(Clone, Debug, PartialEq)]
struct Term {
    not: bool,
    test: Test,
}

#[derive(Clone, Debug, PartialEq)]
enum Test {
    /// In lower case.
    Anywhere(String),
    Text(Column, String),
    Network(End, IpNet),
    Port(Ports),
    /// Its number, if it is one, and what is in its name.
    Netns(Option<u32>, String),
    Pid(u32),
    Number(Column, Comparison, f64),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Source,
    Destination,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Comparison {
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
    Equal,
}

/// Longest first: `>=` is not `>`.
const COMPARISONS: [(&str, Comparison); 5] = [
    (">=", Comparison::MoreOrEqual),
    ("<=", Comparison::LessOrEqual),
    (">", Comparison::More),
    ("<", Comparison::Less),
    ("=", Comparison::Equal),
];

const TEXTS: &str = "src, dst, port, comm, container, unit, err, netns, pid";
const NUMBERS: &str = "ports, tw, reuse, sat, conn, fail, search, eta";

impl Filter {
    /// # Errors
    /// What cannot be understood, and what could be written instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let terms = words(text)?.iter().map(|word| term(word)).collect::<Result<_, _>>()?;
        Ok(Self { terms, text: text.trim().to_owned() })
    }

    /// One that matches the tuples that a row stands for; `None`: what they have in common is not
    /// known.
    pub fn to_members(row: &Row, by: GroupBy) -> Option<Self> {
        let address = |end| IpAddr::from(end).to_canonical();
        let text = match by {
            GroupBy::Tuple => return None,
            GroupBy::Source => format!("src:{}", address(row.key.source.0)),
            GroupBy::Destination => {
                let (destination, port) = (row.key.destination.0, row.key.destination_port);
                format!("dst:{} port:{port}", address(destination))
            }
            GroupBy::Process => {
                let comm = Column::Comm.cell(row);
                let known = row.called.name != [0; 16];
                format!("comm:\"{}\"", known.then(|| comm.split('"').next().map(str::to_owned))??)
            }
            GroupBy::Container => format!("container:{}", row.container.as_deref()?),
        };
        Self::parse(&text).ok()
    }

    /// As it was typed.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    pub fn matches(&self, row: &Row) -> bool {
        self.terms.iter().all(|term| term.test.matches(row) != term.not)
    }
}

/// Splits at spaces outside of quotes, and takes the quotes off.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for letter in text.chars() {
        if letter == '"' {
            quoted = !quoted;
            word.get_or_insert_default();
        } else if letter.is_whitespace() && !quoted {
            words.extend(word.take());
        } else {
            word.get_or_insert_default().push(letter);
        }
    }
    if quoted {
        return Err("a quote (\") is not closed".into());
    }
    words.extend(word);
    Ok(words)
}

fn term(word: &str) -> Result<Term, String> {
    let (not, word) = word.strip_prefix('!').map_or((false, word), |rest| (true, rest));
    if word.is_empty() {
        return Err("a word is missing, as in !nginx".into());
    }
    Ok(Term { not, test: test(word)? })
}

fn test(word: &str) -> Result<Test, String> {
    for (sign, comparison) in COMPARISONS {
        if let Some((name, value)) = word.split_once(sign) {
            return number(name, comparison, value);
        }
    }
    match word.split_once(':') {
        _ if word.parse::<IpAddr>().is_ok() => Ok(Test::Anywhere(word.to_lowercase())),
        Some((name, value)) if name.bytes().all(|byte| byte.is_ascii_alphabetic()) => {
            field(name, value)
        }
        _ => Ok(Test::Anywhere(word.to_lowercase())),
    }
}

fn number(name: &str, comparison: Comparison, value: &str) -> Result<Test, String> {
    let column = match name {
        "ports" | "tw" | "reuse" | "sat" | "conn" | "fail" | "search" | "eta" => {
            Column::from_id(name)
        }
        _ => None,
    };
    let column = column.ok_or_else(|| format!("'{name}' is no number; use {NUMBERS}"))?;
    let digits = value.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let factor = match (column, value.get(digits.len()..).unwrap_or_default()) {
        (_, "")
        | (Column::Saturation, "%")
        | (Column::Eta, "s")
        | (Column::Search, "us" | "µs") => 1.0,
        (Column::Eta, "m") => 60.0,
        (Column::Eta, "h") => 3600.0,
        (Column::Search, "ms") => 1000.0,
        (_, unit) => return Err(format!("'{unit}' is no unit of {name}, as in {name}>45")),
    };
    let expected = |_| format!("{name} is compared with a number, as in {name}>45");
    let value: f64 = digits.parse().map_err(expected)?;
    Ok(Test::Number(column, comparison, value * factor))
}

fn field(name: &str, value: &str) -> Result<Test, String> {
    if value.is_empty() {
        return Err(format!("{name}: needs a value, without a space before it"));
    }
    let inode = |_| format!("{name}: needs a number");
    let lower = value.to_lowercase();
    Ok(match name {
        "src" => address(End::Source, Column::Source, value)?,
        "dst" => address(End::Destination, Column::Destination, value)?,
        "port" => Test::Port(cli::ports(value).map_err(|error| format!("port: {error}"))?),
        "netns" => Test::Netns(value.parse().ok(), lower),
        "pid" => Test::Pid(value.parse().map_err(inode)?),
        "comm" => Test::Text(Column::Comm, lower),
        "container" | "unit" => Test::Text(Column::Container, lower),
        "err" => Test::Text(Column::Error, lower),
        _ => return Err(format!("'{name}:' is no column; use {TEXTS}")),
    })
}

/// A whole address or network; anything else that looks like a part of one is compared as text.
fn address(end: End, column: Column, value: &str) -> Result<Test, String> {
    if value.contains('/') || value.parse::<IpAddr>().is_ok() {
        let network = cli::network(value).map_err(|error| format!("{value}: {error}"))?;
        return Ok(Test::Network(end, network));
    }
    Ok(Test::Text(column, value.to_lowercase()))
}

impl Test {
    fn matches(&self, row: &Row) -> bool {
        let has = |column: Column, text: &str| column.cell(row).to_lowercase().contains(text);
        match self {
            Self::Anywhere(text) => {
                let columns = [
                    Column::Source,
                    Column::Destination,
                    Column::Error,
                    Column::Comm,
                    Column::Container,
                ];
                let named = row
                    .netns_name
                    .as_deref()
                    .is_some_and(|name| name.to_lowercase().contains(text));
                named || columns.into_iter().any(|column| has(column, text))
            }
            // A container's id is cut short in its cell.
            Self::Text(Column::Container, id) => {
                let name = row.container.as_deref();
                name.is_some_and(|name| name.to_lowercase().contains(id.as_str()))
            }
            Self::Text(Column::Error, text) => {
                has(Column::Error, text) || row.last_errno.to_string() == *text
            }
            // A process by its name, or by that of its thread.
            Self::Text(Column::Comm, name) => {
                has(Column::Comm, name)
                    || text::kernel(&row.called.thread).to_lowercase().contains(name.as_str())
            }
            Self::Text(column, text) => has(*column, text),
            Self::Network(End::Source, network) => is_in(row.key.source, network),
            Self::Network(End::Destination, network) => is_in(row.key.destination, network),
            Self::Port(ports) => (ports.low..=ports.high).contains(&row.key.destination_port),
            Self::Netns(number, name) => {
                *number == Some(row.key.netns)
                    || row
                        .netns_name
                        .as_deref()
                        .is_some_and(|it| it.to_lowercase().contains(name.as_str()))
            }
            Self::Pid(pid) => row.pid == *pid,
            Self::Number(column, comparison, value) => {
                value_of(*column, row).is_some_and(|number| comparison.holds(number, *value))
            }
        }
    }
}

fn is_in(address: Addr, network: &IpNet) -> bool {
    network.contains(&IpAddr::from(address.0).to_canonical())
}

#[expect(clippy::cast_precision_loss, reason = "compared with what a person typed")]
fn value_of(column: Column, row: &Row) -> Option<f64> {
    match column {
        Column::Ports => Some(row.in_use as f64),
        Column::TimeWait => Some(row.time_wait as f64),
        Column::Reusable => row.reusable.map(|reusable| reusable as f64),
        Column::Saturation => row.saturation.map(|share| share * 100.0),
        Column::Opened => row.rates.map(|rates| rates.opened),
        Column::Failed => row.rates.map(|rates| rates.failed),
        Column::Search => row.search_p99.map(|p99| p99.ns as f64 / 1000.0),
        Column::Eta => row.eta_s,
        _ => None,
    }
}

impl Comparison {
    fn holds(self, one: f64, other: f64) -> bool {
        match self {
            Self::Less => one < other,
            Self::LessOrEqual => one <= other,
            Self::More => one > other,
            Self::MoreOrEqual => one >= other,
            Self::Equal => (one - other).abs() < 1e-9,
        }
    }
}

/// As it is shown while it is in force.
impl std::fmt::Display for Filter {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(&text::line(&self.text))
    }
}

#[cfg(test)]
mod tests;
