//! What is known of a stream beside its tuples.

use std::collections::BTreeMap;

use tracer_common::Cause;

use super::super::{line::Totals, reader::At};
use crate::view::reading::{Failure, Own, Reading};

/// What is known of the stream at a place in it.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Since the reading before.
    pub(super) failures: Vec<Failure>,
    pub(super) failed: [u64; Cause::COUNT],
    pub(super) lost: BTreeMap<String, u64>,
    pub(super) own: Own,
    /// Whether there are `tuple.stats`; `None`: none so far.
    pub(super) stats: Option<bool>,
    /// Without them: the first failure of the reading that is being put together.
    pub(super) since: Option<At>,
}

impl State {
    pub(super) fn set(&mut self, totals: Totals) {
        self.failed = totals.failed;
        self.lost = totals.lost.into_iter().collect();
        self.own = totals.own;
    }

    /// A reading of what there is.
    pub(super) fn close(&mut self, at: At) -> Reading {
        Reading {
            wall_ns: at.wall_ns,
            mono_ns: at.mono_ns,
            failures: std::mem::take(&mut self.failures),
            failed: self.failed,
            lost: self.lost.iter().map(|(reason, count)| (reason.clone(), *count)).collect(),
            blocked: None,
            holders: None,
            pools: Vec::new(),
            own: self.own,
        }
    }
}

impl At {
    pub(super) fn later(self, ns: u64) -> Self {
        Self { wall_ns: self.wall_ns.saturating_add(ns), mono_ns: self.mono_ns.saturating_add(ns) }
    }
}
