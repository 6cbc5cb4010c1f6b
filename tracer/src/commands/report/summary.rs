//! [`Summary`]: adds up a recording, line by line.

use std::collections::HashMap;

use tracer_common::{Cause, TupleKey};

use super::tally::{Before, LinePlace, Rank, Tally};
use crate::{
    ledger::stats::P99,
    recording::{At, Degraded, Entry, Failure, Losses, Start, Totals, Tuple},
    view::reading::{About, Call},
};

/// A call that found no port, and the ports that its tuple held then (`None`: not known).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Exhaustion {
    /// When it failed, or the time of the reading by which it had failed, ns since 1970.
    pub(super) wall_ns: u64,
    pub(super) call: Call,
    /// The tuple; of a bind(), its source address alone.
    pub(super) key: TupleKey,
    /// The process that called; if `exact` is false, that which connected last. 0: not known.
    pub(super) pid: u32,
    /// Name of that process, NUL-padded; all zero: not known.
    pub(super) comm: [u8; 16],
    /// Ports in use, those in TIME_WAIT included; `None`: not known.
    pub(super) in_use: Option<u64>,
    /// Ports in TIME_WAIT; `None`: not known.
    pub(super) time_wait: Option<u64>,
    /// Ports that the tuple could hold; `None`: not known.
    pub(super) capacity: Option<u32>,
    /// Whether the call itself was recorded. If not, it failed between the reading at `wall_ns` and the reading before it.
    pub(super) exact: bool,
}

/// The reading of a tuple that has the highest 99th percentile of the durations of port searches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Slowest {
    pub(super) p99: P99,
    /// The time of the reading, ns since 1970.
    pub(super) wall_ns: u64,
    pub(super) key: TupleKey,
}

/// Counts, and the kinds of lines that they come from: of both kinds if some runs have totals and others have only single events.
#[derive(Clone, Debug, Default)]
pub(super) struct Sourced<T> {
    pub(super) counts: T,
    /// Whether `tracer.stats` or `tracer.stop` lines of a run are counted.
    pub(super) from_totals: bool,
    /// Whether lines of single failed calls are counted, of a run without totals.
    pub(super) from_events: bool,
}

/// How much is remembered at most, because a recording can name more than any memory holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Tuples; with more, the half that matters least is forgotten.
    pub(super) tuples: usize,
    /// Names of processes: failed calls of further ones count as those of [`OTHERS`]; and as many names of namespaces: further
    /// ones are not known.
    pub(super) names: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { tuples: 200_000, names: 10_000 }
    }
}

/// The most degradations that are remembered.
const DEGRADED: usize = 20;

/// The name under which failed calls of further process names are counted. No program is called this by chance.
const OTHERS: [u8; 16] = *b"<[other names]>\0";

/// The recording from one `tracer.start` to the next, or to the end. Lines before the first one are a run, too.
#[derive(Debug, Default)]
struct Run {
    /// Whether its `tracer.start` was read.
    begun: bool,
    /// Whether its `tracer.stop` was read.
    ended: bool,
    /// The time of the newest reading by CLOCK_MONOTONIC, ns; `None`: there was none.
    reading_ns: Option<u64>,
    /// How many levels (see `LEVELS`) the fullest tuple of the newest reading has reached.
    reached: usize,
    /// The tuples of the newest reading that have reached at least the first level.
    high: Vec<TupleKey>,
    /// Whether tuples were forgotten during this run.
    forgot: bool,
    /// Failed calls by cause, at the run's begin and in the newest totals; `None`: there were no totals. At the begin, all
    /// are 0; if the run has no `tracer.start`, they are those of its first totals.
    failed: Option<([u64; Cause::COUNT], [u64; Cause::COUNT])>,
    /// How many lines of single failed calls there were, by cause.
    events: [u64; Cause::COUNT],
    /// The count of each loss in the newest totals that have it.
    lost: Losses,
    /// The sums of the `lost` lines, by loss.
    lost_lines: Losses,
}

/// The sums of a recording, over all of its runs (from one `tracer.start` to the next).
#[derive(Debug, Default)]
pub(super) struct Summary {
    /// How much is remembered at most.
    pub(super) limits: Limits,
    run: Run,
    /// What the newest `tracer.start` said about its host and its tracer; the default value if there was none.
    pub(super) about: About,
    /// The earliest and the latest time of a line, ns since 1970; `None`: there was no line.
    pub(super) span: Option<(u64, u64)>,
    /// How many runs there were.
    pub(super) runs: u64,
    /// Runs without their `tracer.start`.
    pub(super) without_begin: u64,
    /// Runs without their `tracer.stop`.
    pub(super) without_end: u64,
    /// How many readings there were.
    pub(super) readings: u64,
    /// What was added up for each tuple, at most [`Limits::tuples`].
    pub(super) tuples: HashMap<TupleKey, Tally>,
    /// Names of network namespaces, by their inode number.
    pub(super) namespaces: HashMap<u32, String>,
    /// How often a tuple was forgotten. A tuple that comes again can be counted several times.
    pub(super) forgotten: u64,
    /// Failed calls that were counted as [`OTHERS`].
    pub(super) unnamed: u64,
    /// The first call that found no port; `None`: there was none.
    pub(super) first: Option<Exhaustion>,
    /// The reading of a tuple with the slowest port searches; `None`: none has any.
    pub(super) slowest: Option<Slowest>,
    /// How long at least one tuple had reached the first level (45 %), ns.
    pub(super) above: u64,
    /// Failed calls; the index is a [`Cause`] as usize.
    pub(super) by_cause: Sourced<[u64; Cause::COUNT]>,
    /// Failed calls by process name (NUL-padded), from single failures.
    pub(super) by_event: HashMap<[u8; 16], u64>,
    /// Failed calls by process name (NUL-padded), from the tuples' counters.
    pub(super) by_tuple: HashMap<[u8; 16], u64>,
    /// How many of the single failures were of connect(). The tuples' counters count only these, so the two can be
    /// compared.
    pub(super) connects: u64,
    /// What the tracer could not record, by loss.
    pub(super) lost: Losses,
    /// Degradations, each with the time of its first line, ns since 1970.
    pub(super) degraded: Vec<(u64, String)>,
    /// How many more were reported after [`DEGRADED`] different ones. One that is reported again counts again.
    pub(super) degraded_others: u64,
    /// Whether single failures were recorded, at least in one run; `None`: no `tracer.start` says it.
    pub(super) failures_wanted: Option<bool>,
}

impl Summary {
    /// Adds a line of the recording, which was written at the time `at`; a [`Start`] ends the run before. The lines must come in
    /// the order of their stream.
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
            Entry::Start(_) | Entry::Settings(_) => {}
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
            Entry::Degraded(degraded) => self.degraded(at, degraded),
            Entry::Lost(lost) => {
                self.run.lost_lines.add(&lost.reason, lost.count);
            }
        }
    }

    /// Keeps each degradation once, with the time of its first line; with more than [`DEGRADED`] different ones, only counts
    /// the further ones.
    fn degraded(&mut self, at: At, line: &Degraded) {
        for reason in &line.added {
            if self.degraded.iter().any(|(_, known)| known == reason) {
                continue;
            }
            if self.degraded.len() < DEGRADED {
                self.degraded.push((at.wall_ns, reason.clone()));
            } else {
                self.degraded_others = self.degraded_others.saturating_add(1);
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

    /// Notes that a line belongs to the reading of this time. If that is a new reading, ends the one before: adds how
    /// long its tuples were at each level.
    fn reading(&mut self, at: At) {
        let Self { run, tuples, .. } = self;
        if run.reading_ns == Some(at.mono_ns) {
            return;
        }
        let since = run.reading_ns.map_or(0, |before| at.mono_ns.saturating_sub(before));
        if run.reached > 0 {
            self.above = self.above.saturating_add(since);
        }
        for key in run.high.drain(..) {
            if let Some(tally) = tuples.get_mut(&key) {
                tally.hold(self.readings, since);
            }
        }
        run.reached = 0;
        run.reading_ns = Some(at.mono_ns);
        self.readings += 1;
    }

    fn tuple(&mut self, at: At, tuple: &Tuple<'_>) {
        self.reading(at);
        self.make_room();
        self.name(tuple.key.netns, &tuple.netns_name);
        let Self { run, tuples, .. } = self;
        let before = match (run.begun, run.forgot) {
            (true, false) => Before::Nothing,
            (true, true) => Before::NoExhaustion,
            (false, _) => Before::Unknown,
        };
        let place = LinePlace { at, reading: self.readings, run: self.runs, before };
        let change = tuples.entry(tuple.key).or_default().add(place, tuple);
        run.reached = run.reached.max(change.reached);
        if change.newly {
            run.high.push(tuple.key);
        }
        let growth = change.growth;
        if growth.failed > 0 {
            let unnamed =
                by_name(&mut self.by_tuple, self.limits, &tuple.called.shown(), growth.failed);
            self.unnamed = self.unnamed.saturating_add(unnamed);
        }
        if growth.exhausted > 0 {
            self.exhausted(Exhaustion {
                wall_ns: at.wall_ns,
                call: Call::Connect,
                key: tuple.key,
                pid: tuple.count.pid,
                comm: tuple.called.shown(),
                in_use: Some(tuple.count.in_use()),
                time_wait: Some(tuple.count.time_wait()),
                capacity: tuple.capacity,
                exact: false,
            });
        }
        if let Some(p99) = tuple.line_p99
            && self.slowest.is_none_or(|slowest| p99 > slowest.p99)
        {
            self.slowest = Some(Slowest { p99, wall_ns: at.wall_ns, key: tuple.key });
        }
    }

    fn failure(&mut self, failure: &Failure<'_>) {
        let what = &failure.what;
        self.name(what.key.netns, &failure.netns_name);
        self.run.events[what.cause as usize] += 1;
        self.unnamed += by_name(&mut self.by_event, self.limits, &what.comm, 1);
        let exhausted = matches!(what.cause, Cause::PortsExhausted | Cause::BindExhausted);
        if what.call == Call::Connect {
            self.connects += 1;
            self.make_room();
            let tally = self.tuples.entry(what.key).or_default();
            tally.events += 1;
            tally.exhausted |= exhausted;
        }
        if exhausted {
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

    /// Notes the name of a network namespace. The newest one counts.
    fn name(&mut self, netns: u32, name: &str) {
        if name.is_empty() || self.namespaces.get(&netns).is_some_and(|known| known == name) {
            return;
        }
        if self.namespaces.len() < self.limits.names || self.namespaces.contains_key(&netns) {
            self.namespaces.insert(netns, name.to_owned());
        }
    }

    /// Makes room for one more tuple: if the limit is reached, forgets the half that matters least, by [`Tally::rank`].
    fn make_room(&mut self) {
        if self.tuples.len() < self.limits.tuples {
            return;
        }
        let mut ranks: Vec<Rank> = self.tuples.values().map(Tally::rank).collect();
        let kept = ranks.len() / 2;
        let (_, middle, _) = ranks.select_nth_unstable_by(kept, |one, other| other.cmp(one));
        let middle = *middle;
        let above = self.tuples.values().filter(|tally| tally.rank() > middle).count();
        let mut middle_kept = kept.saturating_sub(above);
        let before = self.tuples.len();
        self.tuples.retain(|_, tally| {
            let rank = tally.rank();
            if rank == middle && middle_kept > 0 {
                middle_kept -= 1;
                return true;
            }
            rank > middle
        });
        self.forgotten = self.forgotten.saturating_add((before - self.tuples.len()) as u64);
        let Self { run, tuples, .. } = self;
        run.high.retain(|key| tuples.contains_key(key));
        run.forgot = true;
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
        for (reason, count) in totals.lost.iter() {
            self.run.lost.set(reason, count);
        }
    }

    fn end_run(&mut self) {
        let run = std::mem::take(&mut self.run);
        if self.runs == 0 {
            return;
        }
        self.without_begin += u64::from(!run.begun);
        self.without_end += u64::from(!run.ended);
        for (index, events) in run.events.into_iter().enumerate() {
            // In a run without its begin, there can be events from before its first totals.
            let grown =
                run.failed.map_or(0, |(first, now)| now[index].saturating_sub(first[index]));
            let count = &mut self.by_cause.counts[index];
            *count = count.saturating_add(grown.max(events));
        }
        self.by_cause.from_totals |= run.failed.is_some();
        self.by_cause.from_events |= run.failed.is_none() && run.events.iter().any(|it| *it > 0);
        for (reason, count) in run.lost_lines.iter() {
            self.lost.add(reason, count.saturating_sub(run.lost.get(reason)));
        }
        for (reason, count) in run.lost.iter() {
            self.lost.add(reason, count);
        }
    }

    /// Adds the counts of the last run, and returns the summary.
    pub(super) fn finish(mut self) -> Self {
        self.end_run();
        self
    }
}

/// Adds to the failed calls of a process name; if there is no room for a new name, to those of [`OTHERS`]. Returns how many
/// calls were added to [`OTHERS`]: `count` or 0.
fn by_name(
    counts: &mut HashMap<[u8; 16], u64>,
    limits: Limits,
    name: &[u8; 16],
    count: u64,
) -> u64 {
    let known = counts.contains_key(name) || counts.len() < limits.names;
    let sum = counts.entry(if known { *name } else { OTHERS }).or_default();
    *sum = sum.saturating_add(count);
    if known { 0 } else { count }
}
