//! Totals over all tuples that never fall.
//!
//! A sum over the table falls when a tuple is removed from it. So what each tuple has gained since the reading before is added up.

use tracer_common::{Loss, TupleCount, TupleKey, tuple::SEARCH_BUCKETS};

use crate::ledger::stats::Earlier;

/// The names of the losses that are there from the first reading on, besides those of [`Loss`].
pub(super) const OTHER_LOSSES: [&str; 4] =
    ["hook_missed", "output_full", "output_full_other", "undecodable"];

/// A difference of two readings of a counter of 32 bits from which on the counter has begun again, rather than wrapped.
const BEGUN_AGAIN: u32 = 1 << 31;

/// Sums over all tuples, also those that were removed, since the first reading.
#[derive(Debug, Default)]
pub(super) struct Totals {
    sums: Sums,
    /// The counters at the newest reading.
    before: Earlier<Counters>,
    /// Memory for the next reading.
    spare: Vec<(TupleKey, Counters)>,
}

/// Sums, or what one tuple has gained.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Sums {
    /// Ports that were taken.
    pub(super) opened: u64,
    /// Ports that were released.
    pub(super) released: u64,
    /// Port searches, by [`tracer_common::tuple::search_bucket`].
    pub(super) search: [u64; SEARCH_BUCKETS],
}

/// The counters of a tuple that are needed at the next reading.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    opened: u64,
    released: u64,
    search: [u32; SEARCH_BUCKETS],
}

impl Totals {
    /// Begins a reading: [`Self::add`] is to be called for each tuple, then [`Self::end`].
    pub(super) fn begin(&mut self) {
        self.spare.clear();
    }

    /// Adds what this tuple has gained since the reading before. Returns its port searches since then; all, if it was not there.
    pub(super) fn add(&mut self, key: TupleKey, count: &TupleCount) -> [u32; SEARCH_BUCKETS] {
        let mut now =
            Counters { opened: count.opened, released: count.released, search: count.search };
        let before = self.before.get(&key).copied().filter(|before| !now.begun_again(before));
        let before = before.unwrap_or_default();
        // On the tracepoint backend, a release can be taken back; then the total stays until it is made up for.
        now.released = now.released.max(before.released);
        let mut recent = [0; SEARCH_BUCKETS];
        for (recent, (now, before)) in recent.iter_mut().zip(now.search.iter().zip(before.search)) {
            *recent = now.wrapping_sub(before);
        }
        let sums = &mut self.sums;
        sums.opened = sums.opened.saturating_add(now.opened - before.opened);
        sums.released = sums.released.saturating_add(now.released - before.released);
        for (sum, gained) in sums.search.iter_mut().zip(recent) {
            *sum = sum.saturating_add(gained.into());
        }
        self.spare.push((key, now));
        recent
    }

    /// Ends the reading, and returns the sums.
    pub(super) fn end(&mut self) -> Sums {
        self.before.replace(&mut self.spare);
        self.sums
    }
}

impl Counters {
    /// Whether the tuple was removed since `before`, and added again: a counter is lower than it was.
    fn begun_again(&self, before: &Self) -> bool {
        let fell = |(now, before): (&u32, u32)| now.wrapping_sub(before) >= BEGUN_AGAIN;
        self.opened < before.opened || self.search.iter().zip(before.search).any(fell)
    }
}

/// The count of each loss, in the order of [`Loss::ALL`], then [`OTHER_LOSSES`], then others of `reading`: 0 if `reading` does not
/// have it.
pub(super) fn losses(reading: &[(&'static str, u64)]) -> Vec<(&'static str, u64)> {
    let names = Loss::ALL.map(Loss::name).into_iter().chain(OTHER_LOSSES);
    let mut all: Vec<(&str, u64)> = names.map(|name| (name, 0)).collect();
    for (name, count) in reading {
        match all.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = (*known).max(*count),
            None => all.push((name, *count)),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16) -> TupleKey {
        TupleKey { destination_port: port, ..TupleKey::default() }
    }

    fn count(opened: u64, released: u64, searches: u32) -> TupleCount {
        let mut count = TupleCount { opened, released, ..TupleCount::default() };
        count.search[3] = searches;
        count
    }

    /// The sums (opened, released, searches) after a reading of these tuples.
    fn read(totals: &mut Totals, tuples: &[(u16, TupleCount)]) -> (u64, u64, u64) {
        totals.begin();
        for (port, count) in tuples {
            totals.add(key(*port), count);
        }
        let sums = totals.end();
        (sums.opened, sums.released, sums.search[3])
    }

    #[test]
    fn a_total_does_not_fall_when_a_tuple_is_removed_or_added_again() {
        let mut totals = Totals::default();
        let (a, b) = (count(10, 10, 10), count(5, 0, 5));
        assert_eq!(read(&mut totals, &[(1, a), (2, b)]), (15, 10, 15));
        assert_eq!(read(&mut totals, &[(2, b)]), (15, 10, 15));
        assert_eq!(read(&mut totals, &[(2, count(7, 1, 6)), (1, count(3, 2, 3))]), (20, 13, 19));
        // Removed and added again between two readings.
        assert_eq!(read(&mut totals, &[(2, count(1, 1, 1)), (1, count(3, 2, 3))]), (21, 14, 20));
    }

    #[test]
    fn a_total_does_not_fall_when_a_release_is_taken_back() {
        let mut totals = Totals::default();
        assert_eq!(read(&mut totals, &[(1, count(9, 5, 0))]).1, 5);
        assert_eq!(read(&mut totals, &[(1, count(9, 4, 0))]).1, 5);
        assert_eq!(read(&mut totals, &[(1, count(9, 5, 0))]).1, 5);
        assert_eq!(read(&mut totals, &[(1, count(9, 6, 0))]).1, 6);
    }

    #[test]
    fn a_counter_of_searches_that_wraps_has_not_begun_again() {
        let mut totals = Totals::default();
        read(&mut totals, &[(1, count(u64::from(u32::MAX), 0, u32::MAX))]);
        let (_, _, searches) = read(&mut totals, &[(1, count(u64::from(u32::MAX) + 4, 0, 3))]);
        assert_eq!(searches, u64::from(u32::MAX) + 4);
    }

    #[test]
    fn every_loss_is_there_with_0() {
        let losses = losses(&[("binds_full", 3), ("not_told", 2)]);
        assert_eq!(losses.len(), Loss::COUNT + OTHER_LOSSES.len() + 1);
        assert!(losses.contains(&("binds_full", 3)) && losses.contains(&("hook_missed", 0)));
        assert_eq!(losses.last(), Some(&("not_told", 2)));
    }
}
