//! The columns of tables: which there are, and of each its name, title, cell, order, alignment, width and importance.

mod cell;
mod help;
mod order;

pub(crate) use cell::{BIND, duration, nanoseconds, percent, rate, seconds};
use cell::{destination, error, full, known, netns, not_empty, requests, source, state};

use crate::{format::text, host::cgroups::is_unit, ledger::stats::Row};

/// A column of a table of rows. [`Self::meaning`] says what each shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Column {
    Source,
    Destination,
    Ports,
    TimeWait,
    Reusable,
    State,
    Connecting,
    Unanswered,
    Established,
    CloseWait,
    Closing,
    Saturation,
    Opened,
    Failed,
    Error,
    Search,
    Eta,
    Netns,
    Comm,
    Container,
    Pid,
    Tuples,
    Pool,
    Requests,
    SynsAgain,
}

/// From this saturation on (1 is full), connect() is slow: the ports of the parity that the kernel searches first are nearly
/// used up, so the search takes long.
pub const SLOW: f64 = 0.45;
/// From this saturation on, the operator should act.
pub const HIGH: f64 = 0.80;
/// From this saturation on, connect() is about to fail.
pub const CRITICAL: f64 = 0.95;

impl Column {
    /// All columns.
    pub const ALL: [Self; 25] = [
        Self::Source,
        Self::Destination,
        Self::Ports,
        Self::TimeWait,
        Self::Reusable,
        Self::State,
        Self::Connecting,
        Self::Unanswered,
        Self::Established,
        Self::CloseWait,
        Self::Closing,
        Self::Saturation,
        Self::Opened,
        Self::Failed,
        Self::Error,
        Self::Search,
        Self::Eta,
        Self::Netns,
        Self::Comm,
        Self::Container,
        Self::Pid,
        Self::Tuples,
        Self::Pool,
        Self::Requests,
        Self::SynsAgain,
    ];

    /// The columns of `tracer tuples`, and of `tracer top` and `tracer replay` when they print text.
    pub const TUPLE: [Self; 20] = [
        Self::Source,
        Self::Destination,
        Self::Ports,
        Self::TimeWait,
        Self::Connecting,
        Self::Unanswered,
        Self::Established,
        Self::CloseWait,
        Self::Closing,
        Self::Saturation,
        Self::Opened,
        Self::Requests,
        Self::Failed,
        Self::Error,
        Self::SynsAgain,
        Self::Search,
        Self::Eta,
        Self::Netns,
        Self::Comm,
        Self::Container,
    ];

    /// The columns of the screen's view of tuples, which has less room.
    pub const VIEW: [Self; 14] = [
        Self::Source,
        Self::Destination,
        Self::Ports,
        Self::TimeWait,
        Self::State,
        Self::Saturation,
        Self::Opened,
        Self::Failed,
        Self::Error,
        Self::Search,
        Self::Eta,
        Self::Netns,
        Self::Comm,
        Self::Container,
    ];

    /// The columns of a table of processes.
    pub const PROCESS: [Self; 7] = [
        Self::Pid,
        Self::Comm,
        Self::Ports,
        Self::TimeWait,
        Self::Tuples,
        Self::Failed,
        Self::Container,
    ];

    /// The columns of a table of source addresses.
    pub const SOURCE: [Self; 10] = [
        Self::Source,
        Self::Ports,
        Self::TimeWait,
        Self::Tuples,
        Self::Saturation,
        Self::Opened,
        Self::Failed,
        Self::Eta,
        Self::Netns,
        Self::Pool,
    ];

    /// The column's name as a value of `--sort`.
    pub const fn id(self) -> &'static str {
        match self {
            Self::Source => "src",
            Self::Destination => "dst",
            Self::Netns => "netns",
            Self::Ports => "ports",
            Self::TimeWait => "tw",
            Self::Reusable => "reuse",
            Self::State => "state",
            Self::Connecting => "syn",
            Self::Unanswered => "noans",
            Self::Established => "estab",
            Self::CloseWait => "closew",
            Self::Closing => "closing",
            Self::Saturation => "sat",
            Self::Opened => "conn",
            Self::Failed => "fail",
            Self::Error => "err",
            Self::Search => "search",
            Self::Eta => "eta",
            Self::Comm => "comm",
            Self::Container => "container",
            Self::Pid => "pid",
            Self::Tuples => "tuples",
            Self::Pool => "pool",
            Self::Requests => "req",
            Self::SynsAgain => "synrtx",
        }
    }

    /// The column with this name as a value of `--sort`; `None`: no column has it.
    pub fn from_id(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|column| column.id() == id)
    }

    /// The title, in the table's header.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Source => "SRC",
            Self::Destination => "DST:PORT",
            Self::Netns => "NETNS",
            Self::Ports => "PORTS",
            Self::TimeWait => "TW",
            Self::Reusable => "REUSE",
            Self::State => "STATE",
            Self::Connecting => "SYN",
            Self::Unanswered => "NOANS",
            Self::Established => "ESTAB",
            Self::CloseWait => "CLOSEW",
            Self::Closing => "CLOSING",
            Self::Saturation => "%SAT",
            Self::Opened => "CONN/s",
            Self::Failed => "FAIL/s",
            Self::Error => "ERR",
            Self::Search => "SEARCH(p99)",
            Self::Eta => "ETA",
            Self::Comm => "COMM",
            Self::Container => "CONTAINER",
            Self::Pid => "PID",
            Self::Tuples => "TUPLES",
            Self::Pool => "POOL",
            Self::Requests => "REQ/CONN",
            Self::SynsAgain => "SYNRTX",
        }
    }

    /// Importance: if there is no room for all columns, those with the largest number are left out first.
    pub const fn rank(self) -> u8 {
        match self {
            Self::Destination | Self::Pid => 0,
            Self::Saturation => 1,
            Self::Ports => 2,
            Self::Source => 3,
            Self::Netns | Self::State => 4,
            Self::Eta => 5,
            Self::Failed => 6,
            Self::Comm => 7,
            Self::Opened => 8,
            Self::TimeWait => 9,
            Self::Pool => 10,
            Self::Error => 11,
            Self::Tuples => 12,
            Self::Search => 13,
            Self::Container => 14,
            Self::Reusable
            | Self::Connecting
            | Self::Unanswered
            | Self::Established
            | Self::CloseWait
            | Self::Closing
            | Self::Requests
            | Self::SynsAgain => 15,
        }
    }

    /// Whether cells are text, which is aligned to the left; numbers are aligned to the right.
    pub const fn is_text(self) -> bool {
        matches!(
            self,
            Self::Source
                | Self::Destination
                | Self::Netns
                | Self::State
                | Self::Error
                | Self::Comm
                | Self::Container
                | Self::Pool
        )
    }

    /// The least width in characters, so that columns do not move when numbers grow.
    pub const fn width(self) -> usize {
        match self {
            Self::Destination => 21,
            Self::Ports
            | Self::TimeWait
            | Self::Reusable
            | Self::Connecting
            | Self::Unanswered
            | Self::Established => 5,
            Self::State => 14,
            Self::Saturation | Self::Requests => 8,
            Self::CloseWait
            | Self::Opened
            | Self::Failed
            | Self::Eta
            | Self::Tuples
            | Self::SynsAgain => 6,
            Self::Closing | Self::Pid => 7,
            Self::Error => 13,
            Self::Netns => 10,
            Self::Search => 11,
            Self::Source | Self::Comm | Self::Pool => 15,
            Self::Container => 9,
        }
    }

    /// The text of this column's cell in a row, without padding; `-` if the value is not known, or there is none; `*` for a
    /// source or destination if the row stands for several; `full` for an ETA of 0; further signs are explained by
    /// [`Self::meaning`]. A container's id is cut to 12 characters. Safe to print on a terminal.
    pub fn cell(self, row: &Row) -> String {
        let unknown = || "-".to_owned();
        match self {
            Self::Source => source(row),
            Self::Destination => destination(row),
            Self::Netns => netns(row).unwrap_or_else(unknown),
            Self::Ports => row.in_use.to_string(),
            Self::TimeWait => {
                let mark = if row.reusable.is_some_and(|reusable| reusable > 0) { "r" } else { "" };
                format!("{}{mark}", row.time_wait)
            }
            Self::Reusable => row.reusable.map_or_else(unknown, |reusable| reusable.to_string()),
            Self::State => state(row).unwrap_or_else(unknown),
            Self::Connecting
            | Self::Unanswered
            | Self::Established
            | Self::CloseWait
            | Self::Closing => self.ports(row).map_or_else(unknown, |ports| ports.to_string()),
            Self::Saturation => row.saturation.map_or_else(unknown, percent),
            Self::Opened => row.rates.map_or_else(unknown, |rates| rate(rates.opened)),
            Self::Failed => row.rates.map_or_else(unknown, |rates| rate(rates.failed)),
            Self::Error => error(row).map_or_else(unknown, Into::into),
            Self::Search => row.search_p99.map_or_else(unknown, duration),
            Self::Eta => match row.eta_s {
                Some(0.0) if row.capacity == Some(0) => full(row),
                Some(0.0) => "full".to_owned(),
                Some(eta) => seconds(eta),
                None => unknown(),
            },
            Self::Comm => not_empty(text::kernel(&row.called.shown())).unwrap_or_else(unknown),
            Self::Container => row
                .container
                .as_deref()
                .and_then(|id| {
                    let kept = if is_unit(id) { usize::MAX } else { 12 };
                    not_empty(text::line(id).chars().take(kept).collect())
                })
                .unwrap_or_else(unknown),
            Self::Pid => known(row.pid).map_or_else(unknown, |pid| pid.to_string()),
            Self::Tuples => row.tuples.to_string(),
            Self::Requests => requests(row).map_or_else(unknown, rate),
            Self::SynsAgain => row.uses.map_or_else(unknown, |uses| uses.syns_again.to_string()),
            Self::Pool => {
                let note = row.note.as_deref().map(|note| text::line(note).into_owned());
                note.and_then(not_empty).unwrap_or_else(unknown)
            }
        }
    }

    /// How many ports are in the state of this column; `None`: not known, or the column has no state.
    fn ports(self, row: &Row) -> Option<u64> {
        let ports = row.states?;
        match self {
            Self::Connecting => Some(ports.connecting),
            Self::Unanswered => Some(ports.unanswered),
            Self::Established => Some(ports.established),
            Self::CloseWait => Some(ports.close_wait),
            Self::Closing => Some(ports.closing),
            _ => None,
        }
    }
}
