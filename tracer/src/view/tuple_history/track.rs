//! Keeps one tuple of the history: its newest counters, and its recent past. Times (`…_ms`) are on the readings' clock,
//! CLOCK_MONOTONIC in ms, and wrap after 49 days.

use std::{cmp::Ordering, sync::Arc};

use tracer_common::{
    Cause, Ends, States, TupleCount, TupleKey, ends::LIFETIMES, tuple::SEARCH_BUCKETS,
};

use super::{
    super::{history::Change, reading::TupleSample, tuple_forecast::TupleForecast},
    Detail, Judged, Problem, Window,
};
use crate::{
    host::{
        capacity::{Holds, Limits},
        process::Called,
    },
    ledger::{
        stats::{self, P99, Rates, Row},
        uses::{Carried, Uses},
    },
};

/// How long after its last change a tuple without ports is shown, ms.
const ALIVE_MS: u32 = 60_000;

/// The newest counters of a tuple, and its recent past. Small, because a host can have tens of thousands.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) key: TupleKey,
    forecast: TupleForecast,
    opened: u64,
    released: u64,
    /// Failed calls so far, by [`Cause`]; `None`: no call failed.
    failed: Option<Box<[u64; Cause::COUNT]>>,
    in_use: u32,
    time_wait: u32,
    states: Option<States>,
    capacity: Option<u32>,
    limits: Option<Limits>,
    /// Port searches so far, by duration; `None`: none was measured.
    search: Option<Box<[u32; SEARCH_BUCKETS]>>,
    search_p99: Option<P99>,
    /// How connections ended so far, and what those carried that ended in the newest reading in which some did; `None`: none
    /// ended.
    ends: Option<Box<(Ends, Carried)>>,
    /// How often a SYN was sent again, and connect() calls whose SYN had no answer; `None`: the readings do not say it.
    syns: Option<(u32, u32)>,
    last_errno: u32,
    pid: u32,
    called: Called,
    cgroup: Option<Arc<str>>,
    container: Option<Arc<str>>,
    netns_name: Option<Arc<str>>,
    changed_ms: u32,
    /// Number of the newest reading that had this tuple.
    reading: u32,
}

impl Track {
    /// A tuple whose counters were 0 at `since_ms`; `None`: their earlier values are not known.
    pub(super) fn new(key: TupleKey, since_ms: Option<u32>) -> Self {
        Self {
            key,
            forecast: TupleForecast::new(since_ms),
            opened: 0,
            released: 0,
            failed: None,
            in_use: 0,
            time_wait: 0,
            states: None,
            capacity: None,
            limits: None,
            search: None,
            search_p99: None,
            ends: None,
            syns: None,
            last_errno: 0,
            pid: 0,
            called: Called::default(),
            cgroup: None,
            container: None,
            netns_name: None,
            changed_ms: 0,
            reading: 0,
        }
    }

    /// Adds a reading, whose number is `reading`. Returns how many ports were taken since the one before; for the first
    /// reading, and after the tuple was removed and made again, since its counters were 0.
    pub(super) fn add(&mut self, sample: &TupleSample<'_>, now_ms: u32, reading: u32) -> u64 {
        let count = sample.count;
        if count.opened < self.opened || count.released < self.released {
            // The tuple was removed and is there again: its counters started at 0.
            let since = self.forecast.at_ms();
            *self = Self { reading: self.reading, ..Self::new(self.key, Some(since)) };
        }
        let opened = count.opened - self.opened;
        let holds = Holds { capacity: sample.capacity, reuse: sample.reuse };
        if self.forecast.add_reading(count, holds, now_ms, sample.older) {
            self.changed_ms = now_ms;
        }
        self.copy(sample);
        self.reading = reading;
        opened
    }

    fn copy(&mut self, sample: &TupleSample<'_>) {
        let count = sample.count;
        self.opened = count.opened;
        self.released = count.released;
        self.in_use = u32::try_from(count.in_use()).unwrap_or(u32::MAX);
        self.time_wait = u32::try_from(count.time_wait()).unwrap_or(u32::MAX);
        self.states = sample.has_states.then_some(States(count.states));
        self.capacity = sample.capacity;
        self.limits = sample.limits;
        if count.failures() > 0 {
            **self.failed.get_or_insert_default() = count.failed;
        }
        self.search(&count.search, sample.search_p99);
        self.end(&count.ends);
        let syns = |count: &TupleCount| {
            (count.syns_again, u32::try_from(count.unanswered()).unwrap_or(u32::MAX))
        };
        self.syns = sample.has_uses.then(|| syns(count));
        self.last_errno = count.last_errno;
        self.pid = count.pid;
        self.called = sample.called;
        self.cgroup.clone_from(&sample.cgroup);
        self.container.clone_from(&sample.container);
        self.netns_name.clone_from(&sample.netns_name);
    }

    /// Updates the p99 of the port searches: to the recorded one, or else to that of the searches since the reading before.
    /// If there were none, it stays.
    fn search(&mut self, search: &[u32; SEARCH_BUCKETS], recorded_p99: Option<P99>) {
        if recorded_p99.is_some() {
            self.search_p99 = recorded_p99;
        }
        if *search == [0; SEARCH_BUCKETS] {
            return;
        }
        let before = self.search.get_or_insert_default();
        let mut recent = *search;
        for (new, old) in recent.iter_mut().zip(before.iter()) {
            *new = new.wrapping_sub(*old);
        }
        **before = *search;
        let recent = recorded_p99.or_else(|| stats::percentile_99(&recent));
        self.search_p99 = recent.or(self.search_p99);
    }

    /// Updates what the newest connections carried: those that ended since the reading before. If none did, it stays.
    fn end(&mut self, ends: &Ends) {
        if ends.all() == 0 {
            return;
        }
        let (before, recent) = &mut **self.ends.get_or_insert_default();
        if ends.all() != before.all() {
            *recent = Carried::recent(ends, Some(before));
        }
        *before = *ends;
    }

    /// How the connections that ended were used, and SYNs without an answer; `None`: the readings do not say it.
    fn uses(&self) -> Option<Uses> {
        let (again, unanswered) = self.syns?;
        let (ends, recent) = self.ends.as_deref().copied().unwrap_or_default();
        let uses = Uses::of(&ends, recent);
        Some(Uses { syns_again: again.into(), unanswered: unanswered.into(), ..uses })
    }

    /// What is wrong with the tuple now.
    pub(super) fn problem(&self, now_ms: u32) -> Problem {
        let failed = self.change(Window::TenSeconds).map_or(0.0, |change| change.failed);
        let eta_s = self.forecast.eta_s(now_ms);
        match (failed > 0.0, eta_s) {
            (true, _) if self.forecast.is_exhausted() => Problem::PortsExhausted(failed),
            (true, _) => Problem::CallsFail(failed),
            (false, Some(0.0)) => Problem::Full,
            (false, Some(eta)) => Problem::FillsUp(eta),
            (false, None) => Problem::None,
        }
    }

    /// Orders the fuller tuple first ([`Self::share`]), those whose share is not known last; of equal ones, that with more ports
    /// in use, then that with the greater key.
    pub(super) fn order_by_share(&self, other: &Self) -> Ordering {
        let share = |track: &Self| track.share().unwrap_or(-1.0);
        share(other)
            .total_cmp(&share(self))
            .then_with(|| other.in_use.cmp(&self.in_use))
            .then_with(|| self.key.cmp(&other.key))
    }

    /// Whether the tuple is kept after this reading: the reading has it, or it held no ports and changed in the last
    /// `keep_ms`. If the reading does not have it, its counters count as unchanged.
    pub(super) fn stays(&mut self, reading: u32, now_ms: u32, keep_ms: u32) -> bool {
        if self.reading == reading {
            return true;
        }
        // Some sources leave out tuples that hold no ports and have not changed.
        self.forecast.add_idle_reading(now_ms);
        self.in_use == 0 && now_ms.wrapping_sub(self.changed_ms) < keep_ms
    }

    /// Ports in use, those in TIME_WAIT included.
    pub(super) const fn in_use(&self) -> u32 {
        self.in_use
    }

    pub(super) const fn holds_ports(&self) -> bool {
        self.in_use > 0
    }

    /// Whether this reading has the tuple.
    pub(super) const fn is_of(&self, reading: u32) -> bool {
        self.reading == reading
    }

    /// Whether the tuple is shown: it holds ports, or changed in the last [`ALIVE_MS`].
    pub(super) fn is_alive(&self, now_ms: u32) -> bool {
        self.in_use > 0 || now_ms.wrapping_sub(self.changed_ms) < ALIVE_MS
    }

    /// Changes per second over this window; `None`: no earlier values are known.
    pub(super) fn change(&self, window: Window) -> Option<Change> {
        self.forecast.change(window.seconds().into())
    }

    /// The tuple as a row of a table, without a cgroup id and a note. `window`: over which rates are taken.
    pub(super) fn row(&self, window: Window, now_ms: u32) -> Row {
        let rates = self.change(window).map(|change| Rates {
            opened: change.opened,
            released: change.released,
            failed: change.failed,
        });
        Row {
            key: self.key,
            in_use: self.in_use.into(),
            time_wait: self.time_wait.into(),
            states: self.states.map(|it| it.read(self.in_use.into(), self.time_wait.into())),
            capacity: self.capacity,
            limits: self.limits,
            saturation: stats::saturation(self.in_use.into(), self.capacity),
            rates,
            eta_s: self.forecast.eta_s(now_ms),
            reusable: self.forecast.reusable(now_ms).map(|reuse| reuse.now),
            search_p99: self.search_p99,
            uses: self.uses(),
            opened: self.opened,
            released: self.released,
            failed: self.failed.as_deref().copied().unwrap_or_default(),
            last_errno: self.last_errno,
            pid: self.pid,
            called: self.called,
            cgroup: 0,
            container: self.container.clone(),
            netns_name: self.netns_name.clone(),
            tuples: 1,
            note: None,
        }
    }

    /// Whether a port search of connect() failed in the ten seconds before the newest reading.
    pub(super) const fn is_exhausted(&self) -> bool {
        self.forecast.is_exhausted()
    }

    /// Share of its ports in use: 1 is full, above 1 if it holds more than its present range has; `None`: not known.
    pub(super) fn share(&self) -> Option<f64> {
        stats::saturation(self.in_use.into(), self.capacity)
    }

    /// Connections whose SYN was sent again; 0 also if the states are not known.
    pub(super) fn unanswered(&self) -> u64 {
        let read = |it: States| it.read(self.in_use.into(), self.time_wait.into()).unanswered;
        self.states.map_or(0, read)
    }

    /// All that a judgement of the tuple needs. `known_s`: over how many seconds there were readings.
    pub(super) fn judged(&self, now_ms: u32, known_s: f64) -> Judged {
        let window = Window::TenSeconds;
        Judged {
            row: self.row(window, now_ms),
            since: self.forecast.since(window.seconds().into(), known_s),
            search: self.search.as_deref().copied().unwrap_or_default(),
            cgroup: self.cgroup.clone(),
        }
    }

    /// Established connections that ended so far, by how long they lasted; see [`Detail::lifetimes`].
    fn lifetimes(&self) -> [u32; LIFETIMES] {
        self.ends.as_deref().map(|(ends, _)| ends.lifetimes).unwrap_or_default()
    }

    /// All that is known of the tuple. `window`: over which the rates of its row are taken.
    pub(super) fn detail(&self, window: Window, now_ms: u32) -> Detail {
        Detail {
            row: self.row(window, now_ms),
            changes: Window::ALL.map(|window| self.change(window)),
            search: self.search.as_deref().copied().unwrap_or_default(),
            lifetimes: self.lifetimes(),
            cgroup: self.cgroup.clone(),
            ending: self.forecast.ending(now_ms),
        }
    }
}
