//! Decides which addresses of the pool are left out, and until when (1 s to 1 min). Pure: no clock, no I/O.
//!
//! An address that the kernel refuses is left out of the whole pool. An address whose connections to a destination
//! (address and port) get no answer is left out towards this destination, but only if another address of the pool
//! gets answers from there at that time. If all usable addresses of the pool are left out towards a destination, all of
//! them are used again at once.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

use tracer_common::{Addr, TupleKey};

/// Length of the first quarantine; each one that soon follows is twice as long as the one before.
const SHORTEST: Duration = Duration::from_secs(1);
/// Length of the longest quarantine.
const LONGEST: Duration = Duration::from_mins(1);
/// An address counts as one that gets answers (or none) only with more than this many recent connections of that kind.
/// A connection counts for less the older it is.
const TOLERATED: f64 = 3.0;
/// At each check (one a second), the counts of earlier results are multiplied by this.
const DECAY: f64 = 0.875;
/// How many quarantines are remembered at most; for a further one, the one that ends soonest is dropped.
const REMEMBERED_MAX: usize = 1024;

/// The reason, in logs and in `tracer status`, for which an address is left out of the whole pool.
pub const REFUSED: &str = "refused by the kernel";

/// What became of the rule's recent connections from one address to one destination. Older ones count for less.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    established: f64,
    unanswered: f64,
}

impl Outcome {
    /// The outcome with another check: `established` and `unanswered` connections since the one before. At each check, earlier
    /// ones lose an eighth of their weight; they still count, so a few connections a second are enough.
    #[must_use]
    pub fn add_check(self, established: u32, unanswered: u32) -> Self {
        Self {
            established: self.established * DECAY + f64::from(established),
            unanswered: self.unanswered * DECAY + f64::from(unanswered),
        }
    }

    /// Whether at least four of five connections, and more than [`TOLERATED`], got no answer.
    fn gets_no_answer(&self) -> bool {
        self.unanswered > TOLERATED && self.unanswered >= self.established * 4.0
    }

    /// Whether at least four of five connections, and more than [`TOLERATED`], were established.
    fn gets_answers(&self) -> bool {
        self.established > TOLERATED && self.unanswered <= self.established / 4.0
    }
}

#[derive(Clone, Copy, Debug)]
struct Quarantine {
    until: Instant,
    length: Duration,
}

/// The quarantine of each key (an address, or an address and a destination). A key is left out until its quarantine ends. The
/// ended quarantine is kept for twice its length: if another begins in that time, that one is twice as long. At most
/// 1,024 are kept: for a further one, the one that ends soonest is dropped.
#[derive(Debug)]
pub struct Quarantines<K>(HashMap<K, Quarantine>);

impl<K> Default for Quarantines<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Copy + Eq + Hash> Quarantines<K> {
    /// Begins a quarantine of `key` at `now`; changes nothing if it is left out already. The quarantine lasts 1 s; if the last
    /// one ended less than twice its length ago, twice as long as that one, at most 1 min. If 1,024 others are kept, the one that
    /// ends soonest is dropped, also if it has not ended.
    pub fn begin(&mut self, key: K, now: Instant) {
        let length = match self.0.get(&key) {
            Some(before) if now < before.until => return,
            Some(before) if now < before.until + before.length * 2 => {
                (before.length * 2).min(LONGEST)
            }
            _ => SHORTEST,
        };
        if self.0.len() >= REMEMBERED_MAX && !self.0.contains_key(&key) {
            let soonest = self.0.iter().min_by_key(|(_, it)| it.until).map(|(key, _)| *key);
            soonest.map(|key| self.0.remove(&key));
        }
        self.0.insert(key, Quarantine { until: now + length, length });
    }

    /// Ends the quarantine of `key` and forgets that there was one.
    pub fn forget(&mut self, key: &K) {
        self.0.remove(key);
    }

    /// Until when `key` is left out; `None`: it is not.
    pub fn until(&self, key: &K, now: Instant) -> Option<Instant> {
        self.0.get(key).map(|it| it.until).filter(|until| now < *until)
    }

    /// The keys that are left out now, each with the end of its quarantine.
    pub fn now(&self, now: Instant) -> impl Iterator<Item = (&K, Instant)> {
        self.0.iter().filter(move |(_, it)| now < it.until).map(|(key, it)| (key, it.until))
    }

    /// Forgets quarantines that ended so long ago that the next one of the same key is short again.
    fn tidy(&mut self, now: Instant) {
        self.0.retain(|_, it| now < it.until + it.length * 2);
    }
}

/// The addresses that are in quarantine.
#[derive(Debug, Default)]
pub struct Health {
    /// Addresses that the kernel refused.
    pub refused: Quarantines<Addr>,
    /// Addresses that get no answer from a destination that answers other addresses of the pool.
    pub failing: Quarantines<TupleKey>,
}

impl Health {
    /// Forgets the quarantines of an address that the host lost and has again.
    pub fn forget(&mut self, address: &Addr) {
        self.refused.forget(address);
        self.failing.0.retain(|key, _| key.source != *address);
    }

    /// Compares the addresses' connections to one destination (`outcomes` must be of the same one; not checked), and begins the
    /// quarantine of those that get no answer: more than 3 recent connections, and at least four of five, unanswered. Their
    /// outcomes start at zero again: after the quarantine only new connections count. If no address that is in use gets answers,
    /// the destination is at fault, and none is left out.
    pub fn judge(&mut self, outcomes: &mut [(TupleKey, &mut Outcome)], now: Instant) {
        let is_in_use = |key| self.failing.until(key, now).is_none();
        if !outcomes.iter().any(|(key, outcome)| outcome.gets_answers() && is_in_use(key)) {
            return;
        }
        for (key, outcome) in outcomes.iter_mut().filter(|(_, outcome)| outcome.gets_no_answer()) {
            self.failing.begin(*key, now);
            **outcome = Outcome::default();
        }
    }

    /// Ends the quarantines towards each destination for which all of the `usable` addresses of its family are in
    /// quarantine, or there is no such address.
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

    /// Forgets quarantines that ended so long ago that the next one is short again.
    pub fn tidy(&mut self, now: Instant) {
        self.refused.tidy(now);
        self.failing.tidy(now);
    }
}

#[cfg(test)]
mod tests;
