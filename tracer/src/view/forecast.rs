//! How long until a tuple has no port left. Pure arithmetic.
//!
//! The ports that are opened and closed follow the trend of the last seconds. The ports that TIME_WAIT gives back are
//! mostly known: a TIME_WAIT that began `s` seconds ago ends in about `61 - s` seconds. So a tuple that can hold 28,232
//! ports and has 400 connections a second has no forecast: its first ports are free again after a minute, when 24,000 are
//! in use. And because no rate of ends is measured, it does not matter that the kernel ends TIME_WAITs in batches.
//!
//! A TIME_WAIT that connect() can take over (net.ipv4.tcp_tw_reuse) counts as a free port.

/// Seconds that a TIME_WAIT is taken to last: `TCP_TIMEWAIT_LEN` (include/net/tcp.h) is 60, and its timer ends later, in
/// batches (`calc_index` in kernel/time/timer.c): up to 2.0 s where HZ is 250, 4.1 s where it is 1000, 5.1 s where it is 100.
pub const TIME_WAIT_S: usize = 61;
/// Number of seconds for which the history counts the TIME_WAITs that began: where HZ is 100, one can last 65 s.
pub const BEGUN_S: usize = 66;
/// A trend is extrapolated to at most this multiple of its length: one of 12 s to two minutes.
const REACH: f64 = 10.0;

/// The input of a forecast: one tuple.
#[derive(Clone, Copy, Debug)]
pub struct Filling<'a> {
    /// Ports in use, those in TIME_WAIT included.
    pub in_use: u64,
    /// Of these: ports in TIME_WAIT.
    pub time_wait: u64,
    /// Ports that the tuple can hold.
    pub capacity: u32,
    /// The TIME_WAITs that connect() can take over; `None`: it takes over none (net.ipv4.tcp_tw_reuse).
    pub reuse: Option<Reusable>,
    /// Whether a port search failed in the last seconds.
    pub failing: bool,
    /// What happened in the last seconds; `None`: too little is known, or the trend has ended.
    pub trend: Option<Trend>,
    /// When its TIME_WAITs began, as far as that was seen.
    pub begun: Begun<'a>,
}

/// TIME_WAITs of a tuple that connect() can take over.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Reusable {
    /// Those that connect() can take over now.
    pub now: u64,
    /// Those that are not old enough yet.
    pub young: u64,
    /// How old they must be, s; at least 1.
    pub after_s: usize,
}

/// TIME_WAITs whose begin was seen.
#[derive(Clone, Copy, Debug)]
pub struct Begun<'a> {
    /// How many, by their age in seconds: those of the last second first.
    pub by_age: &'a [u32; BEGUN_S],
    /// For how many seconds back `by_age` has every TIME_WAIT that began. The tuple's other TIME_WAITs began before
    /// that and end sooner, unless a segment of the peer restarted their timer.
    pub known_s: usize,
}

/// Changes within a window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Trend {
    /// Length of the window, s.
    pub seconds: f64,
    /// Ports taken.
    pub opened: u64,
    /// Ports released other than by the end of a TIME_WAIT.
    pub closed: u64,
    /// Ports that went into TIME_WAIT.
    pub begun: u64,
    /// Standard deviation of `opened - closed`, estimated from parts of the window.
    pub scatter: f64,
}

/// Whether no port is left. If TIME_WAITs may be taken over, only a failed search proves it.
pub fn is_full(filling: &Filling<'_>) -> bool {
    let none_reusable = filling.reuse.is_none_or(|reuse| (reuse.now, reuse.young) == (0, 0));
    filling.in_use >= u64::from(filling.capacity) && (none_reusable || filling.failing)
}

/// Seconds until no port is left; 0: none is left; `None`: the tuple is not filling up, or it could be chance that it does,
/// or it fills up only after ten times the trend's length, or too little is known.
pub fn eta_s(filling: &Filling<'_>) -> Option<f64> {
    if is_full(filling) {
        return Some(0.0);
    }
    let Trend { seconds, opened, closed, begun, scatter } = filling.trend?;
    if seconds <= 0.0 || opened == 0 {
        return None;
    }
    let (opened, closed, begun) = (number(opened), number(closed), number(begun));
    // Chance exceeds 3.5 standard deviations once in 4,000 windows. Of two standard deviations, the larger one counts: that
    // of single calls (Poisson), or that of the window's parts.
    let chance = 3.5 * (opened + closed).sqrt().max(scatter);
    let reusable = filling.reuse.map_or(0, |reuse| reuse.now);
    // TIME_WAITs that end early count as ports released when they began. With reuse, none counts so: a TIME_WAIT that
    // connect() takes over is in `opened`.
    let lasting = filling.reuse.map_or_else(|| lasting(filling.time_wait, filling.begun), |_| 1.0);
    let (closed, begun) = (closed + begun * (1.0 - lasting), begun * lasting);
    let free = u64::from(filling.capacity).saturating_sub(filling.in_use).saturating_add(reusable);
    let returning = returning(filling, begun / seconds);
    let reach = seconds * REACH;
    // There is a forecast only if the tuple would also fill up (later) with a trend that is smaller by `chance`.
    let time_to_full_less = |less: f64| {
        let growth = (opened - closed - less) / seconds;
        time_to_full(number(free), growth, begun / seconds, &returning)
    };
    time_to_full_less(chance).filter(|eta| *eta <= 2.0 * reach)?;
    time_to_full_less(0.0).filter(|eta| *eta <= reach)
}

/// Whether the trend has ended: in `recent`, its newest part, less than half as many ports per second were taken as in all
/// of it, and chance does not explain that.
pub fn has_stopped(trend: &Trend, recent: &Trend) -> bool {
    if trend.seconds <= 0.0 {
        return false;
    }
    let expected = number(trend.opened) * recent.seconds / trend.seconds;
    number(recent.opened) < expected / 2.0 - expected.sqrt()
}

/// How many TIME_WAITs whose begin was seen end in each of the next [`TIME_WAIT_S`] seconds (index 0: the next one); in all no
/// more than `time_wait`, the number of TIME_WAITs now. `reuse`: whether connect() takes over TIME_WAITs.
pub fn ending(time_wait: u64, begun: Begun<'_>, reuse: bool) -> Vec<u32> {
    let mut counted = 0;
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
            let more = whole(sum) - counted;
            counted += more;
            more
        })
        .collect()
}

/// How many TIME_WAITs end in each of the next seconds: in the first list those whose begin was seen, in the second all
/// others.
fn ends(time_wait: u64, begun: Begun<'_>, reuse: bool) -> ([f64; TIME_WAIT_S], [f64; TIME_WAIT_S]) {
    let now = number(time_wait);
    let (seen, late) = begun.by_age.split_at(TIME_WAIT_S);
    let sum = |counts: &[u32]| counts.iter().map(|count| f64::from(*count)).sum::<f64>();
    let mut ends = [0.0; TIME_WAIT_S];
    let each = ends.iter_mut().rev().zip(seen);
    if reuse {
        // connect() is taken to reuse the oldest ones first: the newest are left.
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
    // TIME_WAITs older than [`TIME_WAIT_S`] are overdue: the kernel ends them with its next batch of timers, so they count in
    // the first second.
    let due = older.min(sum(late));
    if let Some(first) = ends.first_mut() {
        *first += due;
    }
    // The other older TIME_WAITs can have any age beyond the known ones: their beginning was not seen, or a segment of the peer
    // restarted their timers.
    let known_s = if begun.known_s >= BEGUN_S { 0 } else { begun.known_s };
    let within = TIME_WAIT_S.saturating_sub(known_s).max(1);
    let mut unseen = [0.0; TIME_WAIT_S];
    let each = (older - due) / number(within as u64);
    unseen.iter_mut().take(within).for_each(|end| *end = each);
    (ends, unseen)
}

/// The part of the TIME_WAITs that last for their whole time, 0 to 1: how many are left of those that began in the last
/// minute. Some end early: a reset ends them.
fn lasting(time_wait: u64, begun: Begun<'_>) -> f64 {
    let seen: u64 = begun.by_age.iter().take(TIME_WAIT_S).map(|count| u64::from(*count)).sum();
    if seen > time_wait { number(time_wait) / number(seen) } else { 1.0 }
}

/// How many ports TIME_WAIT gives back in each of the next seconds. `begun`: TIME_WAITs that begin per second.
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

/// Seconds until `free` ports are gone; `None`: never, at these rates. `growth`: ports taken per second, less those
/// released other than by the end of a TIME_WAIT. `returning`: ports that TIME_WAIT gives back in each of the next
/// seconds; after these, it gives back `begun` a second, as many as enter it.
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
