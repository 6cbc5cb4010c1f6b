//! [`Window`]: puts the readings of a run together to windows of about 5 s, as long as the live doctor's: over a second, a burst
//! of connections would look like a flow that never ends.

use foldhash::HashMap;
use tracer_common::{Cause, TupleKey};

use super::{track::Track, worst};
use crate::{
    doctor::{
        finding::Subject,
        from_ledger::{self, Counted},
    },
    host::capacity::Reuse,
    recording::{At, Failure, Tuple},
    view::reading::Call,
};

/// A window ends with the first reading that is so long after its beginning, in ns. Readings come a little early or late.
const LENGTH_NS: u64 = 4_900_000_000;
/// How long a tuple that holds no port is remembered, in ns: as long as the ledger keeps it at most.
const KEEP_NS: u64 = 600_000_000_000;
/// A window in which nothing was worse than before is judged if the last judged one was longer ago than this part of the run: all are
/// in the first 83 minutes.
const SHARE: u64 = 1_000;
const SECOND_NS: u64 = 1_000_000_000;

/// The readings of a run since the last window, and the tuples that they have. A window in which nothing is worse than before is
/// judged only if it is due: [`Self::is_due`].
#[derive(Debug)]
pub(super) struct Window {
    /// How many tuples are remembered at most: a recording can name more than any memory holds.
    most: usize,
    /// Whether the run was read from its beginning: then tuples that appear after the first reading are new.
    begun: bool,
    /// Number of this window in its run.
    number: u64,
    tuples: HashMap<TupleKey, Track>,
    /// The reading with which this window begins; `None`: there was none yet.
    since: Option<At>,
    /// The reading whose lines are added; `None`: the newest one is complete.
    reading: Option<At>,
    /// The newest complete reading; `None`: there is none.
    newest: Option<At>,
    /// How many lines were left out, because there was no room for their tuples.
    left_out: u64,
    readings: u64,
    /// The sum of the lengths of all windows so far, in seconds.
    watched_s: f64,
    /// The first reading, and the one with which the newest window ended that was judged whatever it had; by CLOCK_MONOTONIC, ns.
    first_ns: Option<u64>,
    judged_ns: u64,
}

/// The time of a window that is to be judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Span {
    /// How long it is, in seconds; `None`: it is the first reading of a run.
    pub(super) seconds: Option<f64>,
    /// When it ends, ns since 1970.
    pub(super) end_ns: u64,
}

impl Window {
    /// A run of which nothing is read yet. `most`: how many tuples are remembered at most.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            begun: false,
            number: 0,
            tuples: HashMap::default(),
            since: None,
            reading: None,
            newest: None,
            left_out: 0,
            readings: 0,
            watched_s: 0.0,
            first_ns: None,
            judged_ns: 0,
        }
    }

    /// Notes that the run is read from its beginning: a tuple that appears after the first reading held no port before.
    pub(super) fn begin(&mut self) {
        self.begun = true;
    }

    /// Whether this time is before that of the newest reading: CLOCK_MONOTONIC never goes back in a run, so it is of another run.
    pub(super) fn is_before(&self, at: At) -> bool {
        self.reading.or(self.newest).is_some_and(|it| at.mono_ns < it.mono_ns)
    }

    /// Whether a line of this time is not of the reading that is being added; false if none is.
    pub(super) fn ends_reading_before(&self, at: At) -> bool {
        self.reading.is_some_and(|it| it.mono_ns != at.mono_ns)
    }

    /// Notes that there is a reading at this time, even if it has no line about a tuple.
    pub(super) fn complete(&mut self, at: At) {
        self.reading.get_or_insert(at);
    }

    /// Adds a line of the reading at the time `at`; it is left out if there is no room for its tuple.
    pub(super) fn add(&mut self, at: At, tuple: &Tuple<'_>) {
        self.complete(at);
        // A tuple that is not in the readings so far held no port. The first reading of a run that is not read from its beginning
        // may be a part of one.
        let is_new = self.readings >= if self.begun { 1 } else { 2 } && self.left_out == 0;
        let number = self.number;
        let Some(track) = self.track(&tuple.key, is_new) else { return };
        track.begin(number);
        track.add(at, tuple);
    }

    /// Adds a bind() that found no port. Other failures change nothing: those of connect() are in the counters of its tuple.
    pub(super) fn failed(&mut self, failure: &Failure<'_>) {
        let what = &failure.what;
        if what.call != Call::Bind || what.cause != Cause::BindExhausted {
            return;
        }
        let number = self.number;
        let key = TupleKey::of_bind(what.key.netns, what.key.source);
        let Some(track) = self.track(&key, false) else { return };
        track.begin(number);
        track.bind_failed += 1;
        (track.pid, track.name) = (what.pid, what.comm);
    }

    /// The tuple of this key, which is added if it is not known yet. `is_new`: one that is added held no port at the beginning of
    /// the window. `None`: there is no room for it.
    fn track(&mut self, key: &TupleKey, is_new: bool) -> Option<&mut Track> {
        if self.tuples.len() >= self.most && !self.tuples.contains_key(key) {
            self.left_out += 1;
            return None;
        }
        let number = self.number;
        Some(self.tuples.entry(*key).or_insert_with(|| Track::new(is_new, number)))
    }

    /// Ends the reading whose lines were added. Returns the time of the window if the window ends with this reading, too: it ends
    /// with the first reading of the run, and then with the first one that is at least 4.9 s after its beginning. The caller
    /// judges it, and calls [`Self::next`]. `None`: the window goes on, or nothing was added since the last reading ended.
    pub(super) fn end_reading(&mut self) -> Option<Span> {
        let at = self.reading.take()?;
        self.readings += 1;
        self.newest = Some(at);
        let span = self.span()?;
        let is_long = |since: At| at.mono_ns.saturating_sub(since.mono_ns) >= LENGTH_NS;
        self.since.is_none_or(is_long).then_some(span)
    }

    /// The window up to the newest reading, however short it is; `None`: no reading came after its beginning.
    pub(super) fn rest(&self) -> Option<Span> {
        self.span().filter(|_| self.since != self.newest)
    }

    fn span(&self) -> Option<Span> {
        let newest = self.newest?;
        let ns = |since: At| newest.mono_ns.saturating_sub(since.mono_ns);
        Some(Span { seconds: self.since.map(|since| seconds(ns(since))), end_ns: newest.wall_ns })
    }

    /// The tuples about which this window has a line, sorted by their namespace, then by the rest of the key.
    pub(super) fn keys(&self) -> Vec<TupleKey> {
        let here = self.tuples.iter().filter(|(_, track)| track.window == self.number);
        let mut keys: Vec<TupleKey> = here.map(|(key, _)| *key).collect();
        keys.sort_unstable_by_key(|key| (key.netns, *key));
        keys
    }

    /// Whether the window is to be judged even if nothing in it is worse than before: the last one for which this was true is at
    /// least a thousandth of the run's time ago. To be called once for each window. True for the first one.
    pub(super) fn is_due(&mut self) -> bool {
        let now_ns = self.newest.map_or(0, |it| it.mono_ns);
        let age_ns = now_ns.saturating_sub(*self.first_ns.get_or_insert(now_ns));
        let is_due = now_ns.saturating_sub(self.judged_ns) >= age_ns / SHARE;
        if is_due {
            self.judged_ns = now_ns;
        }
        is_due
    }

    /// Whether one of these tuples was worse in this window than in each before, by [`Track::is_worse`]; notes how bad each was.
    pub(super) fn is_worse(&mut self, keys: &[TupleKey], span: Span) -> bool {
        let mut is_worse = false;
        for key in keys {
            is_worse |= self.tuples.get_mut(key).is_some_and(|it| it.is_worse(span.seconds));
        }
        is_worse
    }

    /// How many calls of these tuples failed in this window because no port was free: the sum of [`Track::exhausted`].
    pub(super) fn exhausted(&self, keys: &[TupleKey]) -> u64 {
        let failed = keys.iter().filter_map(|key| self.tuples.get(key)).map(Track::exhausted);
        failed.fold(0, u64::saturating_add)
    }

    /// These tuples, each with its ports when it was fullest in the window, and with what happened to it.
    pub(super) fn counted<'a>(
        &'a self,
        keys: &'a [TupleKey],
        span: Span,
    ) -> impl Iterator<Item = Counted> + 'a {
        keys.iter().filter_map(move |key| {
            let track = self.tuples.get(key)?;
            let activity = span.seconds.and_then(|seconds| track.activity(seconds));
            Some(Counted { key: *key, held: track.fullest.held, activity })
        })
    }

    /// The net.ipv4.tcp_tw_reuse of the namespace of these tuples, inferred as [`from_ledger::reuse`] does.
    pub(super) fn reuse(&self, keys: &[TupleKey]) -> Reuse {
        let known = |key| Some((key, self.tuples.get(key)?.reusable));
        from_ledger::reuse(keys.iter().filter_map(known))
    }

    /// When the tuple that this is about was fullest in the window, ns since 1970; `None`: it is about something else, or about a
    /// tuple without a reading.
    pub(super) fn time_of(&self, subject: &Subject) -> Option<u64> {
        let track = self.tuples.get(&worst::tuple_of(subject)?)?;
        Some(track.fullest.wall_ns).filter(|at| *at != 0)
    }

    /// Begins the next window with the newest reading; forgets tuples that hold no port and had no line for 10 minutes. Does
    /// nothing if the run has no complete reading.
    pub(super) fn next(&mut self) {
        let Some(newest) = self.newest else { return };
        self.watched_s += self.span().and_then(|it| it.seconds).unwrap_or(0.0);
        self.first_ns.get_or_insert(newest.mono_ns);
        self.since = Some(newest);
        self.number += 1;
        self.tuples.retain(|_, track| {
            track.before = Some(track.now);
            track.now.in_use() > 0 || newest.mono_ns.saturating_sub(track.read_ns) < KEEP_NS
        });
    }

    /// How many readings of the run are complete.
    pub(super) const fn readings(&self) -> u64 {
        self.readings
    }

    /// How many lines of the run were left out, because there was no room for their tuples.
    pub(super) const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The sum of the lengths of the run's windows that have ended, in seconds.
    pub(super) const fn watched_s(&self) -> f64 {
        self.watched_s
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / SECOND_NS as f64
}
