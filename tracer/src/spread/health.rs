//! Which addresses of the pool are to be left out for a while, and until when. Pure: what happened
//! and the time go in.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tracer_common::Addr;

/// The first quarantine; each further one is twice as long...
const SHORTEST: Duration = Duration::from_secs(1);
/// ...up to this.
const LONGEST: Duration = Duration::from_mins(1);
/// Failures that an address may have of late without being suspected.
const TOLERATED: f64 = 3.0;
/// What is left, one look later, of what was before.
const FADING: f64 = 0.875;

/// Why an address is left out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// The kernel refused it: it is gone, or was never there for this socket.
    Refused,
    /// Its connections get nowhere where those of another address do.
    Failing,
}

impl Reason {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused by the kernel",
            Self::Failing => "its connections fail where others succeed",
        }
    }
}

/// What became of the connections of one address to one destination of late.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    opened: f64,
    failed: f64,
}

impl Outcome {
    /// One look later. `opened` and `failed` are since the last one; failed are, of those opened and of those
    /// that got no port, the ones that ended in unreachable, timed out or no source. What was before counts
    /// for less and less, so that where there are only a few connections a second, they add up.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts of a second")]
    pub fn then(self, opened: u64, failed: u64) -> Self {
        Self {
            opened: self.opened * FADING + opened as f64,
            failed: self.failed * FADING + failed as f64,
        }
    }

    fn is_bad(&self) -> bool {
        self.failed > TOLERATED && self.failed >= self.opened * 0.8
    }

    fn is_good(&self) -> bool {
        self.opened > TOLERATED && self.failed <= self.opened * 0.2
    }
}

#[derive(Clone, Copy, Debug)]
struct Quarantine {
    until: Instant,
    length: Duration,
    reason: Reason,
}

/// The addresses that gave trouble.
#[derive(Debug, Default)]
pub struct Health {
    quarantined: HashMap<Addr, Quarantine>,
}

impl Health {
    /// Leaves an address out for a while; longer if it was left out shortly before.
    pub fn quarantine(&mut self, address: Addr, reason: Reason, now: Instant) {
        let length = match self.quarantined.get(&address) {
            Some(before) if now < before.until => return,
            Some(before) if now < before.until + before.length * 2 => {
                (before.length * 2).min(LONGEST)
            }
            _ => SHORTEST,
        };
        self.quarantined.insert(address, Quarantine { until: now + length, length, reason });
    }

    /// What was held against an address is over: it left the host, and is there anew.
    pub fn forget(&mut self, address: &Addr) {
        self.quarantined.remove(address);
    }

    /// Why an address is left out now, if it is.
    pub fn reason(&self, address: &Addr, now: Instant) -> Option<Reason> {
        self.quarantined.get(address).filter(|it| now < it.until).map(|it| it.reason)
    }

    /// Until when an address is left out, if it is now.
    pub fn until(&self, address: &Addr, now: Instant) -> Option<Instant> {
        self.quarantined.get(address).map(|it| it.until).filter(|until| now < *until)
    }

    /// Looks at what became of each address's connections to one destination. Where all fail, it is
    /// the destination's fault. Those that are to blame are left out, and what was held against them is
    /// settled: after that they are judged by what comes then.
    pub fn judge(&mut self, outcomes: &mut [(Addr, &mut Outcome)], now: Instant) {
        if !outcomes.iter().any(|(_, outcome)| outcome.is_good()) {
            return;
        }
        for (address, outcome) in outcomes.iter_mut().filter(|(_, outcome)| outcome.is_bad()) {
            self.quarantine(*address, Reason::Failing, now);
            **outcome = Outcome::default();
        }
    }

    /// Forgets what is long over.
    pub fn tidy(&mut self, now: Instant) {
        self.quarantined.retain(|_, it| now < it.until + it.length * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Addr = Addr::v4([10, 0, 0, 1]);
    const TWO: Addr = Addr::v4([10, 0, 0, 2]);

    #[test]
    fn each_quarantine_is_twice_as_long_as_the_one_before_and_good_conduct_is_rewarded() {
        let mut health = Health::default();
        let mut now = Instant::now();
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            health.quarantine(ONE, Reason::Refused, now);
            assert_eq!(health.reason(&ONE, now), Some(Reason::Refused));
            now += Duration::from_millis(seconds * 1000 - 1);
            assert!(health.reason(&ONE, now).is_some(), "{seconds}");
            now += Duration::from_millis(1);
            assert!(health.reason(&ONE, now).is_none(), "{seconds}");
        }
        now += Duration::from_mins(2);
        health.tidy(now);
        health.quarantine(ONE, Reason::Refused, now);
        assert!(health.reason(&ONE, now + Duration::from_secs(1)).is_none());
        assert_eq!(health.reason(&TWO, now), None);
    }

    #[test]
    fn an_address_that_is_there_anew_starts_anew() {
        let mut health = Health::default();
        let now = Instant::now();
        health.quarantine(ONE, Reason::Refused, now);
        health.forget(&ONE);
        assert_eq!(health.reason(&ONE, now), None);
        health.quarantine(ONE, Reason::Refused, now);
        assert_eq!(health.until(&ONE, now), Some(now + SHORTEST));
    }

    #[test]
    fn an_address_is_suspected_only_where_another_one_succeeds() {
        let of = |opened, failed| Outcome::default().then(opened, failed);
        let (bad, good, few) = (of(10, 10), of(10, 1), of(3, 3));
        let now = Instant::now();
        for ([mut one, mut two], expected) in [
            ([bad, good], Some(Reason::Failing)),
            ([bad, bad], None),
            ([few, good], None),
            ([good, good], None),
            ([bad, few], None),
        ] {
            let mut health = Health::default();
            let outcomes = format!("{one:?} {two:?}");
            health.judge(&mut [(ONE, &mut one), (TWO, &mut two)], now);
            assert_eq!(health.reason(&ONE, now), expected, "{outcomes}");
            assert_eq!(health.reason(&TWO, now), None, "{outcomes}");
            let settled = if expected.is_some() { Outcome::default() } else { one };
            assert_eq!(one, settled, "{outcomes}");
        }
    }

    #[test]
    fn one_connection_a_second_is_enough_and_old_failures_fade() {
        let (mut one, mut two) = (Outcome::default(), Outcome::default());
        let looks = (1..60).find(|_| {
            // By turns: never in the same second.
            (one, two) = (one.then(1, 1).then(0, 0), two.then(0, 0).then(1, 0));
            one.is_bad() && two.is_good()
        });
        assert!(looks.is_some_and(|looks| looks < 10), "{looks:?}");
        let mut recovering = Outcome::default().then(100, 100);
        let looks = (1..60).find(|_| {
            recovering = recovering.then(10, 0);
            !recovering.is_bad()
        });
        assert!(looks.is_some_and(|looks| looks < 10), "{looks:?}");
    }
}
