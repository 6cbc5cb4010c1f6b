//! Chooses the tuples without ports that are removed to make room for others. No I/O.

use std::{collections::HashMap, time::Duration};

use tracer_common::{Cause, TupleCount, TupleKey};

use crate::runtime::clock;

/// How long a tuple without ports is kept for its history, while the table is at most half full.
const KEEP: Duration = Duration::from_mins(10);
/// How many tuples one sweep removes at most to make room, as the caller has other things to do.
const AT_ONCE: u64 = 16_384;

/// How much the history of a tuple without ports is worth, least first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Worth {
    /// No connection was established: every port scan leaves such tuples.
    Little,
    /// Connections were established, and have ended: more ports were taken than calls failed.
    Some,
    /// A connect() or bind() failed because no port was free, or because its 4-tuple was taken.
    Most,
}

impl Worth {
    fn of(count: &TupleCount) -> Self {
        let exhausted = [Cause::PortsExhausted, Cause::BindExhausted, Cause::TupleInUse];
        if exhausted.into_iter().any(|cause| count.failed[cause as usize] > 0) {
            Self::Most
        } else if count.opened > count.failures() {
            Self::Some
        } else {
            Self::Little
        }
    }

    /// How long such a tuple is kept at least when room is needed.
    fn keep(self) -> Duration {
        Duration::from_secs(match self {
            Self::Little => 3,
            Self::Some => 15,
            Self::Most => 60,
        })
    }
}

/// A tuple to remove if it has not changed since `last_ns` (CLOCK_MONOTONIC, ns).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Idle {
    pub key: TupleKey,
    pub last_ns: u64,
}

/// How many tuples an owner has, without those that are removed anyway because they are old; and those of them that
/// could be removed to make room.
type Owner = (u64, Vec<(Worth, Idle)>);

/// Collects all tuples of a reading ([`Self::add`]), and then chooses those to remove ([`Self::chosen`]).
#[derive(Debug, Default)]
pub(super) struct Sweep {
    all: u64,
    old: Vec<Idle>,
    owners: HashMap<u32, Owner>,
}

impl Sweep {
    /// Adds a tuple with its counters. If it holds no port, it can be chosen: as old if it has not changed for more than 10
    /// minutes; to make room if it has not for more than 60 s (a call found no port, or its 4-tuple was taken), 15 s (connections
    /// were established) or 3 s (else). `now_ns`: CLOCK_MONOTONIC.
    pub(super) fn add(&mut self, key: &TupleKey, count: &TupleCount, now_ns: u64) {
        self.all += 1;
        let (all, candidates) = self.owners.entry(count.owner).or_default();
        *all += 1;
        // The kernel side checks the same: a tuple whose counts need a correction is not idle.
        if count.opened != count.released {
            return;
        }
        let idle = Idle { key: *key, last_ns: count.last_ns };
        let age_ns = now_ns.saturating_sub(count.last_ns);
        if age_ns > clock::as_ns(KEEP) {
            self.old.push(idle);
            *all -= 1;
            self.all -= 1;
            return;
        }
        let worth = Worth::of(count);
        if age_ns > clock::as_ns(worth.keep()) {
            candidates.push((worth, idle));
        }
    }

    /// The tuples to remove from a table of `max` entries: those that are old; and if the others fill more than half of it, as
    /// many more as are above the half, at most [`AT_ONCE`] (16,384), of the owners that have most (fewer if not enough have been
    /// idle for long enough). Of each owner, the tuples whose history is worth least are removed first, and of equal ones those
    /// that have been idle longest.
    pub(super) fn chosen(self, max: u32) -> Vec<Idle> {
        let mut chosen = self.old;
        let excess = self.all.saturating_sub(u64::from(max) / 2).min(AT_ONCE);
        if excess == 0 {
            return chosen;
        }
        let mut owners: Vec<_> = self.owners.into_values().collect();
        let level = level(&owners, excess);
        let mut left = excess;
        for (all, candidates) in &mut owners {
            let count = all.saturating_sub(level).min(left).min(candidates.len() as u64);
            left -= count;
            candidates.sort_unstable_by_key(|(worth, idle)| (*worth, idle.last_ns));
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            chosen.extend(candidates.iter().take(count).map(|(_, idle)| *idle));
        }
        chosen
    }
}

/// How many tuples each owner may keep, as many as possible while at least `excess` tuples are removed; 0 if fewer than
/// `excess` can be removed.
fn level(owners: &[Owner], excess: u64) -> u64 {
    let removed = |level: u64| -> u64 {
        let over = |all: u64| all.saturating_sub(level);
        owners.iter().map(|(all, candidates)| over(*all).min(candidates.len() as u64)).sum()
    };
    let (mut low, mut high) = (0, owners.iter().map(|(all, _)| *all).max().unwrap_or(0));
    while low < high {
        let middle = (low + high).div_ceil(2);
        if removed(middle) >= excess {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const NOW: u64 = 36_000 * SECOND;

    fn tuple(port: u16, owner: u32, age: u64) -> (TupleKey, TupleCount) {
        let key = TupleKey { destination_port: port, ..TupleKey::default() };
        let mut count = TupleCount { owner, last_ns: NOW - age * SECOND, ..TupleCount::default() };
        count.opened = 1;
        count.released = 1;
        count.failed[Cause::Refused as usize] = 1;
        (key, count)
    }

    fn exhausted(mut tuple: (TupleKey, TupleCount)) -> (TupleKey, TupleCount) {
        tuple.1.failed[Cause::PortsExhausted as usize] = 20;
        tuple
    }

    fn chosen(tuples: &[(TupleKey, TupleCount)], max: u32) -> Vec<u16> {
        let mut sweep = Sweep::default();
        for (key, count) in tuples {
            sweep.add(key, count, NOW);
        }
        sweep.chosen(max).iter().map(|idle| idle.key.destination_port).collect()
    }

    #[test]
    fn with_room_only_old_tuples_are_removed() {
        let mut held = tuple(3, 1, 7000);
        held.1.opened = 2;
        assert_eq!(chosen(&[tuple(1, 1, 700), tuple(2, 1, 500), held], 64), [1]);
    }

    #[test]
    fn without_room_the_least_worth_is_removed_first_and_no_more_than_needed() {
        let mut ended = tuple(2, 1, 100);
        ended.1.opened = 9;
        ended.1.released = 9;
        let all = [exhausted(tuple(1, 1, 100)), ended, tuple(3, 1, 50), tuple(4, 1, 60)];
        assert_eq!(chosen(&all, 6), [4]);
        assert_eq!(chosen(&all, 4), [4, 3]);
        assert_eq!(chosen(&all, 2), [4, 3, 2]);
    }

    #[test]
    fn a_tuple_that_has_just_changed_stays_even_without_room() {
        assert!(chosen(&[tuple(1, 1, 2), exhausted(tuple(2, 1, 30))], 2).is_empty());
    }

    #[test]
    fn tuples_of_a_flood_are_removed_before_those_of_others() {
        let flood = (0..100).map(|port| exhausted(tuple(port, 7, 100)));
        let few = (200..210).map(|port| tuple(port, 8, 300));
        let all: Vec<_> = flood.chain(few).collect();
        let gone = chosen(&all, 120);
        assert_eq!(gone.len(), 50);
        assert!(gone.iter().all(|port| *port < 100), "{gone:?}");
    }
}
