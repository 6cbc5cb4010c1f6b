//! The filter that is typed after `/`: which rows are shown.
//!
//! Words with spaces between them, all of which have to match:
//!
//! | word | matches |
//! |---|---|
//! | `nginx` | text in SRC, DST:PORT, ERR, COMM, CONTAINER or the name of the network namespace, in any case |
//! | `src:10.0.0.0/8`, `dst:10.1.2.3` | an address or a network, or a part of the address as text |
//! | `port:8080`, `port:8000-8099` | the destination's port |
//! | `comm:nginx`, `container:3f1c`, `unit:ssh`, `err:refused` | a part of that; `comm:` of the thread's name, too |
//! | `err:99`, `netns:4026532177`, `netns:blue`, `pid:812` | that number; a part of the namespace's name |
//! | `sat>45`, `ports>=100`, `tw`, `reuse`, `conn`, `fail`, `eta<60`, `search` | a number of that column: see below |
//! | `!word` | rows that the word does not match |
//!
//! The numbers: `ports`, `tw` and `reuse` are ports, `sat` is in %, `conn` and `fail` are per second, `eta` is in s (or with
//! the unit `m` or `h`), `search` in µs (or `ms`). A value with spaces is put in quotes: `comm:"nginx: worker"`.

use std::net::IpAddr;

use ipnet::IpNet;
use tracer_common::{Addr, filter::Ports};

use super::group::GroupBy;
use crate::{
    cli,
    format::{table::Column, text},
    ledger::stats::Row,
};

/// A parsed filter. The default matches every row.
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
    /// A text, in lower case, that at least one of several columns contains.
    Anywhere(String),
    Text(Column, String),
    Network(End, IpNet),
    Port(Ports),
    /// The namespace's number (`None`: the value is no number), or a part of its name, in lower case.
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

/// Longest first, so that `>=` is not taken for `>`.
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
    /// Parses what was typed; a text without words matches every row.
    ///
    /// # Errors
    /// Which word is wrong, and what to write instead; or that a quote is not closed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let terms = words(text)?.iter().map(|word| term(word)).collect::<Result<_, _>>()?;
        Ok(Self { terms, text: text.trim().to_owned() })
    }

    /// A filter that shows the tuples of the group whose row this is; `None`: the row is a tuple's, or what its tuples have in
    /// common (the name of their process, their container) is not known. By process and by container, it also shows tuples whose
    /// name contains that of the group; of a name with a quote, only the part before the quote counts.
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

    /// The filter as it was typed, without spaces around it; it may have control characters.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it has no words: it matches every row.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether all words match the row. A comparison with a number that is not known does not match (so `!` before it does).
    pub fn matches(&self, row: &Row) -> bool {
        self.terms.iter().all(|term| term.test.matches(row) != term.not)
    }
}

/// Splits a text at spaces outside of quotes, and removes the quotes.
///
/// # Errors
/// A quote is not closed.
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
    let column = column.ok_or_else(|| format!("'{name}' is not a number; use {NUMBERS}"))?;
    let digits = value.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let factor = match (column, value.get(digits.len()..).unwrap_or_default()) {
        (_, "")
        | (Column::Saturation, "%")
        | (Column::Eta, "s")
        | (Column::Search, "us" | "µs") => 1.0,
        (Column::Eta, "m") => 60.0,
        (Column::Eta, "h") => 3600.0,
        (Column::Search, "ms") => 1000.0,
        (_, unit) => return Err(format!("'{unit}' is not a unit of {name}; write {name}>45")),
    };
    let expected = |_| format!("{name} needs a number; write {name}>45");
    let value: f64 = digits.parse().map_err(expected)?;
    Ok(Test::Number(column, comparison, value * factor))
}

fn field(name: &str, value: &str) -> Result<Test, String> {
    if value.is_empty() {
        return Err(format!("{name}: needs a value, without a space before it"));
    }
    let not_a_number = |_| format!("{name}: needs a number");
    let lower = value.to_lowercase();
    Ok(match name {
        "src" => address(End::Source, Column::Source, value)?,
        "dst" => address(End::Destination, Column::Destination, value)?,
        "port" => Test::Port(cli::ports(value).map_err(|error| format!("port: {error}"))?),
        "netns" => Test::Netns(value.parse().ok(), lower),
        "pid" => Test::Pid(value.parse().map_err(not_a_number)?),
        "comm" => Test::Text(Column::Comm, lower),
        "container" | "unit" => Test::Text(Column::Container, lower),
        "err" => Test::Text(Column::Error, lower),
        _ => return Err(format!("'{name}:' is not a column; use {TEXTS}")),
    })
}

/// The test for an address: a whole address or network is compared as such, anything else as text.
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
            // The cell has only the beginning of a container's id.
            Self::Text(Column::Container, id) => {
                let name = row.container.as_deref();
                name.is_some_and(|name| name.to_lowercase().contains(id.as_str()))
            }
            Self::Text(Column::Error, text) => {
                has(Column::Error, text) || row.last_errno.to_string() == *text
            }
            // The name of the process, or of the thread that called connect().
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
        Column::Requests => row.uses?.recent.per_connection(),
        Column::SynsAgain => row.uses.map(|uses| uses.syns_again as f64),
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

/// The filter as the screen shows it: with control characters replaced by U+FFFD.
impl std::fmt::Display for Filter {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(&text::line(&self.text))
    }
}

#[cfg(test)]
mod tests;
