//! Whose turn it is where a look has no time for everybody: each goes on where the one before it stopped. Pure.

/// Who had the newest turn, and how far the round goes: whoever comes later with a greater key waits until it is over, or those
/// who come and go all the time would have all turns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turns<K> {
    newest: Option<K>,
    end: Option<K>,
    /// The greatest key of the newest look.
    greatest: Option<K>,
}

impl<K> Default for Turns<K> {
    /// Nobody had one.
    fn default() -> Self {
        Self { newest: None, end: None, greatest: None }
    }
}

impl<K: Ord + Copy> Turns<K> {
    /// Puts these in the order in which they have their turns: in the order of keys, those first that are left of this round.
    pub(crate) fn sort(&mut self, all: &mut [K]) {
        all.sort_unstable();
        self.greatest = all.last().copied();
        if let Some(newest) = self.newest {
            let is_left = |key: &K| *key > newest && self.end.is_some_and(|end| *key <= end);
            all.sort_by_key(|key| !is_left(key));
        } else {
            self.end = self.greatest;
        }
    }

    /// This one had its turn.
    pub(crate) fn had(&mut self, key: K) {
        if self.newest.is_some_and(|newest| key <= newest) || self.end.is_some_and(|end| key > end)
        {
            self.end = self.greatest;
        }
        self.newest = Some(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_turn_whoever_comes_and_goes() {
        let mut turns = Turns::default();
        // Two at a time.
        let mut look = |mut all: Vec<u32>| {
            turns.sort(&mut all);
            all.truncate(2);
            for key in &all {
                turns.had(*key);
            }
            all
        };
        assert_eq!(look(vec![5, 1, 3, 2, 4]), [1, 2]);
        assert_eq!(look(vec![5, 1, 3, 2, 4]), [3, 4]);
        assert_eq!(look(vec![5, 1, 3, 2, 4]), [5, 1]);
        // The one that had the newest turn is gone; new ones have come.
        assert_eq!(look(vec![9, 0, 3, 2]), [2, 3]);
        assert_eq!(look(vec![2, 3]), [2, 3]);
        assert!(look(vec![]).is_empty());
    }

    #[test]
    fn newcomers_wait_until_the_round_is_over() {
        let mut turns = Turns::default();
        let mut had = Vec::new();
        // Each look has time for two; each time two new ones have come with the greatest keys, and the two before are gone.
        for look in 0..6 {
            let mut all = vec![1, 2, 3, 4, 5, 100 + 2 * look, 101 + 2 * look];
            turns.sort(&mut all);
            all.truncate(2);
            for key in &all {
                turns.had(*key);
            }
            had.extend(all);
        }
        assert_eq!(had, [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2]);
    }
}
