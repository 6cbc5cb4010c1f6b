//! Runs the `tracer` program as its user would: `tuples --watch` and `record`.

pub mod record;
pub mod shared;
pub mod spread;
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

/// Longest time from start to attached.
pub const START_LIMIT: Duration = Duration::from_secs(40);
/// Longest time from SIGINT to the end.
pub const STOP_LIMIT: Duration = Duration::from_secs(15);

/// Path of the program under test (`TRACER_BIN`).
pub fn program() -> Result<PathBuf> {
    let path = env::var_os("TRACER_BIN").context("TRACER_BIN does not name the tracer program")?;
    Ok(PathBuf::from(path))
}

/// The program under test with these arguments.
pub fn command(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(program()?);
    command.args(arguments);
    Ok(command)
}

/// All that there are, the one that is tried first at the front.
pub const BACKENDS: [&str; 3] = ["fexit", "kprobe", "tracepoint"];
/// The exit code of a backend that cannot run here.
pub const NO_BACKEND: i32 = 69;

/// The backends that run on this kernel; a failure that is no refusal counts as one that should.
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

/// CLOCK_MONOTONIC in ns, the tracer's `mono_ns`.
pub fn mono_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap_or_default()
}

/// How a run of the program ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// The exit code, or 128 plus the signal.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or_default())
    }
}

/// Runs a command to its end, at most `limit` long.
pub fn run(command: &mut Command, limit: Duration) -> Result<Ended> {
    run_into(command, Stdio::piped(), limit)
}

/// The same with this stdout; what is written there is in [`Ended::stdout`] if it is a pipe.
pub fn run_into(command: &mut Command, stdout: Stdio, limit: Duration) -> Result<Ended> {
    command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
    let mut process = Process::spawn(command)?;
    let stdout = collect(process.child.stdout.take());
    let stderr = collect(process.child.stderr.take());
    let status = process.wait(limit)?;
    Ok(Ended { status, stdout: finish(stdout), stderr: finish(stderr) })
}

pub(crate) type Collected = thread::JoinHandle<String>;

/// Reads a pipe to its end on a thread of its own, so that the writer never blocks on it.
pub(crate) fn collect<P: Pipe + Read + Send + 'static>(pipe: Option<P>) -> Collected {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            pipe.read_to_end(&mut bytes).ok();
        }
        lie::text(P::STREAM, String::from_utf8_lossy(&bytes).into_owned())
    })
}

pub(crate) fn finish(collected: Collected) -> String {
    collected.join().unwrap_or_default()
}

/// Calls `probe` every 5 ms until it gives a value, at most `limit` long (of this place).
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
