//! Tests in which a table of the kernel side is full.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

use super::{connect_many, lost};
use crate::{
    harness::{
        probe,
        sock::Sock,
        stage::Stage,
        tracer::{
            record::{Record, Recording},
            wait_for,
            watch::{Watch, number},
        },
    },
    workloads::failure::expect_error,
};

/// A running `tracer record --events stats`, with one table made small by an option such as `--max-conns 1024`.
struct Small {
    record: Record,
    /// What [`others_connects`] returned before the tracer started.
    others: u64,
}

impl Small {
    fn start(backend: &str, table: &str, size: &str) -> Result<Self> {
        let others = others_connects()?;
        let arguments = [table, size, "--events", "stats", "--interval", "0.5"];
        Ok(Self { record: Record::start(backend, &arguments)?, others })
    }

    /// Waits for another reading (1.5 s), and ends the recording. Returns the recording with the number of connect() calls that
    /// other processes of the host have made since [`Self::start`] was called, each of which can be a loss, too.
    fn stop(self) -> Result<(Recording, u64)> {
        thread::sleep(Duration::from_millis(1500));
        let recording = self.record.stop()?;
        Ok((recording, others_connects()?.saturating_sub(self.others)))
    }
}

/// Number of connect() calls that have taken a port in this process's network namespace since it was made (`Tcp: ActiveOpens`).
fn others_connects() -> Result<u64> {
    let text = fs::read_to_string("/proc/net/snmp")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = lines.next().zip(lines.next()).context("no Tcp in /proc/net/snmp")?;
    let mut both = names.split(' ').zip(values.split(' '));
    let (_, value) = both.find(|(name, _)| *name == "ActiveOpens").context("no ActiveOpens")?;
    Ok(value.parse()?)
}

/// Checks that `counted` and `lost` add up to `all`, exactly, apart from calls whose hook the kernel skipped; and that there was
/// a loss. Each of the `others`, the host's other connections, can be one more loss.
fn adds_up(recording: &Recording, counted: u64, lost: u64, all: u64, others: u64) -> Result<()> {
    let unseen = unseen(recording, all)?;
    let right = (all - unseen..=all + others).contains(&(counted + lost));
    ensure!(
        right,
        "{counted} counted and {lost} lost are not {all} ({others} of others, {unseen} may not have been seen)"
    );
    ensure!(lost > others, "nothing was lost");
    Ok(())
}

/// How many of these calls the tracer may not have seen, at most all of them: see [`probe::unseen`].
fn unseen(recording: &Recording, calls: u64) -> Result<u64> {
    Ok(probe::unseen(lost(recording, "hook_missed")?, calls).min(calls))
}

/// The losses of a table: entries for which it had no room, or their owner's share of it had none.
fn lost_in(recording: &Recording, table: &str) -> Result<u64> {
    Ok(lost(recording, &format!("{table}_full"))? + lost(recording, &format!("{table}_share"))?)
}

/// 1,500 connections and a table of 1,024: those that are counted and those that are lost add up to 1,500, apart from calls whose
/// hook the kernel skipped.
pub(super) fn conns_full(backend: &str) -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let small = Small::start(backend, "--max-conns", "1024")?;
    let (_clients, _accepted) = stage.netns.run(|| server.pairs(1500))?;
    let (recording, others) = small.stop()?;
    let stats = recording.events("tuple.stats", stage.netns.inum());
    let counted = number(stats.last().context("no tuple.stats")?, "ports.in_use")?;
    adds_up(&recording, counted, lost_in(&recording, "conns")?, 1500, others)
}

/// 100 tuples and a table of 64: those that are counted and those that are lost add up to 100, apart from calls whose hook the
/// kernel skipped.
pub(super) fn tuples_full(backend: &str) -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let small = Small::start(backend, "--max-tuples", "64")?;
    let _clients = stage.netns.run(|| -> Result<Vec<_>> {
        let mut clients = Vec::new();
        for last in 1..=100 {
            let client = Sock::tcp(server.address)?;
            client.set_bind_address_no_port()?;
            client.bind(SocketAddr::from(([127, 0, 1, last], 0)))?;
            client.connect(server.address)?;
            clients.push(client);
        }
        Ok(clients)
    })?;
    let (recording, others) = small.stop()?;
    let stats = recording.events("tuple.stats", stage.netns.inum());
    let sources: BTreeSet<_> =
        stats.iter().filter_map(|event| event["network.local.address"].as_str()).collect();
    let counted = u64::try_from(sources.len())?;
    adds_up(&recording, counted, lost_in(&recording, "tuples")?, 100, others)
}

/// A failure has an event with its cause even if the table of 64 tuples has no room for its row; the event of an exhaustion then
/// has no `ports.in_use`. Of 120 failures, 100 to another destination each, what found no room is counted as lost: 110.
pub(super) fn failures_without_a_row(backend: &str) -> Result<()> {
    let mut stage = Stage::new(&[])?;
    stage.netns.sysctl("ipv4/ip_local_port_range", "40000 40003")?;
    let server = stage.server("10.1.0.1:7000")?;
    let others = others_connects()?;
    let record = Record::start(backend, &["--max-tuples", "64", "--events", "failed"])?;
    stage.netns.run(|| -> Result<()> {
        for last in 1..=100 {
            let nobody = SocketAddr::from(([127, 0, 1, last], 9));
            expect_error(Sock::tcp(nobody)?.connect(nobody), Errno::CONNREFUSED)?;
        }
        let _all = server.pairs(4)?;
        for _ in 0..20 {
            let one_too_many = Sock::tcp(server.address)?;
            expect_error(one_too_many.connect(server.address), Errno::ADDRNOTAVAIL)?;
        }
        Ok(())
    })?;
    let recording = record.stop()?;
    recording.assert_balanced()?;
    let failed = recording.events("connect.failed", stage.netns.inum());
    let of = |cause: &str| failed.iter().filter(|event| event["cause"] == cause).count() as u64;
    let (refused, exhausted) = (of("refused"), of("ports_exhausted"));
    let unseen = unseen(&recording, 120)?;
    let all = (100 - unseen.min(100)..=100).contains(&refused)
        && (20 - unseen.min(20)..=20).contains(&exhausted);
    ensure!(
        all,
        "{refused} of 100 refused and {exhausted} of 20 exhausted have events, {unseen} may not have been seen"
    );
    let rowless = failed.iter().filter(|event| event["cause"] == "ports_exhausted");
    let rowless = rowless.filter(|event| event.get("ports.in_use").is_none()).count() as u64;
    let counted = exhausted - rowless;
    ensure!(counted == 0, "{counted} of {exhausted} have ports.in_use, which nothing counted");
    // One owner's share is 8/9 of 64 entries: 57. Lost are a port and a failure for each of 100 - 57 refused calls, and the 4
    // ports and 20 failures of the last tuple.
    let lost = lost_in(&recording, "tuples")?;
    let others = others_connects()?.saturating_sub(others);
    let right = (110 - unseen..=110 + 2 * others + 2 * 64).contains(&lost);
    ensure!(
        right,
        "{lost} lost because there was no row, not 110 ({others} of others, {unseen} may not have been seen)"
    );
    Ok(())
}

/// The table of 64 tuples is full, and 100 non-blocking calls are refused: the RST comes just before connect() returns, and each
/// failure must still have an event, with the process and the duration, apart from calls whose hook the kernel skipped.
pub(super) fn refused_and_not_waited_for(backend: &str) -> Result<()> {
    const CALLS: u8 = 100;
    let stage = Stage::new(&[])?;
    let record = Record::start(backend, &["--max-tuples", "64", "--events", "failed"])?;
    stage.netns.run(|| -> Result<()> {
        for last in 1..=CALLS {
            let nobody = SocketAddr::from(([127, 0, 1, last], 9));
            let sock = Sock::tcp(nobody)?;
            sock.set_nonblocking()?;
            let result = sock.connect(nobody);
            let refused = [Errno::INPROGRESS, Errno::CONNREFUSED].map(Err).contains(&result);
            ensure!(refused, "connect to {nobody}: {result:?}");
        }
        Ok(())
    })?;
    let recording = record.stop()?;
    recording.assert_balanced()?;
    let failed = recording.events("connect.failed", stage.netns.inum());
    let complete = |event: &serde_json::Value| {
        event["cause"] == "refused"
            && event["process.pid"] == std::process::id()
            && event.get("connect.duration_ns").is_some()
    };
    let count = failed.iter().copied().filter(|event| complete(event)).count() as u64;
    let unseen = unseen(&recording, CALLS.into())?;
    ensure!(
        count + unseen >= CALLS.into(),
        "of {CALLS} refused calls {count} have process and duration, {unseen} may not have been seen: {:?}",
        failed.last()
    );
    ensure!(lost_in(&recording, "tuples")? > 0, "all found room");
    Ok(())
}

/// The table of tuples is full when 40 connections are opened, and does not count all of them: once idle tuples are removed,
/// within 40 s, the comparison with the kernel adds the missing ports, which is not drift.
pub(super) fn found_when_there_is_room(backend: &str) -> Result<()> {
    const PORTS: usize = 40;
    let stage = Stage::new(&[])?;
    let mut other = Stage::new(&[])?;
    let server = other.server("10.1.0.1:7000")?;
    let mut watch = Watch::start(backend, &["--max-tuples", "64"])?;
    let scan = || -> Result<()> {
        for last in 1..=200 {
            let nobody = SocketAddr::from(([127, 0, 1, last], 9));
            expect_error(Sock::tcp(nobody)?.connect(nobody), Errno::CONNREFUSED)?;
        }
        Ok(())
    };
    stage.netns.run(scan)?;
    other.netns.run(scan)?;
    let _pairs = other.netns.run(|| server.pairs(PORTS))?;
    let mut in_use = || -> Result<u64> {
        let reading = watch.after(SystemTime::now(), Duration::from_secs(5))?;
        let counts = reading.of(other.netns.inum());
        Ok(counts.get(&server.tuple()).map_or(0, |counts| counts.in_use))
    };
    let at_once = in_use()?;
    ensure!(at_once < PORTS as u64, "{at_once} of {PORTS} ports found room in a full table");
    let found = || Ok((in_use()? == PORTS as u64).then_some(()));
    wait_for("the ports that found no room", Duration::from_secs(40), found)?;
    watch.after(SystemTime::now(), Duration::from_secs(5))?.assert_no_drift()?;
    watch.stop()
}

/// 100 ports are bound, and the table has room for 64: those that found no room are counted as lost; the capacity is too large by
/// exactly that number.
pub(super) fn binds_full(backend: &str) -> Result<()> {
    let mut stage = Stage::new(&[])?;
    stage.netns.sysctl("ipv4/ip_local_port_range", "40000 40999")?;
    let server = stage.server("10.1.0.1:7000")?;
    let small = Small::start(backend, "--max-binds", "64")?;
    let _socks = stage.netns.run(|| -> Result<_> {
        let bound = (0..100).map(|_| -> Result<Sock> {
            let sock = Sock::tcp(server.address)?;
            sock.bind("10.1.0.2:0".parse()?)?;
            Ok(sock)
        });
        Ok((bound.collect::<Result<Vec<_>>>()?, server.pair()?))
    })?;
    let (recording, _) = small.stop()?;
    let stats = recording.events("tuple.stats", stage.netns.inum());
    let capacity = number(stats.last().context("no tuple.stats")?, "ports.capacity")?;
    let counted = 1000_u64.checked_sub(capacity).context("the capacity is above the range")?;
    adds_up(&recording, counted, lost_in(&recording, "binds")?, 100, 0)
}

/// While the tracer reads the older sockets at its start, it notes the ends of sockets in the table of tombstones. More sockets
/// end than the table has room for (16): the ends that find no room are counted as `tombstones_full`, at least one.
pub(super) fn tombstones_full(backend: &str) -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let stop = AtomicBool::new(false);
    let recording = thread::scope(|scope| -> Result<Recording> {
        let load = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                connect_many(&stage.netns, &server, 20)?;
            }
            Ok(())
        });
        let small = Small::start(backend, "--max-tombstones", "16");
        stop.store(true, Ordering::Relaxed);
        let load: Result<()> = load.join().unwrap_or_else(|it| std::panic::resume_unwind(it));
        load.context("while the tracer starts")?;
        Ok(small?.stop()?.0)
    })?;
    let count = lost(&recording, "tombstones_full")?;
    ensure!(count > 0, "all ends found room: {}", recording.totals()?);
    Ok(())
}

/// Four threads call connect() at the same time, with a table of attempts that has one entry: a port whose attempt found no room
/// is counted all the same. An error if in 40 rounds each attempt finds room.
pub(super) fn attempts_full(backend: &str) -> Result<()> {
    const THREADS: u64 = 4;
    const EACH: u64 = 500;
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let mut watch = Watch::start(backend, &["--max-attempts", "1"])?;
    let mut opened = 0;
    // Whether two threads are inside of connect() at the same time is a matter of luck: up to 40 rounds.
    for _ in 0..40 {
        let together = Barrier::new(usize::try_from(THREADS)?);
        thread::scope(|scope| {
            let connect = || {
                together.wait();
                connect_many(&stage.netns, &server, usize::try_from(EACH)?)
            };
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(connect)).collect();
            let mut ends = threads.into_iter().map(thread::ScopedJoinHandle::join);
            ends.try_for_each(|end| end.unwrap_or_else(|it| std::panic::resume_unwind(it)))
        })?;
        opened += THREADS * EACH;
        let reading = watch.after(SystemTime::now(), Duration::from_secs(5))?;
        let counts = reading.of(stage.netns.inum());
        let counted: u64 = counts.values().map(|counts| counts.opened).sum();
        let unseen = probe::unseen(reading.missed(), opened);
        let right = (opened.saturating_sub(unseen)..=opened).contains(&counted);
        ensure!(
            right,
            "{counted} of {opened} connections were counted, {unseen} may not have been seen"
        );
        if reading.lost("attempts_full")? > 0 {
            return watch.stop();
        }
    }
    anyhow::bail!("each of {opened} connect() calls found room for its attempt")
}
