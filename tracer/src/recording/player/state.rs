//! Keeps what the lines up to a position in a stream say: failures, totals, losses, settings of namespaces; not tuples.

use std::collections::VecDeque;

use tracer_common::Cause;

use super::{
    super::{line::Totals, losses::Losses, reader::At},
    settings::KnownSettings,
};
use crate::view::reading::{Failure, SelfStats, Snapshot};

/// The most entries for failures in one reading; the oldest are left out. Equal failures in a row, in one second, are one
/// entry.
const FAILURES: usize = 20_000;

/// What is known at a position in the stream.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The newest [`FAILURES`] (20,000) entries since the reading before, oldest first.
    pub(super) failures: VecDeque<Failure>,
    /// Failed calls of the whole host so far, by [`Cause`].
    pub(super) failed: [u64; Cause::COUNT],
    /// Losses so far.
    pub(super) lost: Losses,
    pub(super) self_stats: SelfStats,
    /// Whether the stream has `tuple.stats`; `None`: `tracer.start` did not say it, and there was none so far.
    pub(super) stats: Option<bool>,
    /// In a stream without `tuple.stats`, the time of the first failure that is in no reading yet; `None`: there is
    /// none.
    pub(super) since: Option<At>,
    pub(super) settings: KnownSettings,
}

impl State {
    /// Replaces the totals by those of a line.
    pub(super) fn set(&mut self, totals: Totals) {
        self.failed = totals.failed;
        self.lost = totals.lost;
        self.self_stats = totals.self_stats;
    }

    /// Adds a failure; one that is like the last one ([`Failure::is_like`]) and of the same second of the wall clock is added to
    /// its count. Returns how many older failed calls were left out to make room for it; 0: none.
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

    /// Makes a reading of this state, with the time `at`, and begins the next one: without failures, with the same totals.
    pub(super) fn close(&mut self, at: At) -> Snapshot {
        Snapshot {
            reuses: self.settings.reuses(),
            reserved: self.settings.reserved(),
            wall_ns: at.wall_ns,
            mono_ns: at.mono_ns,
            // A recording has only tuples that its filter matches.
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
    /// The time `ns` later, by both clocks; at most `u64::MAX`.
    pub(super) fn later(self, ns: u64) -> Self {
        Self { wall_ns: self.wall_ns.saturating_add(ns), mono_ns: self.mono_ns.saturating_add(ns) }
    }
}
