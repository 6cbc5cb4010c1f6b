//! [`Failures`]: the tuples of a run without readings, by its connect() calls that found no port, of which each says how many
//! ports its tuple held.

use std::collections::HashMap;

use tracer_common::{Cause, TupleKey};

use crate::{
    doctor::from_ledger::{Counted, Held},
    recording::Failure,
    view::reading::Call,
};

/// Tuples that are remembered at most.
const MOST: usize = 10_000;

/// The connect() calls of a run that found no port, by tuple; at most 10,000 tuples.
#[derive(Debug, Default)]
pub(super) struct Failures(HashMap<TupleKey, Failed>);

#[derive(Debug, Default)]
struct Failed {
    count: u64,
    held: Held,
    /// When it held most ports, ns since 1970.
    at_ns: u64,
}

/// A tuple with connect() calls that found no port.
#[derive(Debug)]
pub(super) struct Full {
    /// The ports that it held when it held most, and no activity.
    pub(super) counted: Counted,
    /// How many of its calls found no port.
    pub(super) failed: u64,
    /// When it held most ports, ns since 1970.
    pub(super) at_ns: u64,
}

impl Failures {
    /// Adds a failed call, if it is a connect() that found no port and says how many ports its tuple held; others change nothing.
    pub(super) fn add(&mut self, failure: &Failure<'_>) {
        let what = &failure.what;
        let is_full = what.call == Call::Connect && what.cause == Cause::PortsExhausted;
        let Some(in_use) = failure.in_use.filter(|_| is_full) else { return };
        if self.0.len() >= MOST && !self.0.contains_key(&what.key) {
            return;
        }
        let failed = self.0.entry(what.key).or_default();
        failed.count += 1;
        if failed.at_ns == 0 || in_use > failed.held.in_use {
            // A call that found no port shows that the tuple holds all that it can.
            let capacity = failure.capacity.or_else(|| u32::try_from(in_use).ok());
            let time_wait = failure.time_wait.unwrap_or(0);
            failed.held = Held { in_use, time_wait, capacity, ..Held::default() };
            failed.at_ns = what.wall_ns;
        }
    }

    /// The tuples, each as it was when it held most ports (the first time, of several), in no order.
    pub(super) fn tuples(self) -> impl Iterator<Item = Full> {
        self.0.into_iter().map(|(key, Failed { count, held, at_ns })| Full {
            counted: Counted { key, held, activity: None },
            failed: count,
            at_ns,
        })
    }
}
