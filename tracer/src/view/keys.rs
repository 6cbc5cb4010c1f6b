//! The words for keys.

use super::model::{Mode, Model};

/// A line of the help; `keys` is empty where it goes on with the line before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    pub keys: &'static str,
    pub help: &'static str,
    pub section: &'static str,
}

const fn entry(section: &'static str, keys: &'static str, help: &'static str) -> Entry {
    Entry { keys, help, section }
}

const TABLE: &[Entry] = &[
    entry("Look", "q", "leave what is open, then the program"),
    entry("Look", "? h", "these keys"),
    entry("Look", "Enter", "all about the selected row"),
    entry("Look", "Esc", "back; take the filter off"),
    entry("Look", "1 … 5", "tuples, processes, sources, failures, self"),
    entry("Choose", "↑ ↓ j k", "select a row"),
    entry("Choose", "s", "sort by another column"),
    entry("Choose", "/", "filter: nginx dst:10.0.0.0/8 sat>45 !word"),
    entry("Choose", "a", "put together: tuple, destination, source, process, container"),
    entry("Time", "r", "rates over 1, 10 or 60 s"),
    entry("Time", "Space", "stand still, go on"),
];

/// The keys that mean something now, for the help.
pub fn help(_live: bool) -> Vec<Entry> {
    TABLE.to_vec()
}

/// The few that are named at the bottom of the screen.
pub fn hints(model: &Model) -> &'static [(&'static str, &'static str)] {
    match model.mode {
        Mode::Browse => &[
            ("Enter", "detail"),
            ("s", "sort"),
            ("/", "filter"),
            ("a", "group"),
            ("Tab", "view"),
            ("Space", "pause"),
            ("?", "help"),
            ("q", "quit"),
        ],
        _ => &[("Esc", "back")],
    }
}
