//! Finds the time of the last line of a recording's file, and an offset in a plain file before the lines of a given time.

use std::{fs::File, io, os::unix::fs::FileExt};

use memchr::{memchr, memrchr};

use super::{
    envelope::Envelope,
    input::{Input, LONGEST},
};
use crate::export::sink::repair;

/// How many bytes a search for a line reads first; it reads more if these have no readable line.
const FIRST_READ: usize = 16 << 10;
/// The most bytes that are read at a time. A line that begins in the first half of them also ends in them.
const WINDOW: usize = 2 * LONGEST;
/// When no more bytes than this are left, the search for an offset ends; the caller reads them line by line.
const SEARCH_MIN: u64 = 64 << 10;
/// In how many bytes of a plain file one readable line is searched for. (The last read can go up to [`WINDOW`] beyond.) If
/// the last frame of a zstd file has more compressed bytes than this, the time of its last line is not read.
const READ_MAX: u64 = 16 << 20;
/// If the last frame of a zstd file has as many decompressed bytes or more, the time of its last line counts as not known.
const DECOMPRESSED_MAX: u64 = 512 << 20;

/// The time of the first readable line, with its newline, that begins after offset `at`, ns since 1970; `None`: none was
/// found up to offset `end` or in [`READ_MAX`] bytes. (The last read can go beyond both.)
fn time_after(file: &File, at: u64, end: u64) -> io::Result<Option<u64>> {
    let (mut at, mut length) = (at, FIRST_READ);
    let last = at.saturating_add(READ_MAX).min(end);
    loop {
        let bytes = read_at(file, length, at)?;
        let mut rest = &bytes[..];
        while let Some(begin) = memchr(b'\n', rest) {
            rest = &rest[begin + 1..];
            let Some(line) = memchr(b'\n', rest).map(|end| &rest[..end]) else { break };
            if let Some(ns) = Envelope::of(line).and_then(|line| line.wall_ns()) {
                return Ok(Some(ns));
            }
        }
        if bytes.len() < length || at.saturating_add(length as u64) >= last {
            return Ok(None);
        }
        if length == WINDOW {
            // A line that begins in the second half may not be whole: the next read begins there.
            at = at.saturating_add(LONGEST as u64);
        }
        length = WINDOW.min(length * 4);
    }
}

/// An offset in bytes in a plain file, at most about [`SEARCH_MIN`] bytes (64 KiB) (further if lines there are unreadable) before
/// the first line whose time is `ns` (since 1970) or later; without such a line, before the file's end. It can be in the middle
/// of a line; 0 in a file of at most [`SEARCH_MIN`] bytes. It is found by bisection, which assumes that lines are in the order of
/// time. Lines that were written together can be in another order: so the player asks for a time well before the one that it
/// needs.
///
/// # Errors
/// The file cannot be read.
pub(super) fn offset_before(file: &File, ns: u64) -> io::Result<u64> {
    let (mut low, mut high) = (0, file.metadata()?.len());
    while high - low > SEARCH_MIN {
        let middle = low + (high - low) / 2;
        match time_after(file, middle, high)? {
            Some(found) if found < ns => low = middle,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// The time of the last readable line of a plain file, ns since 1970; `None`: there is none in its last [`READ_MAX`] bytes
/// (16 MiB; the last read can go up to [`WINDOW`], 2 MiB, further), or the file is empty.
///
/// # Errors
/// The file cannot be read.
pub(super) fn last_time(file: &File) -> io::Result<Option<u64>> {
    let size = file.metadata()?.len();
    let (mut end, mut length) = (size, FIRST_READ as u64);
    loop {
        let begin = end.saturating_sub(length);
        let bytes = read_at(file, usize::try_from(end - begin).unwrap_or(0), begin)?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let from = memrchr(b'\n', rest).map_or(0, |at| at + 1);
            if let Some(ns) = Envelope::of(&rest[from..]).and_then(|line| line.wall_ns()) {
                return Ok(Some(ns));
            }
            rest = &rest[..from.saturating_sub(1)];
        }
        if begin == 0 || size - begin >= READ_MAX {
            return Ok(None);
        }
        if length == WINDOW as u64 {
            // The line at the beginning of this window may begin before it: the next window has some of it, too.
            end = begin.saturating_add(LONGEST as u64).min(end);
        }
        length = (length * 8).min(WINDOW as u64);
    }
}

/// The time of the last readable line in the last frame of a zstd file, ns since 1970; `None`: that frame has none, has more than
/// [`READ_MAX`] compressed bytes (16 MiB), or [`DECOMPRESSED_MAX`] decompressed bytes (512 MiB) or more. If decompression fails
/// within the frame, the last line before that place counts.
///
/// # Errors
/// The file cannot be read, there is no file descriptor left, a frame or block has a damaged header, a frame is skippable, or
/// there is no memory to decompress.
pub(super) fn last_time_zstd(file: &File) -> io::Result<Option<u64>> {
    let size = file.metadata()?.len();
    let end = repair::end(file, size)?;
    if size - end.frame > READ_MAX {
        return Ok(None);
    }
    let mut input = Input::open(file, Some(end.frame))?;
    input.limit_to(DECOMPRESSED_MAX);
    let mut newest = None;
    while let Some(line) = input.line()? {
        let envelope = Envelope::of(line.bytes);
        newest = envelope.and_then(|line| line.wall_ns()).or(newest);
    }
    Ok(newest.filter(|_| !input.limit_reached()))
}

/// The `length` bytes at offset `at`; fewer if the file ends before.
fn read_at(file: &File, length: usize, at: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], at.saturating_add(read as u64)) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(read);
    Ok(bytes)
}
