//! `tracer tuples --interval`: a reading of the ledger every 0.1 s (0.3 s in a guest).

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::Stdio,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;

use super::{Ended, START_LIMIT, STOP_LIMIT, command};
use crate::harness::{
    lie,
    probe::{self, Place},
    process::Process,
    skipped,
    tuple::Tuple,
};

/// How the established connections of a tuple ended so far, and the SYNs without an answer, as the tracer counts them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Uses {
    /// Connections that the tracer's host closed first.
    pub closed_here: u64,
    /// Connections that the peer closed first.
    pub closed_by_peer: u64,
    /// Connections that ended without a FIN.
    pub aborted: u64,
    /// Segments with data that all these sent, those sent again included.
    pub segments: u64,
    /// How often a SYN was sent again.
    pub syns_again: u64,
    /// connect() calls whose SYN had no answer.
    pub unanswered: u64,
}

impl Uses {
    /// By the keys of `tracer tuples -o json` and of `tuple.stats`; those that are absent are 0.
    pub fn of(tuple: &Value) -> Self {
        let number = |key| tuple.get(key).and_then(Value::as_u64).unwrap_or(0);
        Self {
            closed_here: number("connections.closed_here"),
            closed_by_peer: number("connections.closed_by_peer"),
            aborted: number("connections.aborted"),
            segments: number("connections.segments"),
            syns_again: number("syns.sent_again"),
            unanswered: number("syns.unanswered"),
        }
    }

    /// Whether these are equal to `wanted`. If `unseen` is not 0, the hooks may have missed so many connections: each number of
    /// connections may then differ by as much, and segments and SYNs are not compared.
    pub fn are(&self, wanted: &Self, unseen: u64) -> bool {
        if unseen == 0 {
            return self == wanted;
        }
        let counts = |it: &Self| [it.closed_here, it.closed_by_peer, it.aborted, it.unanswered];
        counts(self).iter().zip(counts(wanted)).all(|(one, other)| one.abs_diff(other) <= unseen)
    }
}

/// One tuple as the tracer counts it: numbers of ports, unless a field says something else.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// In use, those in TIME_WAIT included.
    pub in_use: u64,
    /// How many of `in_use` are in TIME_WAIT; the next fields are the others, by the state of their connection.
    pub time_wait: u64,
    /// In SYN_SENT or SYN_RECV, `unanswered` included.
    pub connecting: u64,
    /// How many of `connecting` have retransmitted their SYN.
    pub unanswered: u64,
    pub established: u64,
    pub close_wait: u64,
    /// In FIN_WAIT1, FIN_WAIT2, CLOSING or LAST_ACK.
    pub closing: u64,
    /// Taken since the tracer started, those of older sockets included.
    pub opened: u64,
    /// How many of `opened` were released again.
    pub released: u64,
    /// How many ports the tuple can hold; `None` if the tracer could not read the port range of the namespace.
    pub capacity: Option<u64>,
    /// `in_use` divided by `capacity`: above 1 after the range shrank, 1 if the capacity is 0; `None` if the capacity is not
    /// known.
    pub saturation: Option<f64>,
    /// Number of ports of the range in `net.ipv4.ip_local_reserved_ports`; `None` if the line does not have this key.
    pub reserved: Option<u64>,
    /// Number of ports of the range that bind() or listen() took; `None` if the line does not have this key.
    pub bound: Option<u64>,
    /// 99th percentile of the duration of connect()'s port searches since the reading before (of all searches, if there were none
    /// since), ns: the end of a histogram bucket, or the beginning of the last one. `None`: there was no search.
    pub search_p99: Option<u64>,
    /// Number of connect() calls that failed, by cause; causes that did not occur are absent.
    pub failures: BTreeMap<String, u64>,
    /// How its connections ended; all 0 if the line does not say it.
    pub uses: Uses,
}

/// One line of output: the ledger at one time.
#[derive(Clone, Debug)]
pub struct Reading {
    /// When the tracer began to read the ledger.
    pub at: SystemTime,
    /// How many corrections the tracer has made in the ledger since its start, because the kernel's sockets contradicted an
    /// entry.
    pub drift: u64,
    /// How many times each loss was counted, by name; 0 included.
    lost: BTreeMap<String, u64>,
    tuples: Vec<(u64, Tuple, Counts)>,
    /// Namespace, address, ports that bind(address, 0) cannot have there, and ports in all.
    addresses: Vec<(u64, String, u64, u64)>,
    /// [`skipped::time_waits`] since the tracer's start, if there was drift: it may have corrected as many entries.
    pub unseen_time_waits: u64,
    /// What the tracer has printed on stderr so far, if there was drift.
    pub log: String,
}

impl Reading {
    /// Fails if the ledger was corrected although the kernel skipped no hook and kept no TIME_WAITs: then tracer's hooks have not seen
    /// what only the comparison found. Never fails for that where the kernel does not count all skipped hooks
    /// ([`probe::counts_all_missed`]). Fails, too, if the ledger was corrected and there is no loss `hook_missed`.
    pub fn assert_no_drift(&self) -> Result<()> {
        let unexplained = self.drift > self.unseen_time_waits && self.lost("hook_missed")? == 0;
        let drifted = unexplained && probe::counts_all_missed();
        ensure!(
            !drifted,
            "{} ports drifted, and no hook was missed; stderr: {}",
            self.drift,
            self.log
        );
        Ok(())
    }

    /// Number of hooks that the kernel has skipped since the tracer started; 0 if the line does not have this key.
    pub fn missed(&self) -> u64 {
        self.lost.get("hook_missed").copied().unwrap_or(0)
    }

    /// How many times this loss (the key without `lost.`) was counted; an error if the reading has no such loss.
    pub fn lost(&self, reason: &str) -> Result<u64> {
        self.lost.get(reason).copied().with_context(|| format!("there is no loss {reason}"))
    }

    /// The losses that are not 0, by name (the key without `lost.`).
    pub fn losses(&self) -> BTreeMap<&str, u64> {
        let counted = self.lost.iter().filter(|(_, count)| **count != 0);
        counted.map(|(name, count)| (name.as_str(), *count)).collect()
    }

    /// The tuples of the namespace with this inode number, with their counts; empty if the tracer has none.
    pub fn of(&self, netns: u64) -> BTreeMap<Tuple, Counts> {
        let here = self.tuples.iter().filter(|(inum, ..)| *inum == netns);
        here.map(|(_, tuple, counts)| (*tuple, counts.clone())).collect()
    }
}

impl Reading {
    /// Addresses of the namespace with this inode number at which bind(address, 0) was called: (address, ports of the range that
    /// it cannot have, ports that it can be given in all). Empty if there are none.
    pub fn addresses_of(&self, netns: u64) -> Vec<(String, u64, u64)> {
        let here = self.addresses.iter().filter(|(inum, ..)| *inum == netns);
        here.map(|(_, address, in_use, capacity)| (address.clone(), *in_use, *capacity)).collect()
    }
}

/// A running `tracer tuples --interval -o json`; killed on drop.
#[derive(Debug)]
pub struct Watch {
    process: Process,
    lines: Arc<Lines>,
    stderr: Arc<Lines>,
    /// Hooks that the kernel had skipped by the newest reading.
    missed: u64,
    /// [`skipped::time_waits`] before the start.
    unseen_before: u64,
}

/// What the tracer prints. A thread reads all of it, so that the pipe never fills, and keeps the newest line, and of stderr all.
#[derive(Debug, Default)]
struct Lines {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    newest: Option<String>,
    /// All lines of stderr.
    log: String,
    ended: bool,
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(&self, output: impl BufRead) {
        for line in output.lines().map_while(std::result::Result::ok) {
            self.lock().newest = Some(line);
            self.changed.notify_all();
        }
        self.lock().ended = true;
        self.changed.notify_all();
    }

    fn follow_log(&self, output: impl BufRead) {
        for line in output.lines().map_while(std::result::Result::ok) {
            let mut state = self.lock();
            state.log.push_str(&line);
            state.log.push('\n');
        }
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// All lines of stderr so far.
    fn log(&self) -> String {
        self.lock().log.trim().to_owned()
    }

    /// All lines of stderr, once it is closed; those that came within a second if it stays open.
    fn whole_log(&self) -> String {
        let open = |state: &mut State| !state.ended;
        let waited = self.changed.wait_timeout_while(self.lock(), Duration::from_secs(1), open);
        drop(waited);
        self.log()
    }

    /// Takes the newest line, or waits for the next one if it was taken already; `None` at the end of the output. An error if no
    /// line comes within `limit`.
    fn take(&self, limit: Duration) -> Result<Option<String>> {
        let nothing = |state: &mut State| state.newest.is_none() && !state.ended;
        let waited = self.changed.wait_timeout_while(self.lock(), limit, nothing);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        let line = state.newest.take();
        ensure!(line.is_some() || state.ended, "the tracer printed nothing for {limit:?}");
        Ok(line)
    }
}

impl Watch {
    /// Starts `tracer tuples --interval` with this backend and `more` arguments, and waits for its first reading: by then it has
    /// attached, and read the older sockets. An error if it ends, or gives none within [`START_LIMIT`].
    pub fn start(backend: &str, more: &[&str]) -> Result<Self> {
        let interval = if Place::get() == Place::Vm { "0.3" } else { "0.1" };
        let mut command =
            command(&["--backend", backend, "tuples", "--interval", interval, "-o", "json"])?;
        command.args(more);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let unseen_before = skipped::time_waits();
        let mut process = Process::spawn(&mut command)?;
        let stdout = BufReader::new(process.child.stdout.take().context("no stdout")?);
        let errors = BufReader::new(process.child.stderr.take().context("no stderr")?);
        let lines = Arc::new(Lines::default());
        let follower = Arc::clone(&lines);
        thread::spawn(move || follower.follow(stdout));
        let stderr = Arc::new(Lines::default());
        let follower = Arc::clone(&stderr);
        thread::spawn(move || follower.follow_log(errors));
        let mut watch = Self { process, lines, stderr, missed: 0, unseen_before };
        watch.next(Place::get().limit(START_LIMIT)).context("no first reading")?;
        Ok(watch)
    }

    /// A reading that began after `time`; waits for it at most `limit` (see [`Place::limit`]). Readings before it, and this one,
    /// are not returned again.
    ///
    /// # Errors
    /// There is none by then, a line is not understood, or tracer has ended; then the text has its stderr.
    pub fn after(&mut self, time: SystemTime, limit: Duration) -> Result<Reading> {
        let limit = Place::get().limit(limit);
        let end = Instant::now() + limit;
        loop {
            let reading = self.next(limit)?;
            if reading.at > time {
                return Ok(reading);
            }
            ensure!(Instant::now() < end, "no reading of the tracer within {limit:?}");
        }
    }

    fn next(&mut self, limit: Duration) -> Result<Reading> {
        if let Some(line) = self.lines.take(limit)? {
            let mut reading = parse(&line).with_context(|| format!("bad line {line:?}"))?;
            if reading.drift > 0 {
                reading.log = self.stderr.log();
                reading.unseen_time_waits = skipped::since(self.unseen_before);
            }
            self.missed = reading.missed();
            return Ok(reading);
        }
        let status = self.process.wait(STOP_LIMIT)?;
        bail!("the tracer ended ({status}): {}", self.stderr.whole_log())
    }

    /// Hooks that the kernel had skipped by the newest reading.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Whether the tracer's stdout is still open: false once the tracer has ended.
    pub fn runs(&self) -> bool {
        !self.lines.lock().ended
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Ends the tracer by SIGINT. An error if its exit code is not 0, or it does not end within [`STOP_LIMIT`].
    pub fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::INT)?;
        let status = self.process.wait(STOP_LIMIT)?;
        let stderr = self.stderr.whole_log();
        let ended = Ended { status, stdout: String::new(), stderr };
        ensure!(ended.code() == 0, "exit code {} after SIGINT: {}", ended.code(), ended.stderr);
        Ok(())
    }
}

fn parse(line: &str) -> Result<Reading> {
    let line = lie::line(line)?;
    let tuples = line["tuples"].as_array().context("no `tuples`")?;
    let tuples = tuples.iter().map(tuple).collect::<Result<_>>()?;
    let at: jiff::Timestamp = text(&line, "ts")?.parse().context("ts is no RFC 3339")?;
    let named = |(key, count): (&String, &Value)| {
        Some((key.strip_prefix("lost.")?.to_owned(), count.as_u64()?))
    };
    let lost = line.as_object().into_iter().flatten().filter_map(named).collect();
    let addresses = line.get("addresses").and_then(Value::as_array);
    let addresses = addresses.into_iter().flatten().map(address).collect::<Result<_>>()?;
    Ok(Reading {
        at: at.into(),
        drift: number(&line, "drift")?,
        lost,
        tuples,
        addresses,
        unseen_time_waits: 0,
        log: String::new(),
    })
}

fn address(value: &Value) -> Result<(u64, String, u64, u64)> {
    let at = text(value, "network.local.address")?.to_owned();
    let (in_use, capacity) = (number(value, "ports.in_use")?, number(value, "ports.capacity")?);
    Ok((number(value, "netns")?, at, in_use, capacity))
}

fn tuple(value: &Value) -> Result<(u64, Tuple, Counts)> {
    let source = text(value, "network.local.address")?.parse()?;
    let destination = text(value, "network.peer.address")?.parse()?;
    let port = u16::try_from(number(value, "network.peer.port")?)?;
    let family = if matches!(source, std::net::IpAddr::V4(_)) { "ipv4" } else { "ipv6" };
    ensure!(text(value, "network.type")? == family, "network.type is not {family}: {value}");
    let failures = match value.get("connect.failures") {
        None => BTreeMap::new(),
        Some(Value::Object(causes)) => causes
            .iter()
            .filter_map(|(cause, count)| Some((cause.clone(), count.as_u64()?)))
            .filter(|(_, count)| *count > 0)
            .collect(),
        Some(other) => bail!("connect.failures is {other}"),
    };
    let counts = Counts {
        in_use: number(value, "ports.in_use")?,
        time_wait: number(value, "ports.time_wait")?,
        connecting: number(value, "ports.connecting")?,
        unanswered: number(value, "ports.unanswered")?,
        established: number(value, "ports.established")?,
        close_wait: number(value, "ports.close_wait")?,
        closing: number(value, "ports.closing")?,
        opened: number(value, "ports.opened")?,
        released: number(value, "ports.released")?,
        capacity: value.get("ports.capacity").and_then(Value::as_u64),
        saturation: value.get("ports.saturation").and_then(Value::as_f64),
        reserved: value.get("ports.reserved").and_then(Value::as_u64),
        bound: value.get("ports.bound").and_then(Value::as_u64),
        search_p99: value.get("search.p99_ns").and_then(Value::as_u64),
        failures,
        uses: Uses::of(value),
    };
    let tuple = Tuple::new(source, std::net::SocketAddr::new(destination, port));
    Ok((number(value, "netns")?, tuple, counts))
}

/// The number at this key of a JSON object; an error if there is none, or it is negative or has a fraction.
pub fn number(value: &Value, key: &str) -> Result<u64> {
    value.get(key).and_then(Value::as_u64).with_context(|| format!("no number `{key}` in {value}"))
}

/// The string at this key of a JSON object; an error if there is none.
pub fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value.get(key).and_then(Value::as_str).with_context(|| format!("no string `{key}` in {value}"))
}
