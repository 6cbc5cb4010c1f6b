//! [`Reader`]: counts what the lines of a log say, in one pass, with at most 128 KiB of a line in memory.

use jiff::civil::DateTime;
use memchr::{memchr, memrchr};

use super::{
    Asked, haproxy, nginx,
    prefix::message,
    report::Report,
    time::{slashed, utc_s},
    wrap::{self, Part, Pending, Stream, Wrapped},
};

/// The most bytes of a line; longer ones are not read. nginx writes 2 KiB at most, engines split lines of containers at 16 KiB,
/// which escapes can make six times as long.
const LONGEST: usize = 128 << 10;
/// The fewest bytes of a line that says anything.
const SHORTEST: usize = 20;
/// How many lines at the end of a log are looked at for its local time, and how many bytes.
const LAST_LINES: usize = 50;
const LAST_BYTES: usize = 64 << 10;

/// What becomes of the line that is being read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Rest {
    /// It is a line.
    Keep,
    /// It is too long.
    TooLong,
    /// Its beginning is missing.
    CutOff,
}

/// Reads the lines of a log as they come. A line of more than 128 KiB is counted as unread, one of fewer than 20 bytes says
/// nothing.
#[derive(Debug)]
pub struct Reader {
    asked: Asked,
    report: Report,
    /// The beginning of a line whose end has not come yet.
    begun: Vec<u8>,
    rest: Rest,
    out: Pending,
    err: Pending,
    /// The text of Docker's lines.
    scratch: Vec<u8>,
    /// The time of the last line that had one, in seconds since 1970.
    last_s: Option<i64>,
    /// Lines without a time after one from before the window, or before any line with a time: whether they are of the
    /// window is not known yet; they are not if the next time is before the window, too.
    held: u64,
}

impl Reader {
    /// A reader that has read nothing. `asked`: which lines count. `whole`: whether the first bytes begin a line, and no lines
    /// before them are missing; if not, all up to the first newline is left out.
    pub fn new(asked: Asked, whole: bool) -> Self {
        Self {
            asked,
            report: Report::new(!whole),
            begun: Vec::new(),
            rest: if whole { Rest::Keep } else { Rest::CutOff },
            out: Pending::default(),
            err: Pending::default(),
            scratch: Vec::new(),
            last_s: None,
            held: 0,
        }
    }

    /// Reads the next bytes. They may end anywhere, also within a line.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut bytes = self.after_empty(bytes);
        while let Some(line) = memchr(b'\n', bytes).and_then(|end| bytes.get(..end)) {
            bytes = bytes.get(line.len().saturating_add(1)..).unwrap_or_default();
            match std::mem::replace(&mut self.rest, Rest::Keep) {
                Rest::CutOff => {}
                Rest::TooLong => self.unread(),
                Rest::Keep if self.begun.is_empty() => self.whole_line(without_nul(line)),
                Rest::Keep => {
                    self.begin(line);
                    let whole = std::mem::take(&mut self.begun);
                    match std::mem::replace(&mut self.rest, Rest::Keep) {
                        Rest::Keep => self.whole_line(&whole),
                        Rest::TooLong | Rest::CutOff => self.unread(),
                    }
                    // Its memory is used again.
                    self.begun = whole;
                    self.begun.clear();
                }
            }
            bytes = self.after_empty(bytes);
        }
        if self.rest == Rest::Keep {
            self.begin(bytes);
        }
    }

    /// Counts the empty lines at the beginning, if a line begins there, and returns what follows them. One by one, a file of
    /// nothing else would take far longer than any other.
    fn after_empty<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if self.rest != Rest::Keep || !self.begun.is_empty() {
            return bytes;
        }
        let count = bytes.iter().position(|byte| *byte != b'\n').unwrap_or(bytes.len());
        let lines = u64::try_from(count).unwrap_or(u64::MAX);
        self.report.lines = self.report.lines.saturating_add(lines);
        bytes.get(count..).unwrap_or_default()
    }

    /// What all lines say. The last one may be incomplete: it counts if what it says is in the part that is there, and is
    /// not counted as unread if not.
    pub fn finish(mut self) -> Report {
        let begun = std::mem::take(&mut self.begun);
        if !begun.is_empty() {
            let unread = self.report.unread;
            self.whole_line(&begun);
            self.report.unread = unread;
        }
        for pending in [self.out.take(), self.err.take()].into_iter().flatten() {
            self.text(Some(pending.time_s), &pending.text);
        }
        self.report.undated = self.report.undated.saturating_add(self.held);
        self.report
    }

    /// Keeps the beginning of a line, or more of it.
    fn begin(&mut self, bytes: &[u8]) {
        // A log that was truncated while its writer went on begins with a hole, which reads as NULs.
        let bytes = if self.begun.is_empty() { without_nul(bytes) } else { bytes };
        if self.begun.len().saturating_add(bytes.len()) > LONGEST {
            self.begun.clear();
            self.rest = Rest::TooLong;
        } else {
            self.begun.extend_from_slice(bytes);
        }
    }

    fn unread(&mut self) {
        self.report.lines = self.report.lines.saturating_add(1);
        self.report.unread = self.report.unread.saturating_add(1);
    }

    fn whole_line(&mut self, line: &[u8]) {
        if line.len() > LONGEST {
            self.unread();
            return;
        }
        self.report.lines = self.report.lines.saturating_add(1);
        if line.len() < SHORTEST {
            return;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        match wrap::open(line, &mut scratch) {
            Wrapped::Plain(text) => self.text(None, text),
            Wrapped::Part(part) => self.part(&part),
            Wrapped::Broken => self.report.unread = self.report.unread.saturating_add(1),
        }
        self.scratch = scratch;
    }

    fn part(&mut self, part: &Part<'_>) {
        let pending = match part.stream {
            Stream::Out => &mut self.out,
            Stream::Err => &mut self.err,
        };
        if part.partial {
            pending.add(part, LONGEST);
            return;
        }
        let Some(begun) = pending.take() else {
            self.text(Some(part.time_s), part.text);
            return;
        };
        let mut text = begun.text;
        if begun.over || text.len().saturating_add(part.text.len()) > LONGEST {
            self.report.unread = self.report.unread.saturating_add(1);
            return;
        }
        text.extend_from_slice(part.text);
        self.text(Some(begun.time_s), &text);
    }

    /// Counts a line without what an engine put around it. `time_s`: when the engine read it.
    fn text(&mut self, time_s: Option<i64>, text: &[u8]) {
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let message = message(text, &self.asked);
        let line = nginx::dated(message.text).or_else(|| haproxy::line(message.text));
        let local = line.and_then(|it| utc_s(it.local?, self.asked.offset_s));
        let own = time_s.or(message.time_s).or(local);
        let recognised = line.is_some() || own.is_some();
        self.report.recognised = self.report.recognised.saturating_add(recognised.into());
        if let Some(at) = own {
            self.report.dated(at, &self.asked);
            self.last_s = own;
            let held = std::mem::take(&mut self.held);
            if at >= self.asked.from_s {
                self.report.undated = self.report.undated.saturating_add(held);
            }
        }
        let Some((program, said)) = line.and_then(|it| Some((it.program, it.said?))) else {
            return;
        };
        match self.last_s {
            Some(at) if at > self.asked.to_s => {}
            // Without a time of its own, it was written after the line before: in the window if that is.
            Some(at) if own.is_some() || at >= self.asked.from_s => {
                self.report.add(said.kind, program, said.name, at, &self.asked);
            }
            Some(_) | None => self.held = self.held.saturating_add(1),
        }
    }
}

/// The local time of the last line that begins as those of nginx and Squid do, without what an engine puts before a line;
/// `None`: there is none among the last 50 lines, or in the last 64 KiB.
pub(super) fn last_local(bytes: &[u8]) -> Option<DateTime> {
    let mut rest = bytes.get(bytes.len().saturating_sub(LAST_BYTES)..).unwrap_or(bytes);
    for _ in 0..LAST_LINES {
        let begin = memrchr(b'\n', rest).map_or(0, |at| at.saturating_add(1));
        if let Some((local, _)) = rest.get(begin..).and_then(slashed) {
            return Some(local);
        }
        rest = rest.get(..begin.checked_sub(1)?)?;
    }
    None
}

/// The bytes after all NULs at the beginning.
fn without_nul(bytes: &[u8]) -> &[u8] {
    let begin = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    bytes.get(begin..).unwrap_or_default()
}
