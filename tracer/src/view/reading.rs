//! One look at the ledger, live or out of a recording: all that the view knows of the world.
//!
//! A source hands over each tuple as a [`TupleSample`], then the rest as a [`Snapshot`].

use std::sync::Arc;

use tracer_common::{Cause, TupleCount, TupleKey};

use super::tuple_forecast::Older;
use crate::{
    host::{
        capacity::{Limits, TakenOver},
        holder::Holder as PortHolder,
        process::Called,
    },
    ledger::stats::P99,
};

/// What holds for all readings of one tracer.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct About {
    pub host: String,
    /// Kernel release.
    pub kernel: String,
    /// Version of the tracer.
    pub version: String,
    pub backend: String,
    /// What does not work as well as it could, and why.
    pub degraded: Vec<String>,
    /// net.ipv4.ip_local_port_range, both ends included, where the tracer was started.
    pub range: Option<(u16, u16)>,
    /// The filter of the command line, or of the recording, as options; empty: none.
    pub filter: String,
}

/// A tuple at the time of a reading.
#[derive(Clone, Debug, PartialEq)]
pub struct TupleSample<'a> {
    pub key: TupleKey,
    pub count: &'a TupleCount,
    /// Whether `count` has states: older recordings have none.
    pub has_states: bool,
    /// Ports that it can hold; `None`: not known.
    pub capacity: Option<u32>,
    /// What its namespace has to give; `None`: not known.
    pub limits: Option<Limits>,
    /// TIME_WAITs that connect() may take over; `None`: none.
    pub reuse: Option<TakenOver>,
    /// Of the tuple's TIME_WAITs that are older than the tracer; used where this is its first reading.
    pub older: Option<Older<'a>>,
    /// How long port searches took, as a recording says it; `None`: to be made from the histogram in `count`.
    pub search_p99: Option<P99>,
    /// Who connected here last, by name.
    pub called: Called,
    /// Path of the cgroup that connected here last.
    pub cgroup: Option<Arc<str>>,
    /// The container of that cgroup.
    pub container: Option<Arc<str>>,
    /// Name of its network namespace in /run/netns.
    pub netns_name: Option<Arc<str>>,
}

/// The state of everything but the tuples at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// ns since 1970.
    pub wall_ns: u64,
    /// CLOCK_MONOTONIC, ns.
    pub mono_ns: u64,
    /// Tuples that the filter of the command line leaves out.
    pub outside: usize,
    /// Failed calls since the reading before, oldest first.
    pub failures: Vec<Failure>,
    /// Failed calls of the whole host since the tracer started, by [`Cause`].
    pub failed: [u64; Cause::COUNT],
    /// What was lost since the tracer started, by reason; those that are not 0.
    pub lost: Vec<(String, u64)>,
    /// Ports that connect() cannot be given because of bind() and listen(); `None`: not known.
    pub blocked: Option<Vec<Blocked>>,
    /// Who holds ports, where it was asked for (`Model::wants`); `None`: not known.
    pub holders: Option<Vec<Holder>>,
    /// What is being spread, by rule.
    pub pools: Vec<Pool>,
    pub self_stats: SelfStats,
}

/// Which call failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Call {
    Connect,
    Bind,
}

/// A call that failed, or several in a row that failed alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// How many.
    pub count: u64,
    /// Of the newest.
    pub wall_ns: u64,
    pub call: Call,
    /// Where to and from; the source is unspecified where there was none yet. A bind() has no
    /// destination: its port is 0.
    pub key: TupleKey,
    /// The port that was asked for, or held before; 0: none.
    pub local_port: u16,
    pub cause: Cause,
    /// 0: the kernel reported none.
    pub errno: u16,
    /// 0: not known.
    pub pid: u32,
    /// Name of the process, as [`Called::shown`]: arbitrary bytes, NUL-padded.
    pub comm: [u8; 16],
    pub container: Option<Arc<str>>,
    /// Who holds the port that a bind() wanted; `None`: not known, or the failure is about none.
    pub holder: Option<PortHolder>,
}

impl Failure {
    /// Whether the same failed in the same way.
    pub fn is_like(&self, other: &Self) -> bool {
        (self.call, self.key, self.cause, self.errno, self.pid)
            == (other.call, other.key, other.cause, other.errno, other.pid)
    }
}

/// A port that bind() or listen() keeps from connect().
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Blocked {
    pub netns: u32,
    pub port: u16,
    /// Sockets that hold it.
    pub sockets: u32,
    /// One that does; 0: not known.
    pub pid: u32,
    pub comm: [u8; 16],
}

/// Who has the sockets of ports open.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum HolderKind {
    #[default]
    Process,
    /// They are in TIME_WAIT, which no process has open.
    TimeWait,
    /// They were opened since processes were looked at.
    JustOpened,
    /// No process: they were closed, and their data waits to be sent.
    NoProcess,
    Unknown,
    /// Processes with fewer ports than thousands of others have, together.
    Others,
}

/// Who called connect().
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Opener {
    /// 0: not known (sockets older than the tracer).
    pub pid: u32,
    /// As [`Called::shown`].
    pub comm: [u8; 16],
    /// The process is there no more.
    pub ended: bool,
}

/// Ports that a process has open.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Holder {
    pub kind: HolderKind,
    /// The process, where it is one; else 0.
    pub pid: u32,
    pub comm: [u8; 16],
    /// Where it was asked for one tuple: who opened them.
    pub opener: Opener,
    pub container: Option<Arc<str>>,
    /// Ports it holds, TIME_WAIT included.
    pub ports: u32,
    pub time_wait: u32,
    /// Tuples it holds them in.
    pub tuples: u32,
}

/// The pool of a spreading rule.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Pool {
    pub rule: String,
    /// Its agent; `None`: the rule is active without one.
    pub agent: Option<u32>,
    /// Each address, with why it is left out if it is.
    pub addresses: Vec<(std::net::IpAddr, Option<String>)>,
}

/// What the tracer itself costs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SelfStats {
    /// CPU time of the process so far, ns.
    pub cpu_ns: u64,
    /// Resident memory, KiB; of that, the ring buffer.
    pub rss_kib: u64,
    pub ring_kib: u64,
    /// Run time of the BPF programs so far, ns; `None`: the kernel does not count it
    /// (kernel.bpf_stats_enabled).
    pub programs_ns: Option<u64>,
    /// Events that were seen, and those that were handed over.
    pub seen: u64,
    pub emitted: u64,
    /// Ports in the ledger that were not as the kernel had them.
    pub drift: u64,
}
