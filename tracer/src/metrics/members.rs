//! Which tuples are shown: those that are fullest, and for a while those that were.
//!
//! A tuple that came and went with each reading would make series that begin and end all the time, and no alert with a `for:` would
//! ever fire. So a tuple stays for [`STAY`] after it was last among the fullest.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::{Duration, Instant},
};

use tracer_common::TupleKey;

/// How long a tuple is shown after it was last among the fullest.
const STAY: Duration = Duration::from_mins(10);

/// The tuples that are shown. At most twice as many as are among the fullest.
#[derive(Debug)]
pub(super) struct Members {
    /// How many tuples are among the fullest.
    top: usize,
    /// When each was last among the fullest.
    last_top: BTreeMap<TupleKey, Instant>,
}

/// How full a tuple is, to compare it with others.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Rank {
    /// The bits of the saturation plus 1 (as those of numbers from 0 on, they are in the order of the numbers); 0: not known.
    saturation: u64,
    in_use: u64,
    /// Of equally full tuples, those with the smallest keys are shown.
    key: Reverse<TupleKey>,
}

impl Rank {
    /// `saturation`: `None`: not known, so that the tuple comes after all others.
    pub(super) fn new(key: TupleKey, saturation: Option<f64>, in_use: u64) -> Self {
        let bits = |saturation: f64| saturation.max(0.0).to_bits().saturating_add(1);
        Self { saturation: saturation.map_or(0, bits), in_use, key: Reverse(key) }
    }
}

impl Members {
    /// Shows the `top` fullest tuples.
    pub(super) fn new(top: usize) -> Self {
        Self { top, last_top: BTreeMap::new() }
    }

    /// From the next reading on, shows the `top` fullest tuples.
    pub(super) fn show(&mut self, top: usize) {
        self.top = top;
    }

    /// Notes a reading: all tuples of it (each once), and when it was.
    pub(super) fn update(&mut self, tuples: impl Iterator<Item = Rank>, now: Instant) {
        let mut fullest = BinaryHeap::with_capacity(self.top.saturating_add(1));
        let mut still_there = BTreeMap::new();
        for rank in tuples {
            let key = rank.key.0;
            if let Some(at) = self.last_top.get(&key) {
                still_there.insert(key, *at);
            }
            fullest.push(Reverse(rank));
            if fullest.len() > self.top {
                fullest.pop();
            }
        }
        still_there.extend(fullest.into_iter().map(|Reverse(rank)| (rank.key.0, now)));
        still_there.retain(|_, at| now.saturating_duration_since(*at) < STAY);
        let most = self.top.saturating_mul(2);
        if still_there.len() > most {
            let mut oldest: Vec<_> = still_there.iter().map(|(key, at)| (*at, *key)).collect();
            oldest.sort_unstable();
            for (_, key) in oldest.drain(..still_there.len() - most) {
                still_there.remove(&key);
            }
        }
        self.last_top = still_there;
    }

    /// Whether this tuple is shown.
    pub(super) fn has(&self, key: &TupleKey) -> bool {
        self.last_top.contains_key(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16) -> TupleKey {
        TupleKey { destination_port: port, ..TupleKey::default() }
    }

    /// The ports of the tuples that are shown after a reading of these tuples (port, saturation).
    fn shown(members: &mut Members, tuples: &[(u16, f64)], now: Instant) -> Vec<u16> {
        let rank = |(port, saturation): &(u16, f64)| Rank::new(key(*port), Some(*saturation), 1);
        members.update(tuples.iter().map(rank), now);
        members.last_top.keys().map(|key| key.destination_port).collect()
    }

    #[test]
    fn the_fullest_are_in_at_once_and_out_ten_minutes_after_they_were_among_them() {
        let (mut members, start) = (Members::new(2), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(shown(&mut members, &[(1, 0.9), (2, 0.8), (3, 0.1)], at(0)), [1, 2]);
        assert_eq!(shown(&mut members, &[(1, 0.9), (2, 0.8), (3, 1.0)], at(5)), [1, 2, 3]);
        assert_eq!(shown(&mut members, &[(1, 0.9), (2, 0.8), (3, 1.0)], at(599)), [1, 2, 3]);
        assert_eq!(shown(&mut members, &[(1, 0.9), (2, 0.8), (3, 1.0)], at(600)), [1, 3]);
    }

    #[test]
    fn there_are_at_most_twice_as_many_and_those_go_first_that_were_out_longest() {
        let (mut members, start) = (Members::new(1), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let all = |full| [1, 2, 3].map(|port| (port, if port == full { 0.9 } else { 0.1 }));
        assert_eq!(shown(&mut members, &all(1), at(0)), [1]);
        assert_eq!(shown(&mut members, &all(2), at(1)), [1, 2]);
        assert_eq!(shown(&mut members, &all(3), at(2)), [2, 3]);
    }

    #[test]
    fn how_many_are_shown_can_change() {
        let (mut members, now) = (Members::new(1), Instant::now());
        let tuples = [(1, 0.9), (2, 0.8), (3, 0.7)];
        assert_eq!(shown(&mut members, &tuples, now), [1]);
        members.show(3);
        assert_eq!(shown(&mut members, &tuples, now), [1, 2, 3]);
        members.show(1);
        assert_eq!(shown(&mut members, &tuples, now + Duration::from_secs(1)).len(), 2);
    }

    #[test]
    fn a_tuple_that_is_gone_is_not_shown() {
        let (mut members, now) = (Members::new(2), Instant::now());
        assert_eq!(shown(&mut members, &[(1, 0.9), (2, 0.8)], now), [1, 2]);
        assert_eq!(shown(&mut members, &[(2, 0.8)], now), [2]);
        assert!(members.has(&key(2)) && !members.has(&key(1)));
    }

    #[test]
    fn a_tuple_without_a_capacity_comes_after_all_others_and_none_are_shown_of_0() {
        let mut members = Members::new(1);
        let ranks = [Rank::new(key(1), None, 900), Rank::new(key(2), Some(0.0), 0)];
        members.update(ranks.into_iter(), Instant::now());
        assert!(members.has(&key(2)) && !members.has(&key(1)));
        assert!(ranks[1] < Rank::new(key(3), Some(0.5), 0));
        assert!(shown(&mut Members::new(0), &[(1, 1.0)], Instant::now()).is_empty());
    }
}
