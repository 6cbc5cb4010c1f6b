//! `errors::*`: errors for wrong input, and on a host where something is missing. Each error names what was given and what is
//! expected, and the program ends with the documented exit code.

mod config;
mod no_segments;

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::{
    fs::{XattrFlags, setxattr},
    process::{Resource, Rlimit, setrlimit},
};

use super::{Case, Plan};
use crate::harness::{
    mounts, privileges,
    probe::Place,
    process::Process,
    stage::{Expected, Stage},
    tracer::{
        self, BACKENDS, Ended, NO_BACKEND, START_LIMIT,
        record::{Record, Recording, eventually},
    },
};

/// Exit code of tracer if its command line is wrong.
pub(super) const USAGE: i32 = 2;
/// Exit code of tracer if privileges are missing, or the kernel refuses something in spite of them.
pub(super) const NO_PRIVILEGE: i32 = 77;
/// Exit code of tracer if its configuration is wrong, for example if a value cannot be used here.
pub(super) const BAD_CONFIG: i32 = 78;

pub fn cases(plan: &Plan) -> Vec<Case> {
    let absent = BACKENDS.iter().filter(|backend| !plan.backends.iter().any(|it| it == *backend));
    plan.group("errors")
        .table(WRONG.iter().map(|wrong| (wrong.name, || wrong.check())))
        .table(absent.map(|backend| {
            let name = format!("backend_that_cannot_run::{backend}");
            (name, move || backend_that_cannot_run(backend))
        }))
        .once(&[
            ("output_in_missing_folder", output_in_missing_folder),
            ("example_of_the_configuration", config::example_is_right),
            ("faults_of_the_configuration", config::faults_end_with_78),
        ])
        .kernel_independent()
        .once(&[("without_privileges", without_privileges)])
        .once(&[
            ("advised_capabilities_are_all", advised_capabilities),
            ("output_in_read_only_folder", output_in_read_only_folder),
        ])
        .kernel_independent()
        .once(&[
            ("no_type_information", no_type_information),
            ("no_cgroup_hierarchy", no_cgroup_hierarchy),
            ("three_capabilities_are_enough", three_capabilities),
            ("under_a_bare_sys", under_a_bare_sys),
        ])
        .once(&[
            ("only_root_gets_into_sys", only_root_gets_into_sys),
            ("no_count_of_segments", no_segments::ends_are_not_known),
        ])
        .kernel_independent()
        .sampled(&[("two_tracers_at_once", two_tracers_at_once)])
        .cases()
}

/// A wrong command line, with the exit codes of which it must have one, and texts of its message.
struct Wrong {
    name: &'static str,
    arguments: &'static [&'static str],
    codes: &'static [i32],
    /// Texts that must all be in the message.
    says: &'static [&'static str],
}

const WRONG: &[Wrong] = &[
    Wrong {
        name: "unknown_flag",
        arguments: &["record", "--bogus"],
        codes: &[USAGE],
        says: &["--bogus", "--help"],
    },
    Wrong {
        name: "misspelt_flag_is_suggested",
        arguments: &["record", "--event", "all"],
        codes: &[USAGE],
        says: &["--event", "--events"],
    },
    Wrong {
        name: "unknown_event_kind",
        arguments: &["record", "--events", "faild"],
        codes: &[USAGE],
        says: &["faild", "failed"],
    },
    Wrong {
        name: "unknown_backend",
        arguments: &["--backend", "magic", "record"],
        codes: &[USAGE],
        says: &["magic", "tracepoint"],
    },
    Wrong {
        name: "source_that_is_no_address",
        arguments: &["record", "--src", "10.0.0.300"],
        codes: &[USAGE, BAD_CONFIG],
        says: &["10.0.0.300", "expected"],
    },
    Wrong {
        name: "port_that_is_none",
        arguments: &["record", "--dport", "65536"],
        codes: &[USAGE, BAD_CONFIG],
        says: &["65536", "expected"],
    },
    Wrong {
        name: "cgroup_that_is_missing",
        arguments: &["record", "--cgroup", "/no/such/cgroup"],
        codes: &[USAGE, BAD_CONFIG],
        says: &["/no/such/cgroup"],
    },
    Wrong {
        name: "netns_that_is_missing",
        arguments: &["record", "--netns", "no-such-namespace"],
        codes: &[USAGE, BAD_CONFIG],
        says: &["no-such-namespace"],
    },
    Wrong {
        name: "netns_that_is_a_plain_file",
        arguments: &["record", "--netns", "/proc/self/status"],
        codes: &[USAGE, BAD_CONFIG],
        says: &["/proc/self/status", "namespace"],
    },
    Wrong {
        name: "rotation_of_stdout",
        arguments: &["record", "--rotate", "1M"],
        codes: &[USAGE, BAD_CONFIG],
        says: &["--rotate", "--output"],
    },
];

impl Wrong {
    fn check(&self) -> Result<()> {
        let ended = tracer::run(&mut tracer::command(self.arguments)?, START_LIMIT)?;
        says(&ended, self.codes, self.says)
    }
}

/// Checks that a run ended with one of these exit codes, with one error (`error: …`) on stderr that has all of `words`, and with
/// nothing on stdout; else an error.
pub(super) fn says(ended: &Ended, codes: &[i32], words: &[&str]) -> Result<()> {
    ensure!(codes.contains(&ended.code()), "exit code {}, not {codes:?}: {ended:?}", ended.code());
    ensure!(ended.stderr.starts_with("error: "), "stderr is {:?}", ended.stderr);
    ensure!(ended.stderr.matches("error: ").count() == 1, "two errors: {:?}", ended.stderr);
    ensure!(ended.stdout.is_empty(), "stdout is {:?}", ended.stdout);
    for word in words {
        ensure!(ended.stderr.contains(word), "stderr does not say {word:?}: {:?}", ended.stderr);
    }
    Ok(())
}

/// A backend that the plan does not have must fail, with an error that has its name and the reason.
fn backend_that_cannot_run(backend: &str) -> Result<()> {
    let arguments = ["--backend", backend, "tuples", "--once"];
    let ended = tracer::run(&mut tracer::command(&arguments)?, START_LIMIT)?;
    says(&ended, &[NO_BACKEND], &[backend])?;
    ensure!(ended.stderr.len() > 60, "no reason is given: {:?}", ended.stderr);
    Ok(())
}

/// The output is in a folder that does not exist: `record` fails within 5 s (longer in a guest) with exit code 1 and the path,
/// before it attaches anything.
fn output_in_missing_folder() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("missing/events.jsonl");
    let path = path.to_str().context("path is not UTF-8")?;
    let started = std::time::Instant::now();
    let mut command = tracer::command(&["record", "--output", path])?;
    says(&tracer::run(&mut command, START_LIMIT)?, &[1], &[path])?;
    ensure!(
        started.elapsed() < Place::get().limit(Duration::from_secs(5)),
        "it took {:?}",
        started.elapsed()
    );
    nothing_is_attached_for(path)
}

/// Checks that `record -v` fails to open this path before it logs that it has attached; and, so that the text is the right one,
/// that a start without an error logs it.
fn nothing_is_attached_for(path: &str) -> Result<()> {
    let ended =
        tracer::run(&mut tracer::command(&["-v", "record", "--output", path])?, START_LIMIT)?;
    ensure!(ended.code() == 1, "{ended:?}");
    ensure!(!ended.stderr.contains(ATTACHED), "attached first: {:?}", ended.stderr);
    let arguments = ["-v", "record", "--duration", "0.1"];
    let ended = tracer::run(&mut tracer::command(&arguments)?, START_LIMIT)?;
    ensure!(ended.code() == 0 && ended.stderr.contains(ATTACHED), "{:?}", ended.stderr);
    Ok(())
}

/// The log message at -v when the program has attached; the name of the backend follows.
const ATTACHED: &str = "attached: the backend is ";

/// The output is on a read-only file system: `record` fails with exit code 1, the path and the reason, before it attaches
/// anything.
fn output_in_read_only_folder() -> Result<()> {
    let disk = mounts::SmallDisk::new(64)?;
    disk.make_read_only()?;
    let path = disk.path().join("events.jsonl");
    let path = path.to_str().context("path is not UTF-8")?;
    let mut command = tracer::command(&["record", "--output", path])?;
    says(&tracer::run(&mut command, START_LIMIT)?, &[1], &[path, "read-only"])?;
    nothing_is_attached_for(path)
}

/// Without BTF no backend can run, chosen by name or not: exit code 69, and the error has all backends and the missing file.
fn no_type_information() -> Result<()> {
    for backend in ["auto", "tracepoint"] {
        let ended = mounts::with_bare_sys(|| {
            mounts::cover("/sys/kernel/btf")?;
            let arguments = ["--backend", backend, "tuples", "--once"];
            tracer::run(&mut tracer::command(&arguments)?, START_LIMIT)
        })?;
        says(&ended, &[NO_BACKEND], &[BACKENDS[0], BACKENDS[1], BACKENDS[2], "/sys/kernel/btf"])?;
    }
    Ok(())
}

/// cgroup2 is not mounted, and the program does not have the capability to mount it: exit code 69, and the error has the command
/// that mounts it. For a user without privileges, exit code 77 and the capabilities.
fn no_cgroup_hierarchy() -> Result<()> {
    for command in [&["tuples", "--once"][..], &["record", "--duration", "1"]] {
        let ended = mounts::with_bare_sys(|| {
            let mut command = tracer::command(command)?;
            tracer::run(privileges::only(&mut command, privileges::NEEDED), START_LIMIT)
        })?;
        let words = [BACKENDS[0], BACKENDS[1], BACKENDS[2], "cgroup2", "mount -t cgroup2"];
        says(&ended, &[NO_BACKEND], &words)?;
    }
    // Without privileges, the error names the capabilities, not cgroup2.
    let ended = mounts::with_bare_sys(|| run_as_nobody(&["tuples", "--once"]))?;
    says(&ended, &[NO_PRIVILEGE], &["CAP_BPF"])
}

/// With the three capabilities that it needs, `record` sees all of five connections, and `degraded` names the others that it
/// would use.
fn three_capabilities() -> Result<()> {
    // Up to Linux 5.10 the memory of BPF maps counts against this limit, and raising it takes a fourth capability.
    let none = Rlimit { current: None, maximum: None };
    setrlimit(Resource::Memlock, none).ok();
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("events.jsonl");
    let mut command =
        tracer::command(&["record", "--events", "allocated", "--duration", "3", "--output"])?;
    command.arg(&path).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut process = Process::spawn(privileges::only(&mut command, privileges::NEEDED))?;
    eventually("the first line", || {
        ensure!(process.child.try_wait()?.is_none(), "the tracer ended at once");
        Ok(fs::read_to_string(&path).is_ok_and(|text| text.contains("tracer.start")))
    })?;
    let _pairs = stage.netns.run(|| server.pairs(5))?;
    let status = process.wait(START_LIMIT)?;
    ensure!(status.code() == Some(0), "record ended with {status}");
    let recording = Recording::read(&path)?;
    let degraded = &recording.start()?["degraded"];
    for unseen in ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"] {
        ensure!(degraded.to_string().contains(unseen), "{unseen} is not in {degraded}");
    }
    let allocated = recording.events("port.allocated", stage.netns.inum()).len();
    ensure!(allocated == 5, "{allocated} of 5 connections were seen");
    Ok(())
}

/// A user without privileges gets exit code 77 and the names of capabilities that are missing.
fn without_privileges() -> Result<()> {
    says(&run_as_nobody(&["tuples", "--once"])?, &[NO_PRIVILEGE], &["CAP_BPF", "CAP_NET_ADMIN"])
}

/// The error without privileges names capabilities for `setcap`: with exactly these on its file, `record` of a user without
/// privileges ends with exit code 0, and `degraded` names no missing capability.
fn advised_capabilities() -> Result<()> {
    let refused = run_as_nobody(&["tuples", "--once"])?;
    let advice =
        refused.stderr.split_once("`setcap ").and_then(|(_, rest)| rest.split_once("+ep FILE`"));
    let (names, _) = advice.with_context(|| format!("no advice: {refused:?}"))?;
    let mut permitted = 0_u64;
    for name in names.split(',') {
        let number = privileges::ADVISED.iter().find(|(known, _)| *known == name);
        let (_, number) = number.with_context(|| format!("{name} is no capability"))?;
        permitted |= 1 << number;
    }
    let arguments = ["record", "--duration", "1", "--events", "failed"];
    let ended = run_copy_as_nobody(&arguments, |copy| {
        let value = privileges::of_file(permitted);
        Ok(setxattr(copy, "security.capability", &value, XattrFlags::empty())?)
    })?;
    ensure!(ended.code() == 0, "{ended:?}");
    let recording = Recording::parse(&ended.stdout)?;
    let degraded = recording.start()?["degraded"].to_string();
    ensure!(!degraded.contains("CAP_"), "a capability is missing: {degraded}");
    Ok(())
}

/// Runs a copy of tracer to its end, as user and group 65534 (`nobody`), in the caller's network namespace, whatever the exit
/// code. An error if it cannot be copied or started, or takes longer than [`START_LIMIT`].
pub(super) fn run_as_nobody(arguments: &[&str]) -> Result<Ended> {
    run_copy_as_nobody(arguments, |_| Ok(()))
}

/// Runs a copy of tracer as user 65534 (`nobody`), after `prepare` has been called with the path of the copy.
fn run_copy_as_nobody(
    arguments: &[&str],
    prepare: impl FnOnce(&Path) -> Result<()>,
) -> Result<Ended> {
    // The program itself may be in a folder that only root can enter.
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let copy = folder.path().join("tracer");
    fs::copy(tracer::program()?, &copy)?;
    prepare(&copy)?;
    let mut command = std::process::Command::new(copy);
    command.args(arguments).current_dir("/").uid(65534).gid(65534);
    tracer::run(&mut command, START_LIMIT)
}

/// `ip netns exec` hides cgroup2, bpffs and tracefs: as root, tracer works without them, and counts three connections.
fn under_a_bare_sys() -> Result<()> {
    counts_pairs(|| Ok(()))
}

/// On a hardened host only root can enter /sys/devices, and tracer's threads are not root any more when they read it: tracer
/// counts three connections nevertheless.
fn only_root_gets_into_sys() -> Result<()> {
    counts_pairs(mounts::close_devices)
}

/// Applies `change` to a bare /sys, and checks that `tracer tuples` counts three connections there.
fn counts_pairs(change: fn() -> Result<()>) -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let _pairs = stage.netns.run(|| server.pairs(3))?;
    let ended = mounts::with_bare_sys(|| {
        change()?;
        stage.netns.enter()?;
        let inum = stage.netns.inum().to_string();
        let arguments = ["tuples", "--once", "-o", "json", "--netns", &inum];
        tracer::run(&mut tracer::command(&arguments)?, START_LIMIT)
    })?;
    ensure!(ended.code() == 0, "{ended:?}");
    let reading: serde_json::Value = serde_json::from_str(&ended.stdout)?;
    ensure!(reading["tuples"][0]["ports.in_use"] == 3, "{reading}");
    Ok(())
}

/// Two `tracer tuples --interval` and one `tracer record` run at the same time: each sees all ten connections, in use and then in
/// TIME_WAIT, and the recording has ten `port.allocated` and no losses.
fn two_tracers_at_once(backend: &str) -> Result<()> {
    let mut stage = Stage::new(&[backend.to_owned(), backend.to_owned()])?;
    stage.watch()?;
    let server = stage.server("10.1.0.1:7000")?;
    let record = Record::start(backend, &["--events", "allocated"])?;
    let (clients, accepted) = stage.netns.run(|| server.pairs(10))?;
    stage.check(&[(server.tuple(), Expected::ports(10, 0).opened(10))])?;
    drop(clients);
    drop(accepted);
    stage.check(&[(server.tuple(), Expected::ports(10, 10).opened(10))])?;
    let recording = record.stop()?;
    recording.assert_nothing_lost()?;
    let allocated = recording.events("port.allocated", stage.netns.inum()).len();
    ensure!(allocated == 10, "{allocated} of 10 connections are in the recording");
    stage.stop()
}
