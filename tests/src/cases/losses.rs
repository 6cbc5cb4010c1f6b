//! `losses::*`: when a table, a disk or a pipe is full, or tracer is killed, no connect() fails because of it, and what was not
//! recorded is counted by name, exactly.

mod forgetting;
mod tables;
mod touching;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::{io::Errno, process::Signal};

use super::{Case, Plan};
use crate::{
    harness::{
        lie::{self, Stream},
        mounts::SmallDisk,
        netns::NetNs,
        probe::{self, Place},
        process::Process,
        sock::Sock,
        stage::{Expected, Server, Stage},
        tracer::{
            STOP_LIMIT, collect, command, finish,
            record::{Record, Recording, eventually},
            watch::number,
        },
    },
    workloads::failure::expect_error,
};

pub fn cases(plan: &Plan) -> Vec<Case> {
    // An emulated guest with Linux 6.1 hung when the kernel removed the probes while its other CPU ran into them.
    let hangs = (plan.place == Place::Vm)
        .then(|| "an emulated guest can hang when probes vanish under load".to_owned());
    plan.group("losses")
        .sampled(&[
            ("ring_full", ring_full),
            ("conns_full", tables::conns_full),
            ("tuples_full", tables::tuples_full),
            ("failures_without_a_row", tables::failures_without_a_row),
            ("refused_without_a_row_and_not_waited_for", tables::refused_and_not_waited_for),
        ])
        .sampled(&[("killed", killed)])
        .unless_on("kprobe", hangs)
        .sampled(&[
            ("binds_full", tables::binds_full),
            ("tombstones_full", tables::tombstones_full),
        ])
        .kernel_independent()
        .sampled(&[("attempts_full", tables::attempts_full)])
        .unless(probe::one_cpu())
        .kernel_independent()
        // Takes more than a minute, and does not depend on the backend.
        .on_default_backend(&[("found_when_there_is_room", tables::found_when_there_is_room)])
        .only_host()
        .on_backend("kprobe", &[("hook_missed", hook_missed)])
        .unless(probe::no_missed_probes())
        .sampled(&[("forgotten_and_opened_at_once", forgetting::race)])
        .unless(probe::one_cpu())
        .sampled(&[("touched_and_removed_at_once", touching::race)])
        .unless(probe::no_blocked_ports())
        .unless(probe::one_cpu())
        .once(&[("slow_reader", slow_reader)])
        .once(&[
            ("disk_full", disk_full),
            ("record_into_a_closed_pipe", record_into_a_closed_pipe),
            ("tuples_into_a_closed_pipe", tuples_into_a_closed_pipe),
            ("said_by_tables", said_by_tables),
        ])
        .kernel_independent()
        .cases()
}

/// Opens `count` connections, and resets each immediately. Every connect() must succeed.
fn connect_many(netns: &NetNs, server: &Server, count: usize) -> Result<()> {
    netns.run(|| {
        for turn in 0..count {
            let (client, _accepted) =
                server.pair().with_context(|| format!("connect {turn} failed"))?;
            client.set_reset_on_close()?;
        }
        Ok(())
    })
}

fn lost(recording: &Recording, reason: &str) -> Result<u64> {
    let losses = recording.losses()?;
    Ok(losses.iter().find(|(name, _)| name == reason).map_or(0, |(_, count)| *count))
}

/// The tracer is stopped (SIGSTOP) while 500 connections make more events (at least three each) than its ring of 64 KiB has room
/// for: the events that find no room are counted as `event_ring_full`, and the totals add up.
fn ring_full(backend: &str) -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let record = Record::start(backend, &["--ring-size", "64K"])?;
    record.process.signal(Signal::STOP)?;
    let connected = connect_many(&stage.netns, &server, 500);
    record.process.signal(Signal::CONT)?;
    connected?;
    let recording = record.stop()?;
    recording.assert_gap_free()?;
    recording.assert_balanced()?;
    ensure!(
        lost(&recording, "event_ring_full")? > 0,
        "nothing was lost: {:?}",
        recording.losses()?
    );
    let seen = number(recording.totals()?, "events.seen")?;
    // At least three events for each connection: allocated, established and released.
    ensure!(seen >= 1500, "only {seen} events of 500 connections were seen");
    Ok(())
}

/// More calls are in connect() at the same time than the kernel has instances of a kretprobe (10, or twice the number of CPUs
/// if that is more), so it skips the hooks of some calls. Skipped hooks are counted as `hook_missed`, not as events, so the
/// totals of events still add up.
fn hook_missed(backend: &str) -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let (hole, _filler) = stage.black_hole("10.1.0.1:7000")?;
    let record = Record::start(backend, &[])?;
    let callers = thread::available_parallelism()?.get() * 2 + 40;
    stage.netns.run(|| {
        thread::scope(|scope| {
            let wait = || -> Result<()> {
                let sock = Sock::tcp(hole.address)?;
                sock.set_send_timeout(Duration::from_secs(2))?;
                expect_error(sock.connect(hole.address), Errno::INPROGRESS)
            };
            let calls: Vec<_> = (0..callers).map(|_| scope.spawn(wait)).collect();
            let mut ends = calls.into_iter().map(thread::ScopedJoinHandle::join);
            ends.try_for_each(|end| end.unwrap_or_else(|it| std::panic::resume_unwind(it)))
        })
    })?;
    let recording = record.stop()?;
    recording.assert_balanced()?;
    ensure!(lost(&recording, "hook_missed")? > 0, "none: {}", recording.totals()?);
    Ok(())
}

/// SIGKILL under load: no connect() fails, only the last line of the file can be incomplete (the kernel checks for SIGKILL
/// between two pages of a write), the next `record` ends that line before it appends, and the next tracer counts ten open
/// connections.
fn killed(backend: &str) -> Result<()> {
    let mut stage = Stage::new(&[backend.to_owned()])?;
    let server = stage.server("10.1.0.1:7000")?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("events.jsonl");
    let mut record = Record::start_at(backend, &file, &[])?;
    let stop = AtomicBool::new(false);
    let netns = &stage.netns;
    let connected = thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                connect_many(netns, &server, 50)?;
                count += 50;
            }
            connect_many(netns, &server, 50)?;
            Ok(count)
        });
        thread::sleep(Duration::from_millis(300));
        let killed = record.process.signal(Signal::KILL);
        let ended = record.process.wait(STOP_LIMIT);
        thread::sleep(Duration::from_millis(100));
        stop.store(true, Ordering::Relaxed);
        let load: Result<u64> = load.join().unwrap_or_else(|it| std::panic::resume_unwind(it));
        killed.and(ended).and(load)
    })?;
    ensure!(connected > 0, "there was no load");
    let written = fs::read_to_string(&file)?;
    let whole = written.rfind('\n').map_or(0, |last| last + 1);
    Recording::parse(&lie::text(Stream::File, written[..whole].to_owned()))
        .context("after SIGKILL")?;
    Record::start_at(backend, &file, &[])?.stop_files()?;
    let appended = fs::read_to_string(&file)?;
    let torn = written.len() - whole;
    let next = appended.get(written.len() + usize::from(torn > 0)..).context("the file shrank")?;
    Recording::parse(&lie::text(Stream::File, next.to_owned()))?
        .totals()
        .context("appended after SIGKILL")?;
    let (_clients, _accepted) = stage.netns.run(|| server.pairs(10))?;
    stage.watch()?;
    stage.check(&[(server.tuple(), Expected::ports(10, 0))])?;
    stage.stop()
}

/// Starts `tracer ARGUMENTS` with stdout into a pipe, and waits for its first line. Returns the process, the pipe, and that line.
fn piped(arguments: &[&str]) -> Result<(Process, BufReader<impl Read>, String)> {
    let mut command = command(arguments)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = Process::spawn(&mut command)?;
    let mut stdout = BufReader::new(process.child.stdout.take().context("no stdout")?);
    let mut first = String::new();
    stdout.read_line(&mut first)?;
    ensure!(!first.is_empty(), "the tracer ended at once");
    Ok((process, stdout, first))
}

/// stdout is a pipe that is not read until after SIGINT: events that find no room are counted as lost, and the exit code is 0.
fn slow_reader() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let (mut process, mut stdout, first) =
        piped(&["record", "--events", "all", "--ring-size", "64K"])?;
    connect_many(&stage.netns, &server, 2000)?;
    thread::sleep(Duration::from_millis(500));
    process.signal(Signal::INT)?;
    let mut rest = String::new();
    stdout.read_to_string(&mut rest)?;
    let status = process.wait(STOP_LIMIT)?;
    ensure!(status.code() == Some(0), "exit code of a slow pipe: {status}");
    let recording = Recording::parse(&lie::text(Stream::Stdout, first + &rest))?;
    recording.assert_gap_free()?;
    recording.assert_balanced()?;
    ensure!(!recording.losses()?.is_empty(), "a pipe of 64 KiB took it all");
    Ok(())
}

/// Lines are dropped and counted while the disk is full, and written again afterwards. stderr says when this began, when it had
/// passed, and at the end how many lines are missing; the exit code is 1.
fn disk_full() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let disk = SmallDisk::new(1024)?;
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![0; 768 << 10])?;
    let file = disk.path().join("events.jsonl");
    // Only this stage's connections: others on the host would fill the disk again.
    let inum = stage.netns.inum().to_string();
    let record = Record::start_at("auto", &file, &["--netns", &inum])?;
    connect_many(&stage.netns, &server, 500)?;
    let limit = 200 << 10;
    eventually("a full disk", || Ok(fs::metadata(&file)?.len() > limit))?;
    thread::sleep(Duration::from_millis(1200));
    fs::remove_file(&ballast)?;
    thread::sleep(Duration::from_millis(1200));
    let before = fs::metadata(&file)?.len();
    connect_many(&stage.netns, &server, 50)?;
    eventually("new lines", || Ok(fs::metadata(&file)?.len() > before))?;
    let (recording, stderr) = record.stop_incomplete()?;
    recording.assert_balanced()?;
    let losses = recording.losses()?;
    let missing = lost(&recording, "output_full")?;
    ensure!(missing > 0, "the full disk cost nothing: {losses:?}");
    let lines = missing + lost(&recording, "output_full_other")?;
    let matches = |text: &str| stderr.matches(text).count();
    ensure!(matches("cannot write to") == 1, "when it began: {stderr}");
    ensure!(matches("takes lines again") == 1, "when it had passed: {stderr}");
    let end = format!("error: {lines} of ");
    ensure!(
        matches(&end) == 1 && matches("no space left on device; make room") == 1,
        "at the end: {stderr}"
    );
    Ok(())
}

/// The reader of stdout closes the pipe while `record` writes the events of 100 connections: it ends with exit code 0.
fn record_into_a_closed_pipe() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let (process, stdout, _) = piped(&["record", "--events", "all"])?;
    drop(stdout);
    connect_many(&stage.netns, &server, 100)?;
    ends_quietly(process)
}

/// The reader of stdout closes the pipe while `tuples --interval` runs: it ends with exit code 0.
fn tuples_into_a_closed_pipe() -> Result<()> {
    let (process, stdout, _) = piped(&["tuples", "--interval", "0.1", "-o", "json"])?;
    drop(stdout);
    ends_quietly(process)
}

/// Checks that the program, whose stdout is a closed pipe (EPIPE), ends with exit code 0.
fn ends_quietly(mut process: Process) -> Result<()> {
    let status = process.wait(STOP_LIMIT)?;
    ensure!(status.code() == Some(0), "exit code into a closed pipe: {status}");
    Ok(())
}

/// There are 200 destinations, and the table has room for 64: with `-o columns` the last line of stdout has the losses, with
/// `-o csv` it does not; stderr has them in both formats.
fn said_by_tables() -> Result<()> {
    let stage = Stage::new(&[])?;
    for format in ["columns", "csv"] {
        let arguments = ["--max-tuples", "64", "tuples", "--interval", "0.2", "-o", format];
        let mut command = command(&arguments)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::spawn(&mut command)?;
        let mut stdout = BufReader::new(process.child.stdout.take().context("no stdout")?);
        let stderr = collect(process.child.stderr.take());
        stdout.read_line(&mut String::new())?;
        stage.netns.run(|| -> Result<()> {
            for last in 1..=200 {
                let nobody = SocketAddr::from(([127, 0, 1, last], 9));
                expect_error(Sock::tcp(nobody)?.connect(nobody), Errno::CONNREFUSED)?;
            }
            Ok(())
        })?;
        thread::sleep(Duration::from_millis(600));
        process.signal(Signal::INT)?;
        let mut text = String::new();
        stdout.read_to_string(&mut text)?;
        let text = lie::text(Stream::Stdout, text);
        let status = process.wait(STOP_LIMIT)?;
        ensure!(status.code() == Some(0), "{format}: ended with {status}");
        let last = text.lines().last().context("no line")?;
        ensure!(
            (last.starts_with("lost: ") && last.contains(" tuples_")) == (format == "columns"),
            "{format}: the last line is {last:?}"
        );
        let stderr = finish(stderr);
        let has_losses = stderr.contains("lost: ") && stderr.contains(" tuples_");
        ensure!(has_losses, "{format}: stderr is {stderr:?}");
    }
    Ok(())
}
