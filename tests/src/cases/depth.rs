//! `TRACER_DEPTH`: how many of the tests run. Guests are slow, so most of them run only some.

use std::env;

use anyhow::{Result, bail};

/// How many of the tests run, from few to all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Of the tests that [`Self::Whole`] runs, those in the list `PART`.
    Part,
    /// In a guest: the tests whose result depends on the kernel, without those that only the host runs; tests that have the same
    /// result with every backend run with the default backend only. On the host: as [`Self::Thorough`].
    Whole,
    /// All tests, with every backend; in a guest, without those that only the host runs.
    Thorough,
}

/// The tests that are most likely to fail on a kernel between the oldest and the newest one: loading and attaching with each
/// backend, ports entering and leaving the ledger, reading older sockets, events, and the spreader's programs.
/// Each entry is the beginning of a test's name, or of several.
const PART: &[&str] = &[
    "oracle::",
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
    "ledger::time_wait_bucket_overflow",
    "ledger::time_wait_recycled_by_bound_socket",
    "ledger::time_wait_reused",
    "drift::entries_removed",
    "events::bound_ports",
    "events::failures",
    "events::one_connection",
    "events::shared_recordings_end_well",
    "events::time_wait_release",
    "losses::refused_without_a_row",
    "losses::touched_and_removed_at_once",
    "room::bound_over_connections",
    "attach::sandbox_of_spread",
    "spread::fills_the_pool::ipv4",
    "spread::rebind::bound_without_a_port",
    "spread::rebind::ipv6_bound_with_a_port_of_the_kernel",
];

impl Depth {
    /// The value of `TRACER_DEPTH`, by default [`Self::Thorough`]; an error if the value is none of `part`, `whole` and
    /// `thorough`.
    pub(super) fn find() -> Result<Self> {
        Ok(match env::var("TRACER_DEPTH").as_deref() {
            Ok("part") => Self::Part,
            Ok("whole") => Self::Whole,
            Ok("thorough") | Err(env::VarError::NotPresent) => Self::Thorough,
            other => bail!("TRACER_DEPTH is {other:?}, and not part, whole or thorough"),
        })
    }

    /// The reason to skip a test of this full name at [`Self::Part`]; `None`: the list [`PART`] has the beginning of the name, or
    /// the depth is another one.
    pub(super) fn leaves_out(self, name: &str) -> Option<String> {
        let left_out = self == Self::Part && !PART.iter().any(|begin| name.starts_with(begin));
        left_out.then(|| {
            "a kernel between the oldest and the newest: `cargo xtask ci` runs it".to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cases::{self, Plan},
        harness::probe::Place,
    };

    fn names(depth: Depth) -> (Vec<String>, Vec<String>) {
        let all = ["fexit", "kprobe", "tracepoint"].map(str::to_owned);
        let default_backend = Some("fexit".to_owned());
        let plan = Plan { backends: all.into(), default_backend, place: Place::Vm, depth };
        let left_out = |case: &cases::Case| depth.leaves_out(&case.name).is_some();
        let (out, run): (Vec<_>, Vec<_>) = cases::all(&plan).into_iter().partition(left_out);
        let names = |cases: Vec<cases::Case>| cases.into_iter().map(|case| case.name).collect();
        (names(run), names(out))
    }

    #[test]
    fn a_part_is_some_of_the_tests_and_each_line_of_its_list_names_one() {
        let (run, left_out) = names(Depth::Part);
        for begin in PART {
            assert!(run.iter().any(|name| name.starts_with(begin)), "{begin} names no test");
        }
        assert!(left_out.len() > run.len(), "{} of {}", run.len(), left_out.len());
    }

    #[test]
    fn a_whole_guest_leaves_out_nothing_of_the_list() {
        assert_eq!(names(Depth::Whole).1, [""; 0]);
    }
}
