//! [`Tally`]: adds up what a recording says about one tuple.

use tracer_common::Cause;

use crate::{
    format::table::{CRITICAL, HIGH, SLOW},
    host::capacity::Limits,
    ledger::stats,
    recording::{At, Tuple},
};

/// The saturations from which on time is counted: 0.45, 0.8 and 0.95, where 1 is full.
pub(super) const LEVELS: [f64; 3] = [SLOW, HIGH, CRITICAL];

/// The ports of a tuple at its fullest.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Peak {
    /// When that was, ns since 1970; 0: it is in no reading.
    pub(super) wall_ns: u64,
    /// `in_use` divided by `capacity`: 1 is full; `None`: the capacity is not known.
    pub(super) saturation: Option<f64>,
    /// Ports in use, those in TIME_WAIT included.
    pub(super) in_use: u64,
    /// Ports in TIME_WAIT.
    pub(super) time_wait: u64,
    /// Ports that it could hold; `None`: not known.
    pub(super) capacity: Option<u32>,
    /// The port range of the tuple's namespace, and how many of its ports are reserved or bound; `None`: not known.
    pub(super) limits: Option<Limits>,
}

/// What a recording says about one tuple.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// Number of the last reading that had the tuple, and how many of [`LEVELS`] it had reached then; `None`: there was none
    /// yet, or the time after that reading is already added.
    newest: Option<(u64, usize)>,
    /// Number of the last reading in which it had reached a level; 0: none.
    reached_in: u64,
    /// The tuple's newest counters: number of the run, failed calls, and those of them that found no port. `None`: the tuple
    /// was in no reading yet.
    counted: Option<(u64, u64, u64)>,
    pub(super) peak: Peak,
    /// How long it was at or above each of [`LEVELS`], ns.
    pub(super) above: [u64; LEVELS.len()],
    /// Failed calls of connect(), by the tuple's counters.
    pub(super) failed: u64,
    /// Failed calls of connect(), by single events.
    pub(super) events: u64,
    /// Whether a call of connect() found no port.
    pub(super) exhausted: bool,
    /// Name of the process that connected last, in the newest reading, NUL-padded; all zero: not known.
    pub(super) comm: [u8; 16],
}

/// How many connect() calls failed since the tuple's line before.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Growth {
    pub(super) failed: u64,
    /// Of those, how many found no port.
    pub(super) exhausted: u64,
}

/// Where in the recording a tuple's line is, and what is known of the tuple's counters before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinePlace {
    /// When the line was written.
    pub(super) at: At,
    /// Number of its reading, from 1.
    pub(super) reading: u64,
    /// Number of its run, from 1.
    pub(super) run: u64,
    pub(super) before: Before,
}

/// What is known of a tuple's counters before its first line in a run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Before {
    /// They were 0: the run was read from its beginning, and no tuple was forgotten.
    Nothing,
    /// Tuples were forgotten, and this may be one of them. That it never ran out of ports is assumed: tuples that did
    /// are forgotten last.
    NoExhaustion,
    /// Nothing is known.
    Unknown,
}

/// What a line changed, and how full the tuple is now.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Change {
    pub(super) growth: Growth,
    /// How many of [`LEVELS`] the tuple has reached in this line.
    pub(super) reached: usize,
    /// Whether the tuple has reached a level, and no earlier line of the same reading says so.
    pub(super) newly: bool,
}

impl Tally {
    /// Adds a `tuple.stats` line. The lines must come in the order of their stream. Counters that went down count from 0; those
    /// of the first line in a run as [`LinePlace::before`] says.
    pub(super) fn add(&mut self, place: LinePlace, tuple: &Tuple<'_>) -> Change {
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

    fn grow(&mut self, place: LinePlace, tuple: &Tuple<'_>) -> Growth {
        let failed = tuple.count.failures();
        let exhausted = tuple.count.failed[Cause::PortsExhausted as usize];
        let counted = self.counted.filter(|(run, ..)| *run == place.run);
        let (before, exhausted_before) = match (counted, place.before) {
            // The tuple was removed and is there again: its counters started at 0.
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

    /// Adds `ns`, the time from reading number `reading` to the next one, to each level that the tuple had reached: it is
    /// taken to stay as it was at a reading. Does nothing if the tuple's newest line is not of that reading, or this time is
    /// already added.
    pub(super) fn hold(&mut self, reading: u64, ns: u64) {
        let Some((_, reached)) = self.newest.take_if(|(newest, _)| *newest == reading) else {
            return;
        };
        for above in self.above.iter_mut().take(reached) {
            *above = above.saturating_add(ns);
        }
    }

    /// How much the tuple matters: first whether a call found no port, then its highest saturation, its failed calls, its
    /// ports in use at its fullest.
    pub(super) fn rank(&self) -> Rank {
        // The bits of floats that are not negative have the same order as the floats.
        let share = self.peak.saturation.unwrap_or(0.0).to_bits();
        Rank(self.exhausted, share, self.failed.max(self.events), self.peak.in_use)
    }
}

/// How much a tuple matters: the greater this is, the later the tuple is forgotten.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Rank(bool, u64, u64, u64);
