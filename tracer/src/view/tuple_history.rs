//! The newest counters and the recent past of each tuple. Readings are added; their times are its clock.

mod host;
mod judged;
mod plot;
mod track;

use std::{cmp::Ordering, sync::Arc};

use foldhash::HashMap;
use tracer_common::{TupleKey, ends::LIFETIMES, tuple::SEARCH_BUCKETS};

pub use super::history::{Change, Since};
pub use host::{Host, HostRates};
pub use judged::{Judged, MOST};
use plot::Plots;
pub use plot::{Plot, Point};
use track::Track;

use super::reading::{Snapshot, TupleSample};
use crate::ledger::stats::Row;

/// The time over which a rate is taken.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Window {
    #[default]
    Second,
    TenSeconds,
    Minute,
}

impl Window {
    /// All, the shortest first.
    pub const ALL: [Self; 3] = [Self::Second, Self::TenSeconds, Self::Minute];

    /// Its length, s.
    pub const fn seconds(self) -> u32 {
        match self {
            Self::Second => 1,
            Self::TenSeconds => 10,
            Self::Minute => 60,
        }
    }

    /// Its name in titles.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Second => "1s",
            Self::TenSeconds => "10s",
            Self::Minute => "60s",
        }
    }

    /// The next longer one; after the longest, the shortest.
    #[must_use]
    pub const fn next(self) -> Self {
        match self {
            Self::Second => Self::TenSeconds,
            Self::TenSeconds => Self::Minute,
            Self::Minute => Self::Second,
        }
    }
}

/// How long after its last change a tuple without ports is kept, ms: the longest that the ledger keeps it.
const KEEP_MS: u32 = 600_000;

/// All tuples, and the host as a whole.
#[derive(Debug)]
pub struct TupleHistory {
    /// The most tuples that are kept.
    limit: usize,
    /// How many tuples of the newest reading found no room.
    left_out: u64,
    /// Whether a tuple of this or an earlier reading found no room.
    ever_left_out: bool,
    /// Index in `tracks` from which `take_spare` searches on for a track that can be replaced.
    spare: usize,
    /// In the order of the newest reading.
    tracks: Vec<Track>,
    /// Index in `tracks` of each tuple; `None`: in this reading, each tuple was where it was expected.
    places: Option<HashMap<TupleKey, usize>>,
    /// Index in `tracks` at which the next tuple of a reading is expected.
    next: usize,
    /// Number of the newest reading, from 1; 0: there was none.
    reading: u32,
    now_ms: u32,
    before_ms: u32,
    /// Ports taken since the reading before, by all tuples.
    opened: u64,
    host: Host,
    plots: Plots,
}

/// All that is known of one tuple.
#[derive(Clone, Debug, PartialEq)]
pub struct Detail {
    pub row: Row,
    /// Changes per second over each window of [`Window::ALL`]; `None`: no earlier values are known.
    pub changes: [Option<Change>; 3],
    /// Port searches so far, by duration: the index is that of [`tracer_common::tuple::search_bucket`].
    pub search: [u32; SEARCH_BUCKETS],
    /// Established connections that ended so far, by how long they lasted: the index is that of
    /// [`tracer_common::ends::lifetime_bucket`]. All 0: none ended, or the readings do not say it.
    pub lifetimes: [u32; LIFETIMES],
    /// Path of the cgroup of the process that connected last; `None`: not known.
    pub cgroup: Option<Arc<str>>,
    /// How many TIME_WAITs end in each of the next seconds (index 0: the next one), of those whose begin is known.
    pub ending: Vec<u32>,
}

/// What is wrong with a tuple now, from nothing to the worst.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Problem {
    #[default]
    None,
    /// No port will be left in this number of seconds.
    FillsUp(f64),
    /// No port is left.
    Full,
    /// Calls failed in the last ten seconds, none of them for lack of ports: how many per second.
    CallsFail(f64),
    /// Calls failed in the last ten seconds, some of them for lack of ports: how many per second.
    PortsExhausted(f64),
}

impl Problem {
    fn order(&self, other: &Self) -> Ordering {
        let rank = |problem: &Self| match *problem {
            Self::None => (0, 0.0),
            Self::FillsUp(eta) => (1, -eta),
            Self::Full => (2, 0.0),
            Self::CallsFail(rate) => (3, rate),
            Self::PortsExhausted(rate) => (4, rate),
        };
        let ((one, more), (other, less)) = (rank(self), rank(other));
        one.cmp(&other).then_with(|| f64::total_cmp(&more, &less))
    }
}

/// The tuple with the worst problem; if none has one, the fullest.
#[derive(Clone, Debug, PartialEq)]
pub struct Worst {
    pub row: Row,
    pub problem: Problem,
    /// How many other tuples have a problem.
    pub others: usize,
}

impl Default for TupleHistory {
    fn default() -> Self {
        Self::of(usize::MAX)
    }
}

impl TupleHistory {
    /// A history of at most `limit` tuples, because a recording can name more than any memory holds. With more, tuples
    /// that hold ports replace tuples that hold none; others are left out.
    pub fn of(limit: usize) -> Self {
        Self {
            limit,
            left_out: 0,
            ever_left_out: false,
            spare: 0,
            tracks: Vec::new(),
            places: None,
            next: 0,
            reading: 0,
            now_ms: 0,
            before_ms: 0,
            opened: 0,
            host: Host::default(),
            plots: Plots::default(),
        }
    }

    /// How many tuples of the newest reading were left out, because there was no room for them.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Begins a reading. `mono_ns`: its time by CLOCK_MONOTONIC, ns.
    pub fn begin(&mut self, mono_ns: u64) {
        self.before_ms = self.now_ms;
        self.now_ms = milliseconds(mono_ns);
        self.next = 0;
        // Wraps to 2: 0 and 1 mean that there was no reading, and that this is the first one.
        self.reading = self.reading.checked_add(1).unwrap_or(2);
        self.opened = 0;
        self.left_out = 0;
        self.spare = 0;
    }

    /// Adds a tuple of the reading. To be called between [`Self::begin`] and [`Self::end`], for each tuple once.
    pub fn add(&mut self, sample: &TupleSample<'_>) {
        let place = self.place(&sample.key);
        let (now_ms, reading) = (self.now_ms, self.reading);
        // The ports of an address's row (bind) are counted in the tuples' rows.
        let counted = |opened| if sample.key.is_of_bind() { 0 } else { opened };
        if let Some(track) = place.and_then(|place| self.tracks.get_mut(place)) {
            self.opened = self.opened.saturating_add(counted(track.add(sample, now_ms, reading)));
        } else {
            // A new tuple's counters started at 0 after the reading before, unless it was there and left out.
            let known = reading > 1 && !self.ever_left_out;
            let since = known.then_some(self.before_ms);
            let mut track = Track::new(sample.key, since);
            let opened = counted(track.add(sample, now_ms, reading));
            self.opened = self.opened.saturating_add(if since.is_some() { opened } else { 0 });
            self.enter(track);
        }
    }

    /// Adds a new track, or replaces one, or leaves it out.
    fn enter(&mut self, track: Track) {
        let place = if self.tracks.len() < self.limit {
            if self.tracks.len() == self.tracks.capacity() {
                // Doubling the capacity, as `push` does, would waste megabytes.
                self.tracks.reserve_exact(self.tracks.len() / 8 + 64);
            }
            self.tracks.len()
        } else {
            self.ever_left_out = true;
            let holds_ports = track.holds_ports();
            let Some(place) = holds_ports.then(|| self.take_spare()).flatten() else {
                self.left_out = self.left_out.saturating_add(1);
                return;
            };
            place
        };
        if let Some(places) = &mut self.places {
            if let Some(before) = self.tracks.get(place) {
                places.remove(&before.key);
            }
            places.insert(track.key, place);
        }
        match self.tracks.get_mut(place) {
            Some(before) => *before = track,
            None => self.tracks.push(track),
        }
    }

    /// Index of the next track that holds no ports and is not of this reading; `None`: there is none. Each track is
    /// checked once in a reading.
    fn take_spare(&mut self) -> Option<usize> {
        let mut rest = self.tracks.iter().enumerate().skip(self.spare);
        let found = rest.find(|(_, track)| !track.holds_ports() && !track.is_of(self.reading));
        let found = found.map(|(place, _)| place);
        self.spare = found.map_or(self.tracks.len(), |place| place + 1);
        found
    }

    /// Ends a reading, and forgets the tuples that are gone. `reading`: everything but its tuples.
    pub fn end(&mut self, reading: &Snapshot) {
        let (number, now_ms) = (self.reading, self.now_ms);
        self.tracks.retain_mut(|track| track.stays(number, now_ms, KEEP_MS));
        // It is large, and the next reading seldom needs it.
        self.places = None;
        self.host.add(now_ms, self.opened, &reading.failed);
        self.plots.add(now_ms, &self.tracks);
    }

    /// Index of a tuple in `tracks`; `None`: it is not there. Cheap if tuples come in the same order as in the reading
    /// before: the kernel lists a map so, except for tuples that were added or removed.
    fn place(&mut self, key: &TupleKey) -> Option<usize> {
        let expected = self.next;
        let place = if self.tracks.get(expected).is_some_and(|track| track.key == *key) {
            expected
        } else {
            let tracks = &self.tracks;
            *self.places.get_or_insert_with(|| index(tracks)).get(key)?
        };
        self.next = place + 1;
        Some(place)
    }

    /// The rows of all tuples that hold ports or changed in the last minute, in no order. `window`: over which rates are taken.
    pub fn rows(&self, window: Window) -> impl Iterator<Item = Row> {
        let now_ms = self.now_ms;
        let alive = self.tracks.iter().filter(move |track| track.is_alive(now_ms));
        alive.map(move |track| track.row(window, now_ms))
    }

    /// The tuple with the worst problem; if none has one, the fullest. `None`: there is no tuple. `window`: over which the rates
    /// of its row are taken.
    pub fn worst(&self, window: Window) -> Option<Worst> {
        let now_ms = self.now_ms;
        let alive = self.tracks.iter().filter(|track| track.is_alive(now_ms));
        let problem = alive.map(|track| (track.problem(now_ms), track));
        let mut with_problem = 0_usize;
        let counted =
            problem.inspect(|(problem, _)| with_problem += usize::from(*problem != Problem::None));
        let (problem, worst) = counted
            .max_by(|(one, a), (other, b)| one.order(other).then_with(|| b.order_by_share(a)))?;
        Some(Worst {
            row: worst.row(window, now_ms),
            problem,
            others: with_problem.saturating_sub(1),
        })
    }

    /// How many [`Self::rows`] there are.
    pub fn count(&self) -> usize {
        self.tracks.iter().filter(|track| track.is_alive(self.now_ms)).count()
    }

    /// All that is known of a tuple; `None`: the tuple is gone, or was left out.
    pub fn detail(&self, key: &TupleKey, window: Window) -> Option<Detail> {
        let track = self.tracks.iter().find(|track| track.key == *key)?;
        Some(track.detail(window, self.now_ms))
    }

    /// The counters of the whole host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Keeps points of this tuple for its plot from now on. Only the 64 tuples that were watched last have a plot.
    pub fn watch(&mut self, key: &TupleKey) {
        self.plots.watch(key);
    }

    /// The points of a tuple's plot, of at most the newest 300 readings; without a point until the first reading after
    /// [`Self::watch`]. `None`: the tuple was never watched, 64 others were watched since, or it is gone.
    pub fn plot(&self, key: &TupleKey) -> Option<&Plot> {
        self.plots.get(key)
    }

    /// The time of the newest reading on the readings' clock, ms; wraps.
    pub fn now_ms(&self) -> u32 {
        self.now_ms
    }
}

/// Index of each tuple in `tracks`.
fn index(tracks: &[Track]) -> HashMap<TupleKey, usize> {
    tracks.iter().enumerate().map(|(place, track)| (track.key, place)).collect()
}

/// ns as ms; wraps after 49 days.
pub(crate) fn milliseconds(ns: u64) -> u32 {
    // Wraps: only differences are used.
    u32::try_from(ns / 1_000_000 % (1 << 32)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
