//! Keeps one tuple over time, and makes its forecast, for `tracer top`, `replay`, `record` and `tuples`. Times (`…_ms`) are on
//! the readings' clock, CLOCK_MONOTONIC in ms, and wrap after 49 days.

use tracer_common::{Cause, TupleCount};

use super::{
    forecast::{self, BEGUN_S, Begun, Filling, Reusable, TIME_WAIT_S},
    history::{Activity, Change, MINUTE, Sample, Since},
};
use crate::host::capacity::{Holds, TakenOver};

/// Windows of the trend, s. The forecast is made from the trend of the first window; if that gives none, of the second.
const WINDOWS: [f64; 2] = [12.0, 60.0];
/// How long after a failed port search a tuple counts as full where TIME_WAITs can be taken over, ms.
const PROOF_MS: u32 = 3_000;
/// How long after a failed port search all failed calls of the tuple count as failed for lack of ports, ms.
const EXHAUSTED_MS: u32 = 10_000;

/// A tuple's TIME_WAITs that are older than the tracer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Older<'a> {
    /// How many of them still last, by the seconds that are left at `at_ms`: index 0 has those that end next.
    pub left: &'a [u16; TIME_WAIT_S],
    /// When that was, on the readings' clock, ms; wraps.
    pub at_ms: u32,
}

/// One tuple over time. Small, because a host can have tens of thousands.
#[derive(Debug, Default)]
pub(super) struct TupleForecast {
    newest: Sample,
    /// What happened in the last minute; `None`: nothing.
    activity: Option<Box<Activity>>,
    /// Whether counters from before the newest reading are known.
    compared: bool,
    /// Whether it is known of all TIME_WAITs when they began.
    all_begun: bool,
    /// When the first reading was, ms; `None`: there was none yet.
    first_ms: Option<u32>,
    in_use: u32,
    time_wait: u32,
    holds: Holds,
    /// Port searches that failed so far; wraps.
    exhausted: u32,
    /// When the newest failed port search was, ms; `None`: not in the last [`EXHAUSTED_MS`].
    exhausted_ms: Option<u32>,
    eta: Eta,
}

impl TupleForecast {
    /// A tuple whose counters were 0 at `since_ms`; `None`: their earlier values are not known.
    pub(super) fn new(since_ms: Option<u32>) -> Self {
        Self {
            newest: Sample { at_ms: since_ms.unwrap_or_default(), ..Sample::default() },
            compared: since_ms.is_some(),
            all_begun: since_ms.is_some(),
            ..Self::default()
        }
    }

    /// A tuple whose counters were `before` at `at_ms`, and for a minute before that.
    pub(super) fn after(before: &TupleCount, at_ms: u32) -> Self {
        Self {
            newest: sample(before, at_ms),
            exhausted: low(before.failed[Cause::PortsExhausted as usize]),
            ..Self::new(Some(at_ms))
        }
    }

    /// When the newest reading was, ms; wraps.
    pub(super) const fn at_ms(&self) -> u32 {
        self.newest.at_ms
    }

    /// Adds a reading: the tuple's counters, and how many ports it can hold. `older` (`None`: no TIME_WAITs are older than
    /// tracer) is used if this is the first reading, and the counters before it are not known. Returns whether it is the first
    /// one, or a counter has changed since the one before.
    pub(super) fn add_reading(
        &mut self,
        count: &TupleCount,
        holds: Holds,
        now_ms: u32,
        older: Option<Older<'_>>,
    ) -> bool {
        let now = sample(count, now_ms);
        let first = self.first_ms.is_none();
        let changed = self.newest.differs(&now);
        self.holds = holds;
        self.in_use = u32::try_from(count.in_use()).unwrap_or(u32::MAX);
        self.time_wait = u32::try_from(count.time_wait()).unwrap_or(u32::MAX);
        if !first || self.compared {
            self.add(now, changed);
        } else if let Some(older) = older {
            self.add_older(now, older);
        }
        let exhausted = low(count.failed[Cause::PortsExhausted as usize]);
        if exhausted != self.exhausted && (!first || self.compared) {
            self.exhausted_ms = Some(now_ms);
        }
        self.exhausted = exhausted;
        let is_recent = |at: &u32| now_ms.wrapping_sub(*at) <= EXHAUSTED_MS;
        self.exhausted_ms = self.exhausted_ms.filter(is_recent);
        let first_ms = *self.first_ms.get_or_insert(now_ms);
        self.all_begun |= now_ms.wrapping_sub(first_ms) / 1000 >= MINUTE;
        self.compared |= !first;
        self.newest = now;
        self.update_eta(now_ms);
        first || changed
    }

    /// Adds a reading that leaves the tuple out, because nothing changed.
    pub(super) fn add_idle_reading(&mut self, now_ms: u32) {
        let idle = Sample { at_ms: now_ms, ..self.newest };
        self.add(idle, false);
        self.newest = idle;
    }

    fn add(&mut self, now: Sample, changed: bool) {
        let before = self.newest;
        if changed && self.activity.is_none() {
            self.activity = Some(Box::new(Activity::new(before)));
        }
        let level = self.level(now.at_ms);
        if let Some(activity) = &mut self.activity {
            activity.add(&before, &now, level);
            if activity.is_over(&now) {
                self.activity = None;
            }
        }
    }

    fn add_older(&mut self, now: Sample, older: Older<'_>) {
        let mut by_age = [0; BEGUN_S];
        let passed = now.at_ms.wrapping_sub(older.at_ms).div_ceil(1000) as usize;
        // A TIME_WAIT that lasts `s` seconds more ends with the first batch after that.
        let ends = older.left.iter().enumerate();
        for (left, count) in ends {
            let age = (TIME_WAIT_S - 1).saturating_sub(left.saturating_sub(passed));
            if let Some(place) = by_age.get_mut(age) {
                *place = u16::saturating_add(*place, *count);
            }
        }
        if by_age.iter().any(|count| *count > 0) {
            self.activity.get_or_insert_with(|| Box::new(Activity::new(now))).add_older(&by_age);
        }
        self.all_begun = true;
    }

    /// Whether a port search failed in the last [`EXHAUSTED_MS`] before the newest reading that had the tuple.
    pub(super) const fn is_exhausted(&self) -> bool {
        self.exhausted_ms.is_some()
    }

    /// TIME_WAITs that connect() can take over; `None`: it takes over none (net.ipv4.tcp_tw_reuse), or that is not known.
    pub(super) fn reusable(&self, now_ms: u32) -> Option<Reusable> {
        let TakenOver { all, old, after_ms } = self.holds.reuse?;
        let after_s = (after_ms.div_ceil(1000) as usize).clamp(1, TIME_WAIT_S);
        let activity = self.activity.as_deref();
        let by_age = activity.map_or([0; BEGUN_S], |activity| activity.begun(now_ms));
        let newest: u64 = by_age.iter().take(after_s).map(|count| u64::from(*count)).sum();
        let all = all.min(self.time_wait.into());
        let (now, young) = if old {
            (all, newest.min(u64::from(self.time_wait) - all))
        } else {
            (all - newest.min(all), newest.min(all))
        };
        Some(Reusable { now, young, after_s })
    }

    /// How many ports are in use that connect() cannot take over.
    fn level(&self, now_ms: u32) -> u32 {
        let reusable = self.reusable(now_ms).map_or(0, |reuse| reuse.now);
        self.in_use.saturating_sub(u32::try_from(reusable).unwrap_or(u32::MAX))
    }

    fn update_eta(&mut self, now_ms: u32) {
        // Saves time: of thousands of tuples, most are idle for minutes. Without a trend there is no forecast, unless
        // the tuple is full.
        let still = self.activity.is_none()
            && self.holds.capacity.is_none_or(|capacity| self.in_use < capacity);
        let eta = if still {
            None
        } else {
            WINDOWS.into_iter().find_map(|seconds| self.eta_over(now_ms, seconds))
        };
        self.eta.add(now_ms, eta);
    }

    fn eta_over(&self, now_ms: u32, seconds: f64) -> Option<f64> {
        let activity = self.activity.as_deref();
        let by_age = activity.map_or([0; BEGUN_S], |activity| activity.begun(now_ms));
        let level = self.level(now_ms);
        let recent = activity.and_then(|it| it.recent(&self.newest, seconds / 4.0));
        let trend = activity
            .and_then(|it| it.trend(&self.newest, seconds, level))
            .filter(|trend| !forecast::has_stopped(trend, &recent.unwrap_or_default()));
        forecast::eta_s(&Filling { trend, ..self.filling(now_ms, &by_age)? })
    }

    /// The input of the forecast without its trend; `None`: the capacity is not known.
    fn filling<'a>(&self, now_ms: u32, by_age: &'a [u32; BEGUN_S]) -> Option<Filling<'a>> {
        Some(Filling {
            in_use: self.in_use.into(),
            time_wait: self.time_wait.into(),
            capacity: self.holds.capacity?,
            reuse: self.reusable(now_ms),
            failing: self.exhausted_ms.is_some_and(|at| now_ms.wrapping_sub(at) <= PROOF_MS),
            trend: None,
            begun: self.begun(by_age, now_ms),
        })
    }

    fn begun<'a>(&self, by_age: &'a [u32; BEGUN_S], now_ms: u32) -> Begun<'a> {
        let since = self.first_ms.map_or(0, |first| now_ms.wrapping_sub(first) / 1000);
        let known_s = if self.all_begun { BEGUN_S } else { since as usize };
        Begun { by_age, known_s }
    }

    /// Seconds until no port is left; 0: none is left; `None`: there is no forecast (see [`forecast::eta_s`]). A forecast
    /// outlasts two readings without one, but ends when the tuple holds no port (unless its capacity is 0), and "0" ends when
    /// a port is free.
    pub(super) fn eta_s(&self, now_ms: u32) -> Option<f64> {
        let full = || {
            let filling = self.filling(now_ms, &[0; BEGUN_S]);
            filling.is_some_and(|filling| forecast::is_full(&filling))
        };
        let holds = self.in_use > 0 || self.holds.capacity == Some(0);
        self.eta.shown(now_ms).filter(|eta| holds && (*eta > 0.0 || full()))
    }

    /// How many TIME_WAITs end in each of the next [`TIME_WAIT_S`] seconds, of those whose begin is known; in all no more than
    /// there are.
    pub(super) fn ending(&self, now_ms: u32) -> Vec<u32> {
        let activity = self.activity.as_deref();
        let by_age = activity.map_or([0; BEGUN_S], |activity| activity.begun(now_ms));
        let begun = self.begun(&by_age, now_ms);
        forecast::ending(self.time_wait.into(), begun, self.holds.reuse.is_some())
    }

    /// Changes per second over the last `seconds`, or over as many as are known; `None`: no earlier values are known.
    pub(super) fn change(&self, seconds: f64) -> Option<Change> {
        let none = self.compared.then(Change::default);
        let activity = self.activity.as_deref();
        activity.and_then(|it| it.change(&self.newest, seconds)).or(none)
    }

    /// What happened over the last `seconds`, or over as many as there have been readings for (`known`); `None`: no earlier
    /// values are known.
    pub(super) fn since(&self, seconds: f64, known: f64) -> Option<Since> {
        let now = &self.newest;
        let since = self.activity.as_deref().and_then(|it| it.since(now, seconds));
        let since = since.or_else(|| self.compared.then(|| now.until(now)))?;
        // Before the oldest sample nothing happened.
        let seconds = since.seconds.max(seconds.min(known));
        (seconds > 0.0).then_some(Since { seconds, ..since })
    }

    /// Whether the tuple holds no port, and nothing happened in the last minute.
    pub(super) const fn is_idle(&self) -> bool {
        self.activity.is_none() && self.in_use == 0
    }
}

/// The lower half of a counter.
const fn low(count: u64) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "only differences are used")]
    let low = count as u32;
    low
}

fn sample(count: &TupleCount, at_ms: u32) -> Sample {
    Sample {
        at_ms,
        opened: low(count.opened),
        released: low(count.released),
        closed: low(count.released.wrapping_sub(count.time_wait_ended)),
        begun: low(count.time_wait_begun),
        failed: low(count.failures()),
        exhausted: low(exhausted(count)),
    }
}

/// Calls that failed for lack of ports so far.
fn exhausted(count: &TupleCount) -> u64 {
    let of = |cause: Cause| count.failed.get(cause as usize).copied().unwrap_or(0);
    of(Cause::PortsExhausted).saturating_add(of(Cause::BindExhausted))
}

/// Smooths the forecast: it is shown from the second reading in a row that has one (that no port is left: from the
/// first), and until the third in a row that has none.
#[derive(Clone, Copy, Debug, Default)]
struct Eta {
    /// When no port will be left, on the readings' clock, ms; wraps.
    at_ms: u32,
    /// How many readings in a row had a forecast, or (negative) had none.
    streak: i8,
    shown: bool,
}

impl Eta {
    /// A new forecast that is not [`Self::FAR`] from the shown one moves it by this part of their difference.
    const WEIGHT: f64 = 0.3;
    /// A new forecast replaces the shown one, unsmoothed, if their difference is more than this part (20 %) of the new one.
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
        // That no port is left is shown immediately.
        self.shown |= self.streak >= 2 || eta_s == 0.0;
    }

    /// Seconds until no port is left, as shown; `None`: nothing is shown.
    fn shown(self, now_ms: u32) -> Option<f64> {
        let left = self.at_ms.wrapping_sub(now_ms).cast_signed();
        self.shown.then(|| f64::from(left.max(0)) / 1000.0)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to a day")]
fn whole_ms(seconds: f64) -> u32 {
    (seconds.clamp(0.0, 86_400.0) * 1000.0) as u32
}

#[cfg(test)]
mod tests;
