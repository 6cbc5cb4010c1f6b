//! Decides when entries that found no room in a table are retried: once an eighth of each table is free.

use tracer_common::Loss;

use super::Tracer;
use crate::{error::Error, kernel::maps::Totals};

/// How many entries had been lost when the last complete retry found room for all of them.
#[derive(Debug, Default)]
pub(super) struct Missing {
    retried: u64,
}

impl Missing {
    /// Whether an entry was lost that has not been retried. `lost` is that of [`for_lack_of_room`].
    pub(super) const fn is_any(&self, lost: u64) -> bool {
        lost > self.retried
    }

    /// Notes that all of `lost` were retried, in all namespaces. `refused`: how many could not be added again (their
    /// owner's share is full, for example); if there are any, all are to be retried again.
    pub(super) const fn retried(&mut self, lost: u64, refused: u64) {
        if refused == 0 {
            self.retried = lost;
        }
    }
}

/// How often a held port, a tuple or a bound port found no room in its table, or in its owner's share of the table.
pub(super) fn for_lack_of_room(totals: &Totals) -> u64 {
    let counted = Loss::ALL.into_iter().zip(totals.lost);
    let for_lack = counted.filter(|(loss, _)| {
        matches!(
            loss,
            Loss::ConnsFull
                | Loss::TuplesFull
                | Loss::BindsFull
                | Loss::ConnsShare
                | Loss::TuplesShare
                | Loss::BindsShare
        )
    });
    for_lack.map(|(_, count)| count).sum()
}

/// Whether a table with `used` of at most `max` entries has room to retry lost entries: at least an eighth of it is free. A retry
/// reads all sockets of all namespaces, which is not worth it for a table that stays full.
pub(super) const fn has_room(used: usize, max: u32) -> bool {
    used <= max as usize - max as usize / 8
}

impl Tracer {
    /// Whether the tables of tuples, held ports and bound ports have room for what was lost ([`has_room`]). If not, removes
    /// idle tuples and looks again. `now_ns`: CLOCK_MONOTONIC.
    ///
    /// # Errors
    /// A map cannot be read, or a command fails.
    pub(super) fn can_make_room(&mut self, now_ns: u64) -> Result<bool, Error> {
        if self.has_room()? {
            return Ok(true);
        }
        self.forget_idle(now_ns)?;
        self.has_room()
    }

    /// Whether the tables of tuples, held ports and bound ports have room for what was lost, by [`has_room`].
    fn has_room(&mut self) -> Result<bool, Error> {
        let (mut tuples, mut conns, mut binds) = (0, 0, 0);
        self.session.maps.tuples(|_, _| tuples += 1)?;
        self.session.maps.conns(|_, _| conns += 1)?;
        self.session.maps.binds(|_, _| binds += 1)?;
        let sizes = &self.tables.sizes;
        Ok(has_room(tuples, sizes.tuples)
            && has_room(conns, sizes.conns)
            && has_room(binds, sizes.binds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_entries_are_retried_until_all_have_room() {
        let mut missing = Missing::default();
        assert!(!missing.is_any(0));
        assert!(missing.is_any(5));
        missing.retried(5, 1);
        assert!(missing.is_any(5));
        missing.retried(5, 0);
        assert!(!missing.is_any(5));
        assert!(missing.is_any(6));
    }

    #[test]
    fn there_is_room_where_an_eighth_is_free() {
        assert!(has_room(0, 64) && has_room(56, 64) && has_room(0, 1));
        assert!(!has_room(57, 64) && !has_room(64, 64) && !has_room(1, 0));
    }

    #[test]
    fn losses_of_other_kinds_are_not_retried() {
        let totals = Totals { lost: [1; Loss::COUNT], ..Totals::default() };
        assert_eq!(for_lack_of_room(&totals), 6);
    }
}
