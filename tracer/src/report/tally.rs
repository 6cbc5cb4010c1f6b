//! What a recording says of one tuple.

use crate::{
    recording::{At, Tuple},
    stats,
    table::{CRITICAL, HIGH, SLOW},
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
}

#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// The reading that it was in last, and how many of [`LEVELS`] it had reached then.
    newest: Option<(usize, usize)>,
    /// Failed calls up to now, as the tracer counts them; `None`: this run has not said yet.
    counted: Option<(u64, u64)>,
    pub(super) peak: Peak,
    /// How long it was above each of [`LEVELS`], ns.
    pub(super) above: [u64; LEVELS.len()],
    /// Calls that failed, by its counters and by single events.
    pub(super) failed: u64,
    pub(super) events: u64,
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

impl Tally {
    /// Takes a line in. `readings`: when each reading of this run was, ns, this one being the last.
    /// `from_zero`: what it has counted at first, it has counted in this recording. Returns the
    /// growth, and how many of [`LEVELS`] are reached.
    pub(super) fn add(
        &mut self,
        at: At,
        tuple: &Tuple<'_>,
        readings: &[u64],
        from_zero: bool,
    ) -> (Growth, usize) {
        self.settle(readings);
        let in_use = tuple.count.in_use();
        let saturation = stats::saturation(in_use, tuple.capacity);
        let share = saturation.unwrap_or(0.0);
        let reached = LEVELS.iter().filter(|level| share >= **level).count();
        self.newest = readings.len().checked_sub(1).map(|reading| (reading, reached));
        let fuller = (share, in_use) > (self.peak.saturation.unwrap_or(0.0), self.peak.in_use);
        if fuller || self.peak.wall_ns == 0 {
            self.peak = Peak {
                wall_ns: at.wall_ns,
                saturation,
                in_use,
                time_wait: tuple.count.time_wait(),
                capacity: tuple.capacity,
            };
        }
        self.comm = tuple.count.comm;
        (self.grow(tuple, from_zero), reached)
    }

    fn grow(&mut self, tuple: &Tuple<'_>, from_zero: bool) -> Growth {
        let sum = |sum: u64, count: &u64| sum.saturating_add(*count);
        let failed = tuple.count.failed.iter().fold(0, sum);
        let exhausted = tuple.count.failed[tracer_common::Cause::PortsExhausted as usize];
        let first = if from_zero { (0, 0) } else { (failed, exhausted) };
        let (before, exhausted_before) = match self.counted {
            // It was forgotten and came back: from 0 again.
            Some((before, _)) if failed < before => (0, 0),
            Some(before) => before,
            None => first,
        };
        self.counted = Some((failed, exhausted));
        let growth = Growth {
            failed: failed - before,
            exhausted: exhausted.saturating_sub(exhausted_before),
        };
        self.failed = self.failed.saturating_add(growth.failed);
        growth
    }

    /// What it held at a reading, it held until the next one.
    fn settle(&mut self, readings: &[u64]) {
        let Some((reading, reached)) = self.newest else { return };
        if let (Some(from), Some(to)) = (readings.get(reading), readings.get(reading + 1)) {
            for above in self.above.iter_mut().take(reached) {
                *above = above.saturating_add(to.saturating_sub(*from));
            }
        }
    }

    /// The run is over.
    pub(super) fn end(&mut self, readings: &[u64]) {
        self.settle(readings);
        self.newest = None;
        self.counted = None;
    }
}
