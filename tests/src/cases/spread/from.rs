//! `spread::from`: `--dry-run --from` says what the saturation in a recording would have been with a pool.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use super::{Application, Case, Host, PORTS, Plan};
use crate::{
    cases::errors::{run_as_nobody, says},
    harness::{
        process::Process,
        tracer::{Ended, START_LIMIT, command, run, wait_for},
    },
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("spread::from")
        .once(&[
            ("a_recording", a_recording),
            ("no_such_file", no_such_file),
            ("not_a_recording", not_a_recording),
            ("nothing_of_use", nothing_of_use),
        ])
        .cases()
}

/// The command `spread --dry-run --from FILE` with four addresses, which this host does not have.
fn from(file: &Path) -> Result<Command> {
    let mut command = command(&["spread", "--pool", "10.99.0.1-10.99.0.4", "--dry-run", "--from"])?;
    command.arg(file);
    Ok(command)
}

fn project(file: &Path) -> Result<Ended> {
    run(&mut from(file)?, START_LIMIT)
}

/// For a recording, plain or compressed, the projection is of its peak, not of its end: 96 % of one address are 24 % of four. The
/// command attaches nothing, so it needs no privileges.
fn a_recording() -> Result<()> {
    for name in ["ports.jsonl", "ports.jsonl.zst"] {
        let mut host = Host::new()?;
        let server = host.server("10.1.0.1:7000")?;
        let folder = tempfile::tempdir()?;
        let path = folder.path().join(name);
        let mut record =
            command(&["record", "--events", "stats", "--interval", "0.2", "--output"])?;
        record.arg(&path);
        if name.ends_with("zst") {
            record.args(["--compress", "zstd"]);
        }
        let mut record = Process::spawn(&mut record)?;
        // The first line is written once everything is attached.
        let begun = || fs::metadata(&path).is_ok_and(|file| file.len() > 0);
        wait_for("the recording to begin", START_LIMIT, || Ok(begun().then_some(())))?;
        let other = Application::new(&host.stage.netns)?;
        let first = (0..PORTS * 60 / 100).map(|_| host.connect(server.address));
        let first = first.collect::<Result<Vec<_>>>()?;
        let more = (0..PORTS * 36 / 100).map(|_| other.connect(server.address));
        let _more = more.collect::<Result<Vec<_>>>()?;
        std::thread::sleep(std::time::Duration::from_millis(700));
        for sock in first {
            // With a reset, the ports are free without TIME_WAIT.
            sock.set_reset_on_close()?;
            drop(sock);
        }
        std::thread::sleep(std::time::Duration::from_millis(400));
        record.signal(rustix::process::Signal::TERM)?;
        record.wait(START_LIMIT)?;
        let ended = project(&path)?;
        ensure!(ended.code() == 0 && ended.stderr.is_empty(), "{ended:?}");
        let line = ended.stdout.lines().find(|line| line.contains("10.1.0.1:7000"));
        let line = line.with_context(|| format!("{ended:?}"))?;
        ensure!(line.ends_with("peak saturation 96 % -> 24 %"), "{ended:?}");
        if name.ends_with("jsonl") {
            fs::set_permissions(
                folder.path(),
                std::os::unix::fs::PermissionsExt::from_mode(0o755),
            )?;
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
            let file = path.to_str().context("path is not UTF-8")?;
            let arguments = ["spread", "--pool", "10.99.0.1", "--dry-run", "--from", file];
            let ended = run_as_nobody(&arguments)?;
            ensure!(ended.code() == 0 && ended.stdout.contains("96 % -> 96 %"), "{ended:?}");
        }
    }
    Ok(())
}

/// A file that does not exist is an error (exit code 1) with its path.
fn no_such_file() -> Result<()> {
    let path = Path::new("/nowhere/ports.jsonl");
    says(&project(path)?, &[1], &["/nowhere/ports.jsonl", "no such file"])
}

/// A file with a line that is none of a recording is an error (exit code 1) with the file and the number of the line.
fn not_a_recording() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("other.log");
    fs::write(&path, "{\"v\":1,\"mono_ns\":1,\"event.name\":\"lost\"}\nsomething else\n")?;
    says(&project(&path)?, &[1], &["other.log, line 2", "tracer record"])
}

/// A recording without a `tuple.stats` line is an error (exit code 1) that says which events are needed.
fn nothing_of_use() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("failed.jsonl");
    fs::write(&path, "{\"v\":1,\"mono_ns\":1,\"event.name\":\"lost\"}\n")?;
    says(&project(&path)?, &[1], &["failed.jsonl", "tuple.stats", "--events stats"])
}
