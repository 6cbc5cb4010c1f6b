//! Which addresses of the pool are to be left out for a while, and until when. Pure: what happened
//! and the time go in.
//!
//! An address that the kernel refuses is left out of the whole pool. One to whose connections nothing comes back
//! is left out towards that one destination (address and port), and only while another address of the pool
//! gets there.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

use tracer_common::{Addr, TupleKey};

/// The first quarantine; each further one is twice as long...
const SHORTEST: Duration = Duration::from_secs(1);
/// ...up to this.
const LONGEST: Duration = Duration::from_mins(1);
/// Failures that an address may have of late without being suspected.
const TOLERATED: f64 = 3.0;
/// What is left, one look later, of what was before.
const FADING: f64 = 0.875;
/// Quarantines that are remembered at once; for a further one, the one that ends soonest is dropped.
const MOST: usize = 1024;

/// Why an address is left out of the whole pool: it is gone, or was never there for this socket.
pub const REFUSED: &str = "refused by the kernel";

/// What became of the rule's own connections from one address to one destination of late.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    established: f64,
    nowhere: f64,
}

impl Outcome {
    /// One look later. `established` and `nowhere` are since the last one. What was before counts for less and
    /// less, so that where there are only a few connections a second, they add up.
    #[must_use]
    pub fn then(self, established: u32, nowhere: u32) -> Self {
        Self {
            established: self.established * FADING + f64::from(established),
            nowhere: self.nowhere * FADING + f64::from(nowhere),
        }
    }

    /// Four of five, and more than a few, got nowhere.
    fn is_bad(&self) -> bool {
        self.nowhere > TOLERATED && self.nowhere >= self.established * 4.0
    }

    /// Four of five, and more than a few, got established.
    fn is_good(&self) -> bool {
        self.established > TOLERATED && self.nowhere <= self.established / 4.0
    }
}

#[derive(Clone, Copy, Debug)]
struct Quarantine {
    until: Instant,
    length: Duration,
}

/// What is left out for a while each.
#[derive(Debug)]
pub struct Quarantines<K>(HashMap<K, Quarantine>);

impl<K> Default for Quarantines<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Copy + Eq + Hash> Quarantines<K> {
    /// Leaves one out; longer if it was left out shortly before.
    pub fn begin(&mut self, key: K, now: Instant) {
        let length = match self.0.get(&key) {
            Some(before) if now < before.until => return,
            Some(before) if now < before.until + before.length * 2 => {
                (before.length * 2).min(LONGEST)
            }
            _ => SHORTEST,
        };
        if self.0.len() >= MOST && !self.0.contains_key(&key) {
            let soonest = self.0.iter().min_by_key(|(_, it)| it.until).map(|(key, _)| *key);
            soonest.map(|key| self.0.remove(&key));
        }
        self.0.insert(key, Quarantine { until: now + length, length });
    }

    /// What was held against it is over.
    pub fn forget(&mut self, key: &K) {
        self.0.remove(key);
    }

    /// Until when it is left out; `None`: it is not, now.
    pub fn until(&self, key: &K, now: Instant) -> Option<Instant> {
        self.0.get(key).map(|it| it.until).filter(|until| now < *until)
    }

    /// All that are left out now.
    pub fn now(&self, now: Instant) -> impl Iterator<Item = (&K, Instant)> {
        self.0.iter().filter(move |(_, it)| now < it.until).map(|(key, it)| (key, it.until))
    }

    /// Forgets what is long over.
    fn tidy(&mut self, now: Instant) {
        self.0.retain(|_, it| now < it.until + it.length * 2);
    }
}

/// The addresses that gave trouble.
#[derive(Debug, Default)]
pub struct Health {
    /// Addresses that the kernel refused.
    pub refused: Quarantines<Addr>,
    /// Addresses from which nothing gets to a destination that others get to.
    pub failing: Quarantines<TupleKey>,
}

impl Health {
    /// What was held against an address is over: it left the host, and is there anew.
    pub fn forget(&mut self, address: &Addr) {
        self.refused.forget(address);
        self.failing.0.retain(|key, _| key.source != *address);
    }

    /// Looks at what became of each address's connections to one destination. Where none get there, it is
    /// the destination's fault. Those that are to blame are left out, and what was held against them is
    /// settled: after that they are judged by what comes then. One that gets there stays in any case.
    pub fn judge(&mut self, outcomes: &mut [(TupleKey, &mut Outcome)], now: Instant) {
        let is_in_use = |key| self.failing.until(key, now).is_none();
        if !outcomes.iter().any(|(key, outcome)| outcome.is_good() && is_in_use(key)) {
            return;
        }
        for (key, outcome) in outcomes.iter_mut().filter(|(_, outcome)| outcome.is_bad()) {
            self.failing.begin(*key, now);
            **outcome = Outcome::default();
        }
    }

    /// Lets every address towards a destination in again, of which none of the pool's addresses that can be used
    /// would be left.
    pub fn keep_one(&mut self, usable: &[Addr], now: Instant) {
        let is_v4 = |addr: &Addr| addr.to_v4().is_some();
        let lost: Vec<TupleKey> = self
            .failing
            .now(now)
            .map(|(key, _)| *key)
            .filter(|key| {
                let left = usable.iter().filter(|it| is_v4(it) == is_v4(&key.destination));
                let mut left = left.map(|source| TupleKey { source: *source, ..*key });
                left.all(|other| self.failing.until(&other, now).is_some())
            })
            .collect();
        for key in lost {
            self.failing.forget(&key);
        }
    }

    /// Forgets what is long over.
    pub fn tidy(&mut self, now: Instant) {
        self.refused.tidy(now);
        self.failing.tidy(now);
    }
}

#[cfg(test)]
mod tests;
