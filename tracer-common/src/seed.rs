//! Changes to the ledger that userspace asks for: sockets older than the tracer, and corrections.
//!
//! Only BPF code changes a count, so userspace runs the BPF program `ledger_command` by
//! `BPF_PROG_TEST_RUN`, with a [`Command`] as its context (raw tracepoint programs take up to
//! twelve u64 there, Linux 5.10 and later).

use crate::{ConnKey, TupleKey};

/// What to do. The value is on the wire.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Op {
    /// Insert a connection that is not known yet; undone at once if a tombstone says it is over.
    AddConn = 1,
    /// Remove a connection that the kernel does not have any more.
    RemoveConn,
    /// Insert a bound or listening port.
    AddBound,
    /// Remove a bound or listening port.
    RemoveBound,
    /// Remove a tuple that holds no port.
    RemoveTuple,
    /// Say that a time-wait socket holds the port of a known connection.
    MarkTimeWait,
    /// Say why the spreader is not to choose a source towards a destination (`flags` is a
    /// [`crate::spread::LeftOut`]), or that it may again (0).
    LeaveOut,
    /// Hold no failure up to now against a source towards a destination.
    Forgive,
}

/// One change: twelve u64. The result of the run is 1 where something changed, else 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Command {
    pub op: u32,
    /// [`crate::conn_flag`] bits of the new entry; for `LeaveOut`: why.
    pub flags: u32,
    pub key: ConnKey,
    /// The tuple; for a bound port `source` and `netns` say where it is.
    pub tuple: TupleKey,
    /// comm of the owner where it is known.
    pub comm: [u8; 16],
    pub pid: u32,
    /// uid of who made the socket, in whose share a new entry is; [`crate::share::UNKNOWN_USER`]: not known.
    pub user: u32,
    /// `RemoveTuple`: only if the tuple has not changed since then (CLOCK_MONOTONIC, ns).
    pub before_ns: u64,
}

/// Size of [`Command`] in u64, the most that a raw tracepoint test run takes.
pub const COMMAND_WORDS: usize = 12;

const _: () = assert!(size_of::<Command>() == COMMAND_WORDS * 8);
