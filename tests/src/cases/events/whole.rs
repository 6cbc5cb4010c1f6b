//! Recordings of a test's own: their lines as a whole, how they end, and counters that only recordings have.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use super::{as_comm, is, is_number};
use crate::harness::{
    lie,
    lines::SOCKET_EVENTS,
    stage::Stage,
    tracer::{
        record::{Record, Recording, eventually, name},
        watch::{number, text},
    },
};

/// 300 connections are opened by a thread whose name has special bytes: every line matches the schema and has the common keys,
/// `seq` has no gap, nothing is lost, the totals add up, and the newest row has all 300 ports in use.
pub(super) fn every_line_is_whole(backend: &str) -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let record = Record::start(backend, &["--interval", "1"])?;
    // A thread's name may have any bytes.
    as_comm(&stage, c"a\"b\\c\n\x1b\xff", || {
        for _ in 0..300 {
            drop(server.pair()?);
        }
        Ok(())
    })?;
    thread::sleep(Duration::from_millis(1500));
    let recording = record.stop()?;
    recording.assert_gap_free()?;
    recording.assert_valid()?;
    recording.assert_nothing_lost()?;
    for line in &recording.lines {
        ensure!(number(line, "v")? == 1, "v is not 1: {line}");
        let ts = text(line, "ts")?;
        ensure!(ts.len() == 30 && ts.ends_with('Z') && ts.contains('T'), "ts is {ts:?}");
        number(line, "mono_ns")?;
        ensure!(!name(line).is_empty(), "no event.name: {line}");
    }
    let netns = stage.netns.inum();
    let allocated = recording.events("port.allocated", netns);
    ensure!(allocated.len() == 300, "{} allocations, not 300", allocated.len());
    let stats = recording.events("tuple.stats", netns);
    let newest = stats.last().context("no tuple.stats")?;
    is_number(newest, "ports.in_use", 300)?;
    is_number(newest, "network.peer.port", 7000)
}

pub(super) fn default_backend(expected: &str) -> Result<()> {
    let recording = Record::start("auto", &[])?.stop()?;
    is(recording.start()?, "backend", expected)
}

pub(super) fn ends_by_duration() -> Result<()> {
    let mut record = Record::start("auto", &["--duration", "1"])?;
    record.finish()?.assert_balanced()
}

pub(super) fn ends_by_sigterm() -> Result<()> {
    let mut record = Record::start("auto", &[])?;
    record.process.signal(Signal::TERM)?;
    record.finish()?.assert_balanced()
}

/// The file is renamed, then SIGHUP is sent, as logrotate does: later lines are in a new file, none is lost.
pub(super) fn sighup_reopens() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let record = Record::start("auto", &[])?;
    let file = record.file().to_owned();
    let moved = file.with_extension("old");
    let connect = |count| stage.netns.run(|| server.pairs(count)).map(drop);
    connect(20)?;
    fs::rename(&file, &moved)?;
    record.process.signal(Signal::HUP)?;
    eventually("the new file", || Ok(file.exists()))?;
    connect(20)?;
    let folder = record.stop_files()?;
    let old = lie::file(&moved)?;
    let new = lie::file(&file)?;
    drop(folder);
    ensure!(old.ends_with('\n') && !new.is_empty(), "the old file ends within a line");
    let recording = Recording::parse(&(old + &new))?;
    recording.assert_balanced()?;
    let netns = stage.netns.inum();
    let events: usize = SOCKET_EVENTS.iter().map(|kind| recording.events(kind, netns).len()).sum();
    let allocated = recording.events("port.allocated", netns).len();
    ensure!(allocated == 40, "{allocated} allocations of 40, {events} events");
    Ok(())
}

/// 8 connections last 0.2 s: by `connections.lifetimes`, all that ended lasted as long as the test sees them last. One is missing
/// at most for each hook that the kernel has skipped.
pub(super) fn lifetimes(backend: &str) -> Result<()> {
    const LASTS: Duration = Duration::from_millis(200);
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let record = Record::start(backend, &["--interval", "1", "--events", "stats"])?;
    let begin = Instant::now();
    let pairs = stage.netns.run(|| server.pairs(8))?;
    thread::sleep(LASTS);
    drop(pairs);
    let longest = begin.elapsed();
    thread::sleep(Duration::from_millis(1500));
    let recording = record.stop()?;

    // By tracer/schema/events-v1.json: the first bucket ends at 2^23 ns, each further one at twice as much.
    let bucket =
        |length: Duration| (length.as_nanos() >> 23).checked_ilog2().map_or(0, |log| log + 1);
    let expected = bucket(LASTS)..=bucket(longest);
    let stats = recording.events("tuple.stats", stage.netns.inum());
    let newest = stats.last().context("no tuple.stats")?;
    let counts = newest.get("connections.lifetimes").and_then(Value::as_array);
    let counts = counts.with_context(|| format!("no connections.lifetimes: {newest}"))?;
    let found = || (0_u32..).zip(counts).filter(|(_, count)| count.as_u64() != Some(0));
    let all: u64 = found().filter_map(|(_, count)| count.as_u64()).sum();
    let losses = recording.losses()?;
    let skipped: u64 =
        losses.iter().filter(|(kind, _)| kind == "hook_missed").map(|(_, count)| count).sum();
    let right = found().all(|(bucket, _)| expected.contains(&bucket));
    ensure!(right && all <= 8 && all + skipped >= 8, "not 8 in {expected:?}: {newest}");
    Ok(())
}
