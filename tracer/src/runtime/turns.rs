//! Decides whose turn is next if there is not enough time for all: the next call continues where the last one stopped.
//! No I/O.

/// Gives keys their turns in rounds: in a round, each key has one turn, in the order of the keys. A key that comes during a
/// round and is greater than the round's last one waits until the round is over: otherwise keys that come and go would get
/// all turns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turns<K> {
    /// The key that had the newest turn; `None`: none had one yet.
    newest: Option<K>,
    /// The last key of the current round; `None`: there was no key yet.
    end: Option<K>,
    /// The greatest key of the last [`Self::sort`]; `None`: there was none.
    greatest: Option<K>,
}

impl<K> Default for Turns<K> {
    /// No key has had a turn.
    fn default() -> Self {
        Self { newest: None, end: None, greatest: None }
    }
}

impl<K: Ord + Copy> Turns<K> {
    /// Sorts the keys in the order of their turns: first those that are left in this round, then all that have to wait for
    /// the next round; both in the order of the keys.
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

    /// Notes that this key had its turn. If the key is one of the next round, that round begins.
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
    fn every_key_has_a_turn_although_others_come_and_go() {
        let mut turns = Turns::default();
        // Each call has time for two keys.
        let mut next = |mut all: Vec<u32>| {
            turns.sort(&mut all);
            all.truncate(2);
            for key in &all {
                turns.had(*key);
            }
            all
        };
        assert_eq!(next(vec![5, 1, 3, 2, 4]), [1, 2]);
        assert_eq!(next(vec![5, 1, 3, 2, 4]), [3, 4]);
        assert_eq!(next(vec![5, 1, 3, 2, 4]), [5, 1]);
        // The key that had the newest turn is gone, and there are new ones.
        assert_eq!(next(vec![9, 0, 3, 2]), [2, 3]);
        assert_eq!(next(vec![2, 3]), [2, 3]);
        assert!(next(vec![]).is_empty());
    }

    #[test]
    fn new_keys_wait_until_the_round_is_over() {
        let mut turns = Turns::default();
        let mut had = Vec::new();
        // There is time for two keys each time; each time two new ones have come with the greatest keys, and the two
        // before are gone.
        for step in 0..6 {
            let mut all = vec![1, 2, 3, 4, 5, 100 + 2 * step, 101 + 2 * step];
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
