//! A real file that cannot grow: RLIMIT_FSIZE stands in for a full disk (EFBIG instead of ENOSPC).
//!
//! The limit is the whole process's, so this is a test program of its own with a single test.
#![expect(unsafe_code, reason = "ignoring SIGXFSZ, which the limit sends with its error")]

use std::{fs, path::Path};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracer::{
    cli::Compression,
    config::{OutputConfig, Target},
    export::{Sink, sink::Account},
};

/// The size in bytes at which the file is "full" the first time: a number that is not at the end of a line.
const ROOM: u64 = 100_001;

fn limit(bytes: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    let limit = Rlimit { current: bytes.or(maximum), maximum };
    setrlimit(Resource::Fsize, limit).expect("a lower limit, or the old one");
}

/// A line that does not compress well, so that a compressed file fills up, too.
fn line(number: u64) -> String {
    let noise = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!(
        "{{\"seq\":{number},\"noise\":\"{noise:016x}{:016x}\"}}\n",
        noise.rotate_left(17) ^ number
    )
}

fn read(path: &Path, compression: Option<Compression>) -> String {
    let bytes = fs::read(path).expect("the file");
    let text = match compression {
        None => bytes,
        Some(Compression::Zstd) => zstd::decode_all(&bytes[..]).expect("whole frames"),
    };
    String::from_utf8(text).expect("UTF-8")
}

/// Writes lines until the file is full, then without a limit, and both once more. Returns how many lines were given to the sink,
/// and how many of them it wrote and dropped.
fn write(path: &Path, compression: Option<Compression>) -> (u64, Account) {
    let config =
        OutputConfig { target: Target::File(path.to_owned()), rotation: None, compression };
    let mut sink = Sink::open(&config).expect("a new file");
    let (mut given, mut total) = (0, Account::default());
    let mut add = |account: Account| {
        total.written += account.written;
        total.dropped += account.dropped;
        account.dropped
    };
    for room in [Some(ROOM), None, Some(2 * ROOM), None] {
        limit(room);
        let mut dropped = 0;
        // With a limit: until more than 500 lines were dropped. Without: 400 times, and none may be dropped.
        for _ in 0..400 {
            let lines = 1 + given % 37;
            let chunk: String = (given..given + lines).map(line).collect();
            given += lines;
            dropped += add(sink.write_chunk(chunk.as_bytes(), lines).expect("open"));
            dropped += add(sink.flush().expect("open"));
            if dropped > 500 {
                break;
            }
        }
        assert_eq!(dropped > 0, room.is_some(), "{compression:?} with {room:?}");
    }
    add(sink.close().expect("open"));
    (given, total)
}

#[test]
fn a_disk_that_is_full_for_a_while_costs_exactly_the_lines_that_are_counted() {
    // SAFETY: SIG_IGN runs no handler, and no other thread relies on this signal.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let dir = tempfile::tempdir().expect("a folder");
    for (name, compression) in [("ev.jsonl", None), ("ev.zst", Some(Compression::Zstd))] {
        let path = dir.path().join(name);
        let (given, total) = write(&path, compression);
        assert_eq!(total.written + total.dropped, given, "{name}: each line is in one account");
        let text = read(&path, compression);
        assert!(text.ends_with('\n'), "{name}");
        let mut numbers = Vec::new();
        for text in text.lines() {
            let value: serde_json::Value = serde_json::from_str(text).expect(text);
            let number = value["seq"].as_u64().expect("a number");
            assert_eq!(format!("{text}\n"), line(number), "{name}: a line that was torn");
            numbers.push(number);
        }
        assert!(numbers.is_sorted_by(|one, next| one < next), "{name}: out of order");
        assert_eq!(numbers.len() as u64, total.written, "{name}");
        assert!(numbers.last().is_some_and(|last| *last > given - 40), "{name}: not recovered");
    }
}
