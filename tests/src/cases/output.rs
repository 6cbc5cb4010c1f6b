//! `output::*`: the options for output: files (rotation, reopening, compression, owners), and progress and log on stderr.
#![expect(unsafe_code, reason = "openpty(3)")]

use std::{
    fs::{self, File, hard_link},
    io::Read,
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    },
    path::Path,
    process::{Command, Stdio},
    ptr, thread,
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use super::{
    Case, Plan,
    errors::{BAD_CONFIG, says},
};
use crate::harness::{
    lie::{self, Stream},
    probe::no_programs,
    process::Process,
    stage::{Server, Stage},
    tracer::{
        START_LIMIT, STOP_LIMIT, command,
        record::{Record, eventually},
        run, run_into,
        watch::text,
    },
};

pub fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("output")
        .once(&[
            ("rotated_files_follow_on_each_other", rotated),
            ("rotated_in_a_folder_of_another_user", rotated_for_another),
            ("reopened_in_a_folder_of_another_user", reopened_for_another),
            ("nothing_of_roots_is_written_for_the_folders_owner", tricks),
            ("a_folder_that_cannot_be_rotated_in_is_refused", refused_folders),
        ])
        .kernel_independent()
        .once(&[("compressed_and_rotated", compressed)])
        .unless(no_programs(&["zstd"]))
        .kernel_independent()
        .once(&[
            ("progress_is_shown_on_a_terminal", progress_on_a_terminal),
            ("nothing_on_stderr_that_is_piped", quiet_when_piped),
            ("what_takes_no_line_is_said_and_ends_with_1", dev_full),
            ("log_as_json_with_the_kernel_sides_messages", log_as_json),
        ])
        .kernel_independent()
        .cases()
}

/// Makes `count` connections, each reset immediately: each gives several lines.
fn connect(stage: &Stage, server: &Server, count: usize) -> Result<()> {
    stage.netns.run(|| {
        (0..count).try_for_each(|_| {
            let (client, _accepted) = server.pair()?;
            Ok(client.set_reset_on_close()?)
        })
    })
}

/// Records connections of a new stage to the file `file`, with the options `more`, until the file `last` exists, which takes
/// several rotations; then for one rotation more. Returns the folder.
fn record_rotating(file: &str, more: &[&str], last: &str) -> Result<tempfile::TempDir> {
    record_rotating_in(tempfile::tempdir()?, file, more, last)
}

fn record_rotating_in(
    folder: tempfile::TempDir,
    file: &str,
    more: &[&str],
    last: &str,
) -> Result<tempfile::TempDir> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let path = folder.path().join(file);
    let path = path.to_str().context("path is not UTF-8")?;
    let inum = stage.netns.inum().to_string();
    let mut command = command(&["record", "--output", path, "--events", "all", "--netns", &inum])?;
    command.args(["--rotate", "64K", "--keep", "2"]).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut process = Process::spawn(&mut command)?;
    eventually("the file", || Ok(Path::new(path).exists()))?;
    eventually("the rotations", || {
        connect(&stage, &server, 100)?;
        Ok(folder.path().join(last).exists())
    })?;
    // Enough for another rotation: only two old files are kept.
    connect(&stage, &server, 300)?;
    process.signal(Signal::INT)?;
    let status = process.wait(STOP_LIMIT)?;
    ensure!(status.code() == Some(0), "record ended with {status}");
    Ok(folder)
}

/// The names of the files in a folder, sorted.
fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder)?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// Checks the texts of a recording's files: each has whole lines, `seq` has no gap, also from one file to the next, and the last
/// line is `tracer.stop`.
fn follows_on(oldest_first: &[String]) -> Result<()> {
    let mut next = None;
    let mut newest = Value::Null;
    for (index, file) in oldest_first.iter().enumerate() {
        ensure!(file.ends_with('\n'), "file {index} ends within a line");
        for line in file.lines() {
            newest = serde_json::from_str(line).with_context(|| format!("bad line {line:?}"))?;
            let seq = newest["seq"].as_u64().context("no seq")?;
            ensure!(next.is_none_or(|next| next == seq), "{next:?} is missing before {seq}");
            next = Some(seq + 1);
        }
    }
    ensure!(text(&newest, "event.name")? == "tracer.stop", "the last line is {newest}");
    Ok(())
}

/// `--rotate 64K --keep 2`: there are three files, the two older ones of 64 to 128 KiB, and no line is lost between them.
fn rotated() -> Result<()> {
    let folder = record_rotating("events.jsonl", &[], "events.jsonl.2")?;
    let expected = ["events.jsonl", "events.jsonl.1", "events.jsonl.2"];
    ensure!(names(folder.path())? == expected, "files: {:?}", names(folder.path())?);
    let files = expected.iter().rev().map(|name| lie::file(folder.path().join(name)));
    let files = files.collect::<Result<Vec<_>>>()?;
    for file in &files[..2] {
        // The size is checked after each write, so a file can be a little larger than 64 KiB.
        ensure!((64 << 10..128 << 10).contains(&file.len()), "rotated at {} bytes", file.len());
    }
    follows_on(&files)
}

/// Exit code for a failed call on a file, such as a full disk (Exit::Failure: anything without a code of its own).
const FAILURE: i32 = 1;
/// User id of a user who owns the folder of the output.
const OWNER: u32 = 1234;

fn folder_of_another() -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    chown(folder.path(), Some(OWNER), Some(OWNER))?;
    Ok(folder)
}

/// In a folder of another user, rotated files belong to that user with mode 0600, and no line is lost between them.
fn rotated_for_another() -> Result<()> {
    let folder = record_rotating_in(folder_of_another()?, "ev.jsonl", &[], "ev.jsonl.2")?;
    let oldest_first = ["ev.jsonl.2", "ev.jsonl.1", "ev.jsonl"];
    ensure!(names(folder.path())?.len() == 3, "files: {:?}", names(folder.path())?);
    let files = oldest_first.map(|name| -> Result<String> {
        let path = folder.path().join(name);
        let metadata = fs::metadata(&path)?;
        let right = (metadata.uid(), metadata.mode() & 0o777) == (OWNER, 0o600);
        ensure!(right, "{name} belongs to {} with mode {:o}", metadata.uid(), metadata.mode());
        lie::file(path)
    });
    follows_on(&files.into_iter().collect::<Result<Vec<_>>>()?)
}

/// In a folder of another user, the file is renamed, then SIGHUP is sent, as logrotate does: there is a new file, `record` ends
/// with exit code 0 after SIGINT, and `seq` has no gap from the old file to the new one.
fn reopened_for_another() -> Result<()> {
    let folder = folder_of_another()?;
    let (file, moved) = (folder.path().join("ev.jsonl"), folder.path().join("ev.jsonl.1"));
    let mut record = Record::start_at("auto", &file, &[])?;
    fs::rename(&file, &moved)?;
    record.process.signal(Signal::HUP)?;
    eventually("the new file", || Ok(file.exists()))?;
    record.process.signal(Signal::INT)?;
    let status = record.process.wait(STOP_LIMIT)?;
    ensure!(status.code() == Some(0), "record ended with {status}");
    follows_on(&[lie::file(moved)?, lie::file(file)?])
}

/// The folder's owner replaces the output file by links (symbolic, then hard) to root's file, and the folder by a link to a
/// folder of root's. After each SIGHUP, `record` goes on with the file or the folder that it had: root's file and folder are as
/// before, and `seq` has no gap.
fn tricks() -> Result<()> {
    let roots = tempfile::tempdir()?;
    let secret = roots.path().join("secret");
    fs::write(&secret, "root's")?;
    let parent = folder_of_another()?;
    let folder = parent.path().join("logs");
    fs::create_dir(&folder)?;
    chown(&folder, Some(OWNER), Some(OWNER))?;
    let file = folder.join("ev.jsonl");
    let log = roots.path().join("log");
    let mut command = command(&["record", "--events", "all", "--output"])?;
    command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
    let mut record = Process::spawn(&mut command)?;
    eventually("the first line", || {
        Ok(fs::read_to_string(&file).is_ok_and(|text| text.contains("tracer.start")))
    })?;
    fs::rename(&file, folder.join("first"))?;
    for (tried, link) in [symlink::<&Path, &Path>, hard_link].into_iter().enumerate() {
        link(&secret, &file)?;
        record.signal(Signal::HUP)?;
        eventually("the refusal", || {
            let log = lie::log(&log)?;
            Ok(log.matches("going on with the file that was open before").count() > tried)
        })?;
        fs::remove_file(&file)?;
    }
    fs::rename(&folder, parent.path().join("moved"))?;
    symlink(roots.path(), &folder)?;
    record.signal(Signal::HUP)?;
    let moved = parent.path().join("moved");
    eventually("the new file", || Ok(moved.join("ev.jsonl").exists()))?;
    record.signal(Signal::INT)?;
    let status = record.wait(STOP_LIMIT)?;
    ensure!(status.code() == Some(0), "record ended with {status}");
    ensure!(
        names(roots.path())? == ["log", "secret"],
        "in root's folder: {:?}",
        names(roots.path())?
    );
    ensure!(fs::read_to_string(secret)? == "root's", "root's file was written to");
    follows_on(&[lie::file(moved.join("first"))?, lie::file(moved.join("ev.jsonl"))?])
}

/// What would fail later is reported at the start: a file that the folder's owner may not write to (exit code 1), and a rotation
/// in a folder that the owner may not change (78), are errors; without rotation such a folder is a warning, as reopening the file
/// would fail.
fn refused_folders() -> Result<()> {
    let folder = folder_of_another()?;
    let file = folder.path().join("ev.jsonl");
    let start = |more: &[&str]| {
        let mut command = command(&["record", "--duration", "0.1", "--output"])?;
        run(command.arg(&file).args(more), START_LIMIT)
    };
    // The file is root's, and the folder's owner may not write to it.
    fs::write(&file, "")?;
    says(&start(&[])?, &[FAILURE], &["ev.jsonl", "owner of the file's folder"])?;
    chown(&file, Some(OWNER), Some(OWNER))?;
    // The owner may not change the folder.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555))?;
    says(&start(&["--rotate", "1M"])?, &[BAD_CONFIG], &["rotate", "owner of the file's folder"])?;
    let warned = start(&[])?;
    ensure!(warned.code() == 0 && warned.stderr.contains("SIGHUP"), "{warned:?}");
    Ok(())
}

/// `--compress zstd` with rotation: there are three files, each of which zstd(1) reads, and no line is lost between them.
fn compressed() -> Result<()> {
    let more = ["--compress", "zstd"];
    let folder = record_rotating("events.jsonl.zst", &more, "events.jsonl.2.zst")?;
    let expected = ["events.jsonl.1.zst", "events.jsonl.2.zst", "events.jsonl.zst"];
    ensure!(names(folder.path())? == expected, "files: {:?}", names(folder.path())?);
    let oldest_first = ["events.jsonl.2.zst", "events.jsonl.1.zst", "events.jsonl.zst"];
    let files = oldest_first.map(|name| -> Result<String> {
        let path = folder.path().join(name);
        let ended = run(Command::new("zstd").arg("-dcq").arg(path), STOP_LIMIT)?;
        ensure!(ended.code() == 0, "{name} is not what zstd reads: {}", ended.stderr);
        Ok(ended.stdout)
    });
    follows_on(&files.into_iter().collect::<Result<Vec<_>>>()?)
}

/// Both ends of a new pseudoterminal: (controller, terminal).
fn terminal() -> Result<(OwnedFd, OwnedFd)> {
    let (mut near, mut far) = (-1, -1);
    // SAFETY: both numbers are written to; the name and the settings may be null.
    let result = unsafe {
        libc::openpty(&raw mut near, &raw mut far, ptr::null_mut(), ptr::null(), ptr::null())
    };
    ensure!(result == 0, "openpty: {}", std::io::Error::last_os_error());
    // SAFETY: openpty has just made both descriptors, and nothing else owns them.
    Ok(unsafe { (OwnedFd::from_raw_fd(near), OwnedFd::from_raw_fd(far)) })
}

/// While the lines go to a file, stderr on a terminal has the number of events (at least the 50 of this test), their rate, and
/// losses.
fn progress_on_a_terminal() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("events.jsonl");
    let (controller, terminal) = terminal()?;
    let mut command = command(&["record", "--events", "all", "--duration", "3", "--output"])?;
    command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(terminal);
    let mut process = Process::spawn(&mut command)?;
    // The command holds the terminal open, too.
    drop(command);
    let shown = thread::spawn(move || {
        let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
        let mut controller = File::from(controller);
        // Once the terminal is closed everywhere, this read fails.
        while let Ok(length @ 1..) = controller.read(&mut piece) {
            bytes.extend_from_slice(&piece[..length]);
        }
        lie::text(Stream::Stderr, String::from_utf8_lossy(&bytes).into_owned())
    });
    // The file exists before the hooks are attached; its first line is written afterwards.
    eventually("the first line", || {
        Ok(fs::read_to_string(&file).is_ok_and(|text| text.contains("tracer.start")))
    })?;
    connect(&stage, &server, 50)?;
    let status = process.wait(START_LIMIT)?;
    ensure!(status.code() == Some(0), "record ended with {status}");
    let shown = shown.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
    let counts = shown.split('\r').filter_map(|line| line.split_once(" events, ")?.0.parse().ok());
    let most: u64 = counts.max().with_context(|| format!("no progress in {shown:?}"))?;
    ensure!(most >= 50, "{most} events of 50 connections: {shown:?}");
    ensure!(shown.contains(" lost"), "nothing of losses in {shown:?}");
    Ok(())
}

/// While the lines of `record --duration 2` go to a file, nothing is on stdout, nor on stderr, which is a pipe; exit code 0.
fn quiet_when_piped() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut command = command(&["record", "--events", "all", "--duration", "2", "--output"])?;
    command.arg(folder.path().join("events.jsonl"));
    let ended = run(&mut command, START_LIMIT)?;
    ensure!(ended.code() == 0, "{ended:?}");
    ensure!(ended.stderr.is_empty() && ended.stdout.is_empty(), "not quiet: {ended:?}");
    Ok(())
}

/// `/dev/full`, as a file and as stdout: one error when the first line is lost, one at the end with the number of lost lines, and
/// exit code 1.
fn dev_full() -> Result<()> {
    let full = || File::options().write(true).open("/dev/full");
    for (output, name) in [("/dev/full", "/dev/full"), ("-", "stdout")] {
        let mut command =
            command(&["record", "--duration", "1", "--interval", "1", "--output", output])?;
        let ended = run_into(&mut command, full()?.into(), START_LIMIT)?;
        let begin = format!("cannot write to {name}: no space left on device");
        let end = format!("lines could not be written to {name}: no space left on device");
        ensure!(ended.code() == FAILURE, "{ended:?}");
        ensure!(ended.stderr.matches(&begin).count() == 1, "when it began: {ended:?}");
        ensure!(ended.stderr.matches(&end).count() == 1, "at the end: {ended:?}");
    }
    Ok(())
}

/// With `-vvv --log-format json`, each line of stderr is a JSON object with `level`, `timestamp` and `message`; a message about
/// the backend and one of a BPF program (`command …`) are among them.
fn log_as_json() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    // A BPF program adds these older sockets to the ledger, and logs it.
    let _pairs = stage.netns.run(|| server.pairs(3))?;
    let folder = tempfile::tempdir()?;
    let mut command =
        command(&["-vvv", "--log-format", "json", "record", "--duration", "2", "--output"])?;
    command.arg(folder.path().join("events.jsonl"));
    let ended = run(&mut command, START_LIMIT)?;
    ensure!(ended.code() == 0, "{ended:?}");
    let mut messages = Vec::new();
    for line in ended.stderr.lines() {
        let line: Value =
            serde_json::from_str(line).with_context(|| format!("bad line {line:?}"))?;
        text(&line, "level")?;
        text(&line, "timestamp")?;
        messages.push(text(&line, "message")?.to_owned());
    }
    for wanted in ["attached: the backend is ", "command "] {
        let logged = messages.iter().any(|message| message.starts_with(wanted));
        ensure!(logged, "{wanted:?} is not in {messages:?}");
    }
    Ok(())
}
