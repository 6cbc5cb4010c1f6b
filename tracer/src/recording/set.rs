//! Opens the files of a recording, checks each one's first line, and orders them by its time.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, IsTerminal},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use super::{
    bytes,
    envelope::Envelope,
    input::{Input, LONGEST, Line},
};
use crate::{error::Error, format::text};

/// How many characters of a line an error quotes at most.
const QUOTE: usize = 60;

/// One open file.
pub(super) struct Part {
    pub(super) file: File,
    /// Its path as it was given; `-` for stdin.
    pub(super) path: PathBuf,
    /// Whether it is a regular file, which can be read from any place, and not a pipe.
    pub(super) seekable: bool,
    /// Whether it is not compressed; false for a pipe, of which this is not known.
    pub(super) plain: bool,
    /// The time of its first line, ns since 1970; 0: not known, because it is a pipe.
    pub(super) first_ns: u64,
}

/// The files, oldest first. At least one.
pub(super) struct Set {
    pub(super) parts: Vec<Part>,
    /// Bytes of all files when they were opened (of zstd files, compressed bytes); 0 for a pipe.
    pub(super) size: u64,
    /// The time of the last line of the last file, or of its first line if that is later, ns since 1970; 0: not known.
    pub(super) end_ns: u64,
}

impl Set {
    /// Opens these files, in any order; `-` is stdin. Empty files are left out, and files that are named twice are read once.
    ///
    /// # Errors
    /// A file cannot be opened or read; the beginning of a zstd file cannot be decompressed; the first line of a file is not one
    /// of the format; a pipe is given together with other files; stdin is a terminal; all files are empty. A pipe is not read
    /// here.
    pub(super) fn open(paths: &[PathBuf]) -> Result<Self, Error> {
        let mut parts = Vec::new();
        let mut size = 0_u64;
        let mut known = HashSet::new();
        for path in paths {
            let part = Part::open(path)?;
            // A file that is named twice, or also by a link, would be counted twice.
            if part.seekable && !known.insert(part.identity()?) {
                continue;
            }
            if !part.seekable && paths.len() > 1 {
                return Err(Error::Usage(format!(
                    "{} is a pipe, which cannot be read together with other files; name it alone",
                    part.name()
                )));
            }
            if part.seekable {
                let length = part.length()?;
                size = size.saturating_add(length);
                // The newest file of a rotated set can still be empty.
                if length == 0 {
                    continue;
                }
            }
            parts.push(part.probe()?);
        }
        parts.sort_by_key(|part| part.first_ns);
        let Some(last) = parts.last() else {
            return Err(empty_error(&name(paths.first().map_or(Path::new("-"), PathBuf::as_path))));
        };
        // If the wall clock was set back, the last line is not the latest.
        let end_ns = match last.end_ns() {
            0 => 0,
            end_ns => end_ns.max(last.first_ns),
        };
        Ok(Self { parts, size, end_ns })
    }
}

/// The error for an empty file or pipe.
pub(super) fn empty_error(name: &str) -> Error {
    Error::Failure(format!(
        "cannot read {name}: it is empty; name a file that `tracer record --output FILE` wrote"
    ))
}

/// What to do about a file that cannot be read: how to get by with fewer open files if too many are open, else `otherwise`.
fn advice(source: &io::Error, otherwise: &'static str) -> &'static str {
    match Errno::from_io_error(source) {
        Some(Errno::MFILE) => "name fewer files at a time, or raise `ulimit -n`",
        _ => otherwise,
    }
}

/// The name of a file in messages: its path as it was given, with control characters replaced, or `stdin` for `-`.
fn name(path: &Path) -> String {
    if path == Path::new("-") {
        return "stdin".to_owned();
    }
    text::line(&path.to_string_lossy()).into_owned()
}

/// Checks that the first line of a file is a line of the format. Returns its time, ns since 1970. `line`: that line; `None`: the
/// file has none. `name`: the file's name in messages.
///
/// # Errors
/// The file has no line; or its first line lacks a key that every line has, has a time that is not from 1970 to July 2554, is of
/// another version, or is longer than 1 MiB.
pub(super) fn check(line: Option<&Line<'_>>, name: &str) -> Result<u64, Error> {
    let Some(line) = line else { return Err(empty_error(name)) };
    if let Some(ns) = Envelope::of(line.bytes).and_then(|line| line.wall_ns()) {
        return Ok(ns);
    }
    let found = if line.too_long {
        "a line of more than 1 MiB".to_owned()
    } else {
        let all = String::from_utf8_lossy(line.bytes);
        let start: String = all.chars().take(QUOTE).collect();
        let more = if start.len() < all.len() { "..." } else { "" };
        format!("`{}{more}`", text::line(&start))
    };
    Err(Error::Failure(format!(
        "{name} is not a recording: its first line is {found}, and should begin like \
        `{{\"v\":1,\"seq\":0,\"ts\":\"...`; name a file that `tracer record --output FILE` wrote"
    )))
}

impl Part {
    fn open(path: &Path) -> Result<Self, Error> {
        let error = |source: io::Error| {
            let do_this = advice(&source, "name a file that `tracer record --output FILE` wrote");
            Error::File { tried: "read", path: path.to_owned(), source, do_this }
        };
        let file = if path == Path::new("-") {
            let stdin = io::stdin();
            if stdin.is_terminal() {
                return Err(Error::Usage(
                    "stdin is a terminal; name a FILE, or pipe a recording into it".into(),
                ));
            }
            File::from(stdin.as_fd().try_clone_to_owned().map_err(error)?)
        } else {
            File::open(path).map_err(error)?
        };
        let kind = file.metadata().map_err(error)?;
        if kind.is_dir() {
            return Err(error(io::ErrorKind::IsADirectory.into()));
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            seekable: kind.is_file(),
            plain: false,
            first_ns: 0,
        })
    }

    /// Reads whether the file is compressed, and the time of its first line. Nothing is read from a pipe, as it could
    /// not be read again: `plain` and `first_ns` stay false and 0.
    fn probe(self) -> Result<Self, Error> {
        if !self.seekable {
            return Ok(self);
        }
        let mut input = self.input()?;
        input.limit_to(2 * LONGEST as u64);
        let plain = input.is_plain();
        let line = input.line().map_err(|source| self.error(source))?;
        let none = line.is_none();
        let checked = check(line.as_ref(), &self.name());
        if none && let Some(why) = input.damage() {
            let source = io::Error::new(io::ErrorKind::InvalidData, why);
            let do_this = "if `zstd -d` can read it, name what that writes";
            return Err(Error::File { tried: "decompress", path: self.path, source, do_this });
        }
        let first_ns = checked?;
        Ok(Self { plain, first_ns, ..self })
    }

    /// The time of the last line, ns since 1970; 0: not known (a pipe, a file that cannot be read, or one with no readable
    /// line near its end).
    fn end_ns(&self) -> u64 {
        if !self.seekable {
            return 0;
        }
        let found = if self.plain {
            bytes::last_time(&self.file)
        } else {
            bytes::last_time_zstd(&self.file)
        };
        found.ok().flatten().unwrap_or(0)
    }

    /// Device and inode number of the file: the same for all its names.
    fn identity(&self) -> Result<(u64, u64), Error> {
        let metadata = self.file.metadata().map_err(|source| self.error(source))?;
        Ok((metadata.dev(), metadata.ino()))
    }

    /// Bytes of the file.
    ///
    /// # Errors
    /// It cannot be examined.
    pub(super) fn length(&self) -> Result<u64, Error> {
        Ok(self.file.metadata().map_err(|source| self.error(source))?.len())
    }

    /// The lines of the file, from the first one on; of a pipe, from its present position (it waits for four bytes or the end).
    ///
    /// # Errors
    /// The file cannot be read, there is no file descriptor left, or no memory to decompress.
    pub(super) fn input(&self) -> Result<Input, Error> {
        let from = self.seekable.then_some(0);
        Input::open(&self.file, from).map_err(|source| self.error(source))
    }

    /// Its name in messages: its path as it was given, or `stdin`.
    pub(super) fn name(&self) -> String {
        name(&self.path)
    }

    /// The error for a file that cannot be read, because of `source`.
    pub(super) fn error(&self, source: io::Error) -> Error {
        let do_this = advice(&source, "");
        Error::File { tried: "read", path: self.path.clone(), source, do_this }
    }
}
