//! Groups the rows of tuples by destination, source, process or container.

use std::{collections::HashMap, sync::Arc};

use tracer_common::{Addr, Ports, TupleKey};

use crate::{
    host::process::Called,
    ledger::stats::{Rates, Row},
};

/// What one row stands for.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum GroupBy {
    #[default]
    Tuple,
    Destination,
    Source,
    /// By the name of the process that connected last.
    Process,
    Container,
}

impl GroupBy {
    /// All, in the order in which a key chooses them.
    pub const ALL: [Self; 5] =
        [Self::Tuple, Self::Destination, Self::Source, Self::Process, Self::Container];

    /// Its name in titles.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tuple => "tuple",
            Self::Destination => "destination",
            Self::Source => "source",
            Self::Process => "process",
            Self::Container => "container",
        }
    }

    /// The next one in the order of [`Self::ALL`]; after the last, the first.
    #[must_use]
    pub const fn next(self) -> Self {
        match self {
            Self::Tuple => Self::Destination,
            Self::Destination => Self::Source,
            Self::Source => Self::Process,
            Self::Process => Self::Container,
            Self::Container => Self::Tuple,
        }
    }
}

/// What identifies a group.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Subject {
    /// The key of its tuples, with 0 in the parts in which they can differ.
    pub key: TupleKey,
    /// The name of its process; all 0: not known, or the group is not one of a process.
    pub comm: [u8; 16],
    /// In the view of processes, the id of its process (0: not known): these rows differ by it. In all other views 0.
    pub pid: u32,
    /// Its container or systemd unit; `None`: not known, or the group is not one of a container.
    pub container: Option<Arc<str>>,
}

impl Subject {
    /// The group of a row, which may itself be a group's. Its `pid` is 0.
    pub fn of(row: &Row, by: GroupBy) -> Self {
        let none = Self { key: TupleKey::default(), comm: [0; 16], pid: 0, container: None };
        let key = row.key;
        match by {
            GroupBy::Tuple => Self { key, ..none },
            GroupBy::Destination => {
                Self { key: TupleKey { source: Addr::UNSPECIFIED, ..key }, ..none }
            }
            GroupBy::Source => Self {
                key: TupleKey { destination: Addr::UNSPECIFIED, destination_port: 0, ..key },
                ..none
            },
            GroupBy::Process => Self { comm: row.called.shown(), ..none },
            GroupBy::Container => Self { container: row.container.clone(), ..none },
        }
    }
}

/// One row for each group, in no order, without rows about bind(address, 0). Numbers of ports, rates and failed calls are sums;
/// the capacity, and the ports by state, are not known if those of one tuple are not; of rates, of reusable TIME_WAITs and of how
/// connections are used, those that are known are added. Saturation, ETA and port search are each those of the tuple in which
/// they are worst, because ports run out by tuple. The errno is that of any tuple that has one, the name of the network namespace
/// that of any tuple. Process id, port range and container are left out if they differ; process names that differ become `*`.
pub fn grouped(rows: impl Iterator<Item = Row>, by: GroupBy) -> Vec<Row> {
    let mut groups: HashMap<Subject, Row> = HashMap::new();
    // The row of an address (bind) is left out: its ports are those of the address's tuples.
    for mut row in rows.filter(|row| !row.key.is_of_bind()) {
        let subject = Subject::of(&row, by);
        row.key = subject.key;
        groups.entry(subject).and_modify(|group| join(group, &row)).or_insert(row);
    }
    groups.into_values().collect()
}

/// Adds a row to the row of its group.
fn join(group: &mut Row, row: &Row) {
    group.in_use += row.in_use;
    group.time_wait += row.time_wait;
    group.reusable = match (group.reusable, row.reusable) {
        (Some(one), Some(other)) => Some(one.saturating_add(other)),
        (one, other) => one.or(other),
    };
    group.states = match (group.states, row.states) {
        (Some(one), Some(other)) => Some(Ports {
            connecting: one.connecting + other.connecting,
            unanswered: one.unanswered + other.unanswered,
            established: one.established + other.established,
            close_wait: one.close_wait + other.close_wait,
            closing: one.closing + other.closing,
        }),
        _ => None,
    };
    group.capacity = match (group.capacity, row.capacity) {
        (Some(one), Some(other)) => Some(one.saturating_add(other)),
        _ => None,
    };
    group.saturation = combine(group.saturation, row.saturation, f64::max);
    group.eta_s = combine(group.eta_s, row.eta_s, f64::min);
    group.search_p99 = group.search_p99.max(row.search_p99);
    group.uses = match (group.uses, row.uses) {
        (Some(one), Some(other)) => Some(one.and(&other)),
        (one, other) => one.or(other),
    };
    group.rates = match (group.rates, row.rates) {
        (Some(one), Some(other)) => Some(Rates {
            opened: one.opened + other.opened,
            released: one.released + other.released,
            failed: one.failed + other.failed,
        }),
        (one, other) => one.or(other),
    };
    group.opened = group.opened.saturating_add(row.opened);
    group.released = group.released.saturating_add(row.released);
    for (sum, count) in group.failed.iter_mut().zip(row.failed) {
        *sum = sum.saturating_add(count);
    }
    if row.last_errno != 0 {
        group.last_errno = row.last_errno;
    }
    if group.called != row.called {
        // `called` also has the thread's name, in which the rows of one process can differ.
        let same = group.called.shown() == row.called.shown();
        let name = if same { group.called.shown() } else { several_comms() };
        group.called = Called { name, ..Called::default() };
    }
    if group.pid != row.pid {
        group.pid = 0;
    }
    if group.limits != row.limits {
        group.limits = None;
    }
    if group.container != row.container {
        group.container = None;
    }
    group.tuples = group.tuples.saturating_add(row.tuples);
}

/// The process name of a group whose rows have different ones: `*`.
fn several_comms() -> [u8; 16] {
    *b"*\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
}

/// The result of `pick` for two values; if only one is known, that one; `None`: neither is known.
fn combine(one: Option<f64>, other: Option<f64>, pick: fn(f64, f64) -> f64) -> Option<f64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(pick(one, other)),
        (one, other) => one.or(other),
    }
}
