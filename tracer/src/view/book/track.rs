//! One tuple over time.

use std::{cmp::Ordering, sync::Arc};

use tracer_common::{Cause, TupleCount, TupleKey, tuple::SEARCH_BUCKETS};

use super::{
    super::{
        forecast::{self, Filling, TIME_WAIT_S},
        history::{Activity, Change, Sample},
        reading::Look,
    },
    Detail, Window,
};
use crate::stats::{self, Rates, Row};

/// A tuple without ports is shown so long after its last change, ms.
const ALIVE_MS: u32 = 60_000;

/// The newest counters, and what they were. Small: there can be tens of thousands.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) key: TupleKey,
    newest: Sample,
    opened: u64,
    released: u64,
    /// `None`: no call failed.
    failed: Option<Box<[u64; Cause::COUNT]>>,
    in_use: u32,
    time_wait: u32,
    capacity: Option<u32>,
    /// `None`: no port search was measured.
    search: Option<Box<[u32; SEARCH_BUCKETS]>>,
    search_p99_ns: Option<u64>,
    last_errno: u32,
    pid: u32,
    comm: [u8; 16],
    cgroup: Option<Arc<str>>,
    container: Option<Arc<str>>,
    netns_name: Option<Arc<str>>,
    /// `None`: nothing happened in the last minute.
    activity: Option<Box<Activity>>,
    /// There was a reading to compare with.
    compared: bool,
    changed_ms: u32,
    /// Number of the newest reading that had this tuple.
    reading: u32,
    eta: Eta,
}

impl Track {
    /// A tuple that had counted nothing at `since_ms`; `None`: what it had counted is not known.
    pub(super) fn new(key: TupleKey, since_ms: Option<u32>) -> Self {
        Self {
            key,
            newest: Sample { at_ms: since_ms.unwrap_or_default(), ..Sample::default() },
            opened: 0,
            released: 0,
            failed: None,
            in_use: 0,
            time_wait: 0,
            capacity: None,
            search: None,
            search_p99_ns: None,
            last_errno: 0,
            pid: 0,
            comm: [0; 16],
            cgroup: None,
            container: None,
            netns_name: None,
            activity: None,
            compared: since_ms.is_some(),
            changed_ms: 0,
            reading: 0,
            eta: Eta::default(),
        }
    }

    /// Takes a reading in. Returns how many ports were taken since the one before.
    pub(super) fn look(&mut self, look: &Look<'_>, now_ms: u32, reading: u32) -> u64 {
        let count = look.count;
        if count.opened < self.opened || count.released < self.released {
            // It was removed and came back: from 0 again.
            *self = Self { reading: self.reading, ..Self::new(self.key, Some(self.newest.at_ms)) };
        }
        let opened = count.opened - self.opened;
        let now = sample(count, now_ms);
        let first = self.reading == 0;
        let changed = Sample { at_ms: now_ms, ..self.newest } != now;
        if first || changed {
            self.changed_ms = now_ms;
        }
        if !first || self.compared {
            self.add(now, changed);
        }
        self.compared |= !first;
        self.newest = now;
        self.copy(look);
        self.reading = reading;
        self.foresee(now_ms);
        opened
    }

    fn add(&mut self, now: Sample, changed: bool) {
        let before = self.newest;
        if changed && self.activity.is_none() {
            self.activity = Some(Box::new(Activity::new(before)));
        }
        if let Some(activity) = &mut self.activity {
            activity.add(&before, &now);
            if activity.is_over(&now) {
                self.activity = None;
            }
        }
    }

    fn copy(&mut self, look: &Look<'_>) {
        let count = look.count;
        self.opened = count.opened;
        self.released = count.released;
        self.in_use = u32::try_from(count.in_use()).unwrap_or(u32::MAX);
        self.time_wait = u32::try_from(count.time_wait()).unwrap_or(u32::MAX);
        self.capacity = look.capacity;
        if count.failures() > 0 {
            **self.failed.get_or_insert_default() = count.failed;
        }
        self.search(&count.search, look.search_p99_ns);
        self.last_errno = count.last_errno;
        self.pid = count.pid;
        self.comm = count.comm;
        self.cgroup.clone_from(&look.cgroup);
        self.container.clone_from(&look.container);
        self.netns_name.clone_from(&look.netns_name);
    }

    fn search(&mut self, search: &[u32; SEARCH_BUCKETS], told_p99_ns: Option<u64>) {
        if told_p99_ns.is_some() {
            self.search_p99_ns = told_p99_ns;
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
        let recent = told_p99_ns.or_else(|| stats::percentile_99(&recent));
        self.search_p99_ns = recent.or(self.search_p99_ns);
    }

    /// The one that is nearer to its end first.
    pub(super) fn order(&self, other: &Self, now_ms: u32, soon_s: f64) -> Ordering {
        let soon =
            |track: &Self| track.eta_s(now_ms).filter(|eta| *eta < soon_s).unwrap_or(f64::INFINITY);
        let share =
            |track: &Self| stats::saturation(track.in_use.into(), track.capacity).unwrap_or(-1.0);
        soon(self)
            .total_cmp(&soon(other))
            .then_with(|| share(other).total_cmp(&share(self)))
            .then_with(|| other.in_use.cmp(&self.in_use))
            .then_with(|| self.key.cmp(&other.key))
    }

    /// The forecast, from the trend of ten seconds, and where that is slow, of a minute.
    fn foresee(&mut self, now_ms: u32) {
        const SOON_S: f64 = 300.0;
        let over = |seconds| self.eta_over(now_ms, seconds);
        // Of thousands most do nothing for minutes: no trend, no forecast, unless it is full.
        let still = self.activity.is_none() && self.capacity.is_none_or(|all| self.in_use < all);
        let eta = if still {
            None
        } else {
            over(10.0).filter(|eta| *eta < SOON_S).or_else(|| over(60.0))
        };
        self.eta.add(now_ms, eta);
    }

    fn eta_over(&self, now_ms: u32, seconds: f64) -> Option<f64> {
        let activity = self.activity.as_deref();
        let begun = activity.map_or([0; TIME_WAIT_S], |activity| activity.begun(now_ms));
        let trend = |seconds| activity.and_then(|it| it.trend(&self.newest, seconds));
        let recent = trend(seconds / 4.0).unwrap_or_default();
        let trend = trend(seconds).filter(|trend| !forecast::has_stopped(trend, &recent));
        forecast::eta_s(&Filling {
            in_use: self.in_use.into(),
            time_wait: self.time_wait.into(),
            capacity: self.capacity?,
            trend: trend.unwrap_or_default(),
            begun: &begun,
        })
    }

    /// Whether it is kept: it was in this reading, or holds nothing and was busy not long ago.
    pub(super) fn stays(&mut self, reading: u32, now_ms: u32, keep_ms: u32) -> bool {
        if self.reading == reading {
            return true;
        }
        // A source that names only what changed or holds ports: this one did neither.
        let idle = Sample { at_ms: now_ms, ..self.newest };
        self.add(idle, false);
        self.newest = idle;
        self.in_use == 0 && now_ms.wrapping_sub(self.changed_ms) < keep_ms
    }

    pub(super) const fn holds_ports(&self) -> bool {
        self.in_use > 0
    }

    /// Whether this reading has it.
    pub(super) const fn is_of(&self, reading: u32) -> bool {
        self.reading == reading
    }

    pub(super) fn is_alive(&self, now_ms: u32) -> bool {
        self.in_use > 0 || now_ms.wrapping_sub(self.changed_ms) < ALIVE_MS
    }

    /// Changes per second; `None`: there was nothing to compare with yet.
    pub(super) fn change(&self, window: Window) -> Option<Change> {
        let none = self.compared.then(Change::default);
        let activity = self.activity.as_deref();
        activity.and_then(|it| it.change(&self.newest, window.seconds().into())).or(none)
    }

    /// A forecast outlives a reading without one, but not what it was about.
    fn eta_s(&self, now_ms: u32) -> Option<f64> {
        let full = self.capacity.is_some_and(|capacity| self.in_use >= capacity);
        self.eta.shown(now_ms).filter(|eta| self.in_use > 0 && (*eta > 0.0 || full))
    }

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
            capacity: self.capacity,
            saturation: stats::saturation(self.in_use.into(), self.capacity),
            rates,
            eta_s: self.eta_s(now_ms),
            search_p99_ns: self.search_p99_ns,
            opened: self.opened,
            released: self.released,
            failed: self.failed.as_deref().copied().unwrap_or_default(),
            last_errno: self.last_errno,
            pid: self.pid,
            comm: self.comm,
            cgroup: 0,
            container: self.container.clone(),
            netns_name: self.netns_name.clone(),
            tuples: 1,
            note: None,
        }
    }

    pub(super) fn detail(&self, window: Window, now_ms: u32) -> Detail {
        let activity = self.activity.as_deref();
        let begun = activity.map_or([0; TIME_WAIT_S], |activity| activity.begun(now_ms));
        Detail {
            row: self.row(window, now_ms),
            changes: Window::ALL.map(|window| self.change(window)),
            search: self.search.as_deref().copied().unwrap_or_default(),
            cgroup: self.cgroup.clone(),
            ending: begun.into_iter().rev().collect(),
        }
    }
}

fn sample(count: &TupleCount, at_ms: u32) -> Sample {
    let low = |count: u64| u32::try_from(count & u64::from(u32::MAX)).unwrap_or_default();
    Sample {
        at_ms,
        opened: low(count.opened),
        released: low(count.released),
        closed: low(count.released.wrapping_sub(count.time_wait_ended)),
        begun: low(count.time_wait_begun),
        failed: low(count.failures()),
    }
}

/// A forecast that does not flicker: it appears with the second reading that has it, and goes with
/// the third in a row that has not.
#[derive(Clone, Copy, Debug, Default)]
struct Eta {
    /// When no port is left, ms; wraps.
    at_ms: u32,
    /// Readings in a row with a forecast, or (negative) without.
    streak: i8,
    shown: bool,
}

impl Eta {
    /// A new forecast moves the one before by this part, unless it differs by more than `FAR`.
    const WEIGHT: f64 = 0.3;
    const FAR: f64 = 0.2;

    fn add(&mut self, now_ms: u32, eta_s: Option<f64>) {
        let Some(eta_s) = eta_s else {
            self.streak = self.streak.min(0).saturating_sub(1);
            self.shown &= self.streak > -3;
            return;
        };
        let before = self.at_ms.wrapping_sub(now_ms).cast_signed();
        let before = f64::from(before) / 1000.0;
        let near = (before - eta_s).abs() <= Self::FAR * eta_s;
        let known = self.streak > 0 || self.shown;
        let next = if known && near { before + Self::WEIGHT * (eta_s - before) } else { eta_s };
        self.at_ms = now_ms.wrapping_add(whole_ms(next));
        self.streak = self.streak.max(0).saturating_add(1);
        // Full is full at once.
        self.shown |= self.streak >= 2 || eta_s == 0.0;
    }

    /// Seconds.
    fn shown(self, now_ms: u32) -> Option<f64> {
        let left = self.at_ms.wrapping_sub(now_ms).cast_signed();
        self.shown.then(|| f64::from(left.max(0)) / 1000.0)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to a day")]
fn whole_ms(seconds: f64) -> u32 {
    (seconds.clamp(0.0, 86_400.0) * 1000.0) as u32
}
