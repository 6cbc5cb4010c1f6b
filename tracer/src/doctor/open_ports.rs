//! How many ports of tuples were held outside of TIME_WAIT during the window, on average. Arithmetic only.

use std::{collections::HashMap, hash::Hash};

/// How many tuples [`OpenPorts`] keeps.
const MOST_TUPLES: usize = super::arrivals::MOST_TUPLES;

/// From so many open ports on, which all readings of a window saw together, their mean is within some 10 % of what it was: a
/// connection that is shorter than the time between two readings is seen by chance, and n of those vary by √n.
pub const EXACT: u64 = 100;

/// How many ports of each tuple (`K`) were held outside of TIME_WAIT, at each reading of a window.
#[derive(Clone, Debug, Default)]
pub struct OpenPorts<K> {
    tuples: HashMap<K, Tuple>,
    /// When the newest reading was taken, in seconds since the window began.
    at_s: f64,
    /// Whether tuples were left out because there are too many.
    lacks: bool,
}

/// The readings of a tuple so far.
#[derive(Clone, Copy, Debug, Default)]
struct Tuple {
    /// When the newest one was taken, in seconds since the window began.
    at_s: f64,
    /// How many ports were open at the newest one.
    open: u64,
    /// The sum of the times for which each port was open up to the newest one, in seconds.
    port_s: f64,
    /// How many open ports all of them saw together.
    seen: u64,
}

/// The open ports of a tuple during the window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Open {
    /// How many there were on average. Between two readings their number is taken to change evenly.
    pub mean: f64,
    /// How many all readings saw together: the more, the more exact `mean` is.
    pub seen: u64,
}

impl Open {
    /// The mean of the readings at the beginning and at the end, which say little about what was between them.
    pub fn of_two(mean: f64) -> Self {
        Self { mean, seen: 0 }
    }

    /// Whether the readings saw enough of the connections that how long one is open on average is known within some 10 %.
    pub fn is_exact(&self) -> bool {
        self.seen >= EXACT
    }
}

impl<K: Eq + Hash> OpenPorts<K> {
    /// Adds a reading `at_s` seconds after the window began; the first one must be at its beginning. `open`: how many ports each
    /// tuple holds outside of TIME_WAIT. A tuple that is missing has none until it is there again.
    pub fn add(&mut self, at_s: f64, open: impl IntoIterator<Item = (K, u64)>) {
        for (key, open) in open {
            if self.tuples.len() >= MOST_TUPLES && !self.tuples.contains_key(&key) {
                self.lacks = true;
                return;
            }
            let tuple = self.tuples.entry(key).or_default();
            tuple.port_s += f64::midpoint(float(tuple.open), float(open)) * (at_s - self.at_s);
            tuple.at_s = at_s;
            tuple.open = open;
            tuple.seen = tuple.seen.saturating_add(open);
        }
        // The others have none any more.
        for tuple in self.tuples.values_mut().filter(|it| it.at_s < at_s) {
            tuple.port_s += float(tuple.open) / 2.0 * (at_s - self.at_s);
            tuple.open = 0;
        }
        self.at_s = at_s;
    }

    /// The open ports of a tuple from the beginning of the window to its newest reading. `None`: no reading after the beginning
    /// has it, or there were too many tuples for all of them to be kept.
    pub fn of(&self, key: &K) -> Option<Open> {
        let tuple = self.tuples.get(key).filter(|it| it.at_s > 0.0 && !self.lacks)?;
        Some(Open { mean: tuple.port_s / self.at_s, seen: tuple.seen })
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_between_the_beginning_and_the_end_of_the_window_count() {
        let mut all = OpenPorts::default();
        // Each second, 12 connections are open for half of it.
        for quarter in 0..=20_u32 {
            let open = if (1..=2).contains(&(quarter % 4)) { 12 } else { 0 };
            all.add(f64::from(quarter) / 4.0, [(7, open)]);
        }
        assert_eq!(all.of(&7), Some(Open { mean: 6.0, seen: 120 }));
    }

    #[test]
    fn a_tuple_that_comes_later_had_no_port_before() {
        let mut all = OpenPorts::default();
        all.add(0.0, []);
        all.add(1.0, [(7, 0)]);
        all.add(2.0, [(7, 4), (8, 2)]);
        assert_eq!(all.of(&7), Some(Open { mean: 1.0, seen: 4 }));
        assert_eq!(all.of(&8), Some(Open { mean: 0.5, seen: 2 }));
        assert_eq!(all.of(&9), None);
    }

    #[test]
    fn a_tuple_that_is_missing_has_no_port_until_it_is_there_again() {
        let mut all = OpenPorts::default();
        all.add(0.0, []);
        all.add(1.0, [(7, 4)]);
        all.add(2.0, []);
        all.add(9.0, []);
        all.add(10.0, [(7, 4)]);
        // Three seconds in which their number changes by 4.
        assert_eq!(all.of(&7), Some(Open { mean: 0.6, seen: 8 }));
        all.add(20.0, []);
        assert_eq!(all.of(&7), Some(Open { mean: 1.3, seen: 8 }));
    }

    #[test]
    fn nothing_is_said_of_a_single_reading_or_if_tuples_were_left_out() {
        let mut all = OpenPorts::default();
        all.add(0.0, [(0, 3)]);
        assert_eq!(all.of(&0), None);
        let tuples = 0..=u32::try_from(MOST_TUPLES).unwrap();
        all.add(1.0, tuples.map(|key| (key, 1)));
        assert_eq!(all.of(&0), None);
        assert_eq!(all.tuples.len(), MOST_TUPLES);
    }
}
