//! Whether connections that were spread come to be. Pure.
//!
//! Of a connect() that fails before it has a port, for want of a route, an agent's ledger knows nothing. But
//! then more sources are chosen than connections are opened, and a doubt begins: for a while the agent asks
//! what is chosen, to look whether there is a way.

use tracer_common::TupleKey;

/// Connections of which nobody wonders where they are.
const TOLERATED: u64 = 3;
/// One in so many need not be there either: what is under way while two tables are read.
const INEXACT: u64 = 64;
/// Looks for which a doubt lasts.
const LOOKS: u32 = 10;
/// Pairs that are followed up in one doubt; others will be in the next.
const FOLLOWED: usize = 64;

/// What was counted, and what is being asked.
#[derive(Debug, Default)]
pub struct Doubt {
    /// Sources chosen up to the last look.
    chosen: Option<u64>,
    missing: u64,
    looks_left: u32,
    sample: u32,
    followed: Vec<TupleKey>,
}

impl Doubt {
    /// A look: sources `chosen` ever, and connections opened since the last look whose source was chosen.
    pub fn look(&mut self, chosen: u64, opened: u64) {
        self.looks_left = self.looks_left.saturating_sub(1);
        let Some(before) = self.chosen.replace(chosen) else { return };
        let newly = chosen.saturating_sub(before);
        self.missing = (self.missing + newly).saturating_sub(opened);
        if self.missing > TOLERATED + newly / INEXACT {
            self.missing = 0;
            self.looks_left = LOOKS;
            self.followed.clear();
            // Some tens of them until the next look.
            self.sample = u32::try_from(newly / INEXACT).unwrap_or(u32::MAX >> 1);
            self.sample = self.sample.next_power_of_two();
        }
    }

    /// One choice in so many is to be told; 0: none.
    pub fn sample(&self) -> u32 {
        if self.looks_left > 0 { self.sample } else { 0 }
    }

    /// Whether the way from this source to this destination is to be looked at: once in a doubt.
    pub fn follow(&mut self, pair: &TupleKey) -> bool {
        let is_new =
            self.looks_left > 0 && self.followed.len() < FOLLOWED && !self.followed.contains(pair);
        if is_new {
            self.followed.push(*pair);
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(destination_port: u16) -> TupleKey {
        TupleKey { destination_port, ..TupleKey::default() }
    }

    #[test]
    fn connections_that_never_come_to_be_raise_a_doubt_however_slowly() {
        let mut doubt = Doubt::default();
        for look in 0..10 {
            assert_eq!(doubt.sample(), u32::from(look > 4), "{look}");
            doubt.look(1_000 + look, 0);
        }
        for _ in 0..LOOKS {
            doubt.look(1_009, 0);
        }
        assert_eq!(doubt.sample(), 0);
    }

    #[test]
    fn there_is_no_doubt_where_all_come_to_be_and_the_tables_are_not_read_at_once() {
        let mut doubt = Doubt::default();
        for look in 0..1_000 {
            // Ten of them are counted now in one look, now in the next.
            doubt.look(10_000 * look, if look % 2 == 0 { 10_010 } else { 9_990 });
            assert_eq!(doubt.sample(), 0);
        }
    }

    #[test]
    fn of_many_some_tens_are_told_and_each_pair_is_followed_once() {
        let mut doubt = Doubt::default();
        assert!(!doubt.follow(&pair(1)));
        doubt.look(0, 0);
        doubt.look(50_000, 40_000);
        assert_eq!(doubt.sample(), 1024);
        assert!(doubt.follow(&pair(1)) && doubt.follow(&pair(2)));
        assert!(!doubt.follow(&pair(1)));
        doubt.look(100_000, 40_000);
        assert!(doubt.follow(&pair(1)));
    }
}
