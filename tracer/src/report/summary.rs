//! A recording, added up line by line.

use std::collections::{BTreeMap, HashMap};

use tracer_common::{Cause, TupleKey};

use super::tally::Tally;
use crate::{
    recording::{At, Entry, Failure, Start, Totals, Tuple},
    view::reading::{About, Call},
};

/// A call that found no port.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Exhaustion {
    pub(super) wall_ns: u64,
    pub(super) call: Call,
    pub(super) key: TupleKey,
    pub(super) pid: u32,
    pub(super) comm: [u8; 16],
    pub(super) in_use: Option<u64>,
    pub(super) time_wait: Option<u64>,
    pub(super) capacity: Option<u32>,
    /// The call itself was recorded. Else it failed before this time, and after the reading before.
    pub(super) exact: bool,
}

/// The slowest port search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Slowest {
    pub(super) p99_ns: u64,
    pub(super) wall_ns: u64,
    pub(super) key: TupleKey,
}

/// Counts, and where they come from.
#[derive(Clone, Debug, Default)]
pub(super) struct Sourced<T> {
    pub(super) counts: T,
    pub(super) from_totals: bool,
    pub(super) from_events: bool,
}

/// From one `tracer.start` to the next.
#[derive(Debug, Default)]
struct Run {
    /// Its `tracer.start` is there.
    begun: bool,
    ended: bool,
    /// CLOCK_MONOTONIC of each reading.
    readings: Vec<u64>,
    /// How many levels the fullest tuple of the newest reading has reached.
    reached: usize,
    /// Totals of failures, at first and now.
    failed: Option<([u64; Cause::COUNT], [u64; Cause::COUNT])>,
    /// Single failures.
    events: [u64; Cause::COUNT],
    /// Losses by totals, and by `lost` lines.
    lost: BTreeMap<String, u64>,
    lost_lines: BTreeMap<String, u64>,
}

#[derive(Debug, Default)]
pub(super) struct Summary {
    run: Run,
    pub(super) about: About,
    /// When the first and the last line was, ns since 1970.
    pub(super) span: Option<(u64, u64)>,
    pub(super) runs: u64,
    /// Runs without their beginning, and without their end.
    pub(super) headless: u64,
    pub(super) endless: u64,
    pub(super) readings: u64,
    pub(super) tuples: HashMap<TupleKey, Tally>,
    pub(super) first: Option<Exhaustion>,
    pub(super) slowest: Option<Slowest>,
    /// How long any tuple was above the first level, ns.
    pub(super) above: u64,
    pub(super) by_cause: Sourced<[u64; Cause::COUNT]>,
    /// Failed calls by thread name: of single failures, and of the tuples' counters.
    pub(super) by_event: HashMap<[u8; 16], u64>,
    pub(super) by_tuple: HashMap<[u8; 16], u64>,
    /// Of `by_event`: those of connect(), the only ones that tuples count.
    pub(super) connects: u64,
    pub(super) lost: BTreeMap<String, u64>,
    /// Whether single failures were recorded, as far as `tracer.start` says.
    pub(super) failures_wanted: Option<bool>,
}

impl Summary {
    pub(super) fn add(&mut self, at: At, entry: &Entry<'_>) {
        if let Entry::Start(start) = entry {
            self.begin(start);
        }
        if self.runs == 0 {
            self.runs = 1;
        }
        let (begin, end) = self.span.unwrap_or((at.wall_ns, at.wall_ns));
        self.span = Some((begin.min(at.wall_ns), end.max(at.wall_ns)));
        match entry {
            Entry::Start(_) => {}
            Entry::Tuple(tuple) => self.tuple(at, tuple),
            Entry::Stats(totals) => {
                self.reading(at);
                self.totals(totals);
            }
            Entry::Stop(totals) => {
                self.totals(totals);
                self.run.ended = true;
            }
            Entry::Failure(failure) => self.failure(failure),
            Entry::Lost(lost) => {
                add(&mut self.run.lost_lines, &lost.reason, lost.count);
            }
        }
    }

    fn begin(&mut self, start: &Start) {
        self.end_run();
        self.runs += 1;
        self.run.begun = true;
        self.about = start.about.clone();
        self.failures_wanted = match (self.failures_wanted, start.failures) {
            (Some(before), Some(now)) => Some(before || now),
            (before, now) => before.or(now),
        };
    }

    /// A line of a reading, which may be a new one.
    fn reading(&mut self, at: At) {
        let run = &mut self.run;
        let before = run.readings.last().copied();
        if before == Some(at.mono_ns) {
            return;
        }
        if run.reached > 0 {
            self.above += before.map_or(0, |before| at.mono_ns.saturating_sub(before));
        }
        run.reached = 0;
        run.readings.push(at.mono_ns);
        self.readings += 1;
    }

    fn tuple(&mut self, at: At, tuple: &Tuple<'_>) {
        self.reading(at);
        let Self { run, tuples, .. } = self;
        let tally = tuples.entry(tuple.key).or_default();
        let (growth, reached) = tally.add(at, tuple, &run.readings, run.begun);
        run.reached = run.reached.max(reached);
        if growth.failed > 0 {
            *self.by_tuple.entry(tuple.count.comm).or_default() += growth.failed;
        }
        if growth.exhausted > 0 {
            self.exhausted(Exhaustion {
                wall_ns: at.wall_ns,
                call: Call::Connect,
                key: tuple.key,
                pid: tuple.count.pid,
                comm: tuple.count.comm,
                in_use: Some(tuple.count.in_use()),
                time_wait: Some(tuple.count.time_wait()),
                capacity: tuple.capacity,
                exact: false,
            });
        }
        if let Some(p99_ns) = tuple.told_p99_ns
            && self.slowest.is_none_or(|slowest| p99_ns > slowest.p99_ns)
        {
            self.slowest = Some(Slowest { p99_ns, wall_ns: at.wall_ns, key: tuple.key });
        }
    }

    fn failure(&mut self, failure: &Failure<'_>) {
        let what = &failure.what;
        self.run.events[what.cause as usize] += 1;
        *self.by_event.entry(what.comm).or_default() += 1;
        if what.call == Call::Connect {
            self.connects += 1;
            self.tuples.entry(what.key).or_default().events += 1;
        }
        if matches!(what.cause, Cause::PortsExhausted | Cause::BindExhausted) {
            self.exhausted(Exhaustion {
                wall_ns: what.wall_ns,
                call: what.call,
                key: what.key,
                pid: what.pid,
                comm: what.comm,
                in_use: failure.in_use,
                time_wait: failure.time_wait,
                capacity: failure.capacity,
                exact: true,
            });
        }
    }

    fn exhausted(&mut self, new: Exhaustion) {
        if self.first.as_ref().is_none_or(|first| new.wall_ns < first.wall_ns) {
            self.first = Some(new);
        }
    }

    fn totals(&mut self, totals: &Totals) {
        let start = if self.run.begun { [0; Cause::COUNT] } else { totals.failed };
        let (first, _) = self.run.failed.unwrap_or((start, start));
        self.run.failed = Some((first, totals.failed));
        for (reason, count) in &totals.lost {
            self.run.lost.insert(reason.clone(), *count);
        }
    }

    fn end_run(&mut self) {
        let run = std::mem::take(&mut self.run);
        if self.runs == 0 {
            return;
        }
        self.headless += u64::from(!run.begun);
        self.endless += u64::from(!run.ended);
        for tally in self.tuples.values_mut() {
            tally.end(&run.readings);
        }
        for (index, events) in run.events.into_iter().enumerate() {
            // Of a run whose beginning is missing, events can say more than totals.
            let grown =
                run.failed.map_or(0, |(first, now)| now[index].saturating_sub(first[index]));
            self.by_cause.counts[index] += grown.max(events);
        }
        self.by_cause.from_totals |= run.failed.is_some();
        self.by_cause.from_events |= run.failed.is_none() && run.events.iter().any(|it| *it > 0);
        for (reason, count) in run.lost_lines {
            let total = run.lost.get(&reason).copied().unwrap_or(0);
            add(&mut self.lost, &reason, count.saturating_sub(total));
        }
        for (reason, count) in run.lost {
            add(&mut self.lost, &reason, count);
        }
    }

    /// The recording is over.
    pub(super) fn finish(mut self) -> Self {
        self.end_run();
        self
    }
}

fn add(sums: &mut BTreeMap<String, u64>, reason: &str, count: u64) {
    if count > 0 {
        let sum = sums.entry(reason.to_owned()).or_default();
        *sum = sum.saturating_add(count);
    }
}
