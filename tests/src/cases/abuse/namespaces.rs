//! `abuse::namespaces`: an outsider puts other files in the place of its network namespaces, sends forged messages in them, or
//! makes many of them; and namespaces do not answer. All that must neither stop nor mislead a tracer.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::{
    cases::{
        Case, Plan,
        spread::{Host, POOL},
    },
    harness::{
        held::Held,
        lie, netns,
        outsider::{Outsider, Spaces},
        process::Process,
        stage::{Expected, Stage},
        tracer::{
            self, START_LIMIT,
            record::{Record, Recording},
            wait_for,
            watch::number,
        },
    },
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("abuse::namespaces")
        .once(&[
            ("fifos_in_their_place_freeze_nobody", fifos),
            ("forged_answers_are_not_believed", forged_answers),
            ("one_that_does_not_answer_is_named_in_the_recording", left_out_later),
            ("one_that_does_not_answer_is_named_by_the_agent", left_out_of_an_agent),
            ("one_to_which_no_way_leads_is_named", unreachable),
            ("many_take_little", many),
        ])
        .cases()
}

/// The outsider's descriptors of namespaces switch between the namespace and a FIFO without a writer: a program that opens the
/// FIFO may wait forever. A running tracer must make five more readings within 10 s, and two others must start and end with exit
/// code 0.
fn fifos() -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))?;
    let mut outsider = Outsider::spawn()?;
    outsider.run("namespaces 12")?;
    let swapped =
        outsider.run(&format!("swap-with-fifo {}", folder.path().join("fifo").display()))?;
    ensure!(swapped == [12], "the outsider swaps {swapped:?}");

    let record = Record::start("auto", &["--events", "stats", "--interval", "0.2"])?;
    for _ in 0..2 {
        let arguments = ["tuples", "--once", "--limit", "1"];
        let ended = tracer::run(&mut tracer::command(&arguments)?, START_LIMIT)?;
        ensure!(ended.code() == 0, "{ended:?}");
    }
    let readings = |text: &str| text.matches("\"tracer.stats\"").count();
    let before = readings(&fs::read_to_string(record.file())?);
    wait_for("readings of a recorder", Duration::from_secs(10), || {
        Ok((readings(&fs::read_to_string(record.file())?) >= before + 5).then_some(()))
    })?;
    record.stop()?;
    outsider.kill()
}

/// `Some` if a `tracer.degraded` line of the stream has this text at `key`, otherwise `None`: for `wait_for`.
fn says(stream: &Path, key: &str, text: &str) -> Result<Option<()>> {
    let all = lie::file(stream)?;
    let whole = all.rfind('\n').map_or("", |end| &all[..=end]);
    let found = Recording::parse(whole)?.lines.iter().any(|line| {
        line["event.name"] == "tracer.degraded" && line[key].to_string().contains(text)
    });
    Ok(found.then_some(()))
}

/// Checks that `degraded` of the recording's first line does not contain `named`, and that exactly one later line says that this
/// limitation began, and exactly one that it ended.
fn check_changes(recording: &Recording, named: &str) -> Result<()> {
    recording.assert_valid()?;
    recording.assert_gap_free()?;
    ensure!(!recording.start()?["degraded"].to_string().contains(named), "left out from the start");
    for key in ["degraded.added", "degraded.ended"] {
        let changes = recording.lines.iter().filter(|line| {
            line["event.name"] == "tracer.degraded" && line[key].to_string().contains(named)
        });
        let count = changes.count();
        ensure!(count == 1, "{key} names {named} {count} times");
    }
    Ok(())
}

/// How long it may take until tracer gives up a namespace whose thread does not come back.
const GIVEN_UP: Duration = Duration::from_secs(20);

/// The thread that reads sockets in namespaces is stopped after the start of a recording: the stream must name the namespace that
/// is left out (`degraded.added`), and, once the thread goes on, within 40 s that it is read again (`degraded.ended`). `report`
/// must say from when on the recording is incomplete, with the namespace.
fn left_out_later() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let (_clients, _accepted) = stage.netns.run(|| server.pairs(20))?;
    let named = format!("network namespace {} ", stage.netns.inum());
    let mut record = Record::start("auto", &["--events", "stats", "--interval", "0.5"])?;
    let file = record.file().to_owned();
    let held = Held::threads(record.process.id(), "netns")?;
    wait_for("it to be left out", GIVEN_UP, || says(&file, "degraded.added", &named))?;
    drop(held);
    // Within 30 s, tracer tries again to read all sockets of the namespace.
    let again = Duration::from_secs(40);
    wait_for("it to be looked into again", again, || says(&file, "degraded.ended", &named))?;
    record.process.signal(Signal::INT)?;
    check_changes(&record.finish()?, &named)?;
    let ended = tracer::run(tracer::command(&["report", "-o", "json"])?.arg(&file), START_LIMIT)?;
    let text = format!("{ended:?}");
    ensure!(text.contains("incomplete from") && text.contains(&named), "{text}");
    Ok(())
}

/// No process is in a namespace any more, but its sockets are open: the tracer cannot compare them with the kernel's. The stream
/// must name the namespace (`degraded.added`), until a descriptor of it exists again (`degraded.ended`).
fn unreachable() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let record = Record::start("auto", &["--events", "stats", "--interval", "0.2"])?;
    let server = stage.server("10.1.0.1:7000")?;
    let (clients, _accepted) = stage.netns.run(|| server.pairs(20))?;
    let named = format!("network namespace {} ", stage.netns.inum());
    let file = record.file().to_owned();
    drop(stage);
    wait_for("it to be left out", GIVEN_UP, || says(&file, "degraded.added", &named))?;
    // By this descriptor of the namespace, the tracer finds the namespace again.
    let way = netns::of_socket(&clients[0])?;
    wait_for("it to be found again", GIVEN_UP, || says(&file, "degraded.ended", &named))?;
    drop(way);
    check_changes(&record.stop()?, &named)
}

/// The thread of a rule's agent that reads sockets in namespaces is stopped after the start: the agent's stream
/// (`degraded.added`) and status must name the namespace that is left out, until the thread goes on and it is read again
/// (`degraded.ended`), within 40 s.
fn left_out_of_an_agent() -> Result<()> {
    let host = Host::new()?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("lines");
    let output = file.to_string_lossy();
    let spread = host.spread(&POOL, &["--output", &output])?;
    let named = format!("network namespace {} ", host.stage.netns.inum());
    wait_for("its first line", START_LIMIT, || {
        Ok(fs::read_to_string(&file)?.ends_with('\n').then_some(()))
    })?;
    let held = Held::threads(spread.process.id(), "netns")?;
    wait_for("it to be left out", GIVEN_UP, || says(&file, "degraded.added", &named))?;
    let status = format!("{:?}", host.rule.status()?.degraded);
    ensure!(status.contains(&named), "the status has {status}");
    drop(held);
    let again = Duration::from_secs(40);
    wait_for("it to be looked into again", again, || says(&file, "degraded.ended", &named))?;
    host.rule.status_when("the status to follow", |status| {
        !format!("{:?}", status.degraded).contains(&named)
    })?;
    spread.stop()?;
    check_changes(&Recording::read(&file)?, &named)?;
    host.rule.check_nothing_left()
}

/// A datagram with sock_diag answers that list `count` established connections that do not exist, in hexadecimal digits.
fn forged(count: u32) -> String {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const NLM_F_MULTI: u16 = 2;
    let mut datagram = Vec::new();
    for number in 1..=count {
        // struct nlmsghdr; the length is that of the whole message.
        datagram.extend(88_u32.to_ne_bytes());
        datagram.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        datagram.extend(NLM_F_MULTI.to_ne_bytes());
        datagram.extend([0; 8]);
        // struct inet_diag_msg: AF_INET, TCP_ESTABLISHED, no timer.
        datagram.extend([2, 1, 0, 0]);
        datagram.extend(u16::try_from(40_000 + number).unwrap_or(u16::MAX).to_be_bytes());
        datagram.extend(80_u16.to_be_bytes());
        for address in [[10, 66, 0, 1], [10, 66, 0, 2]] {
            datagram.extend(address);
            datagram.extend([0; 12]);
        }
        // Interface; a cookie that no socket has; no timer, queues, user and inode.
        datagram.extend([0; 4]);
        datagram.extend(number.to_ne_bytes());
        datagram.extend(0x7fff_ffff_u32.to_ne_bytes());
        datagram.extend([0; 20]);
    }
    let mut text = String::new();
    for byte in datagram {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").ok();
    }
    text
}

/// Starts a recorder that writes five readings a second to this file.
fn record_stats(file: &Path) -> Result<Process> {
    let arguments = ["record", "--events", "stats", "--interval", "0.2", "--output"];
    let mut command = tracer::command(&arguments)?;
    command.arg(file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Process::spawn(&mut command)
}

/// While a tracer starts, an outsider sends it 400,000 times forged sock_diag answers in the outsider's own namespace: none may
/// be in the ledger, the tracer's sockets may take 10 of them at most, a victim's 20 connections must be counted exactly, and the
/// tracer may take less than 128 MiB.
fn forged_answers() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let (_clients, _accepted) = stage.netns.run(|| server.pairs(20))?;
    let mut outsider = Outsider::spawn_with(Spaces::UserAndNet)?;
    // With more sockets in the namespace, the kernel's answer takes longer, so that forged answers have more time to arrive.
    outsider.run("bind 127.0.0.1:0 2000")?;
    let inum = fs::metadata(format!("/proc/{}/ns/net", outsider.id()))?;
    let inum = std::os::unix::fs::MetadataExt::ino(&inum);
    let forged = forged(100);

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("stats.jsonl");
    let mut process = record_stats(&file)?;
    // The kernel gives a process's first netlink socket the process id as its port id.
    outsider.begin(&format!("netlink 4 {} 400000 {forged}", process.id()))?;
    let sent = outsider.end()?;
    wait_for("readings", START_LIMIT, || {
        let text = fs::read_to_string(&file).unwrap_or_default();
        Ok((text.matches("\"tracer.stats\"").count() >= 2).then_some(()))
    })?;
    let memory = fs::read_to_string(format!("/proc/{}/status", process.id()))?;
    process.signal(Signal::INT)?;
    process.wait(tracer::STOP_LIMIT)?;

    let recording = Recording::read(&file)?;
    let lies = recording.events("tuple.stats", inum);
    ensure!(lies.is_empty(), "the forged answers were believed: {}", lies[0]);
    let all: u64 = sent.iter().sum();
    ensure!(all == 400_000 && sent[0] <= 10, "the tracer's sockets took {} messages", sent[0]);
    let victim = recording.events("tuple.stats", stage.netns.inum());
    let victim = victim.last().context("the victim is not in the recording")?;
    ensure!(number(victim, "ports.in_use")? == 20, "{victim}");
    ensure!(number(victim, "ports.time_wait")? == 0, "{victim}");
    let most = memory.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let most: u64 = most.context("no VmHWM")?.trim().trim_end_matches(" kB").parse()?;
    ensure!(most < 128 << 10, "the tracer took {most} KiB");
    // Another tracer must count the same.
    stage.watch()?;
    stage.check(&[(server.tuple(), Expected::ports(20, 0))])?;
    outsider.kill()?;
    stage.stop()
}

/// Memory of a process (VmRSS) in KiB, and the CPU time that it has used so far, in clock ticks of 10 ms.
fn cost(process: u32) -> Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no comm")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    Ok((rss.trim().trim_end_matches(" kB").parse()?, ticks.sum::<Result<u64, _>>()?))
}

/// 400 network namespaces of an outsider, each with a row: the tracer must have the capacity of each, with less than 3 MiB more
/// memory, and less than 20 % of a CPU.
fn many() -> Result<()> {
    const NAMESPACES: usize = 400;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("stats.jsonl");
    let mut process = record_stats(&file)?;
    let readings = || -> Result<usize> {
        let text = fs::read_to_string(&file).unwrap_or_default();
        Ok(text.matches("\"tracer.stats\"").count())
    };
    let after_two = || -> Result<()> {
        let now = readings()?;
        wait_for("readings", START_LIMIT, || Ok((readings()? >= now + 2).then_some(())))
    };
    after_two()?;
    let (before, _) = cost(process.id())?;
    let mut outsider = Outsider::spawn()?;
    outsider.run(&format!("busy-namespaces {NAMESPACES}"))?;
    wait_for("rows of all namespaces with their capacity", START_LIMIT, || {
        let text = lie::file(&file).unwrap_or_default();
        let rows = text.lines().filter(|line| line.contains("\"ports.capacity\":28232"));
        let netns =
            |line: &str| Some(line.split_once("\"netns\":")?.1.split_once(',')?.0.to_owned());
        let known: BTreeSet<String> = rows.filter_map(netns).collect();
        Ok((known.len() >= NAMESPACES).then_some(()))
    })?;
    after_two()?;
    let measured_from = Instant::now();
    let (_, began) = cost(process.id())?;
    std::thread::sleep(Duration::from_secs(2));
    let (after, ended) = cost(process.id())?;
    let seconds = measured_from.elapsed().as_secs_f64();
    process.signal(Signal::INT)?;
    process.wait(tracer::STOP_LIMIT)?;
    let more = after.saturating_sub(before);
    let load = f64::from(u32::try_from(ended - began)?) / seconds;
    ensure!(more < 3 << 10, "{NAMESPACES} namespaces of an outsider take {more} KiB");
    ensure!(load < 20.0, "they take {load:.0} % of a core");
    Ok(())
}
