//! One reading of the ledger, live or from a recording.
//!
//! A source adds each tuple as a [`TupleSample`], then returns everything else as a [`Snapshot`].

use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc};

use tracer_common::{Cause, TupleCount, TupleKey};

use super::tuple_forecast::Older;
use crate::{
    host::{
        capacity::{Limits, Reuse, TakenOver},
        holder::Holder as PortHolder,
        process::Called,
    },
    ledger::stats::P99,
};

/// What is known about one tracer and its host. Of this, only `degraded` changes between two readings. A text that is empty is
/// not known, unless its field says otherwise.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct About {
    /// Name of the host.
    pub host: String,
    /// Kernel release.
    pub kernel: String,
    /// Version of the tracer.
    pub version: String,
    /// Name of the backend, such as `fexit`.
    pub backend: String,
    /// What does not work as well as it could, one text each; empty: nothing.
    pub degraded: Vec<String>,
    /// net.ipv4.ip_local_port_range, both ends included, of the namespace in which the tracer was started; `None`: not
    /// known.
    pub range: Option<(u16, u16)>,
    /// The filter of the command line, or of the recording, as options; empty: none.
    pub filter: String,
    /// Inode number of the namespace in which the tracer was started, and in which commands are typed; `None`: not known.
    pub netns: Option<u32>,
    /// Ticks of the kernel's timer per second, which decide how long a TIME_WAIT lasts; `None`: not known.
    pub hz: Option<u32>,
}

/// A tuple at the time of a reading.
#[derive(Clone, Debug, PartialEq)]
pub struct TupleSample<'a> {
    /// [`TupleKey::of_bind`] for the ports that bind(address, 0) takes at an address.
    pub key: TupleKey,
    pub count: &'a TupleCount,
    /// Whether `count` says in which states the ports are. The counts of an address (bind), and those of older recordings,
    /// do not say it.
    pub has_states: bool,
    /// Whether `count` says how connections ended, and how often SYNs were sent again. The counts of an address (bind), and those
    /// of older recordings, do not say it.
    pub has_uses: bool,
    /// Ports that the tuple can hold; `None`: not known.
    pub capacity: Option<u32>,
    /// The port range of its namespace, and what takes ports of it; `None`: not known.
    pub limits: Option<Limits>,
    /// TIME_WAITs that connect() may take over; `None`: it takes over none, or that is not known.
    pub reuse: Option<TakenOver>,
    /// The tuple's TIME_WAITs that are older than tracer; used if this is its first reading. `None`: it has none.
    pub older: Option<Older<'a>>,
    /// How long port searches took, as a recording says it; `None`: computed from the histogram in `count`.
    pub search_p99: Option<P99>,
    /// Names of the process and of the thread that connected last; all zero: not known.
    pub called: Called,
    /// Path of the cgroup of that process; `None`: not known.
    pub cgroup: Option<Arc<str>>,
    /// The container of that cgroup, or else its systemd unit; `None`: neither, or not known.
    pub container: Option<Arc<str>>,
    /// Name of the tuple's network namespace in /run/netns; `None`: it has none, or it is not known.
    pub netns_name: Option<Arc<str>>,
}

/// The state of everything but the tuples at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// ns since 1970.
    pub wall_ns: u64,
    /// CLOCK_MONOTONIC, ns.
    pub mono_ns: u64,
    /// How many tuples the filter of the command line hides.
    pub outside: usize,
    /// Failed calls since the reading before, oldest first; of many, only some (`failed` counts all).
    pub failures: Vec<Failure>,
    /// Failed calls of the whole host since the tracer started, by [`Cause`].
    pub failed: [u64; Cause::COUNT],
    /// Losses since the tracer started, by reason, without those that are 0.
    pub lost: Vec<(String, u64)>,
    /// Ports that connect() does not get because of bind() and listen(); `None`: not wanted (`Model::wants`), or a recording.
    pub blocked: Option<Vec<Blocked>>,
    /// Who holds ports; `None`: not wanted (`Model::wants`), or a recording.
    pub holders: Option<Vec<Holder>>,
    /// What net.ipv4.tcp_tw_reuse and the settings that belong to it allow, by namespace, of those where it is known.
    pub reuses: BTreeMap<u32, Reuse>,
    /// Ports of the range that are never chosen (net.ipv4.ip_local_reserved_ports), by namespace, of those where they are known;
    /// empty if this is no recording.
    pub reserved: BTreeMap<u32, Arc<[RangeInclusive<u16>]>>,
    /// The pools of the rules of `tracer spread`; empty: there is no rule, or this is a recording.
    pub pools: Vec<Pool>,
    pub self_stats: SelfStats,
}

/// Which call failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Call {
    Connect,
    Bind,
}

/// A failed call, or several equal ones in a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// How many calls.
    pub count: u64,
    /// When the newest failed, ns since 1970.
    pub wall_ns: u64,
    pub call: Call,
    /// Source and destination. The source is unspecified if there was none yet. A bind() has no destination, and 0 as
    /// its port.
    pub key: TupleKey,
    /// The port that the call asked for, or that the socket held before; 0: none.
    pub local_port: u16,
    pub cause: Cause,
    /// The error number; 0: the kernel reported none.
    pub errno: u16,
    /// The process's id; 0: not known.
    pub pid: u32,
    /// Name of the process, as [`Called::shown`]: arbitrary bytes, NUL-padded; all zero: not known.
    pub comm: [u8; 16],
    /// The container of the process, or else its systemd unit; `None`: neither, or not known.
    pub container: Option<Arc<str>>,
    /// Who holds the port that a bind() asked for; `None`: not known, or the failure has another cause.
    pub holder: Option<PortHolder>,
}

impl Failure {
    /// Whether both are of the same call, tuple, cause, errno and process id (0, not known, is like 0).
    pub fn is_like(&self, other: &Self) -> bool {
        (self.call, self.key, self.cause, self.errno, self.pid)
            == (other.call, other.key, other.cause, other.errno, other.pid)
    }
}

/// A port that connect() does not get because of bind() or listen().
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Blocked {
    /// Inode number of the network namespace.
    pub netns: u32,
    pub port: u16,
    /// How many sockets hold it.
    pub sockets: u32,
    /// A process that has one of them open; 0: not known.
    pub pid: u32,
    /// Name of that process, as [`Called::shown`]; all zero: not known.
    pub comm: [u8; 16],
}

/// What holds ports.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum HolderKind {
    #[default]
    Process,
    /// Sockets in TIME_WAIT, which no process has open.
    TimeWait,
    /// Sockets that were opened after the processes were read.
    JustOpened,
    /// Sockets that were closed, and whose data waits to be sent.
    NoProcess,
    /// Which process has the sockets open is not known.
    Unknown,
    /// All further holders together: they have no rows of their own, because thousands of holders have more ports.
    Others,
}

/// Who called connect().
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Opener {
    /// The process's id; 0: not known (for example for sockets older than tracer), or several processes.
    pub pid: u32,
    /// Name of the process, as [`Called::shown`]; all zero: not known.
    pub comm: [u8; 16],
    /// Whether the process has ended; false also if that is not known.
    pub ended: bool,
}

/// The ports of one holder.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Holder {
    pub kind: HolderKind,
    /// The process's id; 0: not known, or the holder is no process.
    pub pid: u32,
    /// Name of the process: any bytes, NUL-padded; all zero: not known, or the holder is no process.
    pub comm: [u8; 16],
    /// Who opened them, if that was asked for (of one tuple); else as if it is not known.
    pub opener: Opener,
    /// The container of the process, or else its systemd unit; `None`: neither, or not known.
    pub container: Option<Arc<str>>,
    /// How many ports it holds, those in TIME_WAIT included.
    pub ports: u32,
    /// How many of them are in TIME_WAIT.
    pub time_wait: u32,
    /// In how many tuples it holds them.
    pub tuples: u32,
}

/// The pool of a spreading rule.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Pool {
    /// Name of the rule.
    pub rule: String,
    /// Process id of its agent; `None`: the rule is active without one, or the agent's lock file cannot be read.
    pub agent: Option<u32>,
    /// Each address, with the reason why it is left out; `None`: it is used.
    pub addresses: Vec<(std::net::IpAddr, Option<String>)>,
}

/// What the tracer itself costs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SelfStats {
    /// CPU time of the process so far, ns.
    pub cpu_ns: u64,
    /// Resident memory, KiB; 0: not wanted (`Model::wants`), or not known.
    pub rss_kib: u64,
    /// The part of `rss_kib` that is the ring buffer, KiB; 0: not wanted, or not known (a recording does not say it).
    pub ring_kib: u64,
    /// Run time of the BPF programs so far, ns; `None`: not wanted, the kernel does not count it
    /// (kernel.bpf_stats_enabled), or this is a recording.
    pub programs_ns: Option<u64>,
    /// Events that passed the event mask and the filter in the kernel.
    pub seen: u64,
    /// How many of these the hooks put into the ring buffer.
    pub emitted: u64,
    /// Corrections of the ledger, by comparison with the kernel's sockets, that no loss explains.
    pub drift: u64,
}
