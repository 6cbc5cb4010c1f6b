//! Sums of the results of connect() calls whose tuples a workload cannot predict.

use std::{collections::BTreeMap, ops::AddAssign};

use rustix::io::{Errno, Result};

use crate::harness::{tracer::watch::Counts, tuple::Tuple};

/// How many connect() calls had which result, as the callers got it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Outcome {
    /// Calls that took a port, those that were answered by an RST included; `None` if not known. `+=` takes `None` for 0, and its
    /// sum is never `None`.
    pub opened: Option<u64>,
    /// How many of `opened` were answered by an RST.
    pub refused: u64,
    /// Calls that failed with EADDRNOTAVAIL: no port was free, or the 4-tuple existed already.
    pub not_available: u64,
}

impl Outcome {
    /// `opened` calls that succeeded, and none that failed.
    pub fn opened(opened: u64) -> Self {
        Self { opened: Some(opened), ..Self::default() }
    }

    /// Counts a call by its result, and returns that result: `opened` is known from then on. A call that failed with another
    /// error than ECONNREFUSED or EADDRNOTAVAIL adds to no count.
    pub fn count(&mut self, result: Result<()>) -> Result<()> {
        let refused = u64::from(result == Err(Errno::CONNREFUSED));
        let not_available = u64::from(result == Err(Errno::ADDRNOTAVAIL));
        let opened = u64::from(result.is_ok()) + refused;
        *self += Self { opened: Some(opened), refused, not_available };
        result
    }

    /// Number of calls that are counted here: `opened` (0 if not known) plus `not_available`.
    pub(super) fn calls(&self) -> u64 {
        self.opened.unwrap_or(0) + self.not_available
    }

    /// Compares this with the sums of what a tracer counted for all tuples of a namespace. Empty if they agree, otherwise a line
    /// of text with both. Each sum of the tracer may lack up to `unseen` calls, and may not be larger; up to `unseen` failures
    /// may have other causes.
    pub(super) fn against(&self, tuples: &BTreeMap<Tuple, Counts>, unseen: u64) -> String {
        let failed = |causes: &[&str]| -> u64 {
            let of_one = |counts: &Counts| -> u64 {
                causes.iter().filter_map(|cause| counts.failures.get(*cause)).sum()
            };
            tuples.values().map(of_one).sum()
        };
        let opened = tuples.values().map(|counts| counts.opened).sum();
        let all: u64 = tuples.values().flat_map(|counts| counts.failures.values()).sum();
        let (refused, not_available) =
            (failed(&["refused"]), failed(&["ports_exhausted", "tuple_in_use"]));
        let same =
            |counted: u64, made: u64| (made.saturating_sub(unseen)..=made).contains(&counted);
        let right = self.opened.is_none_or(|made| same(opened, made))
            && same(refused, self.refused)
            && same(not_available, self.not_available)
            && all.saturating_sub(refused + not_available) <= unseen;
        if right {
            return String::new();
        }
        format!(
            "  all tuples: {opened} opened, {refused} refused, {not_available} not available, {all} \
             failures in all; the callers saw {self:?}\n"
        )
    }
}

impl AddAssign for Outcome {
    fn add_assign(&mut self, other: Self) {
        self.opened = Some(self.opened.unwrap_or(0) + other.opened.unwrap_or(0));
        self.refused += other.refused;
        self.not_available += other.not_available;
    }
}
