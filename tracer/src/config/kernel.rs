//! The options for hooks and tables, and for the buffer for events.

use crate::{
    cli::{Backend, Cli, KernelArgs, RingArgs},
    error::Error,
    ledger::sizes::RequestedSizes,
};

/// Which hooks and tables a command that traces wants.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KernelConfig {
    /// The backend that the command line chose, or `Auto`.
    pub backend: Backend,
    /// Entries of each table, as far as the command line sets them.
    pub sizes: RequestedSizes,
    /// Size of the buffer for events in bytes, not yet rounded up to a power of two.
    pub ring_size: u32,
}

/// Bytes of the buffer for events if `--ring-size` is not given.
const RING_SIZE: u32 = 16 << 20;

/// Why an option of the kernel side does nothing in `tracer agent`.
const IN_FILE: &str = "has it in its file, in [kernel]";

impl TryFrom<&Cli> for KernelConfig {
    type Error = Error;

    /// The options that follow the command come before those that precede it; `Auto` and 16 MiB of buffer if neither is given.
    ///
    /// # Errors
    /// [`Error::Usage`]: an option was given that does nothing in this command.
    fn try_from(cli: &Cli) -> Result<Self, Error> {
        let useless = |option: &str, why: &str| {
            Error::Usage(format!("{option} was given, but this command {why}: leave it out"))
        };
        let args = cli.command.kernel();
        if args.is_none()
            && let Some(option) = cli.kernel.first_given()
        {
            let why = if cli.command.has_file() { IN_FILE } else { "attaches no hooks" };
            return Err(useless(option, why));
        }
        let ring = cli.command.ring();
        if ring.is_none() && cli.ring != RingArgs::default() {
            let why = if cli.command.has_file() { IN_FILE } else { "reads no events" };
            return Err(useless("--ring-size", why));
        }
        let args = args.copied().unwrap_or_default().or(cli.kernel);
        let ring_size = ring.and_then(|it| it.ring_size).or(cli.ring.ring_size);
        Ok(Self::of(args, ring_size))
    }
}

impl KernelConfig {
    /// Of the options that are given; `Auto` and 16 MiB of buffer where they are not.
    pub(super) fn of(args: KernelArgs, ring_size: Option<u32>) -> Self {
        Self {
            backend: args.backend.unwrap_or(Backend::Auto),
            sizes: RequestedSizes {
                conns: args.max_conns,
                tuples: args.max_tuples,
                binds: args.max_binds,
                tombstones: args.max_tombstones,
                attempts: args.max_attempts,
            },
            ring_size: ring_size.unwrap_or(RING_SIZE),
        }
    }
}
