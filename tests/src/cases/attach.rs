//! `attach::*`: which privileges each thread of tracer still has once it has attached, as /proc shows them
//! (`tracer/doc/sandbox.md` has what is promised).
#![expect(unsafe_code, reason = "kill(2) and tgkill(2) as another user")]

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::chown,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, ensure};
use rustix::{
    process::{Gid, Uid},
    thread::{set_thread_res_gid, set_thread_res_uid},
};

use super::{Case, Plan};
use crate::harness::{
    cgroup::Cgroup,
    lie,
    privileges::{
        BPF, DAC_READ_SEARCH, NET_ADMIN, PERFMON, SYS_ADMIN, SYS_PTRACE, SYS_RESOURCE, only,
    },
    process::Process,
    tracer::{
        START_LIMIT, command,
        record::Record,
        spread::{Rule, Spread},
        wait_for,
        watch::Watch,
    },
};

pub fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("attach")
        .once(&[
            ("sandbox_of_tuples", of_tuples),
            ("sandbox_of_record", of_record),
            ("sandbox_of_top", of_top),
            ("sandbox_of_spread", of_spread),
            ("sandbox_with_few_capabilities", with_few_capabilities),
        ])
        .once(&[("threads_are_not_ended_by_their_effective_user", signals)])
        .only_host()
        .cases()
}

/// User id of `nobody`.
const NOBODY: u32 = 65_534;
/// User id of a user who owns the folder of the output.
const OWNER: u32 = 1234;

const fn bits(capabilities: &[u32]) -> u64 {
    let (mut bits, mut at) = (0, 0);
    while at < capabilities.len() {
        bits |= 1 << capabilities[at];
        at += 1;
    }
    bits
}

/// The most capabilities that a thread may have (bit N is capability number N), and the user as whom it must open files.
struct Allowed {
    capabilities: u64,
    user: u32,
}

/// What is allowed to a thread that enters network namespaces.
const VISITOR: Allowed =
    Allowed { capabilities: bits(&[SYS_ADMIN, SYS_PTRACE, DAC_READ_SEARCH]), user: 0 };
/// What is allowed to a thread that attaches BPF programs at any time, not only at the start.
const ATTACHER: Allowed = Allowed { capabilities: bits(&[BPF, NET_ADMIN, PERFMON]), user: 0 };

/// What is allowed to a thread that reads BPF maps, for which some kernels need CAP_BPF, and that opens files as this user.
const fn reader(user: u32) -> Allowed {
    Allowed { capabilities: bits(&[BPF]), user }
}

struct Thread {
    name: String,
    status: String,
}

impl Thread {
    fn all(process: u32) -> Result<Vec<Self>> {
        let mut threads = Vec::new();
        for thread in fs::read_dir(format!("/proc/{process}/task"))? {
            let status = match fs::read_to_string(thread?.path().join("status")) {
                // The thread has ended before its file was opened, or before it was read.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {
                    continue;
                }
                status => lie::thread(status?),
            };
            let unnamed = Self { name: String::new(), status };
            threads.push(Self { name: unnamed.field("Name")?.to_owned(), ..unnamed });
        }
        Ok(threads)
    }

    fn field(&self, name: &str) -> Result<&str> {
        let of = |line: &'_ str| line.strip_prefix(name)?.strip_prefix(":").map(str::len);
        let line = self.status.lines().find(|line| of(line).is_some());
        let line = line.with_context(|| format!("no {name} in {}", self.status))?;
        Ok(line[name.len() + 1..].trim())
    }

    fn check(&self, allowed: &Allowed) -> Result<()> {
        let bits = |set| Ok::<u64, anyhow::Error>(u64::from_str_radix(self.field(set)?, 16)?);
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            let more = bits(set)? & !allowed.capabilities;
            ensure!(more == 0, "{}: {set} has {more:#x} too many", self.name);
        }
        for set in ["CapInh", "CapAmb"] {
            ensure!(bits(set)? == 0, "{}: {set} is {}", self.name, self.field(set)?);
        }
        ensure!(self.field("NoNewPrivs")? == "1", "{}: no_new_privs is not set", self.name);
        ensure!(self.field("Seccomp")? == "2", "{}: there is no seccomp filter", self.name);
        // The four user ids are: real, effective, saved, file system.
        let expected = format!("0\t{user}\t0\t{user}", user = allowed.user);
        ensure!(self.field("Uid")? == expected, "{}: Uid is {}", self.name, self.field("Uid")?);
        Ok(())
    }
}

/// Waits until the threads that only the start needs have ended. Then checks each thread by its name in `named`, and all others
/// by `other`; an error if no thread has one of the names.
fn check(process: u32, named: &[(&str, Allowed)], other: &Allowed) -> Result<()> {
    // The threads of the start end once tracer is attached.
    let threads = wait_for("the threads of the start to end", START_LIMIT, || {
        let threads = Thread::all(process)?;
        Ok(threads.iter().all(|thread| thread.name != "signals").then_some(threads))
    })?;
    for thread in &threads {
        let found = named.iter().find(|(name, _)| *name == thread.name);
        thread.check(found.map_or(other, |(_, allowed)| allowed))?;
    }
    for (name, _) in named {
        let there = threads.iter().any(|thread| thread.name == *name);
        ensure!(there, "no thread is called {name}");
    }
    Ok(())
}

/// `tuples --interval`: the thread `netns` has at most the capabilities of [`VISITOR`]; each other thread has CAP_BPF at most,
/// and `nobody` as its effective user.
fn of_tuples() -> Result<()> {
    let watch = Watch::start("auto", &[])?;
    check(watch.id(), &[("netns", VISITOR)], &reader(NOBODY))?;
    watch.stop()
}

/// `record`: all threads except `netns` (as in [`of_tuples`]) have CAP_BPF at most, and as their effective user the one who owns
/// the output's folder, as whom the file is opened: root, or another user. Without an output file, it is `nobody`.
fn of_record() -> Result<()> {
    let record = Record::start("auto", &[])?;
    check(record.process.id(), &[("netns", VISITOR)], &reader(0))?;
    record.stop()?;
    let folder = tempfile::tempdir()?;
    chown(folder.path(), Some(OWNER), Some(OWNER))?;
    let record = Record::start_at("auto", &folder.path().join("events.jsonl"), &[])?;
    check(record.process.id(), &[("netns", VISITOR)], &reader(OWNER))?;
    record.stop()?;
    let mut process = printing(&mut command(&["record", "--events", "all"])?)?;
    check(process.id(), &[("netns", VISITOR)], &reader(NOBODY))?;
    end(&mut process)
}

/// `top` stays root, because only root can read the agents' state files; its threads have the capabilities of [`of_tuples`].
fn of_top() -> Result<()> {
    let mut process = printing(&mut command(&["top", "-b", "-i", "0.2", "-o", "json"])?)?;
    check(process.id(), &[("netns", VISITOR)], &reader(0))?;
    end(&mut process)
}

/// The agent of `spread`: `netns` has at most the capabilities of [`VISITOR`]; `keeper` and `output` have CAP_BPF at most, and
/// `nobody` as their effective user; all others have at most what [`ATTACHER`] allows, as root.
fn of_spread() -> Result<()> {
    let rule = Rule::new();
    let cgroup = Cgroup::new(rule.name())?;
    let path = cgroup.path().to_string_lossy();
    let spread = Spread::start(&rule, &["--pool", "127.0.0.1", "--cgroup", &path])?;
    let named = [("netns", VISITOR), ("keeper", reader(NOBODY)), ("output", reader(NOBODY))];
    check(spread.process.id(), &named, &ATTACHER)?;
    spread.stop()?;
    rule.check_nothing_left()
}

/// The capabilities that tracer needs, and the one to raise RLIMIT_MEMLOCK, which limits the memory of BPF maps up to Linux 5.10.
const GIVEN: &[u32] = &[NET_ADMIN, PERFMON, BPF, SYS_RESOURCE];

/// Without the capabilities to change its user, tracer stays root, but gives up capabilities and has its seccomp filter.
fn with_few_capabilities() -> Result<()> {
    let mut command = command(&["tuples", "--interval", "0.2", "-o", "json"])?;
    let mut process = printing(only(&mut command, GIVEN))?;
    let visitor = Allowed { capabilities: 0, ..VISITOR };
    // The bounding set is not checked: without CAP_SETPCAP it cannot be emptied, and with no_new_privs it has no effect.
    for thread in Thread::all(process.id())? {
        let allowed = if thread.name == "netns" { &visitor } else { &reader(0) };
        let status =
            thread.status.replace("CapBnd", "CapBnd-given").replace("CapPrm", "CapBnd:\t0\nCapPrm");
        Thread { status, ..thread }.check(allowed)?;
    }
    end(&mut process)
}

/// Starts a command, and waits for its first byte on stdout.
fn printing(command: &mut Command) -> Result<Process> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut process = Process::spawn(command)?;
    let mut stdout = process.child.stdout.take().context("no stdout")?;
    stdout.read_exact(&mut [0]).context("it ended without output")?;
    thread::spawn(move || io::copy(&mut stdout, &mut io::sink()));
    Ok(process)
}

fn end(process: &mut Process) -> Result<()> {
    process.signal(rustix::process::Signal::TERM)?;
    let status = process.wait(START_LIMIT)?;
    ensure!(status.code() == Some(0), "it ended with {status}");
    Ok(())
}

/// A process with the user id as which a thread opens files must not be able to send signals to tracer.
fn signals() -> Result<()> {
    let folder = tempfile::tempdir()?;
    chown(folder.path(), Some(OWNER), Some(OWNER))?;
    let record = Record::start_at("auto", &folder.path().join("events.jsonl"), &[])?;
    let process = record.process.id();
    let threads = fs::read_dir(format!("/proc/{process}/task"))?
        .map(|thread| Ok(thread?.file_name().to_string_lossy().parse()?))
        .collect::<Result<Vec<libc::pid_t>>>()?;
    let process = libc::pid_t::try_from(process)?;
    let allowed = thread::spawn(move || -> Result<Vec<libc::pid_t>> {
        let (user, group) = (Uid::from_raw(OWNER), Gid::from_raw(OWNER));
        set_thread_res_gid(group, group, group)?;
        set_thread_res_uid(user, user, user)?;
        let may = |thread: &libc::pid_t| {
            // SAFETY: takes numbers only; signal 0 checks the permission and sends nothing.
            let done = unsafe { libc::syscall(libc::SYS_tgkill, process, *thread, 0) };
            // SAFETY: as above.
            lie::may(done == 0 || unsafe { libc::kill(*thread, 0) } == 0)
        };
        Ok(threads.into_iter().filter(may).collect())
    });
    let allowed = allowed.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
    ensure!(allowed.is_empty(), "user {OWNER} may send signals to {allowed:?}");
    record.stop().map(drop)
}
