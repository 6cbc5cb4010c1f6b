//! Tables that are nearly full: said before anything finds no room in them.

use tracer_common::share::Table;

use super::Tracer;
use crate::{error::Error, sizes::Sizes};

/// A table that is fuller than this, of 100, is said.
const NEARLY_FULL: u64 = 80;
/// One that was is so no more below this: what goes up and down around a limit is said once.
const CALM: u64 = 70;

/// What each table is for, and which setting makes it larger.
const TABLES: [(Table, &str, &str); Table::COUNT] = [
    (Table::Conns, "held ports", "--max-conns"),
    (Table::Tuples, "tuples", "--max-tuples"),
    (Table::Binds, "bound ports", "--max-binds"),
];

/// Which tables are nearly full.
#[derive(Debug, Default)]
pub(super) struct Filling([bool; Table::COUNT]);

const fn entries(sizes: &Sizes, table: Table) -> u64 {
    (match table {
        Table::Conns => sizes.conns,
        Table::Tuples => sizes.tuples,
        Table::Binds => sizes.binds,
    }) as u64
}

impl Filling {
    /// What to warn of: each table that has become nearly full since the last call. `held`: entries by [`Table`].
    pub(super) fn news(&mut self, held: &[u64; Table::COUNT], sizes: &Sizes) -> Vec<String> {
        let mut news = Vec::new();
        for ((table, of, setting), is_full) in TABLES.into_iter().zip(&mut self.0) {
            let (held, entries) = (held[table as usize], entries(sizes, table));
            let percent = held.saturating_mul(100) / entries.max(1);
            if *is_full {
                *is_full = percent >= CALM;
            } else if percent >= NEARLY_FULL {
                *is_full = true;
                news.push(format!(
                    "the table of {of} is {percent} % full ({held} of {entries} entries): start with a larger \
                     {setting}, or what finds no room will be missing"
                ));
            }
        }
        news
    }

    /// The tables that are nearly full now.
    pub(super) fn reasons(&self, sizes: &Sizes) -> impl Iterator<Item = String> {
        let full = TABLES.into_iter().zip(self.0).filter(|(_, is_full)| *is_full);
        full.map(|((table, of, setting), _)| {
            let entries = entries(sizes, table);
            format!("the table of {of} is nearly full: it has {entries} entries ({setting})")
        })
    }
}

impl Tracer {
    /// Says on the log, and from now on in [`Tracer::degraded`], which tables are nearly full.
    pub(super) fn look_at_tables(&mut self) -> Result<(), Error> {
        let held = self.session.maps.held()?;
        for news in self.filling.news(&held, &self.tables.sizes) {
            tracing::warn!("{news}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes { conns: 1000, tuples: 64, binds: 64, tombstones: 64, attempts: 64 };

    #[test]
    fn a_table_is_said_once_each_time_that_it_is_nearly_full() {
        let mut filling = Filling::default();
        let mut news = |conns| filling.news(&[0, conns, 0], &SIZES).concat();
        assert_eq!(news(799), "");
        let text = news(800);
        assert!(text.starts_with("the table of held ports is 80 % full (800 of 1000"), "{text}");
        assert!(text.contains("larger --max-conns,"), "{text}");
        for held in [990, 790, 810, 700] {
            assert_eq!(news(held), "", "{held}");
        }
        assert_eq!(news(699), "");
        assert!(news(1000).contains("100 % full"));
    }

    #[test]
    fn it_is_listed_as_long_as_it_is_nearly_full() {
        let mut filling = Filling::default();
        filling.news(&[64, 0, 60], &SIZES);
        let listed: Vec<_> = filling.reasons(&SIZES).collect();
        assert_eq!(listed.len(), 2);
        assert!(listed[0].contains("tuples") && listed[0].contains("64 entries (--max-tuples)"));
        assert!(listed[1].contains("--max-binds"), "{listed:?}");
        filling.news(&[44, 0, 45], &SIZES);
        assert!(filling.reasons(&SIZES).eq(listed.into_iter().skip(1)));
    }
}
