//! The lines of a finding. Only whole commands and single words are wider than the lines may be, and commands can be pasted into
//! a shell.

use std::fmt::Write as _;

use crate::{
    doctor::{
        finding::{Advice, Change, Finding, Home, Process, Subject},
        judge::subject,
    },
    format::text as safe,
};

/// The columns before the text of a line of a finding.
const INDENT: usize = 8;

/// What a line of a diagnosis is, by which a screen chooses its colour.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// The beginning of a finding: its severity, its id, how sure it is, and what it is about.
    Head,
    /// A command to type, or a part of one.
    Command,
    /// Any other text.
    Text,
}

/// How a command is shown that is wider than its lines may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Commands {
    /// One line, however long.
    Whole,
    /// Several lines, with a backslash at the end of all but the last one, so that a shell takes them as one.
    Broken,
}

/// One finding as lines of at most `room` columns, if each character takes one. Commands that are to be whole, and single words,
/// can be wider. Without control characters, and without newlines.
pub fn finding(finding: &Finding, room: usize, commands: Commands) -> Vec<(Part, String)> {
    let mut out = Lines { all: Vec::new(), room, commands };
    out.finding(finding);
    out.all
}

/// Lines of a diagnosis that are being written, and how wide they may be.
pub(super) struct Lines {
    /// The lines so far, without newlines.
    pub(super) all: Vec<(Part, String)>,
    /// The most columns of a line, if each character takes one.
    pub(super) room: usize,
    /// How commands are shown that are wider than `room`.
    pub(super) commands: Commands,
}

impl Lines {
    /// Adds the lines of a finding.
    pub(super) fn finding(&mut self, finding: &Finding) {
        let severity = finding.severity.name().to_uppercase();
        let change = match finding.change {
            Some(change @ (Change::New | Change::Worse | Change::Better)) => {
                change.name().to_uppercase() + " "
            }
            Some(Change::Same) | None => String::new(),
        };
        let mut about = subject_of(finding);
        if !about.is_empty() {
            about.insert_str(0, "  ");
        }
        let certainty = finding.certainty.name();
        let head = format!("{change}{severity} {} ({certainty}){about}", finding.id);
        self.wrapped_as(Part::Head, "", "  ", &head);
        self.wrapped("  ", "  ", &finding.what);
        if let Some(cause) = finding.consequence_of {
            self.labelled("why", &format!("a consequence of {cause}"));
        } else if let Some(why) = &finding.why {
            self.labelled("why", why);
        }
        let mut then = "then";
        for (index, advice) in finding.advice.iter().enumerate() {
            let label = match (index, advice.persists) {
                (0, _) => "now",
                (_, true) => std::mem::replace(&mut then, "or"),
                (_, false) => "or",
            };
            self.advice(label, advice);
        }
        if let Some(verify) = &finding.verify {
            self.labelled("check", verify);
        }
        if let Some(not) = finding.not {
            self.labelled("not", not);
        }
    }

    fn advice(&mut self, label: &str, advice: &Advice) {
        match &advice.command {
            Some(command) => {
                self.command(label, command);
                self.labelled("", &with_gain(advice));
            }
            None => self.labelled(label, &with_gain(advice)),
        }
        if let Some(risk) = advice.risk {
            self.labelled("", &format!("but {risk}"));
        }
    }

    fn command(&mut self, label: &str, command: &str) {
        let first = format!("  {label:<width$}", width = INDENT - 2);
        let room = match self.commands {
            Commands::Whole => usize::MAX,
            Commands::Broken => self.room.saturating_sub(INDENT),
        };
        let mut begin = first;
        for part in broken(command, room) {
            self.line(Part::Command, &format!("{begin}{part}"));
            begin = " ".repeat(INDENT);
        }
    }

    fn labelled(&mut self, label: &str, text: &str) {
        let first = format!("  {label:<width$}", width = INDENT - 2);
        self.wrapped(&first, &" ".repeat(INDENT), text);
    }

    /// Adds a line as it is, however wide, without control characters.
    pub(super) fn line(&mut self, part: Part, text: &str) {
        self.all.push((part, safe::line(text).into_owned()));
    }

    /// Adds a text, broken at spaces into lines of at most `room` columns (one for each character), prefixes included; a word that
    /// does not fit behind the prefix has a wider line. `first` begins the first line, `rest` the others. Harmful characters,
    /// newlines too, become U+FFFD. An empty text is one line.
    pub(super) fn wrapped(&mut self, first: &str, rest: &str, text: &str) {
        self.wrapped_as(Part::Text, first, rest, text);
    }

    /// Adds a text as [`Self::wrapped`] does, whose lines are this part of the diagnosis.
    fn wrapped_as(&mut self, part: Part, first: &str, rest: &str, text: &str) {
        let mut current = first.to_owned();
        let mut empty = true;
        for word in text.split(' ') {
            let width = columns(&current) + 1 + columns(word);
            if !empty && width > self.room {
                self.line(part, &current);
                current.clear();
                current.push_str(rest);
                empty = true;
            }
            if !empty {
                current.push(' ');
            }
            current.push_str(word);
            empty = false;
        }
        self.line(part, &current);
    }
}

/// What the finding is about, with where its processes run: `10.0.0.8 → 10.0.1.7:8080, pod shop/cart-7f9 (web)`.
fn subject_of(finding: &Finding) -> String {
    // Its container is shown once.
    let about = match &finding.subject {
        Subject::Process(process) if finding.home.is_some() => {
            subject(&Subject::Process(Process { container: None, ..process.clone() }))
        }
        about => subject(about),
    };
    match finding.home.as_ref().and_then(Home::shown) {
        Some(home) if about.is_empty() => home,
        Some(home) => format!("{about}, {home}"),
        None => about,
    }
}

fn with_gain(advice: &Advice) -> String {
    let mut text = advice.what.clone();
    if !advice.gain.is_empty() {
        write!(text, ": {}", advice.gain).unwrap_or_default();
    }
    let sets = advice.command.as_ref().is_some_and(|it| it.contains("sysctl -w"));
    if sets && !advice.persists {
        text.push_str(" (until the next reboot)");
    }
    text
}

/// A command as lines of at most `room` columns, broken between words of the shell, with a backslash at the end of all but the
/// last one. A wider word has a wider line. One that is not wider than `room` stays as it is; in a broken one, one space is
/// between words.
pub fn broken(command: &str, room: usize) -> Vec<String> {
    const CONTINUED: &str = " \\";
    if columns(command) <= room {
        return vec![command.to_owned()];
    }
    let room = room.saturating_sub(CONTINUED.len());
    let mut parts: Vec<String> = Vec::new();
    for word in words(command) {
        match parts.last_mut() {
            Some(last) if columns(last) + 1 + columns(word) <= room => {
                last.push(' ');
                last.push_str(word);
            }
            _ => parts.push(word.to_owned()),
        }
    }
    let last = parts.len().saturating_sub(1);
    for part in parts.iter_mut().take(last) {
        part.push_str(CONTINUED);
    }
    parts
}

/// The words of a command, with their quotes.
fn words(command: &str) -> Vec<&str> {
    let mut quote = None;
    let mut escaped = false;
    let is_gap = |letter: char| {
        if escaped {
            escaped = false;
            return false;
        }
        match (letter, quote) {
            ('\\', None | Some('"')) => escaped = true,
            ('\'' | '"', None) => quote = Some(letter),
            (_, Some(open)) if letter == open => quote = None,
            (' ', None) => return true,
            _ => {}
        }
        false
    };
    command.split(is_gap).filter(|word| !word.is_empty()).collect()
}

/// How many columns a text takes, if each character takes one.
fn columns(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests;
