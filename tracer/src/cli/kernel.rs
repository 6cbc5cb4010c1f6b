//! The options for hooks and tables, which each command that attaches hooks has, and for the buffer for events, which each
//! of these but `spread` has. They may also be given before the command.

use clap::{Args, ValueEnum};

use super::value;

/// Hooks and tables.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelArgs {
    /// Kernel hooks to use; auto picks the cheapest kind that works on this kernel [default: auto]
    #[arg(long, value_enum, value_name = "BACKEND", help_heading = HEADING)]
    pub backend: Option<Backend>,

    /// Table size: source ports tracked at a time [default: sized to the host, see -v]
    #[arg(long, value_name = "N", value_parser = value::entries(16), help_heading = HEADING)]
    pub max_conns: Option<u32>,

    /// Table size: tuples (source, destination, port) tracked at a time [default: by the host]
    #[arg(long, value_name = "N", value_parser = value::entries(16), help_heading = HEADING)]
    pub max_tuples: Option<u32>,

    /// Table size: ports taken by bind() or listen() that are tracked at a time
    #[arg(long, hide = true, value_name = "N", value_parser = value::entries(16))]
    pub max_binds: Option<u32>,

    /// Table size: sockets that end at the start, while those that are already open are read
    #[arg(long, hide = true, value_name = "N", value_parser = value::entries(16))]
    pub max_tombstones: Option<u32>,

    /// Table size: connect() and bind() calls in progress at a time
    #[arg(long, hide = true, value_name = "N", value_parser = value::entries(1))]
    pub max_attempts: Option<u32>,
}

/// The buffer for events.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingArgs {
    /// Size of the buffer for events from the kernel, rounded up to a power of two [default: 16M]
    #[arg(long, value_name = "SIZE", value_parser = value::ring_size, help_heading = HEADING)]
    pub ring_size: Option<u32>,
}

const HEADING: &str = "Kernel side";

impl KernelArgs {
    /// The first option that is given, as it is typed; `None`: there is none.
    pub fn first_given(&self) -> Option<&'static str> {
        let given = [
            (self.backend.is_some(), "--backend"),
            (self.max_conns.is_some(), "--max-conns"),
            (self.max_tuples.is_some(), "--max-tuples"),
            (self.max_binds.is_some(), "--max-binds"),
            (self.max_tombstones.is_some(), "--max-tombstones"),
            (self.max_attempts.is_some(), "--max-attempts"),
        ];
        given.into_iter().find_map(|(is_given, option)| is_given.then_some(option))
    }

    /// The options of `self`; each that is not given there is taken from `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            backend: self.backend.or(other.backend),
            max_conns: self.max_conns.or(other.max_conns),
            max_tuples: self.max_tuples.or(other.max_tuples),
            max_binds: self.max_binds.or(other.max_binds),
            max_tombstones: self.max_tombstones.or(other.max_tombstones),
            max_attempts: self.max_attempts.or(other.max_attempts),
        }
    }
}

/// How the kernel side hooks in.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Backend {
    Auto,
    Fexit,
    Kprobe,
    Tracepoint,
}
