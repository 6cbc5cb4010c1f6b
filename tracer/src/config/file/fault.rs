//! What is wrong with the file, and where.

use std::{fmt, ops::Range, path::Path};

use crate::{error::Error, format::text};

/// The most characters of a text from the file that a fault shows.
const QUOTED: usize = 120;

/// Something that is wrong with the file. As text: `FILE:LINE:COLUMN: what is wrong; what to write`, in one line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    file: String,
    /// From 1.
    line: usize,
    /// In characters, from 1.
    column: usize,
    text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, text } = self;
        write!(out, "{file}:{line}:{column}: {text}")
    }
}

impl From<Vec<Fault>> for Error {
    fn from(faults: Vec<Fault>) -> Self {
        Self::Faults(faults.iter().map(Fault::to_string).collect())
    }
}

/// The faults of a file so far.
#[derive(Debug)]
pub(super) struct Faults<'t> {
    file: String,
    text: &'t str,
    /// Where each line begins, in bytes.
    lines: Vec<usize>,
    /// Each with its place in bytes.
    found: Vec<(Range<usize>, String)>,
}

impl<'t> Faults<'t> {
    /// None so far. `name`: the file's, for messages. `text`: what is in it.
    pub(super) fn new(name: &Path, text: &'t str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect();
        Self { file: name.display().to_string(), text, lines, found: Vec::new() }
    }

    /// Adds one about what is at `place`, in bytes of the text; it is shown at its begin.
    pub(super) fn add(&mut self, place: &Range<usize>, text: impl Into<String>) {
        self.found.push((place.clone(), text.into()));
    }

    /// The number of the line, from 0, in which this byte is.
    pub(super) fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|begin| *begin <= at).saturating_sub(1)
    }

    /// Forgets those about something that is in this part of the text, also if it begins before it.
    pub(super) fn leave_out(&mut self, part: &Range<usize>) {
        self.found.retain(|(place, _)| place.start >= part.end || place.end < part.start);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// All of them, by place; those of one place in the order in which they were added.
    pub(super) fn sorted(mut self) -> Vec<Fault> {
        self.found.sort_by_key(|(place, _)| place.start);
        let faults = self.found.iter().map(|(place, text)| self.fault(place.start, text));
        faults.collect()
    }

    fn fault(&self, at: usize, text: &str) -> Fault {
        let at = at.min(self.text.len());
        let line = self.line(at);
        let begin = self.lines.get(line).copied().unwrap_or_default();
        let before = self.text.get(begin..at).unwrap_or_default();
        let column = before.trim_start_matches('\u{feff}').chars().count() + 1;
        Fault {
            file: text::line(&self.file).into_owned(),
            line: line + 1,
            column,
            text: text::line(text).into_owned(),
        }
    }
}

/// A text from the file for a fault: between backticks, without what is harmful on a terminal, cut after 120 characters.
pub(super) fn quoted(text: &str) -> String {
    format!("`{}`", cut(text))
}

/// As [`quoted`], without backticks: for names. Of an empty one, `""`.
pub(super) fn named(text: &str) -> String {
    if text.is_empty() { "\"\"".to_owned() } else { cut(text) }
}

fn cut(text: &str) -> String {
    let mut letters = text.chars();
    let mut shown: String = letters.by_ref().take(QUOTED).collect();
    if letters.next().is_some() {
        shown.push('…');
    }
    text::line(&shown).into_owned()
}
