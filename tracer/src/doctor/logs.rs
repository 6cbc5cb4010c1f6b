//! Logs of nginx, HAProxy and Squid: how often they say that a port, an address, a descriptor or an upstream was missing, and
//! when.
//!
//! A log is text that other programs wrote, and in parts their clients. A line counts only for what its program puts at the
//! beginning of the message: the verb and the number of the error, never its text, which depends on the language and the C
//! library. What clients can choose (requests, paths, headers) stands after it, and at most becomes the name of an upstream.

mod blame;
mod given;
mod haproxy;
mod nginx;
pub mod pods;
mod prefix;
mod reader;
mod report;
mod scan;
mod squid;
mod time;
mod wrap;

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

pub use blame::Blamed;
pub use given::given;
pub use reader::Reader;
pub use report::{Group, Kind, Program, Report};

use super::verdict::{Check, Missing};
#[cfg(test)]
use crate::host::files::Memory;
use crate::host::files::{Contents, Files};

/// How many bytes of a log are read at most, from its end.
const MOST: usize = 64 << 20;
/// How many are read first; more only if these begin within the window. A log can be large, and the window is its last seconds.
const FIRST: usize = 1 << 20;
/// How many names of a log's folder are looked at.
const NAMES: usize = 10_000;
/// By how much lines may be out of the order of time, in seconds: processes and streams that write to one file buffer.
const DISORDER_S: i64 = 60;

/// Which lines count, and how their times are read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Asked {
    /// The first second of the window, in seconds since 1970.
    pub from_s: i64,
    /// Its last second, in seconds since 1970, usually the current one. Lines of a later time are in no group: see
    /// [`Report::future`].
    pub to_s: i64,
    /// How far local time is ahead of UTC, in seconds, for lines that say local time.
    pub offset_s: i32,
}

impl Asked {
    /// The second before which lines matter for nothing.
    fn earliest_s(&self) -> i64 {
        self.from_s.saturating_sub(blame::WITHIN_S)
    }
}

/// Reads the end of a log, as far back as the window asks for, and of the file that was renamed away from its path within the
/// window (not a compressed one): at most 64 MiB of each. [`Report::cut`] says whether lines before those exist. A rotation may
/// happen meanwhile: if the log is gone, the renamed file alone is read. How far its local time is ahead of UTC is taken from its
/// last line and the time at which the file was written, else from `asked`.
///
/// # Errors
/// The log cannot be opened or read, or is no regular file; it does not exist, and no renamed file has lines of the window
/// (`NotFound`). A renamed file that cannot be read is left out.
pub fn read(files: &dyn Files, path: &Path, asked: &Asked) -> io::Result<Report> {
    let before = || read_one(files, &rotated(files, path)?, asked, MOST).ok();
    let now = match read_one(files, path, asked, MOST) {
        // It was renamed, and its program goes on with it until something makes it open a new one.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let is_of_now = |it: &OneLog| it.report.last_s.is_some_and(|at| at >= asked.from_s);
            return before().filter(is_of_now).map(|it| it.report).ok_or(error);
        }
        now => now?,
    };
    let since = now.report.first_s.unwrap_or(i64::MAX);
    if now.report.cut || since < asked.earliest_s() {
        return Ok(now.report);
    }
    // The log is new: the lines before are in the file that a rotation renamed.
    Ok(match before() {
        // It was renamed or copied after it was read: these are its lines, and what was added to it.
        Some(before) if before.goes_on(&now) => before.report,
        Some(before) => before.report.and(now.report),
        None => now.report,
    })
}

/// A log that was read.
struct OneLog {
    report: Report,
    /// Its first bytes; `None`: its end alone was read.
    beginning: Option<Box<[u8]>>,
}

impl OneLog {
    /// How many bytes of the beginning are kept: some lines, each with a time, which no two logs have in common.
    const BEGINNING: usize = 1024;

    /// Whether this is the other one, read later.
    fn goes_on(&self, other: &Self) -> bool {
        let both = self.beginning.as_ref().zip(other.beginning.as_ref());
        both.is_some_and(|(own, other)| !other.is_empty() && own.starts_with(other))
    }
}

/// Reads the last MiB of a log, for where there is no time for more; renamed files are not read. [`Report::cut`] says if that is
/// not all of it.
///
/// # Errors
/// The log cannot be opened or read, or is no regular file.
pub fn read_end(files: &dyn Files, path: &Path, asked: &Asked) -> io::Result<Report> {
    Ok(read_one(files, path, asked, FIRST)?.report)
}

/// The file that was at this path before: `error.log.1`, else the latest of `error.log-20261129` and `0.log.20261129-191515`.
/// `None`: there is none that is not compressed.
fn rotated(files: &dyn Files, path: &Path) -> Option<PathBuf> {
    let (folder, name) = (path.parent()?, path.file_name()?.to_str()?);
    let (names, _) = files.names(folder, NAMES).ok()?;
    let suffix = |other: &String| {
        let suffix = other.strip_prefix(name)?.strip_prefix(['.', '-'])?;
        let number = suffix.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
        (number && !suffix.is_empty()).then(|| suffix.to_owned())
    };
    let last = |name: &&String| suffix(name).map(|suffix| (suffix == "1", suffix));
    let latest = names.iter().filter(|name| last(name).is_some()).max_by_key(last)?;
    Some(folder.join(latest))
}

/// Reads the end of a log. `limit`: how many bytes at most.
fn read_one(files: &dyn Files, path: &Path, asked: &Asked, limit: usize) -> io::Result<OneLog> {
    let mut most = FIRST;
    loop {
        let contents = files.tail(path, most)?;
        let asked = Asked { offset_s: offset_s(&contents, asked.offset_s), ..*asked };
        let report = parse(&contents.bytes, contents.whole, &asked);
        let earliest = asked.earliest_s().saturating_sub(DISORDER_S);
        if contents.whole || most >= limit || report.first_s.is_some_and(|first| first < earliest) {
            let beginning = contents.bytes.get(..OneLog::BEGINNING).unwrap_or(&contents.bytes);
            let beginning = contents.whole.then(|| beginning.into());
            return Ok(OneLog { report, beginning });
        }
        drop(contents);
        most = most.saturating_mul(8).min(limit);
    }
}

/// What these lines say, local times read as `asked` says. `whole`: whether they begin where the log begins; if not, the first
/// line is left out, because it is not whole either.
pub fn parse(bytes: &[u8], whole: bool, asked: &Asked) -> Report {
    let mut reader = Reader::new(*asked, whole);
    reader.feed(bytes);
    reader.finish()
}

/// How far the local time in a log is ahead of UTC, in seconds. A container can have another time zone than the host: so it is
/// taken from the last line and from when the file was last written, if these are a whole number of quarters of an hour apart.
fn offset_s(contents: &Contents, assumed: i32) -> i32 {
    let written = contents.modified.duration_since(UNIX_EPOCH).ok();
    let written = written.and_then(|since| i64::try_from(since.as_secs()).ok());
    let implied = written.and_then(|at| time::offset_s(reader::last_local(&contents.bytes)?, at));
    implied.unwrap_or(assumed)
}

/// The check `logs`, which is no core check: whether all logs could be read, back to the beginning of the window. It names the
/// first that could not, and how many more there are; without logs, it counts as made. `read`: each log, or why it could not be
/// read, as a text for people.
pub fn check(read: &[(PathBuf, Result<Report, String>)], asked: &Asked) -> Check {
    let lacks = |(path, result): &(PathBuf, Result<Report, String>)| {
        let why = match result {
            Err(why) => why.clone(),
            Ok(report) => report.shortcoming(asked.from_s)?,
        };
        Some(format!("{}: {why}", path.display()))
    };
    let all: Vec<_> = read.iter().filter_map(lacks).collect();
    let missing = all.first().map(|first| {
        let more = match all.len() {
            1 => String::new(),
            all => format!(", and {} more", all.saturating_sub(1)),
        };
        Missing { why: format!("{first}{more}"), needs: None }
    });
    Check { id: "logs", core: false, missing }
}

#[cfg(test)]
mod tests;
