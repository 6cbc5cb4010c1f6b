//! Formats losses (how many events tracer did not record or count, by the reason's name): as a sentence for stderr, for the end
//! of a table and for a report; and as the keys `lost.…` of JSON. [`Reported`] decides which ones stderr still has to report.

use std::collections::BTreeMap;

/// A loss is logged again when it is this many times as large as when it was last logged.
const MUCH_MORE: u64 = 10;

/// The losses that were reported on stderr, each with its count at its last report.
#[derive(Debug, Default)]
pub(crate) struct Reported(BTreeMap<&'static str, u64>);

impl Reported {
    /// The sentence to report now: losses that are new, and those that are ten times as large as at their last
    /// report. `None`: there are none. `losses`: all of them, as counts since the start.
    pub(crate) fn new_losses(
        &mut self,
        losses: impl Iterator<Item = (&'static str, u64)>,
    ) -> Option<String> {
        let grown = losses.filter(|(reason, count)| {
            let before = self.0.get(reason).copied().unwrap_or(0);
            *count > before && *count >= before.saturating_mul(MUCH_MORE)
        });
        let grown: Vec<_> = grown.collect();
        self.0.extend(grown.iter().copied());
        sentence(grown.into_iter())
    }

    /// The sentence to report at the end: all losses. `None`: nothing was lost, or no count differs from that at its last
    /// report.
    pub(crate) fn all_losses(
        &mut self,
        losses: impl Iterator<Item = (&'static str, u64)>,
    ) -> Option<String> {
        let all: BTreeMap<_, _> = losses.filter(|(_, count)| *count > 0).collect();
        let grown = all != self.0;
        self.0 = all;
        grown.then(|| sentence(self.0.iter().map(|(reason, count)| (*reason, *count)))).flatten()
    }
}

/// The sentence, largest loss first, equal ones by name: `lost: 136 tuples_full, 2 hook_missed; …`. Losses that are 0 are left
/// out. `None`: nothing was lost.
pub(crate) fn sentence<'a>(losses: impl Iterator<Item = (&'a str, u64)>) -> Option<String> {
    let mut losses: Vec<_> = losses.filter(|(_, count)| *count > 0).collect();
    losses.sort_by_key(|(reason, count)| (std::cmp::Reverse(*count), *reason));
    let list: Vec<_> = losses.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    (!list.is_empty())
        .then(|| format!("lost: {}; tracer/doc/losses.md says what each means", list.join(", ")))
}

/// Serializes each loss, also one that is 0, as a key with the prefix `lost.`.
///
/// # Errors
/// Those of the serializer.
pub(crate) fn lost_prefix<S: serde::Serializer>(
    lost: &BTreeMap<&str, u64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(lost.iter().map(|(reason, count)| (format!("lost.{reason}"), count)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_comes_first_and_without_a_loss_there_is_no_sentence() {
        assert_eq!(sentence([("map_busy", 0)].into_iter()), None);
        let text = sentence([("map_busy", 1), ("conns_full", 0), ("tuples_full", 136)].into_iter());
        let text = text.unwrap();
        assert!(text.starts_with("lost: 136 tuples_full, 1 map_busy;"), "{text}");
    }

    #[test]
    fn a_loss_is_reported_when_it_begins_and_when_it_has_become_ten_times_as_large() {
        let mut reported = Reported::default();
        let mut new = |full, busy| {
            reported.new_losses([("tuples_full", full), ("map_busy", busy)].into_iter())
        };
        assert_eq!(new(0, 0), None);
        assert!(new(3, 0).unwrap().starts_with("lost: 3 tuples_full;"));
        assert_eq!(new(29, 0), None);
        assert!(new(29, 1).unwrap().starts_with("lost: 1 map_busy;"));
        assert!(new(30, 9).unwrap().starts_with("lost: 30 tuples_full;"));
        assert_eq!(new(30, 9), None);
        let mut all = |full, busy| {
            reported.all_losses([("tuples_full", full), ("map_busy", busy)].into_iter())
        };
        assert!(all(40, 9).unwrap().starts_with("lost: 40 tuples_full, 9 map_busy;"));
        assert_eq!(all(40, 9), None);
    }
}
