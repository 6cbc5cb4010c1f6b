//! What `tracer doctor --from` finds in a recording.

use anyhow::{Result, ensure};

use super::{edge::Edge, window::has_rate};
use crate::harness::tracer::{doctor::doctor_of, record::Record};

/// A recording of a full tuple of 100 ports, all in TIME_WAIT, to which programs still connect 50 times a second: doctor finds
/// `ports_exhausted` first (exit code 2), with the tuple, these ports, the calls that failed (at most as many as the load
/// counted), the load's rate, the time of it, and tcp_tw_reuse as the first advice. The check `descriptors` cannot be made.
pub(super) fn failing_calls() -> Result<()> {
    let edge = Edge::new(100)?;
    edge.leave_time_waits(100)?;
    let inum = edge.here.inum().to_string();
    let options = ["--events", "failed,stats,lost", "--interval", "0.5", "--netns", &inum];
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("ports.jsonl");
    let ((), load) = edge.under_load(edge.first(), 50, || {
        let record = Record::start_at("auto", &file, &options)?;
        record.wait_for_reading()?;
        record.wait_for_reading()?;
        // The load goes on: the last reading is one in which everything is still counted.
        record.stop()?;
        Ok(())
    })?;
    let found = doctor_of(&[&file])?;
    ensure!(found.exit == 2 && found.causes().first() == Some(&"ports_exhausted"), "{found:?}");
    let full = found.finding("ports_exhausted")?;
    let tuple = (full.local.as_deref(), full.peer.as_deref(), full.port);
    ensure!(tuple == (Some("10.2.0.1"), Some("10.2.0.2"), Some(8081)), "{full:?}");
    let ports = ["ports.in_use", "ports.capacity", "ports.time_wait"].map(|key| full.count(key));
    ensure!(ports.iter().all(|count| count.as_ref().is_ok_and(|it| *it == 100)), "{full:?}");
    let failed = full.count("failed")?;
    ensure!(failed > 0 && failed <= load.failed, "{load:?} {full:?}");
    has_rate(&found, full, &load)?;
    ensure!(full.number("time_wait_s")? > 60.0 && full.text("at")?.ends_with('Z'), "{full:?}");
    // The namespace has the kernel's defaults: timestamps are on, and only TIME_WAITs of loopback addresses are taken over.
    // How to enter a namespace without a name is not in a recording.
    let now = full.advice.first().filter(|it| it.command.is_none());
    ensure!(now.is_some_and(|it| it.what.contains("net.ipv4.tcp_tw_reuse=1")), "{full:?}");
    ensure!(found.check("descriptors")?.why.as_deref() == Some("not in a recording"), "{found:?}");
    Ok(())
}
