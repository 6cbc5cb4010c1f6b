//! The load generator: one process with one network namespace for the whole run.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// A running `connect-load serve`; ends when it is dropped.
pub(crate) struct Generator {
    process: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// The result of a load; times in ns.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Load {
    /// Number of connections that were asked for; the load generator makes as many, rounded down to a multiple of its client
    /// processes.
    pub(crate) connects: f64,
    /// Number of connections that a tool has seen: the measured ones and those of the warm-up.
    pub(crate) made: f64,
    /// From the first connect() to the last close(), without the warm-up, ns.
    pub(crate) elapsed: f64,
    /// CPU time of all client processes, without the warm-up, ns.
    pub(crate) cpu: f64,
    /// Duration of connect(), ns: half of the calls took less.
    pub(crate) p50: f64,
    /// Duration of connect(), ns: 99 of 100 calls took less.
    pub(crate) p99: f64,
}

impl Generator {
    /// Starts `program`, which must be `connect-load` (not checked). Fails if it cannot be run.
    pub(crate) fn start(program: &Path) -> Result<Self> {
        let mut process = Command::new(program)
            .arg("serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let commands = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().context("no stdout")?);
        Ok(Self { process, commands, answers })
    }

    /// Has `clients` processes (at least one) make `connects` connections (at least one for each) together, rounded down to a
    /// multiple of `clients`, after a warm-up of 500 each, and waits for the end. Fails if the load generator has ended or fails,
    /// or its answer is not five numbers.
    pub(crate) fn load(&mut self, clients: u32, connects: u32) -> Result<Load> {
        let numbers = self.ask(&format!("load {clients} {connects}"))?;
        ensure!(numbers.len() == 5, "the load generator answered {numbers:?}");
        let [made, elapsed, cpu, p50, p99] = std::array::from_fn(|index| numbers[index]);
        Ok(Load { connects: f64::from(connects), made, elapsed, cpu, p50, p99 })
    }

    /// Makes one refused connection to each of `tuples` addresses of 127.0.0.0/8 (fewer than 2²⁴), so that each is another tuple;
    /// returns the time for all of them, ns. Fails if the load generator has ended or fails, or its answer is no number.
    pub(crate) fn refuse(&mut self, tuples: u32) -> Result<f64> {
        self.ask(&format!("refuse {tuples}"))?.first().copied().context("no answer")
    }

    fn ask(&mut self, command: &str) -> Result<Vec<f64>> {
        let commands = self.commands.as_mut().context("the load generator has ended")?;
        writeln!(commands, "{command}").context("the load generator has ended")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        ensure!(!answer.is_empty(), "the load generator failed at `{command}`; see above");
        let numbers = answer.trim().split(' ').map(str::parse).collect::<Result<_, _>>();
        numbers.with_context(|| format!("the load generator answered {answer:?}"))
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        // The process ends when its stdin is closed.
        self.commands = None;
        if let Err(error) = self.process.wait() {
            eprintln!("the load generator: {error}");
        }
    }
}
