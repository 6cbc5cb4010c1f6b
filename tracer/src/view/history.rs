//! Keeps samples of a tuple's counters of the last minute, in little memory. Times (`…_ms`): CLOCK_MONOTONIC, wrap after 49 days.

use super::forecast::{BEGUN_S, Trend};

/// The lower halves of a tuple's counters at one moment. They wrap; only differences within a minute are used.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Sample {
    /// On the readings' clock, ms; wraps after 49 days.
    pub(super) at_ms: u32,
    /// Ports taken.
    pub(super) opened: u32,
    /// Ports released.
    pub(super) released: u32,
    /// Of `released`: those that did not end a TIME_WAIT.
    pub(super) closed: u32,
    /// Connections that went into TIME_WAIT.
    pub(super) begun: u32,
    pub(super) failed: u32,
    /// Of `failed`: those for lack of ports.
    pub(super) exhausted: u32,
}

impl Sample {
    /// Whether a counter differs between this sample and `now`.
    pub(super) fn differs(&self, now: &Self) -> bool {
        Self { at_ms: now.at_ms, ..*self } != *now
    }

    fn age_ms(&self, now: &Self) -> u32 {
        now.at_ms.wrapping_sub(self.at_ms)
    }

    /// Ports in use.
    fn in_use(&self) -> u32 {
        self.opened.wrapping_sub(self.released)
    }

    /// Of these: ports in TIME_WAIT.
    fn time_wait(&self) -> u32 {
        self.begun.wrapping_sub(self.released.wrapping_sub(self.closed))
    }

    /// What happened between this sample and `now`; over 0 seconds if they have the same time.
    pub(super) fn until(&self, now: &Self) -> Since {
        let more = |before: u32, now: u32| now.wrapping_sub(before);
        let open = |at: &Self| f64::from(at.in_use().saturating_sub(at.time_wait()));
        Since {
            seconds: f64::from(self.age_ms(now)) / 1000.0,
            opened: more(self.opened, now.opened),
            begun: more(self.begun, now.begun),
            closed: more(self.closed, now.closed),
            exhausted: more(self.exhausted, now.exhausted),
            open: f64::midpoint(open(self), open(now)),
            more: f64::from(now.in_use()) - f64::from(self.in_use()),
        }
    }
}

/// What happened to a tuple over some seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Since {
    /// How many seconds; 0 only in the default, and between a sample and itself.
    pub seconds: f64,
    /// Ports that were taken.
    pub opened: u32,
    /// Connections that went into TIME_WAIT.
    pub begun: u32,
    /// Ports that were released by the end of a connection, not of a TIME_WAIT.
    pub closed: u32,
    /// Calls that failed for lack of ports.
    pub exhausted: u32,
    /// How many ports were held outside of TIME_WAIT: the mean of the numbers at the beginning and at the end.
    pub open: f64,
    /// By how many the ports in use grew, those in TIME_WAIT included; negative: they became fewer.
    pub more: f64,
}

/// Changes of a tuple's counters per second: ports taken (`opened`), ports released, failed calls.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Change {
    /// Over how many seconds they were measured; 0: nothing changed.
    pub seconds: f64,
    pub opened: f64,
    pub released: f64,
    pub failed: f64,
}

/// The newest `N` samples, oldest first.
#[derive(Clone, Copy, Debug)]
struct Ring<const N: usize> {
    samples: [Sample; N],
    len: usize,
}

impl<const N: usize> Ring<N> {
    const EMPTY: Self = Self {
        samples: [Sample {
            at_ms: 0,
            opened: 0,
            released: 0,
            closed: 0,
            begun: 0,
            failed: 0,
            exhausted: 0,
        }; N],
        len: 0,
    };

    fn push(&mut self, sample: Sample) {
        if self.len == N {
            self.samples.copy_within(1.., 0);
            self.len -= 1;
        }
        if let Some(place) = self.samples.get_mut(self.len) {
            *place = sample;
            self.len += 1;
        }
    }

    fn iter(&self) -> impl DoubleEndedIterator<Item = &Sample> {
        self.samples.iter().take(self.len)
    }
}

/// What happened in the last minute. Samples are kept for the last 13 seconds, one a second at most, and for the last
/// minute, one in ten seconds at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Activity {
    fine: Ring<14>,
    coarse: Ring<8>,
    peaks: Peaks,
    /// How many TIME_WAITs began in each second: a ring, whose newest entry is at `head`.
    begun: [u16; BEGUN_S],
    head: usize,
    /// When the second at `head` began.
    head_ms: u32,
}

/// How long the past of a tuple matters, s: as long as a TIME_WAIT can last, [`BEGUN_S`].
pub(super) const MINUTE: u32 = 66;
const _: () = assert!(MINUTE as usize == BEGUN_S);

/// A sample is old enough if it has at least this part of the wanted age: readings come a little early or late.
const JITTER: f64 = 0.95;

/// Least time between two samples of the fine ring, ms.
const FINE_MS: u32 = 950;
/// Least time between two samples of the coarse ring, ms.
const COARSE_MS: u32 = 9_500;

impl Activity {
    /// Starts with this sample: changes are counted from it on.
    pub(super) fn new(first: Sample) -> Self {
        let mut activity = Self {
            fine: Ring::EMPTY,
            coarse: Ring::EMPTY,
            peaks: Peaks::default(),
            begun: [0; BEGUN_S],
            head: 0,
            head_ms: first.at_ms,
        };
        activity.fine.push(first);
        activity.coarse.push(first);
        activity
    }

    /// Adds a reading; `before` is the one before it. `level`: ports in use that connect() cannot take over.
    pub(super) fn add(&mut self, before: &Sample, now: &Sample, level: u32) {
        self.spread_begun(before, now);
        self.peaks.add(now.at_ms, level);
        let due = |last: Option<&Sample>, gap| last.is_none_or(|last| last.age_ms(now) >= gap);
        if due(self.fine.iter().next_back(), FINE_MS) {
            self.fine.push(*now);
        }
        if due(self.coarse.iter().next_back(), COARSE_MS) {
            self.coarse.push(*now);
        }
    }

    /// Spreads the TIME_WAITs that began since `before` evenly over the seconds since then.
    fn spread_begun(&mut self, before: &Sample, now: &Sample) {
        self.advance(now.at_ms);
        let mut left = now.begun.wrapping_sub(before.begun);
        let seconds = (before.age_ms(now) / 1000).clamp(1, MINUTE);
        for (ago, parts) in (0..).zip((1..=seconds).rev()) {
            let share = left / parts;
            left -= share;
            let index = self.index(ago);
            if let Some(place) = self.begun.get_mut(index) {
                *place = place.saturating_add(u16::try_from(share).unwrap_or(u16::MAX));
            }
        }
    }

    /// Index in `begun` of the second that was `ago` seconds before the newest; `ago` is less than [`BEGUN_S`].
    fn index(&self, ago: usize) -> usize {
        (self.head + BEGUN_S - ago % BEGUN_S) % BEGUN_S
    }

    /// Adds empty seconds to `begun` up to now.
    fn advance(&mut self, now_ms: u32) {
        let seconds = now_ms.wrapping_sub(self.head_ms) / 1000;
        self.head_ms = self.head_ms.wrapping_add(seconds * 1000);
        for _ in 0..seconds.min(MINUTE) {
            self.head = (self.head + 1) % BEGUN_S;
            if let Some(place) = self.begun.get_mut(self.head) {
                *place = 0;
            }
        }
    }

    /// How many TIME_WAITs began, by their age in whole seconds at `now_ms`: index 0 has those of the last second.
    pub(super) fn begun(&self, now_ms: u32) -> [u32; BEGUN_S] {
        let since = now_ms.wrapping_sub(self.head_ms) / 1000;
        let mut by_age = [0; BEGUN_S];
        let seconds = by_age.iter_mut().skip(since.min(MINUTE) as usize);
        for (ago, count) in seconds.enumerate() {
            *count = self.begun.get(self.index(ago)).map_or(0, |count| u32::from(*count));
        }
        by_age
    }

    /// The newest sample that is at least `seconds` older than `now`; if there is none, the oldest one; `None`: none is
    /// older than `now`.
    fn before(&self, now: &Sample, seconds: f64) -> Option<&Sample> {
        let enough = |sample: &&Sample| f64::from(sample.age_ms(now)) >= seconds * 1000.0 * JITTER;
        let fine = self.fine.iter().rev().find(enough);
        fine.or_else(|| self.coarse.iter().rev().find(enough))
            .or_else(|| self.coarse.iter().next())
            .filter(|sample| sample.age_ms(now) > 0)
    }

    /// Changes per second over the last `seconds`, or over as many as are known; `None`: none are known.
    pub(super) fn change(&self, now: &Sample, seconds: f64) -> Option<Change> {
        let before = self.before(now, seconds)?;
        let seconds = f64::from(before.age_ms(now)) / 1000.0;
        let rate = |before: u32, now: u32| f64::from(now.wrapping_sub(before)) / seconds;
        Some(Change {
            seconds,
            opened: rate(before.opened, now.opened),
            released: rate(before.released, now.released),
            failed: rate(before.failed, now.failed),
        })
    }

    /// What happened in the last `seconds`, or in as many as are known; `None`: none are known.
    pub(super) fn since(&self, now: &Sample, seconds: f64) -> Option<Since> {
        Some(self.before(now, seconds)?.until(now))
    }

    /// What happened in the last `seconds`, or in as many as are known, without the scatter; `None`: none are known.
    pub(super) fn recent(&self, now: &Sample, seconds: f64) -> Option<Trend> {
        Some(trend(self.before(now, seconds)?, now))
    }

    /// The trend of a forecast, over the last `seconds` and at least three readings. `level`: ports in use that connect()
    /// cannot take over. `None`: too little is known, or the tuple was about as full before, so that this is one of its
    /// usual peaks.
    pub(super) fn trend(&self, now: &Sample, seconds: f64, level: u32) -> Option<Trend> {
        let fine = part(self.fine.iter(), now, seconds);
        let coarse = part(self.coarse.iter(), now, seconds);
        let age = |first: &Sample| f64::from(first.age_ms(now));
        let first = match (fine, coarse) {
            (Some(fine), Some(coarse)) => {
                let enough = age(fine) >= seconds * 1000.0 * JITTER || age(fine) >= age(coarse);
                if enough { fine } else { coarse }
            }
            (fine, coarse) => fine.or(coarse)?,
        };
        let mut trend = trend(first, now);
        trend.scatter = if fine == Some(first) {
            scatter(self.fine.iter(), first, now, &trend)
        } else {
            scatter(self.coarse.iter(), first, now, &trend)
        };
        let gain = trend.opened.saturating_sub(more(first.released, now.released));
        let before = u64::from(self.peaks.before(first.at_ms, now.at_ms));
        (u64::from(level) >= before + gain / 2).then_some(trend)
    }

    /// Adds TIME_WAITs that began before the first reading: how many, by their age in seconds at the newest reading.
    pub(super) fn add_older(&mut self, by_age: &[u16; BEGUN_S]) {
        for (age, count) in by_age.iter().enumerate() {
            let index = self.index(age);
            if let Some(place) = self.begun.get_mut(index) {
                *place = place.saturating_add(*count);
            }
        }
    }

    /// Whether nothing happened in the last minute, so that all TIME_WAITs have ended.
    pub(super) fn is_over(&self, now: &Sample) -> bool {
        let same = |sample: &Sample| Sample { at_ms: now.at_ms, ..*sample } == *now;
        let old = |sample: &Sample| sample.age_ms(now) >= MINUTE * 1000;
        let newest = self.coarse.iter().find(|sample| same(sample));
        newest.is_some_and(old)
    }
}

/// A trend needs this number of readings after its first one.
const READINGS: usize = 3;
/// The shortest trend, ms: two periods of the kernel's timer wheel where HZ is 1000. The wheel ends TIME_WAITs in batches:
/// every 4.1 s there, every 2.0 s where HZ is 250, every 5.1 s where it is 100.
const SHORTEST_MS: u32 = 8_200;

/// The newest sample that is at least `seconds` old and has enough readings and time after it; if there is none, the
/// oldest with enough of both.
fn part<'a>(
    oldest_first: impl DoubleEndedIterator<Item = &'a Sample>,
    now: &Sample,
    seconds: f64,
) -> Option<&'a Sample> {
    let older = oldest_first.rev().filter(|sample| sample.age_ms(now) > 0);
    let mut longest = None;
    for (readings, sample) in (1..).zip(older) {
        let age = sample.age_ms(now);
        if readings >= READINGS && age >= SHORTEST_MS {
            longest = Some(sample);
            if f64::from(age) >= seconds * 1000.0 * JITTER {
                break;
            }
        }
    }
    longest
}

/// How much a counter that wraps has grown.
fn more(before: u32, now: u32) -> u64 {
    u64::from(now.wrapping_sub(before))
}

fn trend(before: &Sample, now: &Sample) -> Trend {
    Trend {
        seconds: f64::from(before.age_ms(now)) / 1000.0,
        opened: more(before.opened, now.opened),
        closed: more(before.closed, now.closed),
        begun: more(before.begun, now.begun),
        scatter: 0.0,
    }
}

/// Into how many parts a window is divided to see how much they differ.
const PARTS: u32 = 5;

/// The standard deviation of `opened - closed` over a window that begins with `first`, estimated from its parts; 0 if there
/// are fewer than two.
fn scatter<'a>(
    samples: impl Iterator<Item = &'a Sample>,
    first: &Sample,
    now: &'a Sample,
    whole: &Trend,
) -> f64 {
    let net = |trend: &Trend| {
        let [opened, closed] =
            [trend.opened, trend.closed].map(|it| u32::try_from(it).unwrap_or(u32::MAX));
        f64::from(opened) - f64::from(closed)
    };
    let rate = net(whole) / whole.seconds;
    let least = first.age_ms(now) / PARTS;
    let (mut from, mut parts, mut squares) = (*first, 0_u32, 0.0);
    let later = samples.filter(|sample| sample.age_ms(now) < first.age_ms(now));
    for sample in later.chain(std::iter::once(now)) {
        if from.age_ms(now).saturating_sub(sample.age_ms(now)) >= least.max(1) {
            let part = trend(&from, sample);
            squares += (net(&part) - rate * part.seconds).powi(2);
            parts += 1;
            from = *sample;
        }
    }
    let parts = f64::from(parts);
    if parts < 2.0 { 0.0 } else { (squares * parts / (parts - 1.0)).sqrt() }
}

/// The highest level (ports in use that connect() cannot take over) in each ten seconds of the last two minutes. Each entry:
/// first which ten seconds (their begin on the readings' clock, in units of 10 s), then their level; (0, 0): empty.
#[derive(Clone, Copy, Debug, Default)]
struct Peaks([(u32, u32); 12]);

impl Peaks {
    const SLOT_MS: u32 = 10_000;

    fn add(&mut self, now_ms: u32, level: u32) {
        let slot = now_ms / Self::SLOT_MS;
        let len = self.0.len();
        if let Some(place) = self.0.get_mut(slot as usize % len) {
            let before = if place.0 == slot { place.1 } else { 0 };
            *place = (slot, before.max(level));
        }
    }

    /// The highest level before the ten seconds of `before_ms`, within the two minutes before `now_ms`; 0: none is known.
    fn before(&self, before_ms: u32, now_ms: u32) -> u32 {
        let (before, now) = (before_ms / Self::SLOT_MS, now_ms / Self::SLOT_MS);
        let known = |slot: u32| slot < before && (now.wrapping_sub(slot) as usize) < self.0.len();
        self.0.iter().filter(|(slot, _)| known(*slot)).map(|(_, level)| *level).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
