//! What is known of a stream beside its tuples.

use std::collections::VecDeque;

use tracer_common::Cause;

use super::super::{line::Totals, losses::Losses, reader::At};
use crate::view::reading::{Failure, SelfStats, Snapshot};

/// Failures of one reading that are kept one by one, those alike in a row being one.
const FAILURES: usize = 20_000;

/// What is known of the stream at a place in it.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Since the reading before, the newest [`FAILURES`].
    pub(super) failures: VecDeque<Failure>,
    pub(super) failed: [u64; Cause::COUNT],
    pub(super) lost: Losses,
    pub(super) self_stats: SelfStats,
    /// Whether there are `tuple.stats`; `None`: none so far.
    pub(super) stats: Option<bool>,
    /// Without them: the first failure of the reading that is being put together.
    pub(super) since: Option<At>,
}

impl State {
    pub(super) fn set(&mut self, totals: Totals) {
        self.failed = totals.failed;
        self.lost = totals.lost;
        self.self_stats = totals.self_stats;
    }

    /// Takes note of a failure. Returns how many calls are left out for it.
    pub(super) fn failure(&mut self, failure: Failure) -> u64 {
        const SECOND: u64 = 1_000_000_000;
        if let Some(last) = self.failures.back_mut()
            && last.is_like(&failure)
            && last.wall_ns / SECOND == failure.wall_ns / SECOND
        {
            *last = Failure { count: last.count.saturating_add(failure.count), ..failure };
            return 0;
        }
        let left_out =
            if self.failures.len() < FAILURES { None } else { self.failures.pop_front() };
        self.failures.push_back(failure);
        left_out.map_or(0, |failure| failure.count)
    }

    /// A reading of what there is.
    pub(super) fn close(&mut self, at: At) -> Snapshot {
        Snapshot {
            wall_ns: at.wall_ns,
            mono_ns: at.mono_ns,
            // A recording has only what its filter let through.
            outside: 0,
            failures: std::mem::take(&mut self.failures).into(),
            failed: self.failed,
            lost: self.lost.iter().map(|(reason, count)| (reason.to_owned(), count)).collect(),
            blocked: None,
            holders: None,
            pools: Vec::new(),
            self_stats: self.self_stats,
        }
    }
}

impl At {
    pub(super) fn later(self, ns: u64) -> Self {
        Self { wall_ns: self.wall_ns.saturating_add(ns), mono_ns: self.mono_ns.saturating_add(ns) }
    }
}
