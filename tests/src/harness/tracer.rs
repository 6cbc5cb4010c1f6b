//! Runs the `tracer` program as a user does, and reads what it prints. A submodule each is about `tuples --interval` ([`watch`]
//! and [`shared`]), `record` ([`record`] and [`shared_record`]), `agent`, `spread`, `status` and `doctor`.

pub mod agent;
pub mod doctor;
pub mod record;
pub mod shared;
pub mod shared_record;
pub mod spread;
pub mod status;
pub mod watch;

use std::{
    env,
    io::Read,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, clock_gettime};

use crate::harness::{
    lie::{self, Pipe},
    probe::Place,
    process::Process,
};

/// Longest time that tracer may take from its start until it has attached; longer in a guest ([`Place::limit`]).
pub const START_LIMIT: Duration = Duration::from_secs(40);
/// Longest time that tracer may take from SIGINT or SIGTERM to its end, or for a short run such as `tracer status`; longer in a
/// guest ([`Place::limit`]).
pub const STOP_LIMIT: Duration = Duration::from_secs(15);

/// Path of the program under test, from `TRACER_BIN`; an error if that is not set. Whether the file exists is not checked.
pub fn program() -> Result<PathBuf> {
    let path = env::var_os("TRACER_BIN").context("TRACER_BIN does not name the tracer program")?;
    Ok(PathBuf::from(path))
}

/// A command that runs the program under test with these arguments; an error if `TRACER_BIN` is not set.
pub fn command(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(program()?);
    command.args(arguments);
    Ok(command)
}

/// All backends, in the order in which tracer tries them.
pub const BACKENDS: [&str; 3] = ["fexit", "kprobe", "tracepoint"];
/// Exit code of tracer if the backend cannot run on this kernel.
pub const NO_BACKEND: i32 = 69;

/// The backends that should run on this kernel: all that do not end with [`NO_BACKEND`]. One that fails otherwise is among
/// them, so that its tests fail.
///
/// # Errors
/// A run could not be started or did not end in time, or none of the backends can run.
pub fn backends() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for backend in BACKENDS {
        let ended = run(&mut command(&["--backend", backend, "tuples", "--once"])?, START_LIMIT)?;
        if ended.code() != NO_BACKEND {
            found.push(backend.to_owned());
        }
    }
    ensure!(!found.is_empty(), "the tracer says that none of {BACKENDS:?} can run on this kernel");
    Ok(found)
}

/// CLOCK_MONOTONIC in ns: the clock of tracer's `mono_ns`, which is the same in all processes of the host.
pub fn mono_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap_or_default()
}

/// The result of a run of the program, with U+FFFD for bytes that are not UTF-8. All of it is falsified if `TRACER_TEST_LIE` asks
/// for that.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// The exit code, or 128 plus the number of the signal that ended the program.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or_default())
    }
}

/// Runs a command to its end, without input, whatever its exit code. Bytes of its output that are not UTF-8 become U+FFFD. An
/// error if it cannot be started, or takes longer than `limit` (see [`Place::limit`]): it is then killed.
pub fn run(command: &mut Command, limit: Duration) -> Result<Ended> {
    run_into(command, Stdio::piped(), limit)
}

/// Runs a command as [`run`] does, but with this stdout. [`Ended::stdout`] has what was written to it if it is a pipe
/// (`Stdio::piped()`), and is empty otherwise.
pub fn run_into(command: &mut Command, stdout: Stdio, limit: Duration) -> Result<Ended> {
    command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
    let mut process = Process::spawn(command)?;
    let stdout = collect(process.child.stdout.take());
    let stderr = collect(process.child.stderr.take());
    let status = process.wait(limit)?;
    Ok(Ended { status, stdout: finish(stdout), stderr: finish(stderr) })
}

/// The thread that [`collect`] started.
pub(crate) type Collected = thread::JoinHandle<String>;

/// Reads a pipe to its end on a new thread, so that the writer never blocks; [`finish`] returns the text (empty without a pipe),
/// falsified if `TRACER_TEST_LIE` asks for that.
pub(crate) fn collect<P: Pipe + Read + Send + 'static>(pipe: Option<P>) -> Collected {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            pipe.read_to_end(&mut bytes).ok();
        }
        lie::text(P::STREAM, String::from_utf8_lossy(&bytes).into_owned())
    })
}

/// Waits for the end of the pipe, and returns the text; empty if the thread panicked.
pub(crate) fn finish(collected: Collected) -> String {
    collected.join().unwrap_or_default()
}

/// Calls `probe` every 5 ms until it returns a value, at most for `limit` (see [`Place::limit`]), and returns that value.
///
/// # Errors
/// `probe` failed, or returned no value within the limit; then the text has `what`, which names the condition.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let limit = Place::get().limit(limit);
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        ensure!(Instant::now() < end, "waited {limit:?} in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
