//! `abuse::floods`: floods of the tables in which users have no shares, because their entries are short-lived: the calls that
//! are under way, and the sockets that end while a tracer starts.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;
use serde_json::Value;

use crate::{
    cases::{Case, Plan},
    harness::{
        oracle,
        outsider::{Outsider, Spaces},
        sock::Sock,
        stage::{Server, Stage},
        tracer::{
            record::{Record, Recording},
            watch::{Watch, number},
        },
    },
    workloads::failure::expect_error,
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("abuse::floods")
        .once(&[
            ("calls_of_many_threads_hide_no_exhaustion", threads),
            ("ends_during_a_start_leave_rows_exact", ends),
        ])
        .cases()
}

/// 1,500 threads call connect(), each up to 100 times a second, while a victim in another namespace runs out of ports in one
/// tuple, and opens and closes connections in another. The table of attempts has 128 entries. Each of the victim's failures must
/// have a complete event, its rows must be exact, no call may be lost as `attempts_full`, and drift must be 0.
fn threads() -> Result<()> {
    const PORTS: usize = 1000;
    const AT_ONCE: u64 = 100;
    let mut stage = Stage::new(&[])?;
    stage.netns.sysctl("ipv4/ip_local_port_range", "40000 40999")?;
    let (full, busy) = (stage.server("10.1.0.1:7000")?, stage.server("10.1.0.1:7001")?);
    let arguments = ["--events", "failed,stats,lost", "--interval", "1", "--max-attempts", "128"];
    let record = Record::start("auto", &arguments)?;
    let mut outsider = Outsider::spawn_with(Spaces::UserAndNet)?;
    let held = stage.netns.run(|| full.pairs(PORTS))?;
    outsider.begin("threads 1500 4 127.0.0.1:9")?;
    let stop = AtomicBool::new(false);
    let (failures, opened) = thread::scope(|scope| -> Result<_> {
        let runs_out = scope.spawn(|| {
            stage.netns.run(|| -> Result<u64> {
                let mut failures = 0;
                while !stop.load(Ordering::Relaxed) {
                    let one_too_many = Sock::tcp(full.address)?;
                    expect_error(one_too_many.connect(full.address), Errno::ADDRNOTAVAIL)?;
                    failures += 1;
                    if failures % AT_ONCE == 0 {
                        // At most 2,000 failures a second for 4 s: fewer than the burst of 20,000 events that a user may
                        // always have, so that each failure has an event.
                        thread::sleep(Duration::from_millis(50));
                    }
                }
                Ok(failures)
            })
        });
        let opens = scope.spawn(|| {
            stage.netns.run(|| -> Result<u64> {
                let mut opened = 0;
                while !stop.load(Ordering::Relaxed) {
                    reset_pair(&busy)?;
                    opened += 1;
                }
                Ok(opened)
            })
        });
        let flood = outsider.end();
        stop.store(true, Ordering::Relaxed);
        let join = |it: thread::ScopedJoinHandle<'_, Result<u64>>| {
            it.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        let (failures, opened) = (join(runs_out)?, join(opens)?);
        let calls = flood?[0];
        ensure!(calls > 10_000, "the flood had only {calls} calls");
        Ok((failures, opened))
    })?;
    let netns = stage.netns.inum();
    record.wait_for_reading()?;
    drop(held);
    let recording = record.stop()?;
    let events = recording.events("connect.failed", netns);
    let count = events.len() as u64;
    ensure!(count == failures, "{failures} failures have {count} events");
    for event in events {
        let right = event["cause"] == "ports_exhausted"
            && event["errno.name"] == "EADDRNOTAVAIL"
            && event["network.peer.port"] == 7000
            && event["process.pid"] == std::process::id()
            && event["ports.in_use"] == PORTS as u64
            && number(event, "connect.duration_ns")? > 0;
        ensure!(right, "another failure, or incomplete: {event}");
    }
    let row = row_of(&recording, netns, 7000)?;
    ensure!(number(row, "ports.in_use")? == PORTS as u64, "the full tuple's row: {row}");
    let failed = number(&row["connect.failures"], "ports_exhausted")?;
    ensure!(failed == failures, "{failed} of {failures} failures are in the row: {row}");
    let row = row_of(&recording, netns, 7001)?;
    ensure!(number(row, "ports.opened")? == opened, "opened {opened}, the row: {row}");
    ensure!(number(row, "ports.released")? == opened, "released {opened}, the row: {row}");
    let forgotten = recording.losses()?.into_iter().find(|(name, _)| name == "attempts_full");
    ensure!(forgotten.is_none(), "calls were forgotten: {forgotten:?}");
    let totals = recording.totals()?;
    ensure!(number(totals, "drift")? == 0, "drift: {totals}");
    recording.assert_balanced()
}

/// Opens a connection, and resets it immediately: its port is free again.
fn reset_pair(server: &Server) -> Result<()> {
    let (client, accepted) = server.pair()?;
    client.set_reset_on_close()?;
    drop(client);
    drop(accepted);
    Ok(())
}

/// The newest `tuple.stats` line of this destination port.
fn row_of(recording: &Recording, netns: u64, port: u16) -> Result<&Value> {
    let rows = recording.events("tuple.stats", netns);
    let row = rows.into_iter().rfind(|row| row["network.peer.port"] == port);
    row.with_context(|| format!("there is no row of port {port}"))
}

/// While a tracer starts and reads the older sockets, more sockets of an outsider end than the table in which such ends are noted
/// has room for (`--max-tombstones 16`), and up to 5,400 of 6,000 older connections of a victim end, too, half of them into
/// TIME_WAIT. `tombstones_full` is counted; the next reading must have the victim's ports as the kernel has them, and drift 0.
fn ends() -> Result<()> {
    const OLDER: usize = 6000;
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let servers = [7000].into();
    let mut older = stage
        .netns
        .run(|| -> Result<Vec<(Sock, Sock)>> { (0..OLDER).map(|_| server.pair()).collect() })?;
    let mut outsider = Outsider::spawn_with(Spaces::UserAndNet)?;
    outsider.begin("refuse-for 3 66000 9")?;
    let started = AtomicBool::new(false);
    let mut watch = thread::scope(|scope| -> Result<Watch> {
        let closing = scope.spawn(|| -> Result<()> {
            while !started.load(Ordering::Relaxed) && older.len() > OLDER / 10 {
                for reset in [true, false] {
                    let Some((client, accepted)) = older.pop() else { break };
                    if reset {
                        client.set_reset_on_close()?;
                    }
                    drop(client);
                    drop(accepted);
                }
                thread::sleep(Duration::from_micros(200));
            }
            Ok(())
        });
        let watch = Watch::start("auto", &["--max-tombstones", "16"]);
        started.store(true, Ordering::Relaxed);
        closing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        watch
    })?;
    let reading = watch.after(SystemTime::now(), Duration::from_secs(5))?;
    ensure!(reading.lost("tombstones_full")? > 0, "there was room to note all ends");
    let kernel = oracle::read(&stage.netns, &servers)?;
    let kernel = kernel.get(&server.tuple()).cloned().unwrap_or_default();
    let counts = reading.of(stage.netns.inum()).remove(&server.tuple()).unwrap_or_default();
    ensure!(
        (counts.in_use, counts.time_wait) == (kernel.in_use, kernel.time_wait),
        "{} ports in use, {} of them in TIME_WAIT, and the kernel has {kernel:?}",
        counts.in_use,
        counts.time_wait
    );
    ensure!(reading.drift == 0, "drift is {}", reading.drift);
    outsider.end()?;
    drop(older);
    watch.stop()
}
