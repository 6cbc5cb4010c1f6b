//! `TRACER_DEPTH`: how many of the tests run. Guests are slow, so most of them run only some.

use std::env;

use anyhow::{Result, bail};

/// How many of the tests run, from few to all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Of the tests that [`Self::Whole`] runs, those in the list `PART`.
    Part,
    /// Of the tests that [`Self::Whole`] runs, those that the list `OLDEST` does not have.
    Most,
    /// In a guest: the tests whose result depends on the kernel, without those that only the host runs; tests that have the same
    /// result with every backend run with the default backend only. On the host: as [`Self::Thorough`].
    Whole,
    /// All tests, with every backend; in a guest, without those that only the host runs.
    Thorough,
}

/// The tests that are most likely to fail on a kernel between the oldest and the newest one: loading and attaching with each
/// backend, ports entering and leaving the ledger, reading older sockets, what doctor reads of the kernel, events, and the
/// spreader's programs.
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
    "doctor::",
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

/// The tests that in `cargo xtask test` only the oldest guest and the host run: what they check needs something that old kernels
/// lack, and nothing that changes from one new kernel to the next. Each entry is the beginning of a test's name, or of several.
const OLDEST: &[&str] = &[
    "attach::sandbox_of_record",
    "attach::sandbox_of_top",
    "attach::sandbox_of_tuples",
    "attach::sandbox_with_few_capabilities",
    "errors::",
    "filters::",
    "sizes::",
    "who::",
];

impl Depth {
    /// The value of `TRACER_DEPTH`, by default [`Self::Thorough`]; an error if the value is none of `part`, `most`, `whole` and
    /// `thorough`.
    pub(super) fn find() -> Result<Self> {
        Ok(match env::var("TRACER_DEPTH").as_deref() {
            Ok("part") => Self::Part,
            Ok("most") => Self::Most,
            Ok("whole") => Self::Whole,
            Ok("thorough") | Err(env::VarError::NotPresent) => Self::Thorough,
            other => bail!("TRACER_DEPTH is {other:?}, and not part, most, whole or thorough"),
        })
    }

    /// The reason to skip a test of this full name: at [`Self::Part`], the list [`PART`] does not have the beginning of the name; at
    /// [`Self::Most`], the list [`OLDEST`] has it. `None`: neither.
    pub(super) fn leaves_out(self, name: &str) -> Option<String> {
        let is_of = |list: &[&str]| list.iter().any(|begin| name.starts_with(begin));
        let why = match self {
            Self::Part if !is_of(PART) => "a kernel between the oldest and the newest",
            Self::Most if is_of(OLDEST) => "the oldest kernel and the host run it",
            _ => return None,
        };
        Some(format!("{why}: `cargo xtask ci` runs it"))
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
    fn most_are_more_than_a_part_and_each_line_of_the_other_list_names_one() {
        let (run, left_out) = names(Depth::Most);
        for begin in OLDEST {
            assert!(left_out.iter().any(|name| name.starts_with(begin)), "{begin} names no test");
        }
        let part = names(Depth::Part).0;
        assert!(part.iter().all(|name| run.contains(name)));
    }

    #[test]
    fn a_whole_guest_leaves_out_nothing_of_the_list() {
        assert_eq!(names(Depth::Whole).1, [""; 0]);
    }
}
