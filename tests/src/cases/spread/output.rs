//! `spread::output`: the projection of `--dry-run`, the lines of `--decisions`, and the text of `tracer status`.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{Application, Case, Host, POOL, PORTS, Plan, source};
use crate::harness::{
    lie,
    sock::Sock,
    tracer::{
        START_LIMIT, run,
        watch::{number, text},
    },
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("spread::output")
        .once(&[
            ("dry_run", dry_run),
            ("dry_run_where_nothing_is_connected", dry_run_of_nothing),
            ("dry_run_of_one_cgroup", dry_run_of_one_cgroup),
            ("dry_run_by_weight", dry_run_by_weight),
            ("all_decisions", all_decisions),
            ("sampled", sampled),
            ("passed", passed),
            ("full_pool", full_pool),
            ("decisions_into_a_file", decisions_into_a_file),
            ("status_for_people", status_for_people),
        ])
        .cases()
}

/// What `--dry-run` prints for the pool [`POOL`]. An error if it has attached or pinned something, or has written to stderr.
fn dry(host: &Host) -> Result<String> {
    dry_with(host, &POOL)
}

fn dry_with(host: &Host, pool: &[&str]) -> Result<String> {
    let cgroup = host.cgroup.path().to_string_lossy();
    let mut command = host.rule.command(&["--dry-run", "--cgroup", &cgroup])?;
    command.args(pool.iter().flat_map(|address| ["--pool", address]));
    let ended = host.stage.netns.run(|| run(&mut command, START_LIMIT))?;
    ensure!(ended.code() == 0 && ended.stderr.is_empty(), "{ended:?}");
    ensure!(host.cgroup.attached()? == 0, "programs are attached");
    host.rule.check_nothing_left()?;
    Ok(ended.stdout)
}

/// `--dry-run` where 96 % of the ports of one address are in use: it names the destination, says that they would be 24 % of four,
/// and spreads nothing.
fn dry_run() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let held = (0..PORTS * 96 / 100).map(|_| host.connect(server.address));
    let _held = held.collect::<Result<Vec<_>>>()?;
    let said = dry(&host)?;
    ensure!(said.contains("peak saturation 96 % -> 24 %"), "it says {said:?}");
    ensure!(said.contains("10.1.0.1:7000"), "no destination in {said:?}");
    let next = host.connect(server.address)?;
    ensure!(source(&next)? == server.address.ip(), "spread by a dry run");
    Ok(())
}

/// `--dry-run` where nothing is connected prints `peak saturation 0 % -> 0 %`: now, and with the pool.
fn dry_run_of_nothing() -> Result<()> {
    let said = dry(&Host::new()?)?;
    ensure!(said.contains("peak saturation 0 % -> 0 %"), "it says {said:?}");
    Ok(())
}

/// Connections of other cgroups are not in the projection (8 % of the rule's own 80), and their number is printed (500).
fn dry_run_of_one_cgroup() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let _counted = (0..80).map(|_| host.connect(server.address)).collect::<Result<Vec<_>>>()?;
    let other = Application::new(&host.stage.netns)?;
    let _others = (0..500).map(|_| other.connect(server.address)).collect::<Result<Vec<_>>>()?;
    let said = dry(&host)?;
    ensure!(said.contains("peak saturation 8 % -> 2 %"), "it says {said:?}");
    ensure!(said.contains("not counted: 500 connections of other cgroups"), "it says {said:?}");
    Ok(())
}

/// With weights, the projection is that of the fullest address: of 800 connections, the address with weight 3 of 4 would have
/// 600, which is 60 %.
fn dry_run_by_weight() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let _held = (0..800).map(|_| host.connect(server.address)).collect::<Result<Vec<_>>>()?;
    let said = dry_with(&host, &["10.1.0.11=3", "10.1.0.12"])?;
    ensure!(said.contains("peak saturation 80 % -> 60 %"), "it says {said:?}");
    Ok(())
}

/// Parses the lines, and checks the keys that every line has, and that `seq` counts from 0 without a gap.
fn lines(text: &str) -> Result<Vec<Value>> {
    let parse = |line: &str| serde_json::from_str(line).with_context(|| line.to_owned());
    let lines = text.lines().map(parse).collect::<Result<Vec<Value>>>()?;
    for (seq, line) in lines.iter().enumerate() {
        let right = line["v"] == 1 && line["seq"] == seq && number(line, "mono_ns")? > 0;
        ensure!(right, "line {seq} is {line}");
        text_time(line)?;
    }
    Ok(lines)
}

fn text_time(line: &Value) -> Result<()> {
    text(line, "ts")?.parse::<jiff::Timestamp>().with_context(|| line.to_string())?;
    Ok(())
}

fn decisions_of(lines: &[Value]) -> Vec<&Value> {
    lines.iter().filter(|line| line["event.name"] == "spread.decision").collect()
}

/// Checks the first and the last line of a stream, and that its totals have this number of decisions and no losses.
fn whole(lines: &[Value], decisions: usize) -> Result<()> {
    let [start, .., stop] = lines else { bail!("no first and last line: {lines:?}") };
    ensure!(start["event.name"] == "tracer.start", "the first line is {start}");
    ensure!(stop["event.name"] == "tracer.stop", "the last line is {stop}");
    for name in ["events.seen", "events.emitted", "events.written"] {
        ensure!(stop[name] == decisions, "{name}: {stop}");
    }
    for name in ["lost.not_told", "lost.output_full", "lost.undecodable", "lost.conns_full"] {
        ensure!(stop[name] == 0, "{name}: {stop}");
    }
    Ok(())
}

/// With `--decisions sampled`, a connect() that is spread has a line with a probability of 1 in 64: of 3,200 calls, 16 to 90 have
/// one, and no line is lost.
fn sampled() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let spread = host.spread(&POOL, &["--decisions", "sampled"])?;
    let held = (0..3200).map(|_| host.connect(server.address)).collect::<Result<Vec<_>>>()?;
    let stdout = spread.stop()?.stdout;
    let lines = lines(&stdout)?;
    let count = decisions_of(&lines).len();
    // About 50 lines are expected, with a standard deviation of 7: the count is outside of these bounds less than once in a
    // million runs.
    ensure!((16..=90).contains(&count), "{count} lines of {} decisions", held.len());
    whole(&lines, count)
}

/// Three sockets that are exempt have a line each, with the reason (`has_port`, `has_address`, `other_destination`), the address
/// that they had (none for the last), and none that was chosen.
fn passed() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let other = host.stage.server("10.1.0.1:7001")?;
    let arguments = ["--decisions", "all", "--to", "10.1.0.1:7000"];
    let spread = host.spread(&POOL, &arguments)?;
    let with_port = host.app.tcp(server.address)?;
    with_port.bind("10.1.0.2:40500".parse()?)?;
    with_port.connect(server.address)?;
    let with_address = host.app.tcp(server.address)?;
    with_address.set_bind_address_no_port()?;
    with_address.bind("10.1.0.2:0".parse()?)?;
    with_address.connect(server.address)?;
    let elsewhere = host.connect(other.address)?;
    let expected = [
        (&with_port, "has_port", Some("10.1.0.2")),
        (&with_address, "has_address", Some("10.1.0.2")),
        (&elsewhere, "other_destination", None),
    ];
    let stdout = spread.stop()?.stdout;
    let lines = lines(&stdout)?;
    let decisions = decisions_of(&lines);
    ensure!(decisions.len() == expected.len(), "{decisions:?}");
    for (line, (sock, why, original)) in decisions.iter().zip(expected) {
        let right = text(line, "spread.reason")? == "passed"
            && text(line, "spread.passed")? == why
            && line.get("spread.original").and_then(Value::as_str) == original
            && number(line, "netns")? == host.stage.netns.inum()
            && line.get("spread.chosen").is_none()
            && line.get("ports.in_use").is_none();
        ensure!(right, "not the line about {sock:?}: {line}");
    }
    whole(&lines, expected.len())
}

/// Without `--decisions`, too, a full pool has lines (`pool_full`), and no other decision has: at least two in 1.5 s, and each at
/// least a second after the one before, however many calls find the pool full.
fn full_pool() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let spread = host.spread(&POOL[..1], &[])?;
    let mut held = Vec::new();
    while host.rule.status()?.decided("pool_full")? == 0 {
        ensure!((held.len() as u64) < 3 * PORTS, "the pool does not fill");
        for _ in 0..100 {
            held.push(host.connect(server.address)?);
        }
    }
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1500) {
        held.push(host.connect(server.address)?);
        thread::sleep(Duration::from_millis(20));
    }
    let seconds = begun.elapsed().as_secs() + 2;
    let stdout = spread.stop()?.stdout;
    let lines = lines(&stdout)?;
    let decisions = decisions_of(&lines);
    let count = decisions.len() as u64;
    ensure!((2..=seconds).contains(&count), "{count} lines in {seconds} s: {decisions:?}");
    for pair in decisions.windows(2) {
        let apart = number(pair[1], "mono_ns")? - number(pair[0], "mono_ns")?;
        ensure!(apart >= 1_000_000_000, "{apart} ns apart: {pair:?}");
    }
    ensure!(decisions.iter().all(|it| it["spread.reason"] == "pool_full"), "{decisions:?}");
    whole(&lines, decisions.len())
}

/// With `--decisions all`, each of 200 connections has a line, in their order, with the rule, the reason, the chosen address, the
/// destination, the namespace, the caller and its cgroup, and a socket cookie of its own.
fn all_decisions() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let spread = host.spread(&POOL, &["--decisions", "all"])?;
    let held = (0..200).map(|_| host.connect(server.address)).collect::<Result<Vec<_>>>()?;
    let stdout = spread.stop()?.stdout;
    let lines = lines(&stdout)?;
    let decisions = decisions_of(&lines);
    ensure!(decisions.len() == held.len(), "{} lines of 200 decisions", decisions.len());
    whole(&lines, held.len())?;
    // The lines have the caller's cgroup: the sockets were made in the application's, but this process calls connect().
    let cgroup = fs::read_to_string("/proc/self/cgroup")?;
    let cgroup =
        cgroup.lines().find_map(|line| line.strip_prefix("0::")).context("no cgroup v2")?;
    for (line, sock) in decisions.iter().zip(&held) {
        let right = text(line, "spread.rule")? == host.rule.name()
            && text(line, "spread.reason")? == "least_used"
            && text(line, "spread.chosen")? == source(sock)?.to_string()
            && line.get("spread.original").is_none()
            && text(line, "network.transport")? == "tcp"
            && text(line, "network.type")? == "ipv4"
            && text(line, "network.peer.address")? == "10.1.0.1"
            && number(line, "network.peer.port")? == 7000
            && number(line, "netns")? == host.stage.netns.inum()
            && number(line, "process.pid")? == u64::from(std::process::id())
            && text(line, "process.linux.cgroup")? == cgroup;
        ensure!(right, "not the decision about {sock:?}: {line}");
    }
    let cookies = decisions.iter().map(|line| number(line, "socket.cookie"));
    let cookies = cookies.collect::<Result<BTreeSet<_>>>()?;
    ensure!(cookies.len() == held.len(), "{} cookies of 200 sockets", cookies.len());
    Ok(())
}

/// With `--output FILE`, the file has a line for each decision, and stdout nothing: with the reason (`least_used`, `fast_port` or
/// `pool_full`), the address that was replaced, and a fast port's number.
fn decisions_into_a_file() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("decisions.jsonl");
    let file = path.to_str().context("path is not UTF-8")?;
    let arguments = ["--rebind", "--decisions", "all", "--output", file];
    let spread = host.spread(&POOL[..1], &arguments)?;
    let fast_ports = host.rule.status()?.fast_ports;
    let chosen: SocketAddr = "10.1.0.2:0".parse()?;
    let mut held: Vec<Sock> = Vec::new();
    for turn in 0..=PORTS {
        let sock = host.app.tcp(server.address)?;
        sock.set_bind_address_no_port()?;
        sock.bind(chosen)?;
        sock.connect(server.address)
            .with_context(|| format!("connect {turn}: {:?}", host.rule.status()))?;
        held.push(sock);
    }
    let status = host.rule.status()?;
    let ended = spread.stop()?;
    ensure!(ended.stdout.is_empty(), "on stdout: {}", ended.stdout);
    let all = lines(&lie::file(&path)?)?;
    let lines = decisions_of(&all);
    let count =
        |reason: &str| lines.iter().filter(|line| line["spread.reason"] == reason).count() as u64;
    for reason in ["least_used", "fast_port", "pool_full"] {
        ensure!(count(reason) == status.decided(reason)?, "{} {reason}", count(reason));
    }
    ensure!(count("pool_full") == 1 && (count("fast_port") > 0) == fast_ports, "{status:?}");
    for line in &lines {
        ensure!(text(line, "spread.original")? == "10.1.0.2", "the original is not in {line}");
    }
    for (line, sock) in lines.iter().zip(&held) {
        if let Some(port) = line.get("spread.port") {
            ensure!(*port == sock.local()?.port(), "not the port of {sock:?}: {line}");
        }
    }
    Ok(())
}

/// `tracer status` as text, for one rule with 40 connections: it has the rule's name, agent, cgroup, pool, destination and
/// capacity, and how many connections were spread.
fn status_for_people() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let spread = host.spread(&POOL, &[])?;
    // Enough connections that each address of the pool gets some.
    let _held = (0..40).map(|_| host.connect(server.address)).collect::<Result<Vec<_>>>()?;
    let mut command = crate::harness::tracer::command(&["status", "--rule", host.rule.name()])?;
    let ended = run(&mut command, START_LIMIT)?;
    ensure!(ended.code() == 0 && ended.stderr.is_empty(), "{ended:?}");
    let cgroup = host.cgroup.path().to_string_lossy();
    let pid = spread.process.id().to_string();
    let words = [host.rule.name(), &pid, &cgroup, "10.1.0.1:7000", "1000", "least_used 40"];
    for word in words.iter().chain(&POOL) {
        ensure!(ended.stdout.contains(word), "no {word:?} in {}", ended.stdout);
    }
    spread.stop()?;
    Ok(())
}
