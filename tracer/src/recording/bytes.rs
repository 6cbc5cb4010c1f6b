//! Times at places in a file: the first line's, the last line's, and where a time is.

use std::{fs::File, io, os::unix::fs::FileExt};

use memchr::{memchr, memrchr};

use super::{envelope::Envelope, input::Input};
use crate::export::sink::repair;

/// What is looked at first for a line.
const GLANCE: usize = 16 << 10;
/// A search ends where so many bytes are left: they are read line by line.
const NEAR: u64 = 64 << 10;
/// The most compressed bytes that are read to learn when a recording ends.
const PATIENCE: u64 = 16 << 20;

/// ns since 1970 of the first whole line that begins behind `at`.
fn time_after(file: &File, at: u64, end: u64) -> io::Result<Option<u64>> {
    let mut length = GLANCE;
    loop {
        let mut bytes = vec![0; length];
        let read = read_at(file, &mut bytes, at)?;
        bytes.truncate(read);
        let mut rest = &bytes[..];
        while let Some(begin) = memchr(b'\n', rest) {
            rest = &rest[begin + 1..];
            let Some(line) = memchr(b'\n', rest).map(|end| &rest[..end]) else { break };
            if let Some(ns) = Envelope::of(line).and_then(|line| line.wall_ns()) {
                return Ok(Some(ns));
            }
        }
        if read < length || at + read as u64 >= end {
            return Ok(None);
        }
        length *= 4;
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

/// ns since 1970 of the last line of a plain file that can be read.
pub(super) fn last_time(file: &File) -> io::Result<Option<u64>> {
    let size = file.metadata()?.len();
    let mut length = GLANCE as u64;
    loop {
        let begin = size.saturating_sub(length);
        let mut bytes = vec![0; usize::try_from(size - begin).unwrap_or(0)];
        let read = read_at(file, &mut bytes, begin)?;
        bytes.truncate(read);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let from = memrchr(b'\n', rest).map_or(0, |at| at + 1);
            if let Some(ns) = Envelope::of(&rest[from..]).and_then(|line| line.wall_ns()) {
                return Ok(Some(ns));
            }
            rest = &rest[..from.saturating_sub(1)];
        }
        if begin == 0 {
            return Ok(None);
        }
        length = length.saturating_mul(8);
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
    let mut newest = None;
    while let Some(line) = input.line()? {
        let envelope = Envelope::of(line.bytes);
        newest = envelope.and_then(|line| line.wall_ns()).or(newest);
    }
    Ok(newest)
}

fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], at + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}
