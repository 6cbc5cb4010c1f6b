//! `top::forecast`: when a tuple has an ETA, and which of its TIME_WAITs connect() can take over.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{
    lie,
    process::Process,
    pty::{Pty, Size},
    sock::Sock,
    stage::{SERVER, Server, Stage},
    tracer::{START_LIMIT, STOP_LIMIT, command, wait_for, watch::number},
};

/// Opens a connection, which the client closes first: the client's port goes to TIME_WAIT.
fn close_at_once(server: &Server) -> Result<()> {
    let (client, accepted) = server.pair()?;
    drop(client);
    drop(accepted);
    Ok(())
}

/// Calls [`close_at_once`] `per_second` times a second, by the clock, for `seconds`.
fn load(server: &Server, per_second: u32, seconds: u32) -> Result<()> {
    let began = Instant::now();
    let step = Duration::from_secs(1) / per_second;
    for number in 0..per_second * seconds {
        let at = began + step * number;
        thread::sleep(at.saturating_duration_since(Instant::now()));
        close_at_once(server)?;
    }
    Ok(())
}

/// A running `tracer` that prints readings as JSON, of which the test takes the tuples of one namespace.
struct Readings {
    process: Process,
    /// A thread that reads all lines after the first one, all the time, because a full pipe would block the program.
    lines: JoinHandle<Vec<String>>,
    netns: u64,
}

impl Readings {
    /// Starts tracer with these arguments, and waits for its first reading.
    fn start(arguments: &[&str], netns: u64) -> Result<Self> {
        let mut command = command(arguments)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = Process::spawn(&mut command)?;
        let stdout = process.child.stdout.take().context("no stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        lines.next().context("no first reading")??;
        let lines = thread::spawn(|| lines.map_while(std::result::Result::ok).collect());
        Ok(Self { process, lines, netns })
    }

    /// Ends tracer, and returns the tuples that the namespace had in all readings but the first.
    fn stop(mut self) -> Result<Vec<Value>> {
        self.process.signal(Signal::INT)?;
        let mut tuples = Vec::new();
        let lines = self.lines.join().map_err(|_| anyhow!("the reading thread panicked"))?;
        for line in lines {
            let line = lie::line(&line)?;
            let all = line["tuples"].as_array().context("no `tuples`")?;
            let here = all.iter().filter(|it| it["netns"].as_u64() == Some(self.netns));
            tuples.extend(here.cloned());
        }
        self.process.wait(STOP_LIMIT)?;
        Ok(tuples)
    }
}

/// 8 connections a second, for 80 s, fill 48 % of 1,000 ports, all in TIME_WAIT, which end in batches after 60 s: neither `top`
/// nor `tuples` may have an ETA in any reading, nor may a `top` that starts after 55 s.
pub(super) fn a_steady_load_is_none() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    stage.netns.sysctl("ipv4/ip_local_port_range", "40000 40999")?;
    let server = stage.server(&format!("{SERVER}:7000"))?;
    let netns = stage.netns.inum();
    let top = Readings::start(&["top", "-i", "0.5", "-o", "json"], netns)?;
    let table = Readings::start(&["tuples", "--interval", "1", "-o", "json"], netns)?;
    stage.netns.run(|| load(&server, 8, 55))?;
    // This tracer starts later: it knows when the TIME_WAITs end that are older than itself.
    let late = Readings::start(&["top", "-i", "0.5", "-o", "json"], netns)?;
    stage.netns.run(|| load(&server, 8, 25))?;
    // Fewer readings than the time has intervals are enough: on a busy machine some are late or left out.
    for (name, readings, least) in [("top", top, 60), ("tuples", table, 40), ("late", late, 20)] {
        let tuples = readings.stop()?;
        ensure!(tuples.len() >= least, "{name}: only {} readings", tuples.len());
        let with_eta: Vec<_> = tuples.iter().filter(|tuple| tuple.get("eta_s").is_some()).collect();
        ensure!(
            with_eta.is_empty(),
            "{name}: {} of {}: {with_eta:?}",
            with_eta.len(),
            tuples.len()
        );
    }
    Ok(())
}

/// A single connection that stays open is one new port of 1,000, in one interval of 0.2 s: that is no trend, and no reading of
/// `top` or `tuples` in 1.5 s has an ETA.
pub(super) fn one_interval_is_none() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    stage.netns.sysctl("ipv4/ip_local_port_range", "40000 40999")?;
    let server = stage.server(&format!("{SERVER}:7000"))?;
    let netns = stage.netns.inum();
    let top = Readings::start(&["top", "-i", "0.2", "-o", "json"], netns)?;
    let table = Readings::start(&["tuples", "--interval", "0.2", "-o", "json"], netns)?;
    let held = stage.netns.run(|| server.pair())?;
    thread::sleep(Duration::from_millis(1500));
    for readings in [top, table] {
        let tuples = readings.stop()?;
        ensure!(tuples.len() >= 3, "only {} readings", tuples.len());
        ensure!(tuples.iter().all(|tuple| tuple.get("eta_s").is_none()), "{tuples:?}");
    }
    drop(held);
    Ok(())
}

/// With tcp_tw_reuse=1, ports in TIME_WAIT are counted as reusable, and there is no ETA although TIME_WAITs hold at least half
/// of all ports.
pub(super) fn reused_ports_are_room() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    stage.netns.sysctl("ipv4/ip_local_port_range", "40000 40039")?;
    stage.netns.sysctl("ipv4/tcp_tw_reuse", "1")?;
    let server = stage.server(&format!("{SERVER}:7000"))?;
    let netns = stage.netns.inum();
    let top = Readings::start(&["top", "-i", "0.5", "-o", "json"], netns)?;
    let table = Readings::start(&["tuples", "--interval", "0.5", "-o", "json"], netns)?;
    // The ports of one parity are in TIME_WAIT after two seconds; each is taken over several times.
    stage.netns.run(|| load(&server, 10, 13))?;
    // After this time the last TIME_WAIT is old enough to be taken over.
    thread::sleep(Duration::from_millis(3200));
    for (name, readings) in [("top", top), ("tuples", table)] {
        let tuples = readings.stop()?;
        ensure!(tuples.iter().all(|tuple| tuple.get("eta_s").is_none()), "{name}: {tuples:?}");
        // The first reading of a namespace may come before its sysctls are known.
        for tuple in tuples.iter().filter(|tuple| tuple.get("ports.capacity").is_some()) {
            let (reusable, all) =
                (number(tuple, "ports.reusable")?, number(tuple, "ports.time_wait")?);
            ensure!(reusable <= all, "{name}: {tuple}");
        }
        let last = tuples.last().context("no reading")?;
        // The port search takes over a port of the parity that it tries first before it tries the other parity: so it may be that
        // only 20 of the 40 ports were ever used.
        let all = number(last, "ports.time_wait")?;
        ensure!(all >= 20 && number(last, "ports.in_use")? == all, "{name}: {last}");
        ensure!(number(last, "ports.reusable")? == all, "{name}: {last}");
        ensure!(
            last["connect.failures"].as_object().is_none_or(serde_json::Map::is_empty),
            "{last}"
        );
    }
    Ok(())
}

/// TIME_WAITs that connect() never takes over are not counted as reusable: of 5 with a bound port, 7 others and 9 without TCP
/// timestamps, 7 are. With tcp_tw_reuse=0, there is no `ports.reusable`.
pub(super) fn other_time_waits_are_not() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    stage.netns.sysctl("ipv4/ip_local_port_range", "40000 40039")?;
    stage.netns.sysctl("ipv4/tcp_tw_reuse", "1")?;
    let server = stage.server(&format!("{SERVER}:7000"))?;
    let netns = stage.netns.inum();
    let top = Readings::start(&["top", "-i", "0.5", "-o", "json"], netns)?;
    stage.netns.run(|| -> Result<()> {
        for port in 40_000..40_005 {
            let client = Sock::tcp(server.address)?;
            client.bind(format!("{SERVER}:{port}").parse()?)?;
            client.connect(server.address)?;
            let accepted = server.listener.accept()?;
            drop(client);
            drop(accepted);
        }
        (0..7).try_for_each(|_| close_at_once(&server))
    })?;
    stage.netns.sysctl("ipv4/tcp_timestamps", "0")?;
    stage.netns.run(|| (0..9).try_for_each(|_| close_at_once(&server)))?;
    stage.netns.sysctl("ipv4/tcp_timestamps", "1")?;
    // `tracer top` reads the sysctls every five seconds.
    thread::sleep(Duration::from_millis(6500));
    let tuples = top.stop()?;
    let last = tuples.last().context("no reading")?;
    ensure!(number(last, "ports.time_wait")? == 5 + 7 + 9, "{last}");
    ensure!(number(last, "ports.reusable")? == 7, "{last}");
    stage.netns.sysctl("ipv4/tcp_tw_reuse", "0")?;
    let table = Readings::start(&["tuples", "--interval", "0.5", "-o", "json"], netns)?;
    thread::sleep(Duration::from_millis(1100));
    let tuples = table.stop()?;
    ensure!(!tuples.is_empty(), "no reading");
    ensure!(tuples.iter().all(|it| it.get("ports.reusable").is_none()), "{tuples:?}");
    Ok(())
}

/// With tcp_tw_reuse=1, a tuple is full (ETA 0) once a port search has failed. Later, when its TIME_WAITs can be taken over, it
/// has no ETA, although all its ports are in use.
pub(super) fn full_is_what_a_search_proves() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    stage.netns.sysctl("ipv4/ip_local_port_range", "40000 40019")?;
    stage.netns.sysctl("ipv4/tcp_tw_reuse", "1")?;
    let server = stage.server(&format!("{SERVER}:7000"))?;
    let netns = stage.netns.inum();
    let top = Readings::start(&["top", "-i", "0.3", "-o", "json"], netns)?;
    // Ten ports are held, ten are in TIME_WAIT for less than a second: the next call fails.
    let held = stage.netns.run(|| -> Result<_> {
        let held = server.pairs(10)?;
        (0..10).try_for_each(|_| close_at_once(&server))?;
        let failed = Sock::connected(server.address).err().context("a 21st port was found")?;
        ensure!(format!("{failed:#}").contains("assign requested address"), "{failed:#}");
        Ok(held)
    })?;
    thread::sleep(Duration::from_millis(900));
    let tuples = top.stop()?;
    let full = tuples.iter().any(|tuple| tuple.get("eta_s").and_then(Value::as_f64) == Some(0.0));
    ensure!(full, "a search failed, and there is no ETA of 0: {tuples:?}");
    // Later the TIME_WAITs can be taken over: all ports are in use, but the tuple is not full.
    let top = Readings::start(&["top", "-i", "0.3", "-o", "json"], netns)?;
    thread::sleep(Duration::from_millis(700));
    let tuples = top.stop()?;
    let last = tuples.last().context("no reading")?;
    ensure!(number(last, "ports.in_use")? == 20 && last.get("eta_s").is_none(), "{last}");
    drop(held);
    Ok(())
}

/// For 23 TIME_WAITs that are older than the tracer, the detail on the screen says how many of them end within 10, 30 and 60 s,
/// by the kernel's timers.
pub(super) fn older_time_waits_have_their_ends() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server(&format!("{SERVER}:7000"))?;
    stage.netns.run(|| (0..23).try_for_each(|_| close_at_once(&server)))?;
    let netns = stage.netns.inum().to_string();
    let waiting = || -> Result<u64> { Ok(stage.oracle()?.values().map(|it| it.time_wait).sum()) };
    wait_for("23 TIME_WAITs", START_LIMIT, || Ok((waiting()? == 23).then_some(())))?;
    let mut command = command(&["top", "--netns", &netns])?;
    command.args(["--filter", &format!("dst:{SERVER}")]);
    let mut top = Pty::spawn(&command, Size(110, 35))?;
    top.wait("the list", START_LIMIT, |text| text.contains("10.1.0.1:7000"))?;
    top.press("\u{1b}[B\r")?;
    top.wait("when they end", Duration::from_secs(10), |text| {
        text.contains("TIME_WAITs that end: 0 in 10 s, 0 in 30 s, 23 in 60 s")
    })?;
    top.press("qq")?;
    Ok(())
}
