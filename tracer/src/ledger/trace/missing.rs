//! What found no room in a table is looked for once there is room.

use tracer_common::Loss;

use crate::kernel::maps::Totals;

/// Up to which loss all that found no room has been looked for since.
#[derive(Debug, Default)]
pub(super) struct Missing {
    looked_for: u64,
}

impl Missing {
    /// Whether anything found no room that has not been looked for. `lost` is of [`for_lack_of_room`].
    pub(super) const fn is_any(&self, lost: u64) -> bool {
        lost > self.looked_for
    }

    /// What was lost by then has been looked for, everywhere. `refused`: so many entries found no room again, because
    /// of their owner's share, and are to be looked for again.
    pub(super) const fn looked_for(&mut self, lost: u64, refused: u64) {
        if refused == 0 {
            self.looked_for = lost;
        }
    }
}

/// How many entries found no room in a table of the ledger, or none in their owner's share of it.
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

/// Whether a table has room for what was missed: an eighth of it is free. (All sockets of all namespaces are read for
/// that, which a table that stays full is not worth.)
pub(super) const fn has_room(used: usize, max: u32) -> bool {
    used <= max as usize - max as usize / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_is_looked_for_until_all_has_room() {
        let mut missing = Missing::default();
        assert!(!missing.is_any(0));
        assert!(missing.is_any(5));
        missing.looked_for(5, 1);
        assert!(missing.is_any(5));
        missing.looked_for(5, 0);
        assert!(!missing.is_any(5));
        assert!(missing.is_any(6));
    }

    #[test]
    fn there_is_room_where_an_eighth_is_free() {
        assert!(has_room(0, 64) && has_room(56, 64) && has_room(0, 1));
        assert!(!has_room(57, 64) && !has_room(64, 64) && !has_room(1, 0));
    }

    #[test]
    fn losses_of_other_kinds_are_not_looked_for() {
        let totals = Totals { lost: [1; Loss::COUNT], ..Totals::default() };
        assert_eq!(for_lack_of_room(&totals), 6);
    }
}
