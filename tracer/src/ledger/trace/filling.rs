//! Tables that are nearly full: said before anything finds no room in them.

use std::time::{Duration, Instant};

use tracer_common::{settings::MAX_TOUCHED, share::Table};

use super::Tracer;
use crate::{
    error::Error,
    ledger::sizes::{Chosen, Sizes},
};

/// A table that is fuller than this, of 100, is said.
const NEARLY_FULL: u64 = 80;
/// One that was is so no more below this: what goes up and down around a limit is said once.
const CALM: u64 = 70;

/// What each table is for, and which setting makes it larger, if there is one.
const TABLES: [(Table, &str, Option<&str>); Table::COUNT] = [
    (Table::Conns, "held ports", Some("--max-conns")),
    (Table::Tuples, "tuples", Some("--max-tuples")),
    (Table::Binds, "bound ports", Some("--max-binds")),
    (Table::Touched, "ports that bind() took at some time", None),
];

/// What becomes of such ports ([`super::touched`]).
const NO_ROOM: &str =
    "one that finds no room will count as free where a connection keeps it from connect()";

/// What goes up and down by more than that is said no more often than this.
const PAUSE: Duration = Duration::from_hours(1);

/// Which tables are nearly full, and when that was said last.
#[derive(Debug, Default)]
pub(super) struct Filling {
    full: [bool; Table::COUNT],
    said: [Option<Instant>; Table::COUNT],
}

const fn entries(sizes: &Sizes, table: Table) -> u64 {
    (match table {
        Table::Conns => sizes.conns,
        Table::Tuples => sizes.tuples,
        Table::Binds => sizes.binds,
        Table::Touched => MAX_TOUCHED,
    }) as u64
}

impl Filling {
    /// What to warn of: each table that has become nearly full since the last call. `held`: entries by [`Table`].
    pub(super) fn news(
        &mut self,
        held: &[u64; Table::COUNT],
        tables: &Chosen,
        now: Instant,
    ) -> Vec<String> {
        let mut news = Vec::new();
        let states = self.full.iter_mut().zip(&mut self.said);
        for ((table, of, setting), (is_full, said)) in TABLES.into_iter().zip(states) {
            let (held, entries) = (held[table as usize], entries(&tables.sizes, table));
            let percent = held.saturating_mul(100) / entries.max(1);
            if *is_full {
                *is_full = percent >= CALM;
            } else if percent >= NEARLY_FULL {
                *is_full = true;
                if said.is_some_and(|at| now.duration_since(at) < PAUSE) {
                    continue;
                }
                *said = Some(now);
                let first = if tables.kept {
                    "end the rule (`tracer spread --release`), then "
                } else {
                    ""
                };
                let then = match setting {
                    Some(setting) => format!(
                        "{first}start with a larger {setting}, or what finds no room will be missing"
                    ),
                    None => format!("there can be no more, and {NO_ROOM}"),
                };
                news.push(format!(
                    "the table of {of} is {percent} % full ({held} of {entries} entries): {then}"
                ));
            }
        }
        news
    }

    /// The tables that are nearly full now.
    pub(super) fn reasons(&self, sizes: &Sizes) -> impl Iterator<Item = String> {
        let full = TABLES.into_iter().zip(self.full).filter(|(_, is_full)| *is_full);
        full.map(|((table, of, setting), _)| {
            let entries = entries(sizes, table);
            let then = setting.unwrap_or(NO_ROOM);
            format!("the table of {of} is nearly full: it has {entries} entries ({then})")
        })
    }
}

impl Tracer {
    /// Says on the log, and from now on in [`Tracer::degraded`], which tables are nearly full.
    pub(super) fn look_at_tables(&mut self) -> Result<(), Error> {
        let held = self.session.maps.held()?;
        for news in self.filling.news(&held, &self.tables, Instant::now()) {
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
        let tables = Chosen { sizes: SIZES, ..Chosen::default() };
        let begin = Instant::now();
        let mut news =
            |conns, hours| filling.news(&[0, conns, 0, 0], &tables, begin + PAUSE * hours).concat();
        assert_eq!(news(799, 0), "");
        let text = news(800, 0);
        assert!(text.starts_with("the table of held ports is 80 % full (800 of 1000"), "{text}");
        assert!(text.contains("larger --max-conns,"), "{text}");
        for held in [990, 790, 810, 700] {
            assert_eq!(news(held, 1), "", "{held}");
        }
        assert_eq!(news(699, 1), "");
        assert!(news(1000, 1).contains("100 % full"));
        // Up and down again within the hour; and then it has been one.
        assert_eq!([news(600, 1), news(1000, 1)], ["", ""]);
        assert_eq!(news(600, 2), "");
        assert!(news(1000, 2).contains("100 % full"));
        // A rule's tables are as large as at its first start.
        let kept = Chosen { kept: true, ..tables };
        let text = Filling::default().news(&[0, 1000, 0, 0], &kept, begin).concat();
        assert!(text.contains("--release`), then start with a larger --max-conns"), "{text}");
    }

    #[test]
    fn a_table_without_a_setting_is_said_with_what_follows() {
        let mut filling = Filling::default();
        let tables = Chosen { sizes: SIZES, kept: true, ..Chosen::default() };
        let held = [0, 0, 0, 52_429];
        let text = filling.news(&held, &tables, Instant::now()).concat();
        assert!(
            text.contains("is 80 % full (52429 of 65536 entries): there can be no more, and one")
        );
        assert!(!text.contains("--"), "{text}");
        assert!(
            filling.reasons(&SIZES).all(|it| it.contains("65536 entries (one that finds no room"))
        );
    }

    #[test]
    fn it_is_listed_as_long_as_it_is_nearly_full() {
        let mut filling = Filling::default();
        let tables = Chosen { sizes: SIZES, ..Chosen::default() };
        filling.news(&[64, 0, 60, 0], &tables, Instant::now());
        let listed: Vec<_> = filling.reasons(&SIZES).collect();
        assert_eq!(listed.len(), 2);
        assert!(listed[0].contains("tuples") && listed[0].contains("64 entries (--max-tuples)"));
        assert!(listed[1].contains("--max-binds"), "{listed:?}");
        filling.news(&[44, 0, 45, 0], &tables, Instant::now());
        assert!(filling.reasons(&SIZES).eq(listed.into_iter().skip(1)));
    }
}
