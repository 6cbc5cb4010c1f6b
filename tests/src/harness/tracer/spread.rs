//! `tracer spread` and `tracer status`: a rule for one test, of which nothing is left at the end.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde::Deserialize;

use super::{
    Collected, Ended, START_LIMIT, STOP_LIMIT, collect, command, finish, run, status::Status,
    wait_for,
};
use crate::harness::{
    lie::{self, Stream},
    process::Process,
};

/// The folder in which all rules are pinned.
pub const PINS: &str = "/sys/fs/bpf/tracer";
/// The version of the pins' layout (`LAYOUT` of tracer-common), which is the name of the folder below [`PINS`].
pub const LAYOUT: &str = "15";
/// The folder with the agents' state and lock files.
pub const STATE: &str = "/run/tracer";

/// What `tracer status -o json` prints.
#[derive(Deserialize)]
struct Rules {
    rules: Vec<Status>,
}

/// The name of a rule. On drop the rule is released, and pins and files of it that are still there are removed.
#[derive(Debug)]
pub struct Rule(String);

impl Rule {
    /// A name that no other test has.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(format!("test-{}-{number}", std::process::id()))
    }

    /// The name of the rule, as `--rule` takes it.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// `tracer spread --rule NAME ARGUMENTS`, not yet run. An error if `TRACER_BIN` is not set.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = command(&["spread", "--rule", &self.0])?;
        command.args(arguments);
        Ok(command)
    }

    /// Runs `tracer spread --release --rule NAME` to its end, whatever the exit code. An error if it takes longer than
    /// [`STOP_LIMIT`].
    pub fn release(&self) -> Result<Ended> {
        run(&mut self.command(&["--release"])?, STOP_LIMIT)
    }

    /// The folder in which the rule is pinned; it exists only while the rule does.
    pub fn pins(&self) -> PathBuf {
        Path::new(PINS).join(LAYOUT).join(&self.0)
    }

    /// Checks that the rule has no pins and no state or lock file, and that `tracer status` does not show it; else an error.
    pub fn check_nothing_left(&self) -> Result<()> {
        ensure!(!self.pins().exists(), "{} is still there", self.pins().display());
        for end in ["json", "json.new", "lock"] {
            let file = Path::new(STATE).join(format!("spread-{}.{end}", self.0));
            ensure!(!file.exists(), "{} is still there", file.display());
        }
        let ended = run(&mut command(&["status", "-o", "json"])?, STOP_LIMIT)?;
        // The output is parsed, not searched for the rule's name: a test may give that name to its network namespace, too, and a
        // rule of an earlier namespace with the same inode number would be shown with the name.
        let all: Rules = serde_json::from_str(&ended.stdout)
            .with_context(|| format!("not a status: {ended:?}"))?;
        ensure!(all.rules.iter().all(|rule| rule.rule != self.0), "the status shows it: {ended:?}");
        Ok(())
    }

    /// When the agent last wrote the rule's state file; an error if there is no such file.
    pub fn state_modified(&self) -> Result<SystemTime> {
        let file = Path::new(STATE).join(format!("spread-{}.json", self.0));
        let metadata = fs::metadata(&file);
        Ok(metadata.with_context(|| format!("cannot look at {}", file.display()))?.modified()?)
    }

    /// What `tracer status -o json --rule NAME` prints; an error if it fails, writes to stderr, or does not print just this rule.
    pub fn status(&self) -> Result<Status> {
        let mut command = command(&["status", "-o", "json", "--rule", &self.0])?;
        let ended = run(&mut command, STOP_LIMIT)?;
        ensure!(ended.code() == 0 && ended.stderr.is_empty(), "status failed: {ended:?}");
        let all: Rules = serde_json::from_str(&ended.stdout)
            .with_context(|| format!("not a status: {}", ended.stdout))?;
        let Ok([status]) = <[Status; 1]>::try_from(all.rules) else {
            bail!("not one rule: {}", ended.stdout)
        };
        ensure!(status.rule == self.0, "another rule: {status:?}");
        Ok(status)
    }

    /// Waits until `is` returns true for the status, at most 3 s (see `Place::limit`), and returns that status. An error has
    /// `what`, which names the condition, and the newest status.
    pub fn status_when(&self, what: &str, is: impl Fn(&Status) -> bool) -> Result<Status> {
        let mut newest = None;
        let found = wait_for(what, Duration::from_secs(3), || {
            let status = self.status()?;
            let right = is(&status);
            newest = Some(status.clone());
            Ok(right.then_some(status))
        });
        found.with_context(|| format!("{newest:?}"))
    }
}

impl Default for Rule {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Rule {
    fn drop(&mut self) {
        if self.pins().exists() {
            self.release().ok();
            fs::remove_dir_all(self.pins()).ok();
        }
        for end in ["json", "json.new", "lock"] {
            fs::remove_file(Path::new(STATE).join(format!("spread-{}.{end}", self.0))).ok();
        }
    }
}

/// A started `tracer spread`; killed on drop if it still runs. Its [`Rule`] removes what it pinned.
#[derive(Debug)]
pub struct Spread {
    pub process: Process,
    stdout: Option<Collected>,
    stderr: Arc<Mutex<String>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Spread {
    /// Starts `tracer spread` in the caller's network namespace, and waits until it has printed that the rule is active. With
    /// `--detach`, it may have ended then.
    ///
    /// # Errors
    /// tracer ended before it printed that, or did not print it within [`START_LIMIT`]; the text has its stderr.
    pub fn start(rule: &Rule, arguments: &[&str]) -> Result<Self> {
        let mut command = rule.command(arguments)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::spawn(&mut command)?;
        let stdout = Some(collect(process.child.stdout.take()));
        let stderr = Arc::new(Mutex::new(String::new()));
        let lines = BufReader::new(process.child.stderr.take().context("no stderr")?);
        let collected = Arc::clone(&stderr);
        let reader = Some(thread::spawn(move || {
            for line in lines.lines().map_while(std::result::Result::ok) {
                let mut text = collected.lock().unwrap_or_else(PoisonError::into_inner);
                text.push_str(&line);
                text.push('\n');
            }
        }));
        let mut spread = Self { process, stdout, stderr, reader };
        let begun = format!("rule {}: ", rule.name());
        wait_for("the spreader to begin", START_LIMIT, || {
            if spread.raw_stderr().contains(&begun) {
                return Ok(Some(()));
            }
            if let Some(status) = spread.process.child.try_wait()? {
                let ended = spread.ended(status);
                // With --detach, tracer ends successfully as soon as the rule is active.
                ensure!(spread.raw_stderr().contains(&begun), "it did not begin: {ended:?}");
            }
            Ok(None)
        })
        .with_context(|| format!("stderr: {:?}", spread.stderr()))?;
        Ok(spread)
    }

    /// What tracer has written to stderr so far; falsified if `TRACER_TEST_LIE` asks for that.
    pub fn stderr(&self) -> String {
        lie::text(Stream::Stderr, self.raw_stderr())
    }

    /// As [`Self::stderr`], but never falsified.
    fn raw_stderr(&self) -> String {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the agent by SIGTERM, and returns what it wrote. An error if the exit code is not 0, or it does not end within
    /// [`STOP_LIMIT`].
    pub fn stop(mut self) -> Result<Ended> {
        self.process.signal(Signal::TERM)?;
        let status = self.process.wait(STOP_LIMIT)?;
        let ended = self.ended(status);
        ensure!(ended.code() == 0, "SIGTERM: {ended:?}");
        Ok(ended)
    }

    /// Kills the agent (SIGKILL), and waits for its end: the rule stays pinned. An error if it has ended and was reaped already.
    pub fn kill(mut self) -> Result<()> {
        self.process.signal(Signal::KILL)?;
        self.process.wait(STOP_LIMIT)?;
        Ok(())
    }

    /// Waits for an agent that ends by itself, whatever its exit code. An error if it does not end within [`STOP_LIMIT`].
    pub fn wait(mut self) -> Result<Ended> {
        let status = self.process.wait(STOP_LIMIT)?;
        Ok(self.ended(status))
    }

    fn ended(&mut self, status: std::process::ExitStatus) -> Ended {
        self.reader.take().map(thread::JoinHandle::join).and_then(Result::ok);
        let stdout = self.stdout.take().map(finish).unwrap_or_default();
        Ended { status, stdout, stderr: self.stderr() }
    }
}
