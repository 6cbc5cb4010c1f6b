//! Keys: what each does, and its words in the help, in one table.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::model::{Direction, Mode, Model, View};

/// What a key does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Closes what is open; if nothing is, leaves the program.
    Close,
    /// Leaves the program.
    Quit,
    /// Opens the help.
    Help,
    Show(View),
    NextView,
    PreviousView,
    /// Moves by a number of rows, down or (negative) up.
    Move(isize),
    /// Moves by a number of screens, down or (negative) up.
    Page(isize),
    /// Selects the first row.
    First,
    /// Selects the last row.
    Last,
    /// Opens the selected row: a tuple's details, or the tuples of a group.
    Open,
    /// Closes what is open; if nothing is, removes the filter, or else the selection.
    Back,
    /// Opens the choice of a column to sort by.
    Sort,
    /// Reverses the order of the view.
    Reverse,
    /// Opens the line in which a filter is typed.
    Filter,
    /// Groups the tuples by the next [`crate::view::group::GroupBy`].
    Group,
    /// Takes rates over the next [`crate::view::tuple_history::Window`].
    Window,
    /// Pauses or resumes.
    Pause,
    /// Goes to the next reading of a recording, or to the one before.
    Step(Direction),
    /// Asks for a time to go to.
    Jump(Direction),
    /// Doubles the speed of a recording.
    Faster,
    /// Halves the speed of a recording.
    Slower,
}

/// Where a key works.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Scope {
    Always,
    Live,
    Replay,
}

struct Binding {
    codes: &'static [KeyCode],
    action: Action,
    when: Scope,
    /// The keys as the help shows them; empty: the binding has no line of its own there.
    keys: &'static str,
    help: &'static str,
    section: &'static str,
}

/// A line of the help.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The keys, as the help shows them.
    pub keys: &'static str,
    /// What they do.
    pub help: &'static str,
    /// The title under which the line is.
    pub section: &'static str,
}

const fn key(
    codes: &'static [KeyCode],
    action: Action,
    section: &'static str,
    keys: &'static str,
    help: &'static str,
) -> Binding {
    Binding { codes, action, when: Scope::Always, keys, help, section }
}

const fn only(when: Scope, binding: Binding) -> Binding {
    Binding { when, ..binding }
}

use Action::{
    Back, Close, Faster, Filter, First, Group, Help, Jump, Last, Move, NextView, Open, Page, Pause,
    PreviousView, Reverse, Show, Slower, Sort, Step, Window,
};
use KeyCode::{BackTab, Char, Down, End, Enter, Esc, F, Home, PageDown, PageUp, Tab, Up};

const VIEW: &str = "View";
const SELECT: &str = "Select";
const TIME: &str = "Time";

/// All keys of the lists and of a tuple's details, except those with Ctrl, which [`action`] has.
const TABLE: &[Binding] = &[
    key(&[Char('q')], Close, VIEW, "q", "close what is open, then quit"),
    key(&[Char('?'), Char('h'), F(1)], Help, VIEW, "? h", "this help"),
    key(&[Enter], Open, VIEW, "Enter", "details of the selected row"),
    key(&[Esc], Back, VIEW, "Esc", "back; remove the filter"),
    key(
        &[Char('1')],
        Show(View::Tuples),
        VIEW,
        "1 … 6",
        "tuples, processes, sources, failures, self, doctor (what to do)",
    ),
    key(&[Char('2')], Show(View::Processes), VIEW, "", ""),
    key(&[Char('3')], Show(View::Sources), VIEW, "", ""),
    key(&[Char('4')], Show(View::Failures), VIEW, "", ""),
    key(&[Char('5')], Show(View::SelfStats), VIEW, "", ""),
    key(&[Char('6')], Show(View::Doctor), VIEW, "", ""),
    key(&[Tab], NextView, VIEW, "Tab", "next view"),
    key(&[BackTab], PreviousView, VIEW, "", ""),
    only(Scope::Live, key(&[Down, Char('j')], Move(1), SELECT, "↑ ↓ j k", "select a row")),
    only(Scope::Replay, key(&[Down], Move(1), SELECT, "↑ ↓", "select a row")),
    key(&[Up, Char('k')], Move(-1), SELECT, "", ""),
    key(&[PageDown], Page(1), SELECT, "PgUp PgDn", "one screen down or up"),
    key(&[PageUp], Page(-1), SELECT, "", ""),
    key(&[Home, Char('g')], First, SELECT, "Home End", "first or last row"),
    key(&[End, Char('G')], Last, SELECT, "", ""),
    key(&[Char('s'), F(6)], Sort, SELECT, "s", "sort by another column"),
    key(&[Char('S')], Reverse, SELECT, "S", "reverse the order"),
    key(&[Char('/'), Char('f')], Filter, SELECT, "/", "filter: nginx dst:10.0.0.0/8 sat>45 !word"),
    key(
        &[Char('a')],
        Group,
        SELECT,
        "a",
        "group by tuple, destination, source, process, container",
    ),
    key(&[Char('r')], Window, TIME, "r", "rates over 1, 10 or 60 s"),
    key(&[Char(' '), Char('p')], Pause, TIME, "Space", "pause, resume"),
    only(
        Scope::Replay,
        key(&[Char('t')], Step(Direction::Forward), TIME, "t T", "one reading forward or back"),
    ),
    only(Scope::Replay, key(&[Char('T')], Step(Direction::Back), TIME, "", "")),
    only(
        Scope::Replay,
        key(
            &[Char('j')],
            Jump(Direction::Forward),
            TIME,
            "j J",
            "go to a time: 03:34:48, or 5m forward or back",
        ),
    ),
    only(Scope::Replay, key(&[Char('J')], Jump(Direction::Back), TIME, "", "")),
    only(Scope::Replay, key(&[Char('+'), Char('=')], Faster, TIME, "+ -", "play faster, slower")),
    only(Scope::Replay, key(&[Char('-')], Slower, TIME, "", "")),
];

fn applies(when: Scope, live: bool) -> bool {
    match when {
        Scope::Always => true,
        Scope::Live => live,
        Scope::Replay => !live,
    }
}

/// What a key does in a list or in details; `None`: nothing. Of the modifiers, only Ctrl counts. `live`: whether the source is a
/// running tracer, and not a recording.
pub fn action(event: &KeyEvent, live: bool) -> Option<Action> {
    if event.modifiers.contains(KeyModifiers::CONTROL) {
        return match event.code {
            Char('c') => Some(Action::Quit),
            Char('d' | 'f') => Some(Page(1)),
            Char('u' | 'b') => Some(Page(-1)),
            _ => None,
        };
    }
    let found = TABLE.iter().find(|it| applies(it.when, live) && it.codes.contains(&event.code));
    found.map(|binding| binding.action)
}

/// The lines of the help for the keys that work with a running tracer (`live`) or with a recording.
pub fn help(live: bool) -> Vec<Entry> {
    let shown = TABLE.iter().filter(|it| applies(it.when, live) && !it.keys.is_empty());
    shown.map(|it| Entry { keys: it.keys, help: it.help, section: it.section }).collect()
}

/// The keys that the bottom of the screen names, each with its meaning.
pub fn hints(model: &Model) -> &'static [(&'static str, &'static str)] {
    match (&model.mode, model.is_live()) {
        (Mode::Browse, true) => &[
            ("Enter", "detail"),
            ("s", "sort"),
            ("/", "filter"),
            ("a", "group"),
            ("Tab", "view"),
            ("Space", "pause"),
            ("?", "help"),
            ("q", "quit"),
        ],
        (Mode::Browse, false) => &[
            ("Space", "play/pause"),
            ("t T", "step"),
            ("j J", "jump"),
            ("+ -", "speed"),
            ("Enter", "detail"),
            ("Tab", "view"),
            ("?", "help"),
            ("q", "quit"),
        ],
        (Mode::Detail(_), _) => {
            &[("Esc", "back"), ("↑ ↓", "scroll"), ("r", "rates"), ("Space", "pause"), ("?", "help")]
        }
        (Mode::Sort(_), _) => &[("↑ ↓", "choose"), ("Enter", "sort"), ("Esc", "back")],
        (Mode::Filter { .. }, _) => {
            &[("Enter", "apply"), ("Esc", "back"), ("e.g.", "nginx dst:10.0.0.0/8 sat>45")]
        }
        (Mode::Jump { .. }, _) => &[("Enter", "go"), ("Esc", "back"), ("e.g.", "03:34:48 or 5m")],
        (Mode::Help { .. }, _) => &[("↑ ↓", "scroll"), ("Esc", "back")],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_key_means_two_things() {
        for live in [true, false] {
            let mut seen = HashSet::new();
            for binding in TABLE.iter().filter(|it| applies(it.when, live)) {
                for code in binding.codes {
                    assert!(seen.insert(*code), "{code:?}, live: {live}");
                }
            }
        }
    }

    #[test]
    fn every_key_of_the_table_does_what_the_table_says_and_has_a_help() {
        for live in [true, false] {
            for binding in TABLE.iter().filter(|it| applies(it.when, live)) {
                let event = KeyEvent::from(binding.codes[0]);
                assert_eq!(action(&event, live), Some(binding.action));
                let named = |it: &Entry| it.section == binding.section;
                assert!(help(live).iter().any(named), "{:?}", binding.action);
            }
        }
        assert_eq!(action(&KeyEvent::from(Char('t')), true), None);
    }
}
