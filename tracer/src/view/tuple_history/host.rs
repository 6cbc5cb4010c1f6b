//! Keeps the connects and failures of the whole host at the newest 300 readings, and makes rates of them.

use std::collections::VecDeque;

use tracer_common::Cause;

use super::Window;

/// The most readings that are kept.
const KEEP: usize = 300;

/// The host at one reading.
#[derive(Clone, Copy, Debug, PartialEq)]
struct HostSample {
    at_ms: u32,
    /// Ports taken so far.
    opened: u64,
    /// Failed calls so far, by cause.
    failed: [u64; Cause::COUNT],
}

/// The newest readings of the host's counters.
#[derive(Debug, Default)]
pub struct Host {
    samples: VecDeque<HostSample>,
}

/// Rates of the host, per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HostRates {
    /// Ports taken.
    pub opened: f64,
    /// Failed calls, by [`Cause`].
    pub failed: [f64; Cause::COUNT],
}

impl HostRates {
    /// Failed calls per second, of all causes together.
    pub fn failures(&self) -> f64 {
        self.failed.iter().sum()
    }
}

impl Host {
    /// Adds a reading. `at_ms`: its time on the readings' clock, ms; wraps. `opened`: ports taken since the one before; `failed`:
    /// failed calls so far, by cause.
    pub(super) fn add(&mut self, at_ms: u32, opened: u64, failed: &[u64; Cause::COUNT]) {
        let before = self.samples.back().map_or(0, |sample| sample.opened);
        if self.samples.len() == KEEP {
            self.samples.pop_front();
        }
        self.samples.push_back(HostSample {
            at_ms,
            opened: before.saturating_add(opened),
            failed: *failed,
        });
    }

    /// Over how many seconds the kept readings (the newest 300) extend; 0: there were fewer than two.
    pub fn known_s(&self) -> f64 {
        let both = self.samples.front().zip(self.samples.back());
        both.map_or(0.0, |(first, now)| f64::from(now.at_ms.wrapping_sub(first.at_ms)) / 1000.0)
    }

    /// Rates over this window, or over as much of it as is known; `None`: there are fewer than two readings (with different
    /// times).
    pub fn rates(&self, window: Window) -> Option<HostRates> {
        let now = self.samples.back()?;
        let age = |sample: &&HostSample| f64::from(now.at_ms.wrapping_sub(sample.at_ms)) / 1000.0;
        let enough = |sample: &&HostSample| age(sample) >= f64::from(window.seconds()) * 0.95;
        let before = self.samples.iter().rev().find(enough).or(self.samples.front())?;
        rates(before, now)
    }

    /// Ports taken and failed calls per second between each two successive readings, oldest first: the newest `count` pairs,
    /// fewer if fewer are known (at most 299). Readings of the same time make no pair.
    pub fn series(&self, count: usize) -> Vec<(f64, f64)> {
        let pairs = self.samples.iter().zip(self.samples.iter().skip(1));
        let series = pairs.filter_map(|(before, now)| rates(before, now));
        let series: Vec<_> = series.map(|rates| (rates.opened, rates.failures())).collect();
        series[series.len().saturating_sub(count)..].to_vec()
    }
}

fn rates(before: &HostSample, now: &HostSample) -> Option<HostRates> {
    let seconds = f64::from(now.at_ms.wrapping_sub(before.at_ms)) / 1000.0;
    if seconds <= 0.0 {
        return None;
    }
    let mut failed = [0.0; Cause::COUNT];
    for (rate, (before, now)) in failed.iter_mut().zip(before.failed.iter().zip(&now.failed)) {
        *rate = per(now.saturating_sub(*before), seconds);
    }
    Some(HostRates { opened: per(now.opened.saturating_sub(before.opened), seconds), failed })
}

#[expect(clippy::cast_precision_loss, reason = "shown with at most six digits")]
fn per(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds
}
