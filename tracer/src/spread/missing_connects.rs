//! Notices that connect() calls whose source the spreader chose open no connection. No I/O.
//!
//! A connect() that fails before port selection, for want of a route, is invisible to the ledger. But then the hook
//! chooses more sources than connections are opened: for a while the agent samples the hook's choices, and checks
//! whether the host has a route from each chosen source to its destination.

use tracer_common::TupleKey;

/// How many chosen sources may have no connection, in addition to 1 in [`INEXACT`] of those chosen since the last
/// reading. If more have none, a check begins.
const TOLERATED: u64 = 3;
/// N: 1 in N of the sources chosen since the last reading may have no connection, because their calls can be in
/// progress while the choices and the connections are read one after the other.
const INEXACT: u64 = 64;
/// How many readings a check lasts; there is one a second.
const CHECK_READINGS: u32 = 10;
/// How many pairs of source and destination one check covers at most; further pairs are left to the next check.
const PAIRS_MAX: usize = 64;

/// How many chosen sources have no connection, and the check that is in progress.
#[derive(Debug, Default)]
pub struct MissingConnects {
    /// How many sources had been chosen at the last reading; `None`: there was none yet.
    chosen: Option<u64>,
    /// Chosen sources for which no connection was opened, since the last check began; never below 0.
    missing: u64,
    /// Readings until the check ends; 0: no check is in progress.
    readings_left: u32,
    /// N, if the hook reports 1 in N of its choices during the newest check, a power of two; 0: there was no check yet.
    sample: u32,
    /// Pairs that the newest check has covered.
    checked: Vec<TupleKey>,
}

impl MissingConnects {
    /// Adds a reading, to be made once a second: how many sources were `chosen` since the rule began, and how many connections
    /// whose source was chosen were `opened` since the last reading. Begins a check (of 10 readings) if more chosen sources have
    /// no connection than 3 plus one in 64 of those that were chosen since the last reading. The first reading begins none.
    pub fn add_reading(&mut self, chosen: u64, opened: u64) {
        self.readings_left = self.readings_left.saturating_sub(1);
        let Some(before) = self.chosen.replace(chosen) else { return };
        let newly = chosen.saturating_sub(before);
        self.missing = (self.missing + newly).saturating_sub(opened);
        if self.missing > TOLERATED + newly / INEXACT {
            self.missing = 0;
            self.readings_left = CHECK_READINGS;
            self.checked.clear();
            // At this rate, about 32 to 127 choices are sampled until the next reading; all, if they are fewer.
            self.sample = u32::try_from(newly / INEXACT).unwrap_or(u32::MAX >> 1);
            self.sample = self.sample.next_power_of_two();
        }
    }

    /// N if the hook is to report 1 in N of its choices at random, a power of two; 0: none, because no check is in progress.
    pub fn sample(&self) -> u32 {
        if self.readings_left > 0 { self.sample } else { 0 }
    }

    /// Whether to check the route from this source to this destination: true once in a check. False, too, if no check is in
    /// progress, or if it covers as many pairs as it can.
    pub fn should_check(&mut self, pair: &TupleKey) -> bool {
        let is_new = self.readings_left > 0
            && self.checked.len() < PAIRS_MAX
            && !self.checked.contains(pair);
        if is_new {
            self.checked.push(*pair);
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(destination_port: u16) -> TupleKey {
        TupleKey { destination_port, ..TupleKey::default() }
    }

    #[test]
    fn missing_connections_start_a_check_however_slowly_they_come() {
        let mut missing = MissingConnects::default();
        for reading in 0..10 {
            assert_eq!(missing.sample(), u32::from(reading > 4), "{reading}");
            missing.add_reading(1_000 + reading, 0);
        }
        for _ in 0..CHECK_READINGS {
            missing.add_reading(1_009, 0);
        }
        assert_eq!(missing.sample(), 0);
    }

    #[test]
    fn no_check_starts_where_all_connect_and_the_two_tables_are_read_one_after_the_other() {
        let mut missing = MissingConnects::default();
        for reading in 0..1_000 {
            // Ten connections are counted sometimes in this reading, sometimes in the next.
            missing.add_reading(10_000 * reading, if reading % 2 == 0 { 10_010 } else { 9_990 });
            assert_eq!(missing.sample(), 0);
        }
    }

    #[test]
    fn with_many_calls_a_few_are_sampled_and_each_pair_is_checked_once() {
        let mut missing = MissingConnects::default();
        assert!(!missing.should_check(&pair(1)));
        missing.add_reading(0, 0);
        missing.add_reading(50_000, 40_000);
        assert_eq!(missing.sample(), 1024);
        assert!(missing.should_check(&pair(1)) && missing.should_check(&pair(2)));
        assert!(!missing.should_check(&pair(1)));
        missing.add_reading(100_000, 40_000);
        assert!(missing.should_check(&pair(1)));
    }
}
