//! Child processes that are killed at the end of their test, and a list of those that run: if a test exceeds its time limit, the
//! test runner (`kernel-tests`) kills them all.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{BufRead, BufReader, Write},
    iter,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{lie, probe::Place, starting::start};

static LIVE: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn live() -> MutexGuard<'static, BTreeSet<u32>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills every running child process that is a [`Process`], those of other tests included: called when a test exceeds its time
/// limit.
pub fn kill_all() {
    for id in live().iter() {
        signal_id(*id, Signal::KILL).ok();
    }
}

fn signal_id(id: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(id)?).context("no such process")?;
    Ok(kill_process(pid, signal)?)
}

/// Sets SIGINT, SIGTERM and SIGHUP to their default action, in this process and in those that it starts. They may be ignored by
/// inheritance (a shell ignores SIGINT for a background job), and a signal that comes before the program under test has set its
/// own handler would be lost.
#[expect(unsafe_code, reason = "signal(2)")]
pub fn reset_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the default action has no handler.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// A child process; killed and reaped on drop.
#[derive(Debug)]
pub struct Process {
    /// Its pipes can be taken from here.
    pub child: Child,
    name: String,
    /// Whether the command is the program under test, or starts it.
    is_tracer: bool,
}

impl Process {
    /// Starts a command; an error, which names the program, if it cannot be started.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        // The program is recognized by its file name, because a test may run a copy of it.
        let tracer = env::var_os("TRACER_BIN").map(PathBuf::from);
        let tracer = tracer.as_deref().and_then(Path::file_name);
        let words = iter::once(command.get_program()).chain(command.get_args());
        let is_tracer =
            tracer.is_some() && words.into_iter().any(|it| Path::new(it).file_name() == tracer);
        let child = start(command).with_context(|| format!("cannot start {name}"))?;
        live().insert(child.id());
        Ok(Self { child, name, is_tracer })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal; an error if the process has ended and was reaped, or this process may not signal it.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        signal_id(self.id(), signal)
    }

    /// Waits for the end of the process, at most `limit` (see [`Place::limit`]), and returns the exit status; that of the program
    /// under test is falsified if `TRACER_TEST_LIE` asks for that.
    ///
    /// # Errors
    /// The process has not ended by then; the text has what each of its threads waits for in the kernel.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let limit = Place::get().limit(limit);
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                live().remove(&self.child.id());
                return Ok(if self.is_tracer { lie::status(status) } else { status });
            }
            if Instant::now() > end {
                let threads = self.threads();
                bail!("{} (pid {}) did not end within {limit:?}:{threads}", self.name, self.id());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Process {
    /// For an error: each thread's name, and what it waits for in the kernel.
    fn threads(&self) -> String {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.id()));
        let tasks = tasks.into_iter().flatten().filter_map(Result::ok);
        let of = |task: fs::DirEntry| {
            let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let stack = read("stack").replace('\n', " ");
            format!("\n  {} {}: {stack}", read("comm").trim_end(), read("wchan"))
        };
        tasks.map(of).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().ok();
            self.child.wait().ok();
        }
        live().remove(&self.child.id());
    }
}

/// A helper process: `kernel-tests helper ...`, see [`crate::helper`].
///
/// The helper prints `ready` after each step, and does the next step when it gets a line.
pub struct Helper {
    process: Process,
    lines: BufReader<std::process::ChildStdout>,
}

impl Helper {
    /// Starts `kernel-tests helper ARGUMENTS` in the caller's namespaces; an error if it cannot be started.
    pub fn spawn(arguments: &[&str]) -> Result<Self> {
        let program = env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command.arg("helper").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::spawn(&mut command)?;
        let lines = BufReader::new(process.child.stdout.take().context("no stdout")?);
        Ok(Self { process, lines })
    }

    /// Waits, however long it takes, until the helper prints a line, which must be `ready`.
    ///
    /// # Errors
    /// The helper printed another line, or ended.
    pub fn ready(&mut self) -> Result<()> {
        let line = self.line()?;
        if line != "ready" {
            bail!("the helper said {line:?}, not `ready`");
        }
        Ok(())
    }

    /// Waits, however long it takes, for the helper's next line, and returns it without the blanks at its end. An error if the
    /// helper has ended, or the line is not UTF-8.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let length = self.lines.read_line(&mut line)?;
        ensure!(length > 0, "the helper (pid {}) has ended", self.id());
        Ok(line.trim_end().to_owned())
    }

    /// Waits, however long it takes, until the helper prints `ready COUNT...`, and returns the counts: none after `ready` alone.
    /// An error if it prints another line, or ends.
    pub fn ready_with_counts(&mut self) -> Result<Vec<u64>> {
        let line = self.line()?;
        let counts = line.strip_prefix("ready").context("the helper is not `ready`")?;
        Ok(counts.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
    }

    /// Starts the helper's next step; [`Self::ready`] waits for its end. An error if the helper has ended.
    pub fn go(&mut self) -> Result<()> {
        self.send("go")
    }

    /// Writes a line, to which this adds the line end, to the helper's stdin; an error if the helper has ended.
    pub fn send(&mut self, line: &str) -> Result<()> {
        let stdin = self.process.child.stdin.as_mut().context("no stdin")?;
        Ok(stdin.write_all(format!("{line}\n").as_bytes())?)
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits for a helper that ends by itself, at most 10 s (see [`Place::limit`]), whatever its exit status; an error if it has
    /// not ended by then. Its stdin stays open, because children that it left behind read from it.
    pub fn wait(&mut self) -> Result<()> {
        self.process.wait(Duration::from_secs(10)).map(drop)
    }

    /// Closes the helper's stdin, and waits for its end, at most 10 s (see [`Place::limit`]), whatever its exit status; an error
    /// if it has not ended by then.
    pub fn end(mut self) -> Result<()> {
        drop(self.process.child.stdin.take());
        self.process.wait(Duration::from_secs(10))?;
        Ok(())
    }

    /// Kills the helper (SIGKILL), and waits for its end, at most 10 s (see [`Place::limit`]); an error if it has not ended by
    /// then.
    pub fn kill(mut self) -> Result<()> {
        self.process.signal(Signal::KILL)?;
        self.process.wait(Duration::from_secs(10))?;
        Ok(())
    }
}
