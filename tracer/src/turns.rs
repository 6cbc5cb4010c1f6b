//! Whose turn it is where a look has no time for everybody: each goes on where the one before it stopped. Pure.

/// Who had the newest turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turns<K>(Option<K>);

impl<K> Default for Turns<K> {
    /// Nobody had one.
    fn default() -> Self {
        Self(None)
    }
}

impl<K: Ord + Copy> Turns<K> {
    /// Puts these in the order in which they have their turns: in the order of keys, those first whose keys are greater than
    /// that of the newest turn.
    pub(crate) fn sort(&self, all: &mut [K]) {
        all.sort_unstable();
        if let Some(newest) = self.0 {
            let next = all.partition_point(|one| *one <= newest);
            all.rotate_left(next);
        }
    }

    /// This one had its turn.
    pub(crate) fn had(&mut self, key: K) {
        self.0 = Some(key);
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
}
