//! `ending::*`: after a signal the program ends within a second, whatever it is doing, with the documented exit code.

use std::{
    fs::File,
    io::{Read, copy, sink},
    os::fd::OwnedFd,
    process::Stdio,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::{Case, Plan};
use crate::harness::{
    held::Held,
    probe::Place,
    process::Process,
    stage::Stage,
    tracer::{START_LIMIT, collect, command, finish, wait_for},
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("ending")
        .once(&[
            ("while_a_namespace_does_not_answer", namespace_that_does_not_answer),
            ("while_the_work_hangs", work_that_hangs),
            ("with_last_words_that_nobody_reads", last_words),
        ])
        .kernel_independent()
        .cases()
}

/// How long the end may take: 1 s, and 50 ms for the test itself.
const SOON: Duration = Duration::from_millis(1050);

const COMMANDS: [&[&str]; 3] = [
    &["tuples", "--interval", "0.1", "-o", "json"],
    &["record", "--interval", "1"],
    &["top", "-b", "-i", "0.2", "-o", "json"],
];

/// Starts tracer with these arguments, and waits for its first output.
fn start(arguments: &[&str]) -> Result<Process> {
    let mut command = command(arguments)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process::spawn(&mut command)?;
    wait_for_output(&mut process)?;
    Ok(process)
}

/// Waits for the first byte on stdout; a thread reads and drops the rest.
fn wait_for_output(process: &mut Process) -> Result<()> {
    let mut stdout = process.child.stdout.take().context("no stdout")?;
    let (sender, first_read) = mpsc::channel();
    thread::spawn(move || {
        // Sending fails once the receiver has given up.
        _ = sender.send(stdout.read_exact(&mut [0]));
        copy(&mut stdout, &mut sink())
    });
    let limit = Place::get().limit(START_LIMIT);
    first_read.recv_timeout(limit).context("it prints nothing")?.context("it ended without output")
}

/// Sends SIGINT, and checks how long the end takes and the exit code. `held` are stopped threads of the process; `what` is for
/// the text of an error. Returns stderr.
fn end(mut process: Process, held: Option<&Held>, what: &[&str], code: i32) -> Result<String> {
    let stderr = collect(process.child.stderr.take());
    let asked = Instant::now();
    process.signal(Signal::INT)?;
    let limit = Duration::from_secs(10);
    let status = match held {
        Some(held) => held.wait(&mut process, limit)?,
        None => process.wait(limit)?,
    };
    let took = asked.elapsed();
    let stderr = finish(stderr);
    ensure!(took <= Place::get().limit(SOON), "{what:?}: it took {took:?}, {status}: {stderr}");
    ensure!(status.code() == Some(code), "{what:?}: {status}: {stderr}");
    Ok(stderr)
}

/// The threads that read sockets in namespaces are stopped: each of [`COMMANDS`] must end within a second ([`SOON`]) with exit
/// code 0, and not wait for each of the four namespaces.
fn namespace_that_does_not_answer() -> Result<()> {
    let mut stages = (0..4).map(|_| Stage::new(&[])).collect::<Result<Vec<_>>>()?;
    let mut pairs = Vec::new();
    for stage in &mut stages {
        let server = stage.server("10.1.0.1:7000")?;
        pairs.push(stage.netns.run(|| server.pair())?);
    }
    for arguments in COMMANDS {
        let process = start(arguments)?;
        let held = Held::threads(process.id(), "netns")?;
        // After this time, the next read in a namespace has begun.
        thread::sleep(Duration::from_millis(1100));
        end(process, Some(&held), arguments, 0)?;
    }
    Ok(())
}

/// The thread that does the work is stopped: each of [`COMMANDS`] ends within a second with exit code 1, and its error says that
/// lines are lost.
fn work_that_hangs() -> Result<()> {
    for arguments in COMMANDS {
        let process = start(arguments)?;
        let held = Held::threads(process.id(), "tracer-work")?;
        let stderr = end(process, Some(&held), arguments, 1)?;
        // The program cannot know whether the thread was stopped before it wrote all lines, so its error always says this.
        ensure!(stderr.contains("unwritten lines are lost"), "{arguments:?}: {stderr}");
    }
    Ok(())
}

/// stderr is a full pipe: a program that gets a signal ends within a second ([`SOON`]) although it cannot write its error,
/// whether the error comes after the signal (SIGINT, exit code 1) or came before (SIGTERM).
fn last_words() -> Result<()> {
    use std::io::Write;
    let (reader, writer) = std::io::pipe()?;
    let mut full: File = OwnedFd::from(writer.try_clone()?).into();
    rustix::fs::fcntl_setfl(&full, rustix::fs::OFlags::NONBLOCK)?;
    while full.write(&[b'x'; 4096]).is_ok() {}
    rustix::fs::fcntl_setfl(&full, rustix::fs::OFlags::empty())?;
    let stderr = || -> Result<Stdio> { Ok(writer.try_clone()?.into()) };
    // First an error that the program has to write after the signal.
    let mut tuples = command(COMMANDS[0])?;
    tuples.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr()?);
    let mut process = Process::spawn(&mut tuples)?;
    wait_for_output(&mut process)?;
    let held = Held::threads(process.id(), "tracer-work")?;
    end(process, Some(&held), &["a full stderr"], 1)?;
    // Then an error before the signal: the program waits until somebody reads stderr, and the signal ends this wait.
    let mut wrong = command(&["tuples", "--netns", "/nowhere"])?;
    wrong.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr()?);
    let mut process = Process::spawn(&mut wrong)?;
    wait_for("it to wait for its reader", Duration::from_secs(10), || {
        // The number of the system call that the process is in: write, poll or ppoll of x86-64. (Not every kernel has a wchan.)
        let call = std::fs::read_to_string(format!("/proc/{}/syscall", process.id()))?;
        let number = call.split_whitespace().next().unwrap_or_default();
        Ok(["1", "7", "271"].contains(&number).then_some(()))
    })?;
    process.signal(Signal::TERM)?;
    let asked = Instant::now();
    process.wait(Duration::from_secs(10))?;
    ensure!(asked.elapsed() <= SOON, "it took {:?}", asked.elapsed());
    drop(reader);
    Ok(())
}
