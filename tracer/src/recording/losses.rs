//! Losses by reason. The number and the length of reasons are limited, because the file is not trusted.

use std::collections::BTreeMap;

/// The most reasons that are counted separately: more than tracer has. Further ones are counted together, as [`OTHERS`].
const REASONS: usize = 64;
/// Longest reason, in bytes; longer ones are cut.
const LONGEST: usize = 64;
const OTHERS: &str = "other_reasons";

/// How much was lost, by reason. Reasons are cut to 64 bytes, between two characters.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Losses(BTreeMap<String, u64>);

impl Losses {
    /// Adds to the count of a reason, up to `u64::MAX`; 0 changes nothing. If 64 other reasons have a count already, this one is
    /// counted as `other_reasons`.
    pub fn add(&mut self, reason: &str, count: u64) {
        if count > 0 {
            let sum = self.of(reason);
            *sum = sum.saturating_add(count);
        }
    }

    /// Sets the count of a reason; 0 changes nothing. If 64 other reasons have a count already, sets that of `other_reasons`.
    pub fn set(&mut self, reason: &str, count: u64) {
        if count > 0 {
            *self.of(reason) = count;
        }
    }

    /// How much was lost for this reason; 0: nothing, or the loss is counted under `other_reasons`.
    pub fn get(&self, reason: &str) -> u64 {
        self.0.get(short(reason)).copied().unwrap_or(0)
    }

    /// The reasons with their counts, which are never 0, in the order of the reasons' names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(reason, count)| (reason.as_str(), *count))
    }

    pub fn into_map(self) -> BTreeMap<String, u64> {
        self.0
    }

    fn of(&mut self, reason: &str) -> &mut u64 {
        let reason = short(reason);
        let known = self.0.contains_key(reason) || self.0.len() < REASONS;
        self.0.entry(if known { reason } else { OTHERS }.to_owned()).or_default()
    }
}

fn short(reason: &str) -> &str {
    reason.get(..reason.floor_char_boundary(LONGEST)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_few_and_short_and_no_count_is_lost() {
        let mut losses = Losses::default();
        for number in 0..1000 {
            losses.add(&format!("{number}{}", "é".repeat(1000)), 2);
        }
        assert_eq!(losses.0.len(), REASONS + 1);
        assert!(losses.iter().all(|(reason, _)| reason.len() <= LONGEST));
        assert_eq!(losses.iter().map(|(_, count)| count).sum::<u64>(), 2000);
        losses.add("0", u64::MAX);
        losses.add("0", u64::MAX);
    }
}
