//! The points of the plots of tuples that were on the screen: those of all tuples would take too much memory.

use std::collections::{HashMap, VecDeque};

use tracer_common::TupleKey;

use super::{Track, Window};

/// The most tuples that have a plot.
const PLOTS: usize = 64;
/// The most readings that a plot has.
const POINTS: usize = 300;

/// A tuple at one reading.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// ms on the readings' clock; wraps.
    pub at_ms: u32,
    /// Ports in use, those in TIME_WAIT included.
    pub in_use: u32,
    /// Of these: ports in TIME_WAIT.
    pub time_wait: u32,
    /// Ports that the tuple can hold; 0: none, or not known.
    pub capacity: u32,
    /// Ports taken, per second; 0 also if that is not known.
    pub opened: f32,
    /// Failed calls, per second; 0 also if that is not known.
    pub failed: f32,
}

/// The points of one tuple.
#[derive(Clone, Debug, Default)]
pub struct Plot {
    /// Oldest first.
    pub points: VecDeque<Point>,
    /// Number of the last call of [`Plots::watch`] for this tuple.
    watched: u64,
}

/// The plots of the watched tuples.
#[derive(Debug, Default)]
pub(super) struct Plots {
    by_key: HashMap<TupleKey, Plot>,
    clock: u64,
}

impl Plots {
    /// Begins or keeps the plot of a tuple. If 64 others have one, that which was watched longest ago is dropped.
    pub(super) fn watch(&mut self, key: &TupleKey) {
        self.clock += 1;
        if !self.by_key.contains_key(key) && self.by_key.len() >= PLOTS {
            let oldest = self.by_key.iter().min_by_key(|(_, plot)| plot.watched);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                self.by_key.remove(&oldest);
            }
        }
        self.by_key.entry(*key).or_default().watched = self.clock;
    }

    /// The plot of a tuple; `None`: it has none.
    pub(super) fn get(&self, key: &TupleKey) -> Option<&Plot> {
        self.by_key.get(key)
    }

    /// Adds a point of the newest reading to each plot, and removes the plots of tuples that are gone.
    pub(super) fn add(&mut self, at_ms: u32, tracks: &[Track]) {
        if self.by_key.is_empty() {
            return;
        }
        for track in tracks {
            let Some(plot) = self.by_key.get_mut(&track.key) else { continue };
            if plot.points.len() == POINTS {
                plot.points.pop_front();
            }
            plot.points.push_back(track.point(at_ms));
        }
        let is_there = |plot: &Plot| plot.points.back().is_some_and(|point| point.at_ms == at_ms);
        self.by_key.retain(|_, plot| is_there(plot));
    }
}

impl Track {
    fn point(&self, at_ms: u32) -> Point {
        let row = self.row(Window::Second, at_ms);
        let small = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let rates = row.rates.unwrap_or_default();
        #[expect(clippy::cast_possible_truncation, reason = "a pixel has no more digits")]
        let rate = |rate: f64| rate as f32;
        Point {
            at_ms,
            in_use: small(row.in_use),
            time_wait: small(row.time_wait),
            capacity: row.capacity.unwrap_or(0),
            opened: rate(rates.opened),
            failed: rate(rates.failed),
        }
    }
}
