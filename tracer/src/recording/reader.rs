//! Reads the lines of a recording one after the other, as typed values, and counts those that are missing.

use std::{fmt, path::PathBuf};

use super::{
    bytes,
    envelope::Envelope,
    input::{Input, Line},
    line::{Degraded, Failure, Lost, Settings, Start, Totals, Tuple},
    set::{self, Part, Set},
};
use crate::{error::Error, view::reading::Call};

/// The time in a line, by two clocks: when its event happened or its reading was taken; for other lines, when the line was
/// made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct At {
    /// ns since 1970.
    pub wall_ns: u64,
    /// CLOCK_MONOTONIC, ns.
    pub mono_ns: u64,
}

/// A line of a kind that a command uses. [`Reader::next`] skips lines of other kinds.
#[derive(Debug)]
pub enum Entry<'a> {
    /// `tracer.start`: the first line of a stream.
    Start(Start),
    /// `tuple.stats` or `address.stats`.
    Tuple(&'a Tuple<'a>),
    /// `tracer.stats`: the end of a reading.
    Stats(Totals),
    /// `connect.failed` or `bind.failed`
    Failure(Failure<'a>),
    /// `lost`
    Lost(Lost<'a>),
    /// `tracer.degraded`
    Degraded(Degraded),
    /// `netns.settings`
    Settings(Settings),
    /// `tracer.stop`: the last line of a stream.
    Stop(Totals),
}

/// The first line, or end of a compressed file, that could not be read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unreadable {
    /// Name of the file in messages: its path as it was given, or `stdin`.
    pub file: String,
    /// Number of the line, from 1; `None`: not known, because reading did not begin at the beginning of the file; or not a
    /// line, but the end of a compressed file could not be read.
    pub line: Option<u64>,
    /// Why it could not be read, as the end of a message.
    pub why: &'static str,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(out, "{}, line {line}: {}", self.file, self.why),
            None => write!(out, "{}: {}", self.file, self.why),
        }
    }
}

/// Lines that are missing or unreadable. A line counts once, however often it is read, and so does the damaged end of a
/// compressed file.
#[derive(Debug, Default)]
struct Issues {
    /// The furthest position that was read: index of the file, and (decompressed) offset in it, [`u64::MAX`] for a damaged end.
    /// Lines before it are not counted: they were counted before, or a seek skipped them.
    seen: (usize, u64),
    missing: u64,
    unreadable: u64,
    first: Option<Unreadable>,
}

/// Finds gaps in the numbers (`seq`) of lines.
#[derive(Debug, Default)]
struct Order {
    /// The number that the next line should have; `None`: any, because no line of the format was read since the start or a
    /// seek.
    expected: Option<u64>,
    /// Unreadable lines since the last line whose number was read. They have numbers, too: these lines are not missing.
    unnumbered: u64,
}

/// Reads a recording from front to back.
pub struct Reader {
    set: Set,
    /// The file that is read now; `None`: all were read.
    input: Option<Input>,
    /// Index of the file that is read now; the number of files: all were read.
    part: usize,
    order: Order,
    issues: Issues,
    /// Lines that were read, counted again if they are read again.
    lines: u64,
    /// Bytes of the files before the one that is read now.
    done: u64,
}

impl Reader {
    /// Opens these files, in any order; `-` is stdin. Of a pipe, it waits for the first four bytes or its end.
    ///
    /// # Errors
    /// A file cannot be opened or read; the beginning of a zstd file cannot be decompressed; the first line of a file is not one
    /// of the format; a pipe is given together with other files; stdin is a terminal; all files are empty. A pipe that is empty
    /// or not a recording is no error here: [`Self::next`] fails then.
    pub fn open(paths: &[PathBuf]) -> Result<Self, Error> {
        let set = Set::open(paths)?;
        let mut reader = Self {
            set,
            input: None,
            part: 0,
            order: Order::default(),
            issues: Issues::default(),
            lines: 0,
            done: 0,
        };
        reader.enter(0)?;
        Ok(reader)
    }

    /// Begins to read the file of this index; after the last file, `input` becomes `None`.
    fn enter(&mut self, part: usize) -> Result<(), Error> {
        self.part = part;
        self.input = self.set.parts.get(part).map(Part::input).transpose()?;
        Ok(())
    }

    /// Calls `take` once, with the next line of a kind that [`Entry`] has. Returns false, without a call, if there is none up to
    /// the end of the last file.
    ///
    /// # Errors
    /// A plain file cannot be read, the next file cannot be opened for reading, or a pipe is empty or not a recording.
    /// Damaged lines, and a compressed file that cannot be read up to its end, are no errors: they are counted.
    pub fn next(&mut self, take: &mut dyn FnMut(At, Entry<'_>)) -> Result<bool, Error> {
        while let (Some(input), Some(part)) = (&mut self.input, self.set.parts.get(self.part)) {
            let line = input.line().map_err(|source| part.error(source))?;
            if !part.seekable && self.lines == 0 {
                set::check(line.as_ref(), &part.name())?;
            }
            let Some(line) = line else {
                if let Some(why) = input.damage() {
                    tracing::debug!("{}: {why}", part.name());
                    let why = "the compressed data is damaged, cut short, or needs a window of more than 32 MiB";
                    if self.issues.is_new(self.part, u64::MAX) {
                        self.issues.unreadable(part, None, why);
                    }
                }
                self.done = self.done.saturating_add(input.position());
                self.enter(self.part + 1)?;
                continue;
            };
            self.lines += 1;
            let end = line.offset.saturating_add(line.bytes.len() as u64 + 1);
            let new = self.issues.is_new(self.part, end);
            if let Some(found) = found(line.bytes, take) {
                let missing = self.order.gap_before(&found);
                let missing = if new { missing } else { 0 };
                self.issues.missing = self.issues.missing.saturating_add(missing);
                if found.was_taken {
                    return Ok(true);
                }
                continue;
            }
            self.order.unnumbered += 1;
            if new {
                let why = match line {
                    Line { too_long: true, .. } => "it is longer than 1 MiB",
                    Line { cut: true, .. } => "the file ends within it",
                    _ => "it is not a line of the format",
                };
                self.issues.unreadable(part, line.number, why);
            }
        }
        Ok(false)
    }

    /// Continues at or before the first line whose time is `ns` (since 1970) or later: in a zstd file, at its beginning. If no
    /// line is that late, it continues before the end of the last file. Of several files, it continues in the last one whose
    /// first line is of that time or earlier, or else in the first. Returns whether it continues at the beginning of the
    /// recording. The recording must be seekable (not checked).
    ///
    /// # Errors
    /// A file cannot be examined, opened for reading, or read.
    pub(super) fn go_to(&mut self, ns: u64) -> Result<bool, Error> {
        let before = self.set.parts.iter().rposition(|part| part.first_ns <= ns);
        let part = before.unwrap_or(0);
        let earlier = self.set.parts.iter().take(part).map(Part::length);
        self.done = earlier.sum::<Result<u64, _>>()?;
        self.enter(part)?;
        self.order = Order::default();
        if let (Some(part), Some(input)) = (self.set.parts.get(part), &mut self.input)
            && part.plain
            && before.is_some()
        {
            let place =
                bytes::offset_before(&part.file, ns).map_err(|source| part.error(source))?;
            input.go_to(place).map_err(|source| part.error(source))?;
            return Ok(self.part == 0 && place == 0);
        }
        Ok(self.part == 0)
    }

    /// Whether the recording can be read again, from any place: no file is a pipe.
    pub fn is_seekable(&self) -> bool {
        self.set.parts.iter().all(|part| part.seekable)
    }

    /// Begin and end of the recording, ns since 1970; of either, 0: not known. A known end is not before the begin.
    pub fn span(&self) -> (u64, u64) {
        let first = self.set.parts.first();
        (first.map_or(0, |part| part.first_ns), self.set.end_ns)
    }

    /// Up to which of the bytes of all files they were read, and how many there are (of zstd files, compressed bytes); both are 0
    /// for a pipe.
    pub fn progress(&self) -> (u64, u64) {
        let here = self.input.as_ref().map_or(0, Input::position);
        // A file that is still written has grown since.
        (self.done.saturating_add(here).min(self.set.size), self.set.size)
    }

    /// How many lines were read, of all kinds, unreadable ones included; a line that is read again counts again.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// How many lines are missing in what was read so far, by gaps in `seq`. What is read again is not counted again.
    pub fn missing(&self) -> u64 {
        self.issues.missing
    }

    /// How many lines, and ends of compressed files, could not be read so far. What is read again is not counted again.
    pub fn unreadable(&self) -> u64 {
        self.issues.unreadable
    }

    /// The first line, or end of a compressed file, that could not be read; `None`: all could so far.
    pub fn first_unreadable(&self) -> Option<&Unreadable> {
        self.issues.first.as_ref()
    }
}

impl Issues {
    /// Whether the line that ends at offset `end` of file `part` is beyond all lines that were read; notes that it was read.
    fn is_new(&mut self, part: usize, end: u64) -> bool {
        let new = (part, end) > self.seen;
        if new {
            self.seen = (part, end);
        }
        new
    }

    fn unreadable(&mut self, part: &Part, line: Option<u64>, why: &'static str) {
        self.unreadable += 1;
        self.first.get_or_insert_with(|| Unreadable { file: part.name(), line, why });
    }
}

impl Order {
    /// How many lines are missing before this one; 0 also for a `tracer.start`, and for the first line after a seek. The next
    /// line is then expected to have the next number.
    fn gap_before(&mut self, line: &Found) -> u64 {
        let expected = self.expected.filter(|_| !line.start);
        let gap = expected.map_or(0, |expected| line.seq.saturating_sub(expected));
        // Unreadable lines have numbers, too.
        let missing = gap.saturating_sub(self.unnumbered);
        *self = Self { expected: line.seq.checked_add(1), unnumbered: 0 };
        missing
    }
}

/// What the reader needs to know about a line of the format.
struct Found {
    seq: u64,
    /// Whether it is a `tracer.start`, the first line of a stream.
    start: bool,
    /// Whether its kind is one of [`Entry`]'s; then [`found`] has called its `take` with the line.
    was_taken: bool,
}

/// Parses a line, and calls `take` with it if [`Entry`] has its kind; `None`: it is not a line of the format, because it
/// lacks a key that every line or its kind must have, or a value is of the wrong type.
fn found(line: &[u8], take: &mut dyn FnMut(At, Entry<'_>)) -> Option<Found> {
    let envelope = Envelope::of(line)?;
    let mut start = false;
    let tuple;
    let entry = match envelope.name {
        b"tracer.start" => {
            start = true;
            Entry::Start(Start::of(line).ok()?)
        }
        b"tuple.stats" => {
            tuple = Tuple::of(line).ok()?;
            Entry::Tuple(&tuple)
        }
        b"address.stats" => {
            tuple = Tuple::of_address(line).ok()?;
            Entry::Tuple(&tuple)
        }
        b"tracer.stats" => Entry::Stats(Totals::of(line).ok()?),
        b"connect.failed" => {
            Entry::Failure(Failure::of(line, Call::Connect, envelope.wall_ns()?).ok()?)
        }
        b"bind.failed" => Entry::Failure(Failure::of(line, Call::Bind, envelope.wall_ns()?).ok()?),
        b"lost" => Entry::Lost(serde_json::from_slice(line).ok()?),
        b"netns.settings" => Entry::Settings(Settings::of(line).ok()?),
        b"tracer.degraded" => Entry::Degraded(Degraded::of(line).ok()?),
        b"tracer.stop" => Entry::Stop(Totals::of(line).ok()?),
        _ => return Some(Found { seq: envelope.seq, start, was_taken: false }),
    };
    take(At { wall_ns: envelope.wall_ns()?, mono_ns: envelope.mono_ns }, entry);
    Some(Found { seq: envelope.seq, start, was_taken: true })
}
