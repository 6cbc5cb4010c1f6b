//! [`Recorded`]: judges a recording, line by line, as far as it knows: each finding by its worst reading, with the time of that.
//!
//! The readings of a run are put together to windows as long as the live doctor's (the module `window`), and the same judges
//! see each of them.

mod cases;
mod checks;
mod facts;
mod failures;
mod track;
mod window;
mod worst;

pub use cases::Cases;
pub use checks::Damage;
use facts::Facts;
use failures::{Failures, Full};
use window::Window;
pub use worst::Worst;

use super::{
    finding::Finding,
    flow::longest_time_wait_s,
    from_ledger,
    judge::Seen,
    show::Metrics,
    verdict::{self, Check},
};
use crate::{
    cli::NetnsRef,
    recording::{At, Entry, Losses, Start},
    view::reading::About,
};

/// How many tuples of a run are remembered at most for a diagnosis.
pub const MOST_TUPLES: usize = 50_000;

/// Keeps what the windows of a recording show; called by [`Recorded`] with each namespace of a window that has ended, if
/// something in it is worse than before, or if the window is due (see `Window`).
pub trait Keep {
    /// Adds the tuples of a namespace in a window that has ended. `knows_reuse`: whether the recording says which TIME_WAITs connect()
    /// takes over there; `at`: when a finding was, ns since 1970.
    fn window(&mut self, seen: &Seen, knows_reuse: bool, at: impl Fn(&Finding) -> u64);

    /// Adds a tuple of a run without readings. `failed`: how many of its calls found no port; `at_ns`: when it held most ports, ns
    /// since 1970.
    fn without_readings(&mut self, seen: &Seen, failed: u64, at_ns: u64);
}

/// What is known of a recording so far. It keeps the findings ([`Worst`]), or only what helps tuples that ran out of ports ([`Cases`]).
#[derive(Debug)]
pub struct Recorded<K = Worst> {
    /// How many tuples of a run are remembered at most.
    most: usize,
    /// The namespaces to judge; empty: all.
    wanted: Vec<NetnsRef>,
    about: About,
    /// How long a TIME_WAIT lasts at most on its host, in seconds.
    time_wait_s: f64,
    facts: Facts,
    /// The lines since the last `tracer.start`.
    run: Run,
    kept: K,
    metrics: Metrics,
    counts: checks::Counts,
    /// The earliest and the latest time of a line, ns since 1970; `None`: there was no line.
    span: Option<(u64, u64)>,
}

/// A recording from one `tracer.start` to the next.
#[derive(Debug)]
struct Run {
    window: Window,
    failures: Failures,
    lost: Losses,
}

/// What a recording says once all of it is read.
#[derive(Debug)]
pub struct Judged {
    /// What its newest `tracer.start` said about its host and its tracer; the default value if there was none.
    pub about: About,
    /// Causes before consequences, the worst first. Each is that of its worst reading; its text and its evidence have the time of
    /// that.
    pub findings: Vec<Finding>,
    /// All checks, made or not.
    pub checks: Vec<Check>,
    /// Of all windows: the fullest tuple, all failed calls, the slowest searches.
    pub metrics: Metrics,
    /// How many complete readings it has, in all runs.
    pub readings: u64,
    /// The sum of the lengths of all windows, in seconds.
    pub watched_s: f64,
    /// The earliest and the latest time of a line, ns since 1970; 0 and 0: there was none.
    pub span: (u64, u64),
}

/// What helps the tuples of a recording.
#[derive(Debug)]
pub struct Advised {
    pub cases: Cases,
    /// How many lines about tuples were left out because there was no room to remember these, and how often a tuple that ran out
    /// of ports found no room in `cases`.
    pub left_out: u64,
}

impl Recorded {
    /// A recording of which nothing is read yet. `wanted`: the network namespaces to judge, by name or inode number (by path:
    /// none is); empty: all. `most`: how many tuples of a run are remembered at most.
    pub fn new(wanted: Vec<NetnsRef>, most: usize) -> Self {
        Self::keeping(Worst::default(), wanted, most)
    }

    /// Ends the recording, and judges its last window, however short it is. `damage`: what of it could not be read.
    pub fn finish(mut self, damage: &Damage) -> Judged {
        self.end_run();
        self.counts.has_wanted |= self.wanted.is_empty();
        let checks = checks::checks(&self.counts, damage, self.kept.is_limited());
        Judged {
            about: self.about,
            findings: verdict::order(self.kept.findings()),
            checks,
            metrics: self.metrics,
            readings: self.counts.readings,
            watched_s: self.counts.watched_s,
            span: self.span.unwrap_or_default(),
        }
    }
}

impl Recorded<Cases> {
    /// A recording of which nothing is read yet, of all its namespaces. `most`: tuples of a run that are remembered at most, and
    /// tuples that are kept.
    pub fn for_advice(most: usize) -> Self {
        Self::keeping(Cases::new(most), Vec::new(), most)
    }

    /// Ends the recording, and adds its last window, however short it is.
    pub fn advised(mut self) -> Advised {
        self.end_run();
        let left_out = self.counts.left_out.saturating_add(self.kept.left_out());
        Advised { cases: self.kept, left_out }
    }
}

impl<K: Keep> Recorded<K> {
    fn keeping(kept: K, wanted: Vec<NetnsRef>, most: usize) -> Self {
        Self {
            most,
            wanted,
            about: About::default(),
            time_wait_s: longest_time_wait_s(None),
            facts: Facts::default(),
            run: Run::new(most),
            kept,
            metrics: Metrics::default(),
            counts: checks::Counts::default(),
            span: None,
        }
    }

    /// Adds a line, which was written at the time `at`. The lines must come in the order of their stream; a tuple's line that is
    /// older (by CLOCK_MONOTONIC) than the newest reading begins another run, as [`Entry::Start`] does. Of [`Entry::Lost`] and
    /// [`Entry::Degraded`], only the time counts, for [`Judged::span`].
    pub fn add(&mut self, at: At, entry: &Entry<'_>) {
        let (begin, end) = self.span.unwrap_or((at.wall_ns, at.wall_ns));
        self.span = Some((begin.min(at.wall_ns), end.max(at.wall_ns)));
        match entry {
            Entry::Start(start) => self.begin(start),
            Entry::Settings(settings) => self.facts.set(settings),
            Entry::Tuple(tuple) => {
                if self.run.window.is_before(at) {
                    self.end_run();
                }
                if self.run.window.ends_reading_before(at) {
                    self.end_reading();
                }
                self.facts.add(tuple);
                if self.is_wanted(tuple.key.netns) {
                    self.counts.has_wanted = true;
                    self.run.window.add(at, tuple);
                }
            }
            Entry::Stats(totals) => {
                if self.run.window.ends_reading_before(at) {
                    self.end_reading();
                }
                self.run.window.complete(at);
                self.end_reading();
                self.lost(&totals.lost);
            }
            Entry::Failure(failure) => {
                self.facts.name(failure.what.key.netns, &failure.netns_name);
                if self.is_wanted(failure.what.key.netns) {
                    self.counts.has_wanted = true;
                    self.run.window.failed(failure);
                    self.run.failures.add(failure);
                }
            }
            Entry::Stop(totals) => self.lost(&totals.lost),
            Entry::Lost(_) | Entry::Degraded(_) => {}
        }
    }

    fn is_wanted(&self, netns: u32) -> bool {
        let is = |wanted: &NetnsRef| match wanted {
            NetnsRef::Inode(inode) => *inode == netns,
            NetnsRef::Name(name) => self.facts.is_named(netns, name),
            NetnsRef::Path(_) => false,
        };
        self.wanted.is_empty() || self.wanted.iter().any(is)
    }

    fn begin(&mut self, start: &Start) {
        self.end_run();
        self.about = start.about.clone();
        self.time_wait_s = longest_time_wait_s(start.about.hz);
        self.facts.begin(start);
        self.run.window.begin();
    }

    fn lost(&mut self, lost: &Losses) {
        for (reason, count) in lost.iter() {
            self.run.lost.set(reason, count);
        }
    }

    /// Ends the reading whose lines were added, and judges the window if it is long enough.
    fn end_reading(&mut self) {
        if let Some(span) = self.run.window.end_reading() {
            self.judge(span);
        }
    }

    fn end_run(&mut self) {
        self.end_reading();
        if let Some(span) = self.run.window.rest() {
            self.judge(span);
        }
        let run = std::mem::replace(&mut self.run, Run::new(self.most));
        self.counts.add(&run.window, &run.lost);
        if run.window.readings() == 0 {
            self.judge_failures(run.failures);
        }
    }

    /// Judges the tuples of a run without readings.
    fn judge_failures(&mut self, failures: Failures) {
        for Full { counted, failed, at_ns } in failures.tuples() {
            let namespace = self.facts.namespace(counted.key.netns, self.time_wait_s);
            let (seen, _) = from_ledger::seen(namespace, [counted]);
            let metrics = Metrics::of(std::slice::from_ref(&seen), false, None);
            self.metrics.add(Metrics { failed: Some(failed), ..metrics });
            self.kept.without_readings(&seen, failed, at_ns);
        }
    }

    /// Judges each namespace of a window that has ended.
    fn judge(&mut self, span: window::Span) {
        let is_due = self.run.window.is_due();
        for keys in self.run.window.keys().chunk_by(|one, other| one.netns == other.netns) {
            let Some(netns) = keys.first().map(|key| key.netns) else { continue };
            let failed = span.seconds.map(|_| self.run.window.exhausted(keys));
            self.metrics.add(Metrics { failed, ..Metrics::default() });
            if !self.run.window.is_worse(keys, span) && !is_due {
                continue;
            }
            let window = &self.run.window;
            let mut namespace = self.facts.namespace(netns, self.time_wait_s);
            let knows_reuse = namespace.reuse.is_some();
            self.counts.without_settings |= !knows_reuse;
            namespace.reuse.get_or_insert_with(|| window.reuse(keys));
            let (seen, unknown) = from_ledger::seen(namespace, window.counted(keys, span));
            self.counts.unknown |= unknown > 0;
            self.metrics.add(Metrics::of(std::slice::from_ref(&seen), false, None));
            let at = |finding: &Finding| window.time_of(&finding.subject).unwrap_or(span.end_ns);
            self.kept.window(&seen, knows_reuse, at);
        }
        self.run.window.next();
    }
}

impl Run {
    fn new(most: usize) -> Self {
        let (window, failures) = (Window::new(most), Failures::default());
        Self { window, failures, lost: Losses::default() }
    }
}

#[cfg(test)]
mod tests;
