//! How long until a tuple has no port left. Pure arithmetic.
//!
//! What is taken and closed follows the trend of the last seconds. What comes back from TIME_WAIT is mostly known: a
//! TIME_WAIT that began `s` seconds ago ends in `61 - s` seconds. So a tuple that fills at 400 connections a second is
//! not said to run out of 28,232 ports: its first ports come back after a minute, at 24,000. And because no rate of ends
//! is measured, it does not matter that the kernel ends TIME_WAITs in batches.
//!
//! A TIME_WAIT that connect() can take over (net.ipv4.tcp_tw_reuse) is a port that is left.

/// Seconds that a TIME_WAIT lasts: `TCP_TIMEWAIT_LEN` (include/net/tcp.h) is 60, and its timer ends up to two seconds
/// later, in batches (`calc_index` in kernel/time/timer.c).
pub const TIME_WAIT_S: usize = 61;
/// So many seconds are remembered of TIME_WAITs that began: where HZ is 100, a batch ends after up to 65.
pub const BEGUN_S: usize = 66;
/// A trend is followed for so many times as long as it was observed: one of 12 s for two minutes.
const REACH: f64 = 10.0;

/// What a forecast goes by.
#[derive(Clone, Copy, Debug)]
pub struct Filling<'a> {
    pub in_use: u64,
    pub time_wait: u64,
    pub capacity: u32,
    /// `None`: connect() takes over none of the tuple's TIME_WAITs.
    pub reuse: Option<Reusable>,
    /// A port search has just failed because no port was left.
    pub failing: bool,
    /// What happened in the window that the trend is taken from; `None`: too short a time is known, or it has ended.
    pub trend: Option<Trend>,
    pub begun: Begun<'a>,
}

/// TIME_WAITs of a tuple that connect() can take over.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Reusable {
    /// Now.
    pub now: u64,
    /// Later: they are not old enough yet.
    pub young: u64,
    /// How old they must be, s; at least 1.
    pub after_s: usize,
}

/// TIME_WAITs that were seen to begin.
#[derive(Clone, Copy, Debug)]
pub struct Begun<'a> {
    /// By their age in seconds: those of the last second first.
    pub by_age: &'a [u32; BEGUN_S],
    /// These are all that began in so many seconds: others are older, and end before those.
    pub known_s: usize,
}

/// Changes within a window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Trend {
    /// Length of the window, s.
    pub seconds: f64,
    /// Ports taken.
    pub opened: u64,
    /// Ports given back other than by the end of a TIME_WAIT.
    pub closed: u64,
    /// Ports that went into TIME_WAIT.
    pub begun: u64,
    /// Standard deviation of `opened - closed`, as the parts of the window differ.
    pub scatter: f64,
}

/// Whether no port is left. With TIME_WAITs that may be taken over, only a failed search proves it.
pub fn is_full(filling: &Filling<'_>) -> bool {
    let none_reusable = filling.reuse.is_none_or(|reuse| (reuse.now, reuse.young) == (0, 0));
    filling.in_use >= u64::from(filling.capacity) && (none_reusable || filling.failing)
}

/// Seconds until no port is left, 0 where none is; `None`: it is not filling, or chance could be all there is to it.
pub fn eta_s(filling: &Filling<'_>) -> Option<f64> {
    if is_full(filling) {
        return Some(0.0);
    }
    let Trend { seconds, opened, closed, begun, scatter } = filling.trend?;
    if seconds <= 0.0 || opened == 0 {
        return None;
    }
    let (opened, closed, begun) = (number(opened), number(closed), number(begun));
    // What comes by chance passes so many standard deviations once in 4,000 windows: that of single calls (Poisson), or
    // of how they come.
    let chance = 3.5 * (opened + closed).sqrt().max(scatter);
    let reusable = filling.reuse.map_or(0, |reuse| reuse.now);
    // Those that do not last come back at once, but for those that are taken over, which counts as a port taken.
    let lasting = filling.reuse.map_or_else(|| lasting(filling.time_wait, filling.begun), |_| 1.0);
    let (closed, begun) = (closed + begun * (1.0 - lasting), begun * lasting);
    let free = u64::from(filling.capacity).saturating_sub(filling.in_use).saturating_add(reusable);
    let returning = returning(filling, begun / seconds);
    let reach = seconds * REACH;
    // Reports the trend only if the trend without what can be chance fills up, too, if later.
    let time_to_full_less = |less: f64| {
        let growth = (opened - closed - less) / seconds;
        time_to_full(number(free), growth, begun / seconds, &returning)
    };
    time_to_full_less(chance).filter(|eta| *eta <= 2.0 * reach)?;
    time_to_full_less(0.0).filter(|eta| *eta <= reach)
}

/// Whether what the trend shows has come to an end: far less happened of late than it would make expect.
pub fn has_stopped(trend: &Trend, recent: &Trend) -> bool {
    if trend.seconds <= 0.0 {
        return false;
    }
    let expected = number(trend.opened) * recent.seconds / trend.seconds;
    number(recent.opened) < expected / 2.0 - expected.sqrt()
}

/// TIME_WAITs that end in each of the next seconds, in whole numbers: no more than there are.
pub fn ending(time_wait: u64, begun: Begun<'_>, reuse: bool) -> Vec<u32> {
    let mut said = 0;
    let mut sum = 0.0;
    let whole = |sum: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count of ports"
        )]
        let whole = (sum + 1e-6).max(0.0) as u32;
        whole
    };
    let (ends, _) = ends(time_wait, begun, reuse);
    ends.iter()
        .map(|end| {
            sum += end;
            let more = whole(sum) - said;
            said += more;
            more
        })
        .collect()
}

/// TIME_WAITs by when they end: those that were seen to begin, and the others.
fn ends(time_wait: u64, begun: Begun<'_>, reuse: bool) -> ([f64; TIME_WAIT_S], [f64; TIME_WAIT_S]) {
    let now = number(time_wait);
    let (seen, late) = begun.by_age.split_at(TIME_WAIT_S);
    let sum = |counts: &[u32]| counts.iter().map(|count| f64::from(*count)).sum::<f64>();
    let mut ends = [0.0; TIME_WAIT_S];
    let each = ends.iter_mut().rev().zip(seen);
    if reuse {
        // The old ones are taken over first, as far as is known: what is left are the newest.
        let mut left = now;
        for (end, begun) in each {
            *end = f64::from(*begun).min(left);
            left -= *end;
        }
    } else {
        let part = lasting(time_wait, begun);
        each.for_each(|(end, begun)| *end = f64::from(*begun) * part);
    }
    let older = (now - sum(seen)).max(0.0);
    // They wait for the next batch.
    let due = older.min(sum(late));
    if let Some(first) = ends.first_mut() {
        *first += due;
    }
    // The others can be of any age that is not known; or the peer's segments made their time begin anew.
    let known_s = if begun.known_s >= BEGUN_S { 0 } else { begun.known_s };
    let within = TIME_WAIT_S.saturating_sub(known_s).max(1);
    let mut unseen = [0.0; TIME_WAIT_S];
    let each = (older - due) / number(within as u64);
    unseen.iter_mut().take(within).for_each(|end| *end = each);
    (ends, unseen)
}

/// The part of the TIME_WAITs that lasts to its end, 0 to 1: of those that began in the last minute, so many are there.
/// A reset ends one at once.
fn lasting(time_wait: u64, begun: Begun<'_>) -> f64 {
    let seen: u64 = begun.by_age.iter().take(TIME_WAIT_S).map(|count| u64::from(*count)).sum();
    if seen > time_wait { number(time_wait) / number(seen) } else { 1.0 }
}

/// Ports that come back in each of the next seconds. `begun`: TIME_WAITs that begin a second.
fn returning(filling: &Filling<'_>, begun: f64) -> [f64; TIME_WAIT_S] {
    let (mut returning, unseen) = ends(filling.time_wait, filling.begun, filling.reuse.is_some());
    returning.iter_mut().zip(unseen).for_each(|(returning, unseen)| *returning += unseen);
    let Some(Reusable { now, young, after_s }) = filling.reuse else { return returning };
    let (now, young) = (number(now), number(young));
    let after_s = after_s.max(1);
    let part = match filling.time_wait {
        0 => 1.0,
        all => ((now + young) / number(all)).min(1.0),
    };
    for (second, returning) in returning.iter_mut().enumerate() {
        let taken_over =
            if second < after_s { young / number(after_s as u64) } else { begun * part };
        *returning = *returning * (1.0 - part) + taken_over;
    }
    returning
}

/// When `free` ports are gone, `growth` a second being taken on balance, of which `begun` come back after that.
fn time_to_full(free: f64, growth: f64, begun: f64, returning: &[f64; TIME_WAIT_S]) -> Option<f64> {
    let mut left = free;
    let mut at = 0.0;
    for returning in returning {
        let change = growth - returning;
        if change > 0.0 && change >= left {
            return Some(at + left / change);
        }
        left -= change;
        at += 1.0;
    }
    let change = growth - begun;
    (change > 0.0).then(|| at + left / change)
}

#[expect(clippy::cast_precision_loss, reason = "a forecast has no more than a few digits")]
fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
