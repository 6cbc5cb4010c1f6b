//! `top::text`: `top` without a terminal prints readings, one after the other.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{
    lie,
    process::Process,
    stage::{SERVER, Stage},
    tracer::{
        START_LIMIT, STOP_LIMIT, command, run,
        watch::{number, text},
    },
};

const LIMIT: Duration = START_LIMIT;

/// The tuples of one namespace in a line of `-o json`.
fn tuples(line: &str, netns: u64) -> Result<Vec<Value>> {
    let line = lie::line(line)?;
    let tuples = line["tuples"].as_array().context("no `tuples`")?;
    Ok(tuples.iter().filter(|it| it["netns"].as_u64() == Some(netns)).cloned().collect())
}

/// `top` without a terminal prints as many readings as `-n` says, and the second one has the 40 ports that the kernel has, and no
/// ETA.
pub(super) fn is_what_the_kernel_has() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server(&format!("{SERVER}:7000"))?;
    let (clients, _accepted) = stage.netns.run(|| server.pairs(40))?;
    let netns = stage.netns.inum();
    // Without a terminal it prints, even without -b.
    let ended = run(&mut command(&["top", "-n", "2", "-i", "0.3", "-o", "json"])?, LIMIT)?;
    ensure!(ended.code() == 0, "{ended:?}");
    let lines: Vec<_> = ended.stdout.lines().collect();
    ensure!(lines.len() == 2, "two readings were asked for: {ended:?}");
    let found = tuples(lines[1], netns)?;
    let [tuple] = &found[..] else { anyhow::bail!("not one tuple: {found:?}") };
    ensure!(number(tuple, "ports.in_use")? == clients.len() as u64, "{tuple}");
    ensure!(text(tuple, "network.peer.address")? == SERVER, "{tuple}");
    ensure!(tuple.get("eta_s").is_none(), "nothing fills: {tuple}");
    Ok(())
}

/// CSV has its heading once, columns have it with each reading, a filter hides rows, and a wrong filter is refused (exit code 2).
pub(super) fn has_its_forms() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server(&format!("{SERVER}:7000"))?;
    let (_clients, _accepted) = stage.netns.run(|| server.pairs(5))?;
    let netns = stage.netns.inum().to_string();
    let print = |more: &[&str]| -> Result<String> {
        let mut command = command(&["top", "-b", "-n", "2", "-i", "0.2", "--netns", &netns])?;
        let ended = run(command.args(more), LIMIT)?;
        ensure!(ended.code() == 0, "{ended:?}");
        Ok(ended.stdout)
    };
    let csv = print(&["-o", "csv"])?;
    ensure!(csv.lines().count() == 3 && csv.matches("ts,netns,").count() == 1, "{csv}");
    let columns = print(&[])?;
    ensure!(columns.matches("SRC ").count() == 2, "{columns}");
    ensure!(columns.matches("10.1.0.1:7000").count() == 2, "{columns}");
    ensure!(columns.contains("connects/s"), "{columns}");
    let filtered = print(&["--filter", "ports>5"])?;
    ensure!(!filtered.contains("10.1.0.1:7000"), "{filtered}");
    let filtered = print(&["--filter", "ports>4 dst:10.1.0.0/24"])?;
    ensure!(filtered.contains("10.1.0.1:7000"), "{filtered}");
    let ended = run(&mut command(&["top", "--filter", "sat>much"])?, LIMIT)?;
    ensure!(ended.code() == 2 && ended.stderr.contains("write sat>45"), "{ended:?}");
    Ok(())
}

/// The filter of the command line is shown above the columns of each of the two readings, with the number of rows that pass it, 1
/// of at least 2; the sum of failures, to which the filter does not apply, is labelled `host`.
pub(super) fn says_what_its_filter_leaves_out() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let (one, other) = (stage.server("10.1.0.1:7000")?, stage.server("10.1.0.2:7001")?);
    let _pairs = stage.netns.run(|| Ok::<_, anyhow::Error>((one.pairs(3)?, other.pairs(4)?)))?;
    let netns = stage.netns.inum().to_string();
    let filter = ["--netns", &netns, "--dport", "7001"];
    let mut command = command(&["top", "-b", "-n", "2", "-i", "0.2"])?;
    let ended = run(command.args(filter), LIMIT)?;
    ensure!(ended.code() == 0, "{ended:?}");
    let heading = format!(" rows: {}", filter.join(" "));
    let lines: Vec<_> = ended.stdout.lines().filter(|line| line.ends_with(&heading)).collect();
    ensure!(lines.len() == 2, "the filter is not with each reading: {ended:?}");
    for line in lines {
        let counts: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        ensure!(counts.len() >= 2 && counts[0] == 1 && counts[1] >= 2, "{line}");
    }
    ensure!(ended.stdout.matches(" host failures/s").count() == 2, "{ended:?}");
    Ok(())
}

/// 25 connections a second, each held open: the time at which no port would be left can be calculated. There are at least five
/// ETAs, and each from the fourth on is right within 10 %.
pub(super) fn foresees_the_end_of_a_ramp() -> Result<()> {
    /// At this rate all ports would be in use after 70 s; the test ends after 18 s.
    const PORTS: u64 = 1750;
    const PER_SECOND: u64 = 25;
    const UNTIL: u64 = 450;
    let mut stage = Stage::new(&[])?;
    stage.netns.sysctl("ipv4/ip_local_port_range", &format!("40000 {}", 40_000 + PORTS - 1))?;
    let server = stage.server(&format!("{SERVER}:7000"))?;
    let netns = stage.netns.inum();
    let mut top = command(&["top", "-i", "1", "-o", "json"])?;
    top.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut top = Process::spawn(&mut top)?;
    let mut lines = BufReader::new(top.child.stdout.take().context("no stdout")?).lines();
    lines.next().context("no first reading")??;

    let began = Instant::now();
    let step = Duration::from_secs(1) / u32::try_from(PER_SECOND)?;
    let held = stage.netns.run(|| -> Result<Vec<_>> {
        (0..UNTIL)
            .map(|number| {
                let at = began + step * u32::try_from(number)?;
                thread::sleep(at.saturating_duration_since(Instant::now()));
                server.pair()
            })
            .collect()
    })?;
    top.signal(Signal::INT)?;
    let mut forecasts = Vec::new();
    for line in lines.map_while(std::result::Result::ok) {
        for tuple in tuples(&line, netns)? {
            if let Some(eta) = tuple.get("eta_s").and_then(Value::as_f64) {
                forecasts.push((number(&tuple, "ports.in_use")?, eta));
            }
        }
    }
    top.wait(STOP_LIMIT)?;
    ensure!(held.len() as u64 == UNTIL, "the ramp did not get to its end");
    ensure!(forecasts.len() >= 5, "too few forecasts: {forecasts:?}");
    #[expect(clippy::cast_precision_loss, reason = "some hundred")]
    for (in_use, eta) in forecasts.iter().skip(3) {
        let left = (PORTS - in_use) as f64 / PER_SECOND as f64;
        ensure!((eta - left).abs() <= 0.1 * left, "{eta} s at {in_use}, not {left}: {forecasts:?}");
    }
    Ok(())
}
