//! How much of the tests a guest runs, which is slow: `TRACER_DEPTH`.

use std::env;

use anyhow::{Result, bail};

/// From little to much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// [`PART`].
    Part,
    /// What kernels have a part in; of what says the same of every backend, the default backend's.
    Whole,
    /// Of what says the same of every backend, each backend's, too, and what says the same on every kernel.
    Thorough,
}

/// What a kernel between the oldest and the newest is most likely to break: that the programs load and attach with each
/// backend, the ways into and out of the ledger, what is read of sockets that are older, and what the spreader does in the
/// kernel. By the beginnings of names.
const PART: &[&str] = &[
    "oracle::",
    "ledger::client_closes_first",
    "ledger::connect_twice",
    "ledger::every_state",
    "ledger::explicit_port",
    "ledger::fast_open_",
    "ledger::io_uring",
    "ledger::ipv6",
    "ledger::mptcp",
    "ledger::older_sockets",
    "ledger::ports_exhausted",
    "ledger::random_operations",
    "ledger::refused",
    "ledger::reset_by_",
    "ledger::shared_tracers_end_well",
    "ledger::time_wait_",
    "drift::entries_removed",
    "drift::hook_detached",
    "events::bound_ports",
    "events::failures",
    "events::one_connection",
    "events::time_wait_release",
    "losses::refused_without_a_row",
    "losses::touched_and_removed_at_once",
    "room::bound_over_connections",
    "room::mixes",
    "attach::sandbox_of_spread",
    "spread::fail_open::killed_and_started_again",
    "spread::fills_the_pool::ipv4",
    "spread::rebind::",
];

impl Depth {
    /// What the variable says; without it, as much as there is.
    pub(super) fn find() -> Result<Self> {
        Ok(match env::var("TRACER_DEPTH").as_deref() {
            Ok("part") => Self::Part,
            Ok("whole") => Self::Whole,
            Ok("thorough") | Err(env::VarError::NotPresent) => Self::Thorough,
            other => bail!("TRACER_DEPTH is {other:?}, and not part, whole or thorough"),
        })
    }

    /// Why a test of this name is left out, if it is.
    pub(super) fn leaves_out(self, name: &str) -> Option<String> {
        let left_out = self == Self::Part && !PART.iter().any(|begin| name.starts_with(begin));
        left_out.then(|| {
            "a kernel between the oldest and the newest: `cargo xtask ci` runs it".to_owned()
        })
    }
}
