//! `abuse::cgroups`: cgroup names that a user chooses, and cgroup namespaces that hide the host's cgroups.

use std::{
    fs,
    os::unix::fs::chown,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{
    cases::{
        Case, Plan,
        errors::{BAD_CONFIG, says},
    },
    harness::{
        cgroup::Cgroup,
        outsider::{ID, Outsider},
        process::Process,
        stage::Stage,
        tracer::{
            self, START_LIMIT,
            record::{Record, Recording, eventually},
            spread::Rule,
        },
    },
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("abuse::cgroups")
        .once(&[
            ("a_delegated_one_is_no_container", delegated),
            ("a_namespace_hides_the_host_only_where_that_is_said", namespace),
        ])
        .cases()
}

/// An outsider makes a cgroup below one that is delegated to it, names the new one like a container's, and connects three times
/// in it: each event has the cgroup's path, but no container id.
fn delegated() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let mut outsider = stage.netns.run(Outsider::spawn)?;
    let parent = Cgroup::new("delegated")?;
    chown(parent.path(), Some(ID), Some(ID))?;
    let container = "0123456789abcdef".repeat(4);
    let scope = parent.path().join(format!("docker-{container}.scope"));
    outsider.run(&format!("mkdir {} 755", scope.display()))?;
    fs::write(scope.join("cgroup.procs"), outsider.id().to_string())?;

    let record = Record::start("auto", &["--events", "allocated"])?;
    let made = outsider.run(&format!("connect {} 3", server.address))?;
    ensure!(made.first() == Some(&3), "connects: {made:?}");
    let recording = record.stop()?;
    outsider.kill()?;
    eventually("the end of the cgroup", || Ok(fs::remove_dir(&scope).is_ok()))?;

    let lines = recording.events("port.allocated", stage.netns.inum());
    ensure!(lines.len() == 3, "{} of 3 connections were seen", lines.len());
    for line in lines {
        let cgroup = line["process.linux.cgroup"].as_str().context("no cgroup")?;
        ensure!(cgroup.ends_with(&format!("docker-{container}.scope")), "{line}");
        ensure!(line.get("container.id").is_none(), "{line}");
    }
    Ok(())
}

/// Shell commands that unmount every cgroup2: as in a container that has no cgroup mount.
const NO_MOUNTS: &str =
    "for at in $(awk '/ - cgroup2 /{print $5}' /proc/self/mountinfo); do umount -l $at; done";

/// A tracer in a cgroup namespace sees the host's five connections, because it finds the host's cgroup root by its mounts or by
/// process 1. If neither leads to that root, `degraded` in the recording says so, and `tracer spread` refuses to take all
/// processes (exit code 78), and attaches nothing.
fn namespace() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let cgroup = Cgroup::new("inside")?;
    let folder = tempfile::tempdir()?;
    // Runs tracer with `arguments` in a new cgroup namespace, which unshare(1) makes. `unshare`: options of unshare(1) for more
    // new namespaces; `around`: a command that runs unshare(1); `first`: shell commands that run in the namespaces before tracer.
    let inside = |around: &str, unshare: &str, first: &str, arguments: &str| -> Result<Command> {
        let [inner, middle] = ["inner", "middle"].map(|name| folder.path().join(name));
        let program = tracer::program()?;
        fs::write(&inner, format!("{first}\nexec {} {arguments}\n", program.display()))?;
        let make = format!("unshare --cgroup {unshare} sh {}\nexit $?\n", inner.display());
        fs::write(&middle, make)?;
        let mut command = Command::new("sh");
        let (procs, middle) = (cgroup.path().join("cgroup.procs"), middle.display());
        command.args(["-c", &format!("echo $$ >{} && exec {around} sh {middle}", procs.display())]);
        Ok(command)
    };
    let alone = "--mount --pid --fork --kill-child --mount-proc";
    // Process 1 of the inner PID namespace is then in the host's cgroup namespace.
    let around = format!("unshare {alone}");
    for (name, around, unshare, first, whole) in [
        ("mounts", "", "--mount", "", true),
        ("process-1", around.as_str(), "--mount", NO_MOUNTS, true),
        ("alone", "", alone, NO_MOUNTS, false),
    ] {
        let file = folder.path().join(name);
        let arguments =
            format!("record --events allocated --duration 1.5 --output {}", file.display());
        let seen = seen(&stage, &server, inside(around, unshare, first, &arguments)?, &file);
        let (count, degraded) = seen.context(name)?;
        ensure!(degraded.contains("cgroup namespace") != whole, "{name}: degraded is {degraded}");
        ensure!(!whole || count == 5, "{name}: {count} of 5 connections were seen");
    }
    let rule = Rule::new();
    // `tracer spread` refuses, too: with `--all`, and with the root of a cgroup2 that was mounted inside, which is not the
    // host's.
    let own = format!(
        "{NO_MOUNTS}\nmkdir {root} && mount -t cgroup2 none {root}",
        root = folder.path().join("root").display()
    );
    let of_own = format!("--cgroup {}", folder.path().join("root").display());
    for (first, of, dry) in [
        (NO_MOUNTS, "--all", "--dry-run"),
        (NO_MOUNTS, "--all", ""),
        (own.as_str(), of_own.as_str(), ""),
    ] {
        let arguments = format!("spread --rule {} --pool 127.0.0.1 {of} {dry}", rule.name());
        let spread = inside("", alone, first, &arguments)?;
        let ended = tracer::run(&mut { spread }, START_LIMIT)?;
        let said = ["the whole machine", "cgroup namespace", "--cgroupns=host"];
        says(&ended, &[BAD_CONFIG], &said).with_context(|| format!("{of} {dry}"))?;
        ensure!(cgroup.attached()? == 0, "{of} {dry}: programs are attached");
        rule.check_nothing_left()?;
        _ = fs::remove_dir(folder.path().join("root"));
    }
    Ok(())
}

/// Runs the recorder while the stage makes five connections. Returns how many of them have a process in the recording `file`, and
/// `degraded` of its first line.
fn seen(
    stage: &Stage,
    server: &crate::harness::stage::Server,
    mut command: Command,
    file: &Path,
) -> Result<(usize, String)> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = Process::spawn(&mut command)?;
    eventually("the first line", || {
        ensure!(process.child.try_wait()?.is_none(), "the tracer ended at once");
        Ok(fs::read_to_string(file).is_ok_and(|text| text.contains("tracer.start")))
    })?;
    let _pairs = stage.netns.run(|| server.pairs(5))?;
    let status = process.wait(START_LIMIT)?;
    ensure!(status.code() == Some(0), "record ended with {status}");
    let recording = Recording::read(file)?;
    let known = |line: &&&serde_json::Value| line.get("process.pid").is_some();
    let lines = recording.events("port.allocated", stage.netns.inum());
    let degraded = recording.start()?["degraded"].to_string();
    Ok((lines.iter().filter(known).count(), degraded))
}
