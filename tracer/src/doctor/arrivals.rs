//! When the connections of tuples were opened during the window, and whether that was at a constant rate. Arithmetic only.

use std::{collections::HashMap, hash::Hash};

/// The time between two readings at the beginning, in seconds. It is doubled each time that there are too many.
const STEP_S: f64 = 0.25;
/// The most readings that are kept.
const MOST: usize = 32;
/// The fewest readings that say something.
const FEWEST: usize = 16;
/// How many tuples [`Arrivals`] keeps; others are left out, because reading more of them often costs too much.
pub const MOST_TUPLES: usize = 4_096;
/// By how much a reading is late at most, in seconds.
const LATE_S: f64 = 0.005;
/// The largest difference between the connections that were opened until a moment and those that a constant rate gives, in square
/// roots of all connections. Connections that come at random (a Poisson process) stay below it in about one window of 100 with 16
/// readings, and in one of 300 with 31 (simulated).
const CONSTANT: f64 = 0.3;
/// The difference that counting in whole connections makes.
const WHOLE: f64 = 1.5;

/// How many connections of each tuple (`K`) were opened until each reading of a window.
#[derive(Clone, Debug, Default)]
pub struct Arrivals<K> {
    /// When each reading was taken, in seconds since the beginning.
    times: Vec<f64>,
    /// Connections opened since the beginning, at each reading from this one on; at those before, none.
    opened: HashMap<K, (usize, Vec<u64>)>,
    step_s: f64,
}

impl<K: Eq + Hash + Copy> Arrivals<K> {
    /// Arrivals without a reading. The times of the other functions count from now, the beginning of the window.
    pub fn new() -> Self {
        Self { times: Vec::new(), opened: HashMap::new(), step_s: STEP_S }
    }

    /// Whether the next reading is due `at_s` seconds after the beginning: at first one each 0.25 s; with 32 readings, every
    /// other one is removed, and the time between two is doubled.
    pub fn is_due(&self, at_s: f64) -> bool {
        at_s >= self.times.last().unwrap_or(&0.0) + self.step_s
    }

    /// Adds a reading `at_s` seconds after the beginning, which must be later than the last one. `opened`: how many connections
    /// each tuple has opened since the beginning. One that is missing here, or has 0, counts as in the reading before. Tuples
    /// beyond the first [`MOST_TUPLES`] are left out. With the 32nd reading, every other one is removed: see [`Self::is_due`].
    pub fn add(&mut self, at_s: f64, opened: impl IntoIterator<Item = (K, u64)>) {
        let index = self.times.len();
        self.times.push(at_s);
        for (key, count) in opened.into_iter().filter(|(_, count)| *count > 0) {
            if self.opened.len() >= MOST_TUPLES && !self.opened.contains_key(&key) {
                continue;
            }
            let (from, counts) = self.opened.entry(key).or_insert((index, Vec::new()));
            // A tuple that was away for some readings had as many as before.
            let last = counts.last().copied().unwrap_or(0);
            counts.resize(index.saturating_sub(*from), last);
            counts.push(count);
        }
        if self.times.len() >= MOST {
            self.thin_out();
        }
    }

    /// Leaves out every other reading.
    fn thin_out(&mut self) {
        let times = self.times.iter().copied().skip(1).step_by(2).collect();
        let before = std::mem::replace(&mut self.times, times);
        for (from, counts) in self.opened.values_mut() {
            let kept = (0..before.len()).skip(1).step_by(2);
            *counts = kept.map(|index| count_at(*from, counts, index)).collect();
            *from = 0;
        }
        self.step_s *= 2.0;
    }

    /// Whether a tuple's connections were opened at a constant rate, as by a clock: at each reading their number differs from
    /// that of a constant rate by at most 1.5 plus what 5 ms of that rate give, or by 0.3 times the square root of all, whichever
    /// is more. `None`: there are fewer than 16 readings, or no connection of this tuple is known, because it opened none or was
    /// left out.
    pub fn is_constant(&self, key: &K) -> Option<bool> {
        if self.times.len() < FEWEST {
            return None;
        }
        let (from, counts) = self.opened.get(key)?;
        let (all, end_s) = (float(*counts.last()?), *self.times.last()?);
        let by_reading = WHOLE + all / end_s * LATE_S;
        let allowed = by_reading.max(CONSTANT * all.sqrt());
        let is_near = |(index, at_s): (usize, &f64)| {
            (float(count_at(*from, counts, index)) - all * at_s / end_s).abs() <= allowed
        };
        Some(self.times.iter().enumerate().all(is_near))
    }
}

/// The count of a tuple at this reading. `counts`: those from the reading `from` on; a count that is missing after them is the
/// last one.
fn count_at(from: usize, counts: &[u64], reading: usize) -> u64 {
    let Some(index) = reading.checked_sub(from) else { return 0 };
    counts.get(index).or(counts.last()).copied().unwrap_or(0)
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readings of a tuple with connections at these times, over so many seconds.
    fn arrivals(at_s: &[f64], seconds: f64) -> Arrivals<u8> {
        let mut arrivals = Arrivals::new();
        let mut now = 0.0;
        while now < seconds {
            now += 0.02;
            if arrivals.is_due(now) {
                let count = at_s.iter().filter(|at| **at < now).count();
                arrivals.add(now, [(7, u64::try_from(count).unwrap())]);
            }
        }
        arrivals
    }

    fn every(step_s: f64, seconds: f64) -> Vec<f64> {
        let mut all = vec![step_s / 3.0];
        while all.last().unwrap() + step_s < seconds {
            all.push(all.last().unwrap() + step_s);
        }
        all
    }

    /// Connections that come at random at this rate (SplitMix64 and the exponential distribution).
    fn at_random(rate: f64, seconds: f64, seed: u64) -> Vec<f64> {
        let mut state = seed;
        let mut at = 0.0;
        let mut all = Vec::new();
        while at < seconds {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^= mixed >> 31;
            #[expect(clippy::cast_precision_loss, reason = "a random number")]
            let uniform = ((mixed >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
            at -= uniform.ln() / rate;
            all.push(at);
        }
        all
    }

    #[test]
    fn connections_by_a_clock_come_at_a_constant_rate() {
        for (step_s, seconds) in [(0.2, 5.0), (0.02, 5.0), (0.005, 5.0), (1.0, 60.0), (0.01, 60.0)]
        {
            let all = arrivals(&every(step_s, seconds), seconds);
            assert_eq!(all.is_constant(&7), Some(true), "{step_s} {seconds}");
        }
    }

    #[test]
    fn connections_that_come_at_random_do_not() {
        let mut constant = 0;
        for seed in 0..200 {
            for (rate, seconds) in [(5.0, 5.0), (50.0, 5.0), (200.0, 5.0), (50.0, 60.0)] {
                let all = arrivals(&at_random(rate, seconds, seed * 1_000), seconds);
                constant += u32::from(all.is_constant(&7) == Some(true));
            }
        }
        assert!(constant <= 2, "{constant} of 800");
    }

    #[test]
    fn a_burst_or_an_end_of_the_load_is_no_constant_rate() {
        let burst = [every(0.1, 5.0), vec![2.0; 20]].concat();
        assert_eq!(arrivals(&burst, 5.0).is_constant(&7), Some(false));
        assert_eq!(arrivals(&every(0.05, 3.0), 5.0).is_constant(&7), Some(false));
        assert_eq!(arrivals(&every(0.1, 2.0), 2.0).is_constant(&7), None, "8 readings");
        assert_eq!(arrivals(&[], 5.0).is_constant(&7), None);
    }

    #[test]
    fn a_tuple_that_is_missing_in_a_reading_has_as_many_as_before() {
        let mut all = Arrivals::new();
        for index in 1..=20_u32 {
            let opened = (index % 7 != 0).then_some((7, u64::from(index) * 3));
            all.add(f64::from(index), opened);
        }
        assert_eq!(all.is_constant(&7), Some(false), "three are missing");
        let late = (1..=20_u32).map(|index| if index < 10 { 0 } else { u64::from(index) * 3 });
        let mut all = Arrivals::new();
        for (at, count) in (1..=20_u32).zip(late) {
            all.add(f64::from(at), [(7, count)]);
        }
        assert_eq!(all.is_constant(&7), Some(false));
    }

    #[test]
    fn many_tuples_and_a_long_window_take_bounded_memory() {
        let mut all = Arrivals::new();
        for reading in 1..=1_000_u32 {
            if all.is_due(f64::from(reading)) {
                all.add(f64::from(reading), (0..10_000_u32).map(|key| (key, u64::from(reading))));
            }
        }
        assert_eq!(all.opened.len(), MOST_TUPLES);
        assert!(all.times.len() < MOST, "{}", all.times.len());
        assert!(all.opened.values().all(|(_, counts)| counts.len() <= all.times.len()));
    }
}
