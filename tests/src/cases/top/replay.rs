//! `top::replay`: `replay` shows what `top` showed.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{
    process::Process,
    sock::Sock,
    stage::{SERVER, Stage},
    tracer::{STOP_LIMIT, command, record::Record, run, wait_for},
};

/// The rows of a namespace in a line of `-o json`, without the keys in which two tracers differ: rates and ETA, which depend on
/// the time of the reading, and the duration of port searches.
fn rows(line: &str, netns: u64) -> Result<Vec<Value>> {
    let line: Value = serde_json::from_str(line)?;
    let tuples = line["tuples"].as_array().context("no `tuples`")?;
    let mut rows: Vec<Value> =
        tuples.iter().filter(|it| it["netns"].as_u64() == Some(netns)).cloned().collect();
    for row in rows.iter_mut().filter_map(Value::as_object_mut) {
        let differs =
            |key: &str| key.starts_with("rate.") || key.starts_with("search.") || key == "eta_s";
        row.retain(|key, _| !differs(key));
    }
    rows.sort_by_key(ToString::to_string);
    Ok(rows)
}

/// Waits until a recording that is still being written has a line for which `is` returns true, at most 20 s (longer in a guest).
fn recorded(file: &Path, what: &str, is: impl Fn(&str) -> bool) -> Result<()> {
    wait_for(what, Duration::from_secs(20), || {
        Ok(fs::read_to_string(file)?.lines().any(&is).then_some(()))
    })
}

/// Whether a reading has what the test does last: 20 ports that go to TIME_WAIT, and 7 refused calls. False if the line cannot be
/// read.
fn has_all(line: &str, netns: u64) -> bool {
    let rows = rows(line, netns).unwrap_or_default();
    let has = |key: &str, number: u64| rows.iter().any(|row| row[key] == number);
    has("ports.time_wait", 20) && rows.iter().any(|row| row["connect.failures"]["refused"] == 7)
}

/// When nothing changes any more, `top` shows the same two rows (one with 30 ports held and 20 in TIME_WAIT, one with 7 refused
/// calls) as `replay` from a recording of that time, except rates, ETA and the time of port searches. `report` has the failures
/// of that recording.
pub(super) fn is_what_was_shown() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server(&format!("{SERVER}:7000"))?;
    let netns = stage.netns.inum();
    let mut top = command(&["top", "-i", "0.5", "-o", "json"])?;
    top.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut top = Process::spawn(&mut top)?;
    let mut lines = BufReader::new(top.child.stdout.take().context("no stdout")?).lines();
    lines.next().context("no first reading")??;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("ports.jsonl");
    let settings = ["--events", "failed,stats", "--interval", "1"];
    let record = Record::start_at("auto", &file, &settings)?;

    let held = stage.netns.run(|| server.pairs(30))?;
    // The first lines may not have the capacity yet. The tuple of the refused calls below, which has no ports, has one line only:
    // that line must have it.
    let of_netns = format!("\"netns\":{netns},");
    let knows = |line: &str| line.contains(&of_netns) && line.contains("ports.capacity");
    recorded(&file, "the capacity of the namespace", knows)?;
    stage.netns.run(|| -> Result<()> {
        // The client closes first: its port goes to TIME_WAIT.
        let (clients, accepted) = server.pairs(20)?;
        drop(clients);
        thread::sleep(Duration::from_millis(50));
        drop(accepted);
        let closed = format!("{SERVER}:7001").parse()?;
        for _ in 0..7 {
            ensure!(Sock::tcp(closed)?.connect(closed).is_err(), "somebody listens there");
        }
        Ok(())
    })?;
    let all = |line: &str| line.contains(&of_netns) && line.contains("\"ports.time_wait\":20");
    recorded(&file, "all ports", all)?;
    let refused = |line: &str| line.contains(&of_netns) && line.contains("\"refused\":7");
    recorded(&file, "all failures", refused)?;
    record.stop()?;
    // The pipe still has the earlier readings.
    let mut shown: Vec<String> = Vec::new();
    while !shown.last().is_some_and(|line| has_all(line, netns)) {
        shown.push(lines.next().context("no more readings")??);
    }
    top.signal(Signal::INT)?;
    shown.extend(lines.collect::<std::io::Result<Vec<_>>>()?);
    top.wait(STOP_LIMIT)?;
    drop(held);

    let path = file.to_str().context("path is not UTF-8")?;
    let replayed = run(&mut command(&["replay", path, "-o", "json"])?, STOP_LIMIT)?;
    ensure!(replayed.code() == 0, "{replayed:?}");
    let live = rows(shown.last().context("nothing was shown")?, netns)?;
    let again = rows(replayed.stdout.lines().last().context("nothing was replayed")?, netns)?;
    ensure!(live.len() == 2, "one tuple with ports, one with failures: {live:?}");
    ensure!(live == again, "live\n{live:#?}\nreplayed\n{again:#?}");
    let report = run(&mut command(&["report", path, "-o", "json"])?, STOP_LIMIT)?;
    ensure!(report.code() == 0, "{report:?}");
    let report: Value = serde_json::from_str(&report.stdout)?;
    ensure!(report.to_string().contains("refused"), "{report:#}");
    Ok(())
}
