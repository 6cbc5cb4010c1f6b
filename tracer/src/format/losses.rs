//! What was lost, as sentences for stderr and for the last line of a text.

use std::collections::BTreeMap;

/// A loss is said again when it has become so many times as large.
const MUCH_MORE: u64 = 10;

/// The losses that stderr has been told of.
#[derive(Debug, Default)]
pub(crate) struct Said(BTreeMap<&'static str, u64>);

impl Said {
    /// What there is to say now: the losses that are new, and those that are ten times what they were
    /// when they were said last. `None`: nothing. `losses`: all of them, as counts since the start.
    pub(crate) fn news(
        &mut self,
        losses: impl Iterator<Item = (&'static str, u64)>,
    ) -> Option<String> {
        let worth = losses.filter(|(reason, count)| {
            let before = self.0.get(reason).copied().unwrap_or(0);
            *count > before && *count >= before.saturating_mul(MUCH_MORE)
        });
        let news: Vec<_> = worth.collect();
        self.0.extend(news.iter().copied());
        sentence(news.into_iter())
    }

    /// What there is to say at the end: all losses, if they have grown since they were said.
    pub(crate) fn rest(
        &mut self,
        losses: impl Iterator<Item = (&'static str, u64)>,
    ) -> Option<String> {
        let all: BTreeMap<_, _> = losses.filter(|(_, count)| *count > 0).collect();
        let grown = all != self.0;
        self.0 = all;
        grown.then(|| sentence(self.0.iter().map(|(reason, count)| (*reason, *count)))).flatten()
    }
}

/// `lost: 136 tuples_full, 2 hook_missed; …`, the largest first; `None`: nothing was lost.
pub(crate) fn sentence<'a>(losses: impl Iterator<Item = (&'a str, u64)>) -> Option<String> {
    let mut losses: Vec<_> = losses.filter(|(_, count)| *count > 0).collect();
    losses.sort_by_key(|(reason, count)| (std::cmp::Reverse(*count), *reason));
    let list: Vec<_> = losses.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    (!list.is_empty())
        .then(|| format!("lost: {}; tracer/doc/losses.md says what each means", list.join(", ")))
}

/// For serde: each loss with the `lost.` prefix.
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
    fn the_largest_comes_first_and_nothing_is_said_of_nothing() {
        assert_eq!(sentence([("map_busy", 0)].into_iter()), None);
        let text = sentence([("map_busy", 1), ("conns_full", 0), ("tuples_full", 136)].into_iter());
        let text = text.unwrap();
        assert!(text.starts_with("lost: 136 tuples_full, 1 map_busy;"), "{text}");
    }

    #[test]
    fn a_loss_is_said_when_it_begins_and_when_it_has_become_ten_times_as_large() {
        let mut said = Said::default();
        let mut news =
            |full, busy| said.news([("tuples_full", full), ("map_busy", busy)].into_iter());
        assert_eq!(news(0, 0), None);
        assert!(news(3, 0).unwrap().starts_with("lost: 3 tuples_full;"));
        assert_eq!(news(29, 0), None);
        assert!(news(29, 1).unwrap().starts_with("lost: 1 map_busy;"));
        assert!(news(30, 9).unwrap().starts_with("lost: 30 tuples_full;"));
        assert_eq!(news(30, 9), None);
        let mut rest =
            |full, busy| said.rest([("tuples_full", full), ("map_busy", busy)].into_iter());
        assert!(rest(40, 9).unwrap().starts_with("lost: 40 tuples_full, 9 map_busy;"));
        assert_eq!(rest(40, 9), None);
    }
}
