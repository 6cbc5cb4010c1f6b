//! What a recording says of one tuple.

use tracer_common::Cause;

use crate::{
    format::table::{CRITICAL, HIGH, SLOW},
    host::capacity::Limits,
    ledger::stats,
    recording::{At, Tuple},
};

/// From which share on the time is counted.
pub(super) const LEVELS: [f64; 3] = [SLOW, HIGH, CRITICAL];

/// A tuple at its fullest.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Peak {
    pub(super) wall_ns: u64,
    /// `None`: the capacity is not known.
    pub(super) saturation: Option<f64>,
    pub(super) in_use: u64,
    pub(super) time_wait: u64,
    pub(super) capacity: Option<u32>,
    /// What its namespace had to give.
    pub(super) limits: Option<Limits>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// The reading that it was in last, and how many of [`LEVELS`] it had reached then.
    newest: Option<(u64, usize)>,
    /// The last reading in which it had reached one.
    reached_in: u64,
    /// Failed calls up to now, as the tracer counts them, in this run; `None`: no run has said yet.
    counted: Option<(u64, u64, u64)>,
    pub(super) peak: Peak,
    /// How long it was above each of [`LEVELS`], ns.
    pub(super) above: [u64; LEVELS.len()],
    /// Calls that failed, by its counters and by single events.
    pub(super) failed: u64,
    pub(super) events: u64,
    /// A call found no port.
    pub(super) exhausted: bool,
    /// Who connected there last.
    pub(super) comm: [u8; 16],
}

/// How many calls failed since the line before.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Growth {
    pub(super) failed: u64,
    /// Of those, for want of ports.
    pub(super) exhausted: u64,
}

/// Where a line of a tuple stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) at: At,
    /// Number of its reading, from 1, and of its run.
    pub(super) reading: u64,
    pub(super) run: u64,
    pub(super) before: Before,
}

/// What a tuple of which the run has said nothing yet has counted before in this run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Before {
    /// Nothing: the run's beginning was read, and nothing of it was forgotten.
    Nothing,
    /// Perhaps something, but no call that found no port: with one it would not have been forgotten.
    NoExhaustion,
    Unknown,
}

/// What a line changed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Change {
    pub(super) growth: Growth,
    /// How many of [`LEVELS`] are reached.
    pub(super) reached: usize,
    /// One is, for the first time in this reading.
    pub(super) newly: bool,
}

impl Tally {
    /// Takes a line in.
    pub(super) fn add(&mut self, place: Place, tuple: &Tuple<'_>) -> Change {
        let in_use = tuple.count.in_use();
        let saturation = stats::saturation(in_use, tuple.capacity);
        let share = saturation.unwrap_or(0.0);
        let reached = LEVELS.iter().filter(|level| share >= **level).count();
        self.newest = Some((place.reading, reached));
        let newly = reached > 0 && self.reached_in != place.reading;
        if newly {
            self.reached_in = place.reading;
        }
        let fuller = (share, in_use) > (self.peak.saturation.unwrap_or(0.0), self.peak.in_use);
        if fuller || self.peak.wall_ns == 0 {
            self.peak = Peak {
                wall_ns: place.at.wall_ns,
                saturation,
                in_use,
                time_wait: tuple.count.time_wait(),
                capacity: tuple.capacity,
                limits: tuple.limits,
            };
        }
        self.comm = tuple.called.shown();
        Change { growth: self.grow(place, tuple), reached, newly }
    }

    fn grow(&mut self, place: Place, tuple: &Tuple<'_>) -> Growth {
        let failed = tuple.count.failures();
        let exhausted = tuple.count.failed[Cause::PortsExhausted as usize];
        let counted = self.counted.filter(|(run, ..)| *run == place.run);
        let (before, exhausted_before) = match (counted, place.before) {
            // It was forgotten and came back: from 0 again.
            (Some((_, before, _)), _) if failed < before => (0, 0),
            (Some((_, before, exhausted)), _) => (before, exhausted),
            (None, Before::Nothing) => (0, 0),
            (None, Before::NoExhaustion) => (failed, 0),
            (None, Before::Unknown) => (failed, exhausted),
        };
        self.counted = Some((place.run, failed, exhausted));
        let growth = Growth {
            failed: failed - before,
            exhausted: exhausted.saturating_sub(exhausted_before),
        };
        self.failed = self.failed.saturating_add(growth.failed);
        self.exhausted |= exhausted > 0;
        growth
    }

    /// What it held at this reading, it held for so long, ns: until the next one.
    pub(super) fn hold(&mut self, reading: u64, ns: u64) {
        let Some((_, reached)) = self.newest.take_if(|(newest, _)| *newest == reading) else {
            return;
        };
        for above in self.above.iter_mut().take(reached) {
            *above = above.saturating_add(ns);
        }
    }

    /// The one that matters more is greater: out of ports, full, failing, large.
    pub(super) fn rank(&self) -> Rank {
        // Shares are never negative: their bits are in their order.
        let share = self.peak.saturation.unwrap_or(0.0).to_bits();
        Rank(self.exhausted, share, self.failed.max(self.events), self.peak.in_use)
    }
}

/// How much a tuple matters.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Rank(bool, u64, u64, u64);
