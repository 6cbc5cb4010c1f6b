//! Times at places in a file: the first line's, the last line's, and where a time is.

use std::{fs::File, io, os::unix::fs::FileExt};

use memchr::{memchr, memrchr};

use super::{
    envelope::Envelope,
    input::{Input, LONGEST},
};
use crate::export::sink::repair;

/// What is looked at first for a line.
const GLANCE: usize = 16 << 10;
/// What is held of a file at a time: a line that begins anywhere in the first half is whole in it.
const WINDOW: usize = 2 * LONGEST;
/// A search ends where so many bytes are left: they are read line by line.
const NEAR: u64 = 64 << 10;
/// The most bytes that are read for one line that can be understood, and the most compressed bytes that
/// are read to learn when a recording ends.
const PATIENCE: u64 = 16 << 20;
/// The most that those may be, decompressed.
const PATIENCE_DECOMPRESSED: u64 = 512 << 20;

/// ns since 1970 of the first whole line that begins behind `at`; `None`: there is none, or none near.
fn time_after(file: &File, at: u64, end: u64) -> io::Result<Option<u64>> {
    let (mut at, mut length) = (at, GLANCE);
    let patience = at.saturating_add(PATIENCE).min(end);
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
        if bytes.len() < length || at.saturating_add(length as u64) >= patience {
            return Ok(None);
        }
        if length == WINDOW {
            // What begins in the other half may not be whole.
            at = at.saturating_add(LONGEST as u64);
        }
        length = WINDOW.min(length * 4);
    }
}

/// Where in a plain file to begin so that no line of `ns` or later is passed over: not far before
/// the first one. Lines are in the order of time, but for some that were collected together.
pub(super) fn place_of(file: &File, ns: u64) -> io::Result<u64> {
    let (mut low, mut high) = (0, file.metadata()?.len());
    while high - low > NEAR {
        let middle = low + (high - low) / 2;
        match time_after(file, middle, high)? {
            Some(found) if found < ns => low = middle,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// ns since 1970 of the last line of a plain file that can be read; `None`: there is none near its end.
pub(super) fn last_time(file: &File) -> io::Result<Option<u64>> {
    let size = file.metadata()?.len();
    let (mut end, mut length) = (size, GLANCE as u64);
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
        if begin == 0 || size - begin >= PATIENCE {
            return Ok(None);
        }
        if length == WINDOW as u64 {
            // The line at the beginning of this window may begin before it.
            end = begin.saturating_add(LONGEST as u64).min(end);
        }
        length = (length * 8).min(WINDOW as u64);
    }
}

/// As [`last_time`] for zstd, by its newest frame; `None` too where that is so large that reading
/// it would take long.
pub(super) fn last_time_zstd(file: &File) -> io::Result<Option<u64>> {
    let size = file.metadata()?.len();
    let end = repair::end(file, size)?;
    if size - end.frame > PATIENCE {
        return Ok(None);
    }
    let mut input = Input::open(file, Some(end.frame))?;
    input.glance(PATIENCE_DECOMPRESSED);
    let mut newest = None;
    while let Some(line) = input.line()? {
        let envelope = Envelope::of(line.bytes);
        newest = envelope.and_then(|line| line.wall_ns()).or(newest);
    }
    Ok(newest.filter(|_| !input.is_spent()))
}

/// Up to so many bytes at a place; fewer at the end.
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
