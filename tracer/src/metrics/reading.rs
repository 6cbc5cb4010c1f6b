//! One reading of the tracer, as the metrics need it: plain values, made by the agent at each interval.

use std::{sync::Arc, time::Duration};

use tracer_common::{TupleCount, TupleKey};

use super::process::Process;
use crate::kernel::maps::Totals;

/// One reading of the tracer.
#[derive(Clone, Debug)]
pub struct Reading<'a> {
    /// Wall clock at which the tables were read, ns since 1970.
    pub at_ns: u64,
    /// How long that took.
    pub took: Duration,
    /// Name of the backend.
    pub backend: &'a str,
    /// Release of the kernel.
    pub kernel: &'a str,
    /// Number of things that do not work as well as they could.
    pub degraded: usize,
    /// The configuration that the agent runs with.
    pub config: ConfigReading,
    /// All tuples of the ledger, each once, in the order in which the table was read. Rows of addresses
    /// ([`TupleKey::of_bind`]) are not among them.
    pub tuples: Vec<TupleReading<'a>>,
    /// What the kernel side counted.
    pub totals: Totals,
    /// All losses by name since the start. Those that a plain tracer always has may be left out if they are 0.
    pub losses: Vec<(&'static str, u64)>,
    /// Corrections by a comparison with the kernel's sockets since the start.
    pub drift: u64,
    /// Each output once.
    pub outputs: Vec<OutputReading<'a>>,
    /// Each table of the kernel side once.
    pub maps: Vec<MapReading>,
    /// Each BPF program once; empty: run times are not counted.
    pub programs: Vec<ProgramReading<'a>>,
    /// Network namespaces whose range is known. Only those of the tuples that are shown are in the metrics.
    pub namespaces: Vec<NetnsReading>,
    /// Connections that the HTTP server refused: [`super::Server::refused`]; 0: there is no server.
    pub http_refused: u64,
    /// What /proc says about this process; `None`: it cannot be read.
    pub process: Option<Process>,
}

/// The configuration that an agent runs with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConfigReading {
    /// Whether it is the newest that the agent was to take over; false: that one was refused.
    pub is_newest: bool,
    /// When it was taken over, at the start or later: seconds since 1970.
    pub since_s: f64,
}

/// One tuple.
#[derive(Clone, Debug)]
pub struct TupleReading<'a> {
    pub key: TupleKey,
    /// Name of its network namespace; `None`: it has none, or it is not known.
    pub netns_name: Option<Arc<str>>,
    /// Its counters.
    pub count: &'a TupleCount,
    /// Ports that it can hold; `None`: not known.
    pub capacity: Option<u32>,
    /// Seconds until no port is left; `None`: it is not filling, or that is not known.
    pub eta_s: Option<f64>,
}

/// One output of the agent.
#[derive(Clone, Copy, Debug)]
pub struct OutputReading<'a> {
    /// Its name, which no other output has.
    pub name: &'a str,
    /// Lines that were written since the start.
    pub lines: u64,
    /// Lines that were not written since the start.
    pub dropped: u64,
    /// Bytes that were written since the start, before they were compressed.
    pub bytes: u64,
}

/// One table of the kernel side.
#[derive(Clone, Copy, Debug)]
pub struct MapReading {
    /// Its name.
    pub name: &'static str,
    /// Entries that it has now; `None`: not known.
    pub entries: Option<u64>,
    /// Entries for which it has room.
    pub max_entries: u64,
}

/// One BPF program.
#[derive(Clone, Copy, Debug)]
pub struct ProgramReading<'a> {
    /// Its name.
    pub name: &'a str,
    /// How long it ran since it was loaded, while run times were counted.
    pub run: Duration,
}

/// The port range of a network namespace.
#[derive(Clone, Copy, Debug)]
pub struct NetnsReading {
    /// Inode number.
    pub inum: u32,
    /// How many ports the range has, reserved ones included.
    pub range: u32,
    /// Of these: ports that connect() is not given because of bind() or listen().
    pub bound: u32,
}
