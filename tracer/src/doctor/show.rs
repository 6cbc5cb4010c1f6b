//! Shows a diagnosis: as text for people, as JSON, and as one line for monitoring systems.

mod json;
mod lines;
mod plugin;
#[cfg(test)]
mod test_diagnosis;
mod text;

use std::time::Duration;

pub use json::{advice, json, json_line};
pub use lines::{Commands, Part, broken, finding};
pub use plugin::plugin;
pub use text::text;

use super::{
    activity::Activity,
    changes::Changes,
    finding::Finding,
    judge::Seen,
    scope::{Judged, Scope},
    tuples::{Ends, ip},
    verdict::{Check, Verdict},
};

/// What `tracer doctor` found out in one round, or of a recording.
#[derive(Clone, Debug)]
pub struct Diagnosis {
    /// When it ended, in ns since 1970.
    pub wall_ns: u64,
    /// Name of the host (`uname -n`); empty: not known.
    pub host: String,
    /// Release of its kernel (`uname -r`); empty: not known.
    pub kernel: String,
    /// How long it watched, or how long the recording's windows are in all; zero: it looked once.
    pub window: Duration,
    pub metrics: Metrics,
    /// Causes before consequences, the worst first.
    pub findings: Vec<Finding>,
    /// How many more findings there are, of the same kinds as some in `findings`: see [`super::verdict::shorten`].
    pub left_out: usize,
    /// All checks, made or not.
    pub checks: Vec<Check>,
    pub verdict: Verdict,
    /// The processes that are judged; `None`: all.
    pub judged: Option<Judged>,
    /// What has changed since the last round of `--watch`; `None`: there is one round only, or it is about a recording.
    pub changes: Option<Changes>,
    /// The recording that it is about; `None`: it is about this host, now.
    pub recording: Option<OfRecording>,
}

/// What was read of a recording.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct OfRecording {
    /// The earliest time of a line, ns since 1970; 0: there was no line.
    pub begin_ns: u64,
    /// The latest time of a line, ns since 1970; 0: there was no line.
    pub end_ns: u64,
    /// How many lines were read.
    pub lines: u64,
    /// How many complete readings it has.
    pub readings: u64,
}

/// The numbers that monitoring systems draw, of all tuples that are judged.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Metrics {
    /// Share of its ports that the fullest tuple has in use, 0 to 1 (1 also if it holds ports outside of the range); 0 if there
    /// is no tuple.
    pub saturation: f64,
    /// Calls that failed for lack of a port during the window; `None`: nothing watched.
    pub failed: Option<u64>,
    /// How long the port searches of the tuple with the slowest ones took on average, in ms; `None`: there was none.
    pub search_ms: Option<f64>,
}

impl Metrics {
    /// The numbers of these namespaces; without tuples: 0, 0 and `None`. `watched`: whether the hooks were attached; if not,
    /// `failed` is `None`. `scope`: what is judged; `None`: all.
    pub fn of(seen: &[Seen], watched: bool, scope: Option<&Scope>) -> Self {
        let is_judged = |inum: u32, ends: &Ends| scope.is_none_or(|it| it.has_tuple(inum, ends));
        let tuples = seen.iter().flat_map(|it| {
            let inum = it.place.inum;
            it.now.by_ends.iter().filter(move |(ends, _)| is_judged(inum, ends))
        });
        let saturation = tuples.map(|(_, it)| it.saturation().min(1.0)).fold(0.0, f64::max);
        let all = || {
            let all = seen.iter().flat_map(|it| {
                let inum = it.place.inum;
                it.activity.iter().filter(move |(ends, _)| is_judged(inum, ends))
            });
            all.map(|(_, activity)| activity)
        };
        let bound = seen.iter().flat_map(|it| {
            let inum = it.place.inum;
            it.bound
                .iter()
                .filter(move |bound| scope.is_none_or(|it| it.has_address(inum, ip(bound.address))))
        });
        let bound = bound.map(|it| it.failed);
        let failed = all().map(Activity::exhausted).chain(bound).fold(0, u64::saturating_add);
        let search_ms =
            all().filter_map(Activity::search_ns).map(|it| it.mean / 1e6).reduce(f64::max);
        Self { saturation, failed: watched.then_some(failed), search_ms }
    }

    /// Adds those of another time or namespace: the greater saturation, the sum of the failed calls, the slower searches. A
    /// number that one of both does not know is that of the other one.
    pub fn add(&mut self, other: Self) {
        self.saturation = self.saturation.max(other.saturation);
        let sum = |one: u64, more: u64| one.saturating_add(more);
        self.failed = self
            .failed
            .zip(other.failed)
            .map(|(one, more)| sum(one, more))
            .or(self.failed)
            .or(other.failed);
        self.search_ms = self.search_ms.into_iter().chain(other.search_ms).reduce(f64::max);
    }
}
