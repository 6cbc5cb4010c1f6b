//! Recordings that several tests share: one `tracer record` of each backend, because a start is slow in an emulated guest. Every
//! test reads its own part of the file, and there the lines of its own network namespace only. What only the last line has is
//! checked once, for the whole recording, when the recorder ends.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    net::SocketAddr,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;
use serde_json::Value;

use super::{
    record::{Record, Recording, eventually, name},
    shared, wait_for,
    watch::{number, text},
};
use crate::harness::{
    lie::{self, Stream},
    netns::{self, NetNs},
    probe::Place,
    sock::Sock,
};

static RUNNING: Mutex<BTreeMap<String, Record>> = Mutex::new(BTreeMap::new());

fn running() -> MutexGuard<'static, BTreeMap<String, Record>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins a part of the recording of this backend, for a test in this namespace. Starts the recorder, with all events, if it does
/// not run.
///
/// # Errors
/// The recorder does not start, or has ended by itself; the next call then starts another one.
pub fn begin(backend: &str, netns: &NetNs) -> Result<Part> {
    netns.keep()?;
    let mut running = running();
    let mut record = match running.remove(backend) {
        Some(record) => record,
        None => Record::start(backend, &[])?,
    };
    record.assert_runs()?;
    let file = record.file().to_owned();
    running.insert(backend.to_owned(), record);
    let lines = whole_lines(fs::read(&file)?)?;
    let first = lines.split_inclusive('\n').next().unwrap_or_default().to_owned();
    let begin = u64::try_from(lines.len())?;
    let missed = missed(&lines)?.unwrap_or(0);
    Ok(Part { backend: backend.to_owned(), file, first, begin, missed, netns: netns.inum() })
}

/// Ends the recorder of this backend by SIGINT, if it runs; else does nothing. Its exit code must be 0, every line valid, and
/// none missing; nothing may be lost except by `events_limited`; the totals must add up, and have each failure that has a line,
/// of which there must be at least one. If no other recorder and no shared tracer runs any more, closes the namespaces that are
/// kept for them.
pub fn stop(backend: &str) -> Result<()> {
    let Some(record) = running().remove(backend) else { return Ok(()) };
    let recording = record.stop();
    if running().is_empty() && shared::idle() {
        netns::release_kept();
    }
    check(&recording?)
}

/// Ends the recorders that still run, one after the other, as [`stop`] does. After the first that fails, the others are not
/// ended, and the error names its backend.
pub fn stop_all() -> Result<()> {
    let backends: Vec<_> = running().keys().cloned().collect();
    backends.iter().try_for_each(|backend| stop(backend).with_context(|| backend.clone()))
}

/// Checks that every line is valid, that none is missing, that nothing was lost (except by `events_limited`), and that the totals
/// have every failure.
fn check(recording: &Recording) -> Result<()> {
    recording.assert_gap_free()?;
    recording.assert_valid()?;
    // Events of failures are limited for each network namespace. A test that repeats a call until its event comes
    // (`events::port_holders`) may reach that limit on a slow machine.
    recording.assert_nothing_lost_but(&["events_limited"])?;
    let totals = recording.totals()?;
    let exact = Place::get() == Place::Vm && number(totals, "lost.events_limited")? == 0;
    let mut causes = BTreeMap::<&str, u64>::new();
    for line in &recording.lines {
        if ["connect.failed", "bind.failed"].contains(&name(line)) {
            *causes.entry(text(line, "cause")?).or_default() += 1;
        }
    }
    ensure!(!causes.is_empty(), "the recording has no failure, although each part ends with one");
    for (cause, lines) in causes {
        let failed = number(totals, &format!("failed.{cause}"))?;
        // On the host, other processes make calls until tracer has detached: the totals count these calls, but their events may
        // come too late to have a line.
        let right = failed == lines || (!exact && failed > lines);
        ensure!(right, "{lines} lines of {cause}, but {failed} in {totals}");
    }
    Ok(())
}

/// The destination of the connect() that marks the end of a part. No namespace of the tests has a route to this address: the call
/// fails with ENETUNREACH and takes no port.
const END: &str = "192.0.2.99:9";
/// How long to wait for the event of the connect() to [`END`] before it is called again: in a guest, the kernel may skip the
/// hook that reports it.
const PATIENCE: Duration = Duration::from_millis(500);

/// The part of a shared recording that belongs to one test.
#[derive(Debug)]
pub struct Part {
    backend: String,
    file: PathBuf,
    /// The first line of the recording.
    first: String,
    /// Where the part begins in the file, in bytes.
    begin: u64,
    /// How many hooks the kernel had skipped by then, by the recording.
    missed: u64,
    netns: u64,
}

impl Part {
    /// The lines with this `event.name` and local port (host byte order) in the test's namespace that are in this part of the
    /// file by now; never falsified (`TRACER_TEST_LIE`), as tests only wait for them. An error if the file cannot be read, or
    /// such a line is no JSON.
    pub fn lines(&self, kind: &str, port: u16) -> Result<Vec<Value>> {
        let mut lines = Vec::new();
        for line in self.text()?.lines().filter(|line| line.contains(kind)) {
            let line: Value = serde_json::from_str(line)?;
            let local = line["network.local.port"].as_u64();
            if name(&line) == kind && self.is_here(&line) && local == Some(port.into()) {
                lines.push(line);
            }
        }
        Ok(lines)
    }

    /// Waits until [`Self::lines`], called with `kind` and `port`, has a line for which `is_it` is true, at most 20 s (see
    /// [`Place::limit`]), and returns true. False: it has none by then, and in this guest the kernel has skipped hooks since this
    /// part began, by the recording: the line can be missing for that. Never false on the host, or with the tracepoint backend.
    ///
    /// # Errors
    /// It has none by then, and no hook was skipped.
    pub fn has_line(&self, kind: &str, port: u16, is_it: impl Fn(&Value) -> bool) -> Result<bool> {
        let found = eventually(&format!("the {kind} of port {port}"), || {
            Ok(self.lines(kind, port)?.iter().any(&is_it))
        });
        // The tracepoint backend's count is mostly of timers that have nothing to do with TCP: it excuses nothing.
        let counts = Place::get() == Place::Vm && self.backend != "tracepoint";
        match found {
            Err(_)
                if counts && missed(&self.text()?)?.is_some_and(|missed| missed > self.missed) =>
            {
                Ok(false)
            }
            found => found.map(|()| true),
        }
    }

    fn is_here(&self, line: &Value) -> bool {
        line["netns"].as_u64() == Some(self.netns)
    }

    /// Waits until the events of all that happened before this call are in the file. Returns them, of all namespaces, after the
    /// first line of the recording. There is no `tracer.stop` line: what only that line has is checked when the
    /// recorder ends.
    ///
    /// The ring keeps events in order, so all of them are in the file once the event of one more call is there.
    ///
    /// # Errors
    /// That event is not there within 20 s (see [`Place::limit`]), or the recorder has ended.
    pub fn end(self, netns: &NetNs) -> Result<Recording> {
        let mut called: Option<Instant> = None;
        let part = wait_for("the event at the end of the part", Duration::from_secs(20), || {
            if called.is_none_or(|at| at.elapsed() > PATIENCE) {
                let mut running = running();
                running.get_mut(&self.backend).context("no recorder")?.assert_runs()?;
                call_at_the_end(netns)?;
                called = Some(Instant::now());
            }
            before_the_end(&self.text()?, self.netns)
        })?;
        Recording::parse(&lie::text(Stream::File, self.first + &part))
    }

    fn text(&self) -> Result<String> {
        let mut bytes = Vec::new();
        let mut file = File::open(&self.file)?;
        file.seek(SeekFrom::Start(self.begin))?;
        file.read_to_end(&mut bytes)?;
        whole_lines(bytes)
    }
}

fn call_at_the_end(netns: &NetNs) -> Result<()> {
    let peer: SocketAddr = END.parse()?;
    let failed = netns.run(|| Sock::tcp(peer)?.connect(peer)).err();
    ensure!(failed == Some(Errno::NETUNREACH), "connect() to {END}: {failed:?}");
    Ok(())
}

/// The lines before the event of a call at the end of a part in this namespace; `None` if there is no such event.
fn before_the_end(lines: &str, netns: u64) -> Result<Option<String>> {
    let peer: SocketAddr = END.parse()?;
    let address = peer.ip().to_string();
    let mut before = 0;
    for line in lines.split_inclusive('\n') {
        if line.contains(&address) {
            let line: Value = serde_json::from_str(line)?;
            let here = number(&line, "netns")? == netns;
            let port = u64::from(peer.port());
            if here
                && name(&line) == "connect.failed"
                && number(&line, "network.peer.port")? == port
            {
                return Ok(lines.get(..before).map(str::to_owned));
            }
        }
        before += line.len();
    }
    Ok(None)
}

/// How many hooks the kernel has skipped, by the last `tracer.stats` of these lines; `None`: there is none.
fn missed(lines: &str) -> Result<Option<u64>> {
    let Some(line) = lines.lines().rfind(|line| line.contains("tracer.stats")) else {
        return Ok(None);
    };
    let line: Value = serde_json::from_str(line)?;
    Ok(Some(line["lost.hook_missed"].as_u64().unwrap_or(0)))
}

/// The text without a last line that is not whole yet.
fn whole_lines(mut bytes: Vec<u8>) -> Result<String> {
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    bytes.truncate(end);
    String::from_utf8(bytes).context("the recording is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(netns: u64, port: u16) -> String {
        let peer = format!(r#""network.peer.address":"192.0.2.99","network.peer.port":{port}"#);
        format!("{{\"event.name\":\"connect.failed\",{peer},\"netns\":{netns}}}\n")
    }

    #[test]
    fn a_part_ends_before_the_first_call_at_its_end_in_its_own_namespace() {
        let others = failed(2, 9) + &failed(1, 80);
        assert_eq!(before_the_end(&others, 1).unwrap(), None);
        let all = others.clone() + &failed(1, 9) + "{}\n" + &failed(1, 9);
        assert_eq!(before_the_end(&all, 1).unwrap(), Some(others));
    }

    #[test]
    fn the_newest_reading_says_how_many_hooks_were_skipped() {
        let stats = |more: &str| format!("{{\"event.name\":\"tracer.stats\"{more}}}\n");
        assert_eq!(missed("{}\n").unwrap(), None);
        assert_eq!(missed(&stats("")).unwrap(), Some(0));
        let all = stats("") + &stats(",\"lost.hook_missed\":7") + "{}\n";
        assert_eq!(missed(&all).unwrap(), Some(7));
    }

    #[test]
    fn a_line_that_is_not_whole_is_no_line() {
        assert_eq!(whole_lines(b"a\nb\nc\xff".to_vec()).unwrap(), "a\nb\n");
        assert_eq!(whole_lines(b"a".to_vec()).unwrap(), "");
    }
}
