//! Namespaces that an outsider owns: neither what it puts in their place nor what it says in them reaches a
//! tracer.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::{
    cases::{Case, named},
    outsider::{Outsider, Spaces},
    process::Process,
    stage::{Expected, Stage},
    tracer::{self, START_LIMIT, record::Record, wait_for, watch::number},
};

pub(super) fn cases() -> Vec<Case> {
    named(
        "abuse::namespaces",
        &[
            ("fifos_in_their_place_freeze_nobody", fifos),
            ("forged_answers_are_not_believed", forged_answers),
        ],
    )
}

/// Descriptors of namespaces turn into a FIFO that nobody writes to and back, without end. Opening one
/// would wait for ever.
fn fifos() -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))?;
    let mut outsider = Outsider::spawn()?;
    outsider.run("namespaces 12")?;
    let swapped =
        outsider.run(&format!("swap-with-fifo {}", folder.path().join("fifo").display()))?;
    ensure!(swapped == [12], "the outsider swaps {swapped:?}");

    let record = Record::start("auto", &["--events", "stats", "--stats-interval", "0.2"])?;
    for _ in 0..2 {
        let began = Instant::now();
        let arguments = ["tuples", "--once", "--limit", "1"];
        let ended = tracer::run(&mut tracer::command(&arguments)?, START_LIMIT)?;
        ensure!(ended.code() == 0, "{ended:?}");
        ensure!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
    }
    let readings = |text: &str| text.matches("\"tracer.stats\"").count();
    let before = readings(&fs::read_to_string(record.file())?);
    wait_for("readings of a recorder", Duration::from_secs(10), || {
        Ok((readings(&fs::read_to_string(record.file())?) >= before + 5).then_some(()))
    })?;
    record.stop()?;
    outsider.kill()
}

/// A datagram with sock_diag answers about `count` established connections that do not exist, in hexadecimal digits.
fn forged(count: u32) -> String {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const NLM_F_MULTI: u16 = 2;
    let mut datagram = Vec::new();
    for number in 1..=count {
        // struct nlmsghdr, whose length is that of all.
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

/// The outsider answers in the kernel's place, in a namespace of its own, while a tracer starts: nothing of it
/// is in the ledger, nothing is taken by the tracer's sockets, and a victim's connections are counted exactly.
fn forged_answers() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let (_clients, _accepted) = stage.netns.run(|| server.pairs(20))?;
    let mut outsider = Outsider::spawn_with(Spaces::UserAndNet)?;
    // The more there is in its namespace, the longer the kernel's own answer takes.
    outsider.run("bind 127.0.0.1:0 2000")?;
    let inum = fs::metadata(format!("/proc/{}/ns/net", outsider.id()))?;
    let inum = std::os::unix::fs::MetadataExt::ino(&inum);
    let forged = forged(100);

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("stats.jsonl");
    let arguments = ["record", "--events", "stats", "--stats-interval", "0.2", "-o"];
    let mut command = tracer::command(&arguments)?;
    command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = Process::spawn(&mut command)?;
    // A socket's port number is that of its process, if that is free.
    outsider.begin(&format!("netlink 4 {} 400000 {forged}", process.id()))?;
    let sent = outsider.end()?;
    wait_for("readings", START_LIMIT, || {
        let text = fs::read_to_string(&file).unwrap_or_default();
        Ok((text.matches("\"tracer.stats\"").count() >= 2).then_some(()))
    })?;
    let memory = fs::read_to_string(format!("/proc/{}/status", process.id()))?;
    process.signal(Signal::INT)?;
    process.wait(tracer::STOP_LIMIT)?;

    let recording = tracer::record::Recording::read(&file)?;
    let lies = recording.events("tuple.stats", inum);
    ensure!(lies.is_empty(), "the outsider was believed: {}", lies[0]);
    let all: u64 = sent.iter().sum();
    ensure!(all == 400_000 && sent[0] <= 10, "the tracer's sockets took {} messages", sent[0]);
    let victim = recording.events("tuple.stats", stage.netns.inum());
    let victim = victim.last().context("the victim is not in the recording")?;
    ensure!(number(victim, "ports.in_use")? == 20, "{victim}");
    ensure!(number(victim, "ports.time_wait")? == 0, "{victim}");
    let most = memory.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let most: u64 = most.context("no VmHWM")?.trim().trim_end_matches(" kB").parse()?;
    ensure!(most < 128 << 10, "the tracer took {most} KiB");
    // And as others see it.
    stage.watch()?;
    stage.check(&[(server.tuple(), Expected::ports(20, 0))])?;
    outsider.kill()?;
    stage.stop()
}
