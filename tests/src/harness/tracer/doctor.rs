//! A run of `tracer doctor`, and its diagnosis.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::Path,
    process::{ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Collected, Ended, STOP_LIMIT, collect, command, finish, run};
use crate::harness::{netns::NetNs, probe::Place, process::Process};

/// Longest time for a run of `tracer doctor`, the time during which it watches included; longer in a guest.
const LIMIT: Duration = Duration::from_secs(40);

const SCHEMA: &str = include_str!("../../../../tracer/schema/doctor-v1.json");

/// What `tracer doctor -o json` printed (tracer/schema/doctor-v1.json), with the keys that tests look at.
#[derive(Clone, Debug, Deserialize)]
pub struct Diagnosis {
    /// `healthy`, `warning`, `critical` or `unknown`.
    pub verdict: String,
    /// The exit code for that verdict: 0, 1, 2 or 3.
    pub exit: i32,
    /// How long the hooks watched, in seconds; 0 if they did not. With `--from`: between how many seconds the recording has
    /// readings; 0 if it has none.
    pub window_s: f64,
    /// Share of its ports that the fullest tuple has in use, from 0 to 1 (above 1 after the range shrank); 0 if no tuple holds a
    /// port.
    pub saturation: f64,
    /// What was looked at, whether or not there was something to find.
    pub checks: Vec<Check>,
    /// Causes before their consequences, the worst first; empty if there are none.
    pub findings: Vec<Finding>,
    /// With `--watch`: its number, from 1 on; otherwise `None`.
    pub round: Option<u64>,
    /// With `--watch`: findings that are solved: missing for the second round in a row. Otherwise empty.
    #[serde(rename = "findings.solved", default)]
    pub solved: Vec<Missed>,
    /// With `--watch`: findings that are missing for the first time. Otherwise empty.
    #[serde(rename = "findings.missing", default)]
    pub missing: Vec<Missed>,
}

/// A finding of an earlier round, with the keys that tests look at.
#[derive(Clone, Debug, Deserialize)]
pub struct Missed {
    pub id: String,
}

/// A check, with the keys that tests look at.
#[derive(Clone, Debug, Deserialize)]
pub struct Check {
    pub id: String,
    /// Whether nothing can be called healthy without it.
    pub core: bool,
    /// `ok`, `finding` or `not_made`.
    pub status: String,
    /// Why it was not made; `None` if it was.
    pub why: Option<String>,
    /// What it needs, for example a capability; `None`: nothing, or it was made.
    pub needs: Option<String>,
}

/// A finding, with the keys that tests look at.
#[derive(Clone, Debug, Deserialize)]
pub struct Finding {
    pub id: String,
    /// Source address of the tuple that it is about; `None`: it is not about a tuple.
    #[serde(rename = "network.local.address")]
    pub local: Option<String>,
    /// Destination address of the tuple; `None`: it is not about a tuple.
    #[serde(rename = "network.peer.address")]
    pub peer: Option<String>,
    /// `info`, `warning` or `critical`.
    pub severity: String,
    /// `measured`, `inferred` or `possible`.
    pub certainty: String,
    /// Inode number of the network namespace that it is about; `None`: it is about the whole host or a process (`pid`), or
    /// `evidence` has the namespace.
    pub netns: Option<u64>,
    /// Id of the process that it is about; `None`: it is not about one process.
    #[serde(rename = "process.pid")]
    pub pid: Option<u32>,
    /// What was found, for people.
    pub what: String,
    /// The numbers and texts that it is based on, by their keys.
    pub evidence: Map<String, Value>,
    /// Why it is so, for people; `None`: `what` says all.
    pub why: Option<String>,
    /// Id of the finding that explains this one; `None`: none does.
    pub consequence_of: Option<String>,
    /// With `--watch`, from the second round on: `new`, `worse`, `better` or `same`, compared with the last round. Otherwise
    /// `None`.
    pub change: Option<String>,
    /// Destination port of the tuple, in host byte order; `None`: it is not about a tuple.
    #[serde(rename = "network.peer.port")]
    pub port: Option<u16>,
    /// Id of the container in which its processes run; `None`: they run in none, or it is not known.
    #[serde(rename = "container.id")]
    pub container: Option<String>,
    /// What to do, the best first; empty if there is no advice.
    pub advice: Vec<Advice>,
}

/// One thing to do, with the keys that tests look at.
#[derive(Clone, Debug, Deserialize)]
pub struct Advice {
    /// What to do, for people.
    #[serde(rename = "do")]
    pub what: String,
    /// The command to type; `None`: there is none.
    pub command: Option<String>,
    /// By which factor the largest rate of calls grows; `None`: not known.
    #[serde(rename = "gain.factor")]
    pub factor: Option<f64>,
}

impl Finding {
    /// Inode number of the network namespace that it is about, or in which its process runs; `None`: it is about the whole host.
    fn place(&self) -> Result<Option<u64>> {
        let named = self.netns.or_else(|| self.evidence.get("netns").and_then(Value::as_u64));
        let Some(pid) = self.pid.filter(|_| named.is_none()) else { return Ok(named) };
        let path = format!("/proc/{pid}/ns/net");
        let netns = fs::metadata(&path).with_context(|| format!("{path}: {self:?}"))?;
        Ok(Some(netns.ino()))
    }

    /// A number of the evidence; an error if the key is missing, or its value is no number.
    pub fn number(&self, key: &str) -> Result<f64> {
        let number = self.evidence.get(key).and_then(Value::as_f64);
        number.with_context(|| format!("no number {key} in {self:?}"))
    }

    /// A whole number of the evidence; an error if the key is missing, or its value is negative or has a fraction.
    pub fn count(&self, key: &str) -> Result<u64> {
        let number = self.evidence.get(key).and_then(Value::as_u64);
        number.with_context(|| format!("no count {key} in {self:?}"))
    }

    /// A text of the evidence; an error if the key is missing, or its value is no text.
    pub fn text(&self, key: &str) -> Result<&str> {
        let text = self.evidence.get(key).and_then(Value::as_str);
        text.with_context(|| format!("no text {key} in {self:?}"))
    }
}

impl Diagnosis {
    /// The ids of the findings whose severity is above `info`, in their order, without those that are consequences of another
    /// one.
    pub fn roots(&self) -> Vec<&str> {
        let all = self.findings.iter();
        let roots = all.filter(|it| it.severity != "info" && it.consequence_of.is_none());
        roots.map(|it| it.id.as_str()).collect()
    }

    /// The ids of [`Self::roots`], without `small_range`: each test makes its port range small.
    pub fn causes(&self) -> Vec<&str> {
        self.roots().into_iter().filter(|id| *id != "small_range").collect()
    }

    /// The diagnosis with only the findings that are about this namespace, or about a process that runs in it. `verdict` and
    /// `exit` are then by these findings: `healthy` and 0 if none is above `info`. All other fields stay those of the whole
    /// diagnosis.
    ///
    /// # Errors
    /// A finding is about a process that has ended, so that its namespace is not known.
    pub fn of(&self, netns: &NetNs) -> Result<Self> {
        let mut findings = Vec::new();
        for finding in &self.findings {
            if finding.place()? == Some(netns.inum()) {
                findings.push(finding.clone());
            }
        }
        let worst = |severity: &str| findings.iter().any(|it| it.severity == severity);
        let (exit, verdict) = match (worst("critical"), worst("warning")) {
            (true, _) => (2, "critical"),
            (false, true) => (1, "warning"),
            _ => (0, "healthy"),
        };
        Ok(Self { verdict: verdict.to_owned(), exit, findings, ..self.clone() })
    }

    /// The exit code that doctor would have without the finding `small_range`: 0 instead of 1 if [`Self::causes`] is empty;
    /// otherwise [`Self::exit`].
    pub fn exit_but_for_the_range(&self) -> i32 {
        if self.exit == 1 && self.causes().is_empty() { 0 } else { self.exit }
    }

    /// The first finding of this id; an error if there is none.
    pub fn finding(&self, id: &str) -> Result<&Finding> {
        let found = self.findings.iter().find(|it| it.id == id);
        found.with_context(|| format!("no {id} in {self:?}"))
    }

    /// The check of this id; an error if there is none.
    pub fn check(&self, id: &str) -> Result<&Check> {
        let found = self.checks.iter().find(|it| it.id == id);
        found.with_context(|| format!("no check {id} in {self:?}"))
    }
}

/// Runs `tracer doctor -o json` for this namespace with these options, and returns its diagnosis, whatever the verdict.
///
/// # Errors
/// The program cannot be started or does not end in time (40 s; longer in a guest), its output does not match the schema, or the
/// key `exit` is not its exit code.
pub fn doctor(netns: &NetNs, options: &[&str]) -> Result<Diagnosis> {
    let mut command = command(&["doctor", "-o", "json", "--netns", &netns.path()])?;
    diagnosis(&run(command.args(options), Place::get().limit(LIMIT))?)
}

/// Runs `tracer doctor --from -o json` for these recordings. Errors as of [`doctor`].
pub fn doctor_of(recordings: &[&Path]) -> Result<Diagnosis> {
    let mut command = command(&["doctor", "-o", "json", "--from"])?;
    diagnosis(&run(command.args(recordings), Place::get().limit(LIMIT))?)
}

/// Runs [`doctor`] for the namespaces with these names in /run/netns; without names, for those that doctor finds by itself.
/// Errors as of [`doctor`].
pub fn doctor_of_names(names: &[String], options: &[&str]) -> Result<Diagnosis> {
    let mut command = command(&["doctor", "-o", "json"])?;
    for name in names {
        command.args(["--netns", name]);
    }
    diagnosis(&run(command.args(options), Place::get().limit(LIMIT))?)
}

/// Runs `tracer doctor -o json` in this namespace, without `--netns`, as a user without privileges (uid and gid 64123), from a
/// copy of the program. Errors as of [`doctor`], or if the program cannot be copied.
pub fn doctor_of_nobody(netns: &NetNs, options: &[&str]) -> Result<Diagnosis> {
    /// A user as whom no other process runs. (65534, `nobody`, is the user of threads of tracers.)
    const NOBODY: u32 = 64_123;
    // This user may not read the folder in which the program was built.
    let folder = tempfile::tempdir()?;
    let program = folder.path().join("tracer");
    fs::copy(super::program()?, &program).context("cannot copy the program")?;
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let mut command = Command::new(&program);
    command.args(["doctor", "-o", "json"]).args(options).uid(NOBODY).gid(NOBODY).current_dir("/");
    diagnosis(&netns.run(|| run(&mut command, Place::get().limit(LIMIT)))?)
}

/// A running `tracer doctor --watch`; killed on drop.
pub struct Rounds {
    process: Process,
    lines: BufReader<ChildStdout>,
    stderr: Collected,
}

impl Rounds {
    /// Starts it for this namespace with these options, which must have `--watch` (not checked). An error if the program cannot
    /// be started.
    pub fn start(netns: &NetNs, options: &[&str]) -> Result<Self> {
        let mut command = command(&["doctor", "-o", "json", "--netns", &netns.path()])?;
        command.args(options).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::spawn(&mut command)?;
        let stdout = process.child.stdout.take().context("no stdout")?;
        let stderr = collect(process.child.stderr.take());
        Ok(Self { process, lines: BufReader::new(stdout), stderr })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits, however long it takes, for the next round; an error if its diagnosis does not match the schema, or the program has
    /// ended.
    pub fn round(&mut self) -> Result<Diagnosis> {
        let mut line = String::new();
        ensure!(self.lines.read_line(&mut line)? > 0, "it has ended");
        parse(&line)
    }

    /// Waits for the first of the next 20 rounds of which `is` is true, and returns it. An error after 20 rounds, with `what`,
    /// which names the condition, and the last round; other errors as of [`Self::round`].
    pub fn until(&mut self, what: &str, is: impl Fn(&Diagnosis) -> bool) -> Result<Diagnosis> {
        let mut last = None;
        for _ in 0..20 {
            let round = self.round()?;
            if is(&round) {
                return Ok(round);
            }
            last = Some(round);
        }
        bail!("20 rounds without {what}: {last:?}")
    }

    /// Sends a signal, and returns the exit code and what is on stderr. An error if the program does not end within
    /// [`STOP_LIMIT`], or the signal kills it.
    pub fn stop(self, signal: Signal) -> Result<(i32, String)> {
        let Self { process, lines, stderr } = self;
        process.signal(signal)?;
        // The pipe stays open until it has ended.
        let ended = Self::ended(process, stderr);
        drop(lines);
        ended
    }

    /// Closes the pipe that it writes to, and returns the exit code and what is on stderr. An error if the program does not end
    /// within [`STOP_LIMIT`], or a signal kills it.
    pub fn close(self) -> Result<(i32, String)> {
        let Self { process, lines, stderr } = self;
        drop(lines);
        Self::ended(process, stderr)
    }

    fn ended(mut process: Process, stderr: Collected) -> Result<(i32, String)> {
        let status = process.wait(STOP_LIMIT)?;
        Ok((status.code().context("it was killed by a signal")?, finish(stderr)))
    }
}

/// What a run with `-o json` printed on stdout. An error if that does not match the schema, or if its key `exit` is not the exit
/// code.
pub fn diagnosis(ended: &Ended) -> Result<Diagnosis> {
    let diagnosis = parse(&ended.stdout).with_context(|| format!("{ended:?}"))?;
    ensure!(diagnosis.exit == ended.code(), "it ended with {}: {diagnosis:?}", ended.code());
    Ok(diagnosis)
}

/// The diagnosis in a line of JSON; an error if it does not match the schema.
fn parse(line: &str) -> Result<Diagnosis> {
    let value: Value = serde_json::from_str(line)?;
    let schema = serde_json::from_str(SCHEMA).context("the schema")?;
    let validator = jsonschema::validator_for(&schema)?;
    if let Some(error) = validator.iter_errors(&value).next() {
        bail!("not by the schema: {error} at {} of {value}", error.instance_path());
    }
    Ok(serde_json::from_value(value)?)
}
