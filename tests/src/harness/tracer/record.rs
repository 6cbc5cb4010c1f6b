//! `tracer record`: runs it, reads its file, and checks the totals in the last line.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::{
    Collected, START_LIMIT, STOP_LIMIT, collect, command, finish, wait_for,
    watch::{number, text},
};
use crate::harness::{lie, lines::SOCKET_EVENTS, probe, process::Process, skipped};

/// A running `tracer record --output FILE`; killed on drop.
#[derive(Debug)]
pub struct Record {
    pub process: Process,
    file: PathBuf,
    stderr: Option<Collected>,
    folder: Option<TempDir>,
}

impl Record {
    /// Starts recording into a file in a new folder, and waits for its first line: by then tracer has attached. `more` are
    /// further arguments of `tracer record`; without `--events` among them, it records all events.
    ///
    /// # Errors
    /// tracer ended (the text has its stderr), or wrote no line within [`START_LIMIT`].
    pub fn start(backend: &str, more: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let record = Self::start_at(backend, &folder.path().join("events.jsonl"), more)?;
        Ok(Self { folder: Some(folder), ..record })
    }

    /// Starts recording as [`Self::start`] does, but into this file; if it exists, tracer appends to it. Errors as there, or if
    /// the path is not UTF-8.
    pub fn start_at(backend: &str, file: &Path, more: &[&str]) -> Result<Self> {
        let path = file.to_str().context("path is not UTF-8")?;
        let mut command = command(&["--backend", backend, "record", "--output", path])?;
        if !more.contains(&"--events") {
            command.args(["--events", "all"]);
        }
        command.args(more);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let before = fs::read(file).unwrap_or_default().len();
        // From here on they are counted, for `assert_nothing_lost`.
        skipped::time_waits();
        let mut process = Process::spawn(&mut command)?;
        let stderr = Some(collect(process.child.stderr.take()));
        let mut record = Self { process, file: file.to_owned(), stderr, folder: None };
        record.wait_begun(before)?;
        Ok(record)
    }

    /// Waits for the `tracer.start` line behind the `before` bytes that were in the file already.
    fn wait_begun(&mut self, before: usize) -> Result<()> {
        let file = self.file.clone();
        wait_for("the tracer.start line", START_LIMIT, || {
            self.assert_runs()?;
            let bytes = fs::read(&file).unwrap_or_default();
            let text = String::from_utf8_lossy(bytes.get(before..).unwrap_or_default());
            Ok((text.contains("tracer.start") && text.ends_with('\n')).then_some(()))
        })
    }

    /// Fails if the tracer has ended; the text has its stderr.
    pub fn assert_runs(&mut self) -> Result<()> {
        if let Some(status) = self.process.child.try_wait()? {
            let stderr = self.stderr.take().map(finish).unwrap_or_default();
            bail!("the tracer ended ({status}): {}", stderr.trim());
        }
        Ok(())
    }

    /// The file that tracer writes.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Waits for the end of a reading that began after this call, at most 20 s (see `Place::limit`): for the second
    /// `tracer.stats` line, which only `--events stats` or `all` writes. Lines that are in the file already, which may be many,
    /// are not read. An error if there is none by then.
    pub fn wait_for_reading(&self) -> Result<()> {
        let mut file = File::open(&self.file)?;
        file.seek(SeekFrom::End(0))?;
        let mut file = BufReader::new(file);
        let (mut line, mut readings) = (String::new(), 0);
        wait_for("a reading", Duration::from_secs(20), || {
            // The rest of a line that is not whole yet is appended by the next call.
            while file.read_line(&mut line)? > 0 && line.ends_with('\n') {
                readings += u32::from(line.contains(r#""tracer.stats""#));
                line.clear();
            }
            // The first of these readings may have begun before this call.
            Ok((readings >= 2).then_some(()))
        })
    }

    /// Ends tracer by SIGINT, and returns the recording. An error if the exit code is not 0 (the text has its stderr), it does
    /// not end within [`STOP_LIMIT`], or the file is no recording: [`Recording::read`].
    pub fn stop(mut self) -> Result<Recording> {
        self.process.signal(Signal::INT)?;
        self.finish()
    }

    /// Ends tracer by SIGINT, and returns the recording and stderr; the exit code must be 1, which says that lines are missing.
    /// Other errors as of [`Self::stop`].
    pub fn stop_incomplete(mut self) -> Result<(Recording, String)> {
        self.process.signal(Signal::INT)?;
        let stderr = self.wait_for_exit(1)?;
        Ok((Recording::read(&self.file)?, stderr))
    }

    /// Ends tracer by SIGINT, and returns the recording and stderr. Errors as of [`Self::stop`].
    pub fn stop_with_stderr(mut self) -> Result<(Recording, String)> {
        self.process.signal(Signal::INT)?;
        let stderr = self.wait_for_exit(0)?;
        Ok((Recording::read(&self.file)?, stderr))
    }

    /// Ends tracer by SIGINT, and returns the folder with all files of the recording, which may have been rotated. `None` after
    /// [`Self::start_at`], whose file is in a folder of the caller's. An error if the exit code is not 0, or it does not end
    /// within [`STOP_LIMIT`]; the files are not read.
    pub fn stop_files(mut self) -> Result<Option<TempDir>> {
        self.process.signal(Signal::INT)?;
        self.wait()?;
        Ok(self.folder)
    }

    /// Waits for the end of a recording that ends by itself, at most [`STOP_LIMIT`] from now, and returns it. Errors as of
    /// [`Self::stop`].
    pub fn finish(&mut self) -> Result<Recording> {
        self.wait()?;
        Recording::read(&self.file)
    }

    fn wait(&mut self) -> Result<()> {
        self.wait_for_exit(0).map(drop)
    }

    fn wait_for_exit(&mut self, code: i32) -> Result<String> {
        let status = self.process.wait(STOP_LIMIT)?;
        let stderr = self.stderr.take().map(finish).unwrap_or_default();
        ensure!(status.code() == Some(code), "record ended with {status}: {}", stderr.trim());
        Ok(stderr)
    }
}

const SCHEMA: &str = include_str!("../../../../tracer/schema/events-v1.json");

/// The lines of a recording.
#[derive(Debug)]
pub struct Recording {
    /// In the order of the file, the first and the last line included.
    pub lines: Vec<Value>,
}

impl Recording {
    /// Reads a file, which must be UTF-8. Every line must be JSON and complete, the first must be `tracer.start`; otherwise it is
    /// an error.
    pub fn read(file: &Path) -> Result<Self> {
        Self::parse(&lie::file(file)?)
    }

    /// The recording of this text, for which the rules of [`Self::read`] hold.
    pub fn parse(text: &str) -> Result<Self> {
        ensure!(text.ends_with('\n'), "the last line is not whole");
        let parse = |line| serde_json::from_str(line).with_context(|| format!("bad line {line:?}"));
        let lines = text.lines().map(parse).collect::<Result<Vec<Value>>>()?;
        let recording = Self { lines };
        ensure!(name(recording.start()?) == "tracer.start", "the first line is not tracer.start");
        Ok(recording)
    }

    /// The first line; an error if there is none.
    pub fn start(&self) -> Result<&Value> {
        self.lines.first().context("no line")
    }

    /// The last line, which must be `tracer.stop`; else an error.
    pub fn totals(&self) -> Result<&Value> {
        let last = self.lines.last().context("no line")?;
        ensure!(name(last) == "tracer.stop", "the last line is not tracer.stop: {last}");
        Ok(last)
    }

    /// The lines with this `event.name` and this network namespace (inode number), in their order; empty if there are none.
    pub fn events(&self, kind: &str, netns: u64) -> Vec<&Value> {
        let here = |line: &&Value| name(line) == kind && number(line, "netns").ok() == Some(netns);
        self.lines.iter().filter(here).collect()
    }

    /// Fails if a line does not match tracer/schema/events-v1.json.
    pub fn assert_valid(&self) -> Result<()> {
        let schema = serde_json::from_str(SCHEMA).context("the schema")?;
        let validator = jsonschema::validator_for(&schema)?;
        for line in &self.lines {
            if let Err(error) = validator.validate(line) {
                bail!("not by the schema: {error} at {} of {line}", error.instance_path());
            }
        }
        Ok(())
    }

    /// Fails if `seq` does not go up by one from line to line, whatever it is in the first line.
    pub fn assert_gap_free(&self) -> Result<()> {
        let first = number(self.start()?, "seq")?;
        for (expected, line) in (first..).zip(&self.lines) {
            ensure!(number(line, "seq")? == expected, "seq {expected} is missing before {line}");
        }
        Ok(())
    }

    /// The losses in the totals that are not 0: (the key without `lost.`, count). An error if the last line is not `tracer.stop`.
    pub fn losses(&self) -> Result<Vec<(String, u64)>> {
        let totals = self.totals()?.as_object().context("tracer.stop is no object")?;
        let named = totals.iter().filter_map(|(key, value)| {
            Some((key.strip_prefix("lost.")?.to_owned(), value.as_u64()?))
        });
        Ok(named.filter(|(_, count)| *count > 0).collect())
    }

    /// How many of `calls` may have no event, by the recording's count of missed hooks, at most all of them: see
    /// [`probe::unseen`]. Errors as of [`Self::losses`].
    pub fn unseen(&self, calls: u64) -> Result<u64> {
        let missed = self.losses()?.into_iter().find(|(kind, _)| kind == "hook_missed");
        Ok(probe::unseen(missed.map_or(0, |(_, count)| count), calls).min(calls))
    }

    /// Fails if something that a hook saw was lost, if an event has no line, or if there is drift although the kernel skipped no
    /// hook, nor as many TIME_WAITs as it says ([`skipped::time_waits`]; drift is not checked where the kernel does not count all skipped
    /// hooks: [`probe::counts_all_missed`]). Skipped hooks
    /// are no failure: most are hooks of timers, which run for every timer of the host.
    pub fn assert_nothing_lost(&self) -> Result<()> {
        self.assert_nothing_lost_but(&[])
    }

    /// Fails if something that a hook saw was lost, except losses of these kinds (as [`Self::losses`] names them), if an event
    /// has no line, or if there is drift: see [`Self::assert_nothing_lost`].
    pub fn assert_nothing_lost_but(&self, kinds: &[&str]) -> Result<()> {
        let mut losses = self.losses()?;
        losses.retain(|(kind, _)| kind != "hook_missed" && !kinds.contains(&kind.as_str()));
        ensure!(losses.is_empty(), "lost: {losses:?}");
        let totals = self.totals()?;
        let missed = number(totals, "lost.hook_missed")?;
        let drifted = number(totals, "drift")? > skipped::time_waits() && missed == 0;
        ensure!(!drifted || !probe::counts_all_missed(), "drift, and no hook was missed: {totals}");
        self.assert_balanced()
    }

    /// Fails unless the totals add up exactly: `events.seen` = emitted + event_ring_full + events_limited, emitted = written +
    /// events that userspace lost, and written = the lines of events.
    pub fn assert_balanced(&self) -> Result<()> {
        let totals = self.totals()?;
        let seen = number(totals, "events.seen")?;
        let emitted = number(totals, "events.emitted")?;
        let written = number(totals, "events.written")?;
        let losses = self.losses()?;
        let kernel: u64 =
            sum(&losses, |reason| ["event_ring_full", "events_limited"].contains(&reason));
        ensure!(seen == emitted + kernel, "seen {seen}, emitted {emitted}, lost {losses:?}");
        let user: u64 = sum(&losses, |reason| LOST_IN_USERSPACE.contains(&reason));
        ensure!(emitted == written + user, "emitted {emitted}, written {written}, lost {losses:?}");
        let lines = self.lines.iter().filter(|line| SOCKET_EVENTS.contains(&name(line))).count();
        ensure!(u64::try_from(lines)? == written, "{lines} event lines, written {written}");
        Ok(())
    }
}

fn sum(losses: &[(String, u64)], which: impl Fn(&str) -> bool) -> u64 {
    losses.iter().filter(|(reason, _)| which(reason)).map(|(_, count)| count).sum()
}

/// Losses of events between the ring and the output. `output_full_other` is not among them: it counts lines that are no event
/// of a socket.
const LOST_IN_USERSPACE: [&str; 2] = ["output_full", "undecodable"];

/// `event.name` of a line, or an empty string.
pub fn name(line: &Value) -> &str {
    text(line, "event.name").unwrap_or_default()
}

/// Waits until `condition` is true, at most 20 s (see `Place::limit`). An error if it is not by then (the text has `what`, which
/// names the condition), or if `condition` fails.
pub fn eventually(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_for(what, Duration::from_secs(20), || Ok(condition()?.then_some(())))
}
