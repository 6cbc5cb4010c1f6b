//! One look at the ledger, live or out of a recording: all that the view knows of the world.

use std::sync::Arc;

use tracer_common::{Cause, TupleKey, tuple::SEARCH_BUCKETS};

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
}

/// The state of everything at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// ns since 1970.
    pub wall_ns: u64,
    /// CLOCK_MONOTONIC, ns.
    pub mono_ns: u64,
    /// Every tuple once, in no order.
    pub tuples: Vec<Tuple>,
    /// Failed calls since the reading before, oldest first.
    pub failures: Vec<Failure>,
    /// What was lost since the tracer started, by reason; those that are not 0.
    pub lost: Vec<(String, u64)>,
    /// Ports that connect() cannot be given because of bind() and listen().
    pub blocked: Vec<Blocked>,
    pub own: Own,
}

/// A (source, destination, destination port) of a network namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tuple {
    pub key: TupleKey,
    /// Ports in use, TIME_WAIT included.
    pub in_use: u64,
    pub time_wait: u64,
    /// Ports that it can hold; `None`: not known.
    pub capacity: Option<u32>,
    /// Ports ever taken, given back, and gone into TIME_WAIT.
    pub opened: u64,
    pub released: u64,
    pub time_wait_begun: u64,
    /// Failed calls ever, by [`Cause`].
    pub failed: [u64; Cause::COUNT],
    /// 99 of 100 port searches were shorter, ns; `None`: not measured, or none happened.
    pub search_p99_ns: Option<u64>,
    /// Port searches ever, by duration (`tracer_common::tuple::search_bucket`); `None`: a recording does
    /// not say.
    pub search: Option<Box<[u32; SEARCH_BUCKETS]>>,
    /// errno of the newest failure; 0: none.
    pub last_errno: u32,
    /// Who connected here last; 0: not known.
    pub pid: u32,
    /// Arbitrary bytes, NUL-padded.
    pub comm: [u8; 16],
    /// Path of its cgroup.
    pub cgroup: Option<Arc<str>>,
    pub container: Option<Arc<str>>,
}

/// Which call failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Call {
    Connect,
    Bind,
}

/// A call that failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub wall_ns: u64,
    pub call: Call,
    /// Where to and from; the source is unspecified where there was none yet.
    pub key: TupleKey,
    pub cause: Cause,
    pub errno: u32,
    pub pid: u32,
    pub comm: [u8; 16],
    pub container: Option<Arc<str>>,
}

/// A port that bind() or listen() keeps from connect().
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Blocked {
    pub netns: u32,
    pub port: u16,
    /// Sockets that hold it.
    pub sockets: u64,
    /// One that does; 0: not known.
    pub pid: u32,
    pub comm: [u8; 16],
}

/// What the tracer itself costs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Own {
    /// CPU time of the process so far, ns.
    pub cpu_ns: u64,
    /// Resident memory, KiB.
    pub rss_kib: u64,
    /// Ports in the ledger that were not as the kernel had them.
    pub drift: u64,
}
