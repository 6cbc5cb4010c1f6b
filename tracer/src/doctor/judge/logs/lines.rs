//! Lines of logs in findings: how many, of which names, and when.

use std::{collections::BTreeSet, path::Path};

use jiff::Timestamp;

use crate::doctor::{
    finding::Finding,
    judge::text::number,
    logs::{Group, Program},
};

/// How many names a text has at most.
const SHOWN: usize = 4;

/// Lines that say the same of several names.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines {
    /// The names that are known.
    pub(super) names: BTreeSet<String>,
    /// Whether there are more names, which are not known.
    more: bool,
    /// How many lines there are.
    pub(super) count: u64,
    first_s: Option<i64>,
    last_s: Option<i64>,
}

impl Lines {
    /// The lines of one group. `name`: the name that they have; `None`: it was not kept.
    pub(super) fn of(name: Option<&str>, group: &Group) -> Self {
        let mut lines = Self::default();
        lines.add(name, group);
        lines
    }

    /// Adds the lines of a group. `name`: see [`Self::of`].
    pub(super) fn add(&mut self, name: Option<&str>, group: &Group) {
        self.names.extend(name.map(str::to_owned));
        self.more |= name.is_none();
        self.count = self.count.saturating_add(group.lines);
        self.first_s = [self.first_s, group.first_s].into_iter().flatten().min();
        self.last_s = self.last_s.max(group.last_s);
    }

    /// The known names, [`SHOWN`] at most: `a, b and more`; `names that are not known` if there is none.
    pub(super) fn named(&self) -> String {
        let shown: Vec<_> = self.names.iter().take(SHOWN).map(String::as_str).collect();
        match (shown.is_empty(), self.more || self.names.len() > SHOWN) {
            (true, _) => "names that are not known".to_owned(),
            (false, true) => format!("{} and more", shown.join(", ")),
            (false, false) => shown.join(", "),
        }
    }

    /// The finding with how many lines say so, of which names, and when, in its evidence (`log.path`, `log.program`, `log.names`,
    /// `log.lines`, `log.first`, `log.last`); times that are not known are left out.
    pub(super) fn put_into(&self, finding: Finding, program: Program, path: &Path) -> Finding {
        let time = |at_s: Option<i64>| Some(Timestamp::from_second(at_s?).ok()?.to_string());
        finding
            .with("log.path", path.to_string_lossy())
            .with("log.program", program.name())
            .with("log.names", self.named())
            .with("log.lines", self.count)
            .with("log.first", time(self.first_s))
            .with("log.last", time(self.last_s))
    }
}

/// `once`, `28 times`.
pub(super) fn times(count: u64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{} times", number(count)) }
}
