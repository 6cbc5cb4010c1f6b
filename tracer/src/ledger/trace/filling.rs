//! Warns of tables that are nearly full, before an entry finds no room.

use std::time::{Duration, Instant};

use tracer_common::{settings::MAX_TOUCHED, share::Table};

use super::Tracer;
use crate::{
    error::Error,
    ledger::sizes::{Chosen, Sizes},
};

/// The percentage from which on a table is nearly full.
const NEARLY_FULL: u64 = 80;
/// The percentage below which a table that was nearly full is not any more. It is lower than [`NEARLY_FULL`], so that a
/// table that goes up and down around 80 % causes one warning.
const CALM: u64 = 70;

/// What each table is for, and which setting makes it larger; `None`: none does.
const TABLES: [(Table, &str, Option<&str>); Table::COUNT] = [
    (Table::Conns, "held ports", Some("--max-conns")),
    (Table::Tuples, "tuples", Some("--max-tuples")),
    (Table::Binds, "bound ports", Some("--max-binds")),
    (Table::Touched, "ports that bind() took at some time", None),
];

/// The consequence, for people, of a full table of the ports that bind() took at some time ([`super::touched`]).
const NO_ROOM: &str =
    "a port that finds no room counts as free even if a connection keeps connect() from getting it";

/// At least this much time is between two warnings of the same table.
const PAUSE: Duration = Duration::from_hours(1);

/// Which tables are nearly full, and when the last warning of each was.
#[derive(Debug, Default)]
pub(super) struct Filling {
    full: [bool; Table::COUNT],
    warned: [Option<Instant>; Table::COUNT],
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
    /// A text for people for each table that is at least 80 % full and was not nearly full before (it is not any more once it is
    /// below 70 %); empty: none. A table whose last warning is less than an hour before `now` gets none, nor later while it stays
    /// nearly full. `held`: entries by [`Table`]. `tables`: the sizes, and whether a rule keeps its table: then the text says to
    /// end it first.
    pub(super) fn warnings(
        &mut self,
        held: &[u64; Table::COUNT],
        tables: &Chosen,
        now: Instant,
    ) -> Vec<String> {
        let mut warnings = Vec::new();
        let states = self.full.iter_mut().zip(&mut self.warned);
        for ((table, of, setting), (is_full, warned)) in TABLES.into_iter().zip(states) {
            let (held, entries) = (held[table as usize], entries(&tables.sizes, table));
            let percent = held.saturating_mul(100) / entries.max(1);
            if *is_full {
                *is_full = percent >= CALM;
            } else if percent >= NEARLY_FULL {
                *is_full = true;
                if warned.is_some_and(|at| now.duration_since(at) < PAUSE) {
                    continue;
                }
                *warned = Some(now);
                let first = if tables.kept {
                    "end the rule (`tracer spread --release`), then "
                } else {
                    ""
                };
                let then = match setting {
                    Some(setting) => format!(
                        "{first}start with a larger {setting}, or entries that find no room are missing"
                    ),
                    None => format!("its size is fixed, and {NO_ROOM}"),
                };
                warnings.push(format!(
                    "the table of {of} is {percent} % full ({held} of {entries} entries): {then}"
                ));
            }
        }
        warnings
    }

    /// A text for people for each table that was nearly full at the newest [`Self::warnings`], warned of or not. `sizes`: those
    /// of the tables.
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
    /// Logs a warning for each table that became nearly full, at most once an hour for each. While it is nearly full,
    /// [`Tracer::degraded`] names it.
    ///
    /// # Errors
    /// The counters of the tables cannot be read.
    pub(super) fn check_tables(&mut self) -> Result<(), Error> {
        let held = self.session.maps.held()?;
        for warning in self.filling.warnings(&held, &self.tables, Instant::now()) {
            tracing::warn!("{warning}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes { conns: 1000, tuples: 64, binds: 64, tombstones: 64, attempts: 64 };

    #[test]
    fn each_time_that_a_table_becomes_nearly_full_there_is_one_warning() {
        let mut filling = Filling::default();
        let tables = Chosen { sizes: SIZES, ..Chosen::default() };
        let begin = Instant::now();
        let mut warnings = |conns, hours| {
            filling.warnings(&[0, conns, 0, 0], &tables, begin + PAUSE * hours).concat()
        };
        assert_eq!(warnings(799, 0), "");
        let text = warnings(800, 0);
        assert!(text.starts_with("the table of held ports is 80 % full (800 of 1000"), "{text}");
        assert!(text.contains("larger --max-conns,"), "{text}");
        for held in [990, 790, 810, 700] {
            assert_eq!(warnings(held, 1), "", "{held}");
        }
        assert_eq!(warnings(699, 1), "");
        assert!(warnings(1000, 1).contains("100 % full"));
        // Below the limit and above it again within the hour, and after an hour.
        assert_eq!([warnings(600, 1), warnings(1000, 1)], ["", ""]);
        assert_eq!(warnings(600, 2), "");
        assert!(warnings(1000, 2).contains("100 % full"));
        // The tables of a rule keep the size of its first start.
        let kept = Chosen { kept: true, ..tables };
        let text = Filling::default().warnings(&[0, 1000, 0, 0], &kept, begin).concat();
        assert!(text.contains("--release`), then start with a larger --max-conns"), "{text}");
    }

    #[test]
    fn the_warning_of_a_table_without_a_setting_names_the_consequence() {
        let mut filling = Filling::default();
        let tables = Chosen { sizes: SIZES, kept: true, ..Chosen::default() };
        let held = [0, 0, 0, 52_429];
        let text = filling.warnings(&held, &tables, Instant::now()).concat();
        assert!(
            text.contains("is 80 % full (52429 of 65536 entries): its size is fixed, and a port")
        );
        assert!(!text.contains("--"), "{text}");
        assert!(
            filling
                .reasons(&SIZES)
                .all(|it| it.contains("65536 entries (a port that finds no room"))
        );
    }

    #[test]
    fn a_table_is_listed_as_long_as_it_is_nearly_full() {
        let mut filling = Filling::default();
        let tables = Chosen { sizes: SIZES, ..Chosen::default() };
        filling.warnings(&[64, 0, 60, 0], &tables, Instant::now());
        let listed: Vec<_> = filling.reasons(&SIZES).collect();
        assert_eq!(listed.len(), 2);
        assert!(listed[0].contains("tuples") && listed[0].contains("64 entries (--max-tuples)"));
        assert!(listed[1].contains("--max-binds"), "{listed:?}");
        filling.warnings(&[44, 0, 45, 0], &tables, Instant::now());
        assert!(filling.reasons(&SIZES).eq(listed.into_iter().skip(1)));
    }
}
