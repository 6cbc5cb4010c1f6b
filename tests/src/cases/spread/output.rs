//! What the program says: the projection of `--dry-run`, and the lines of `--decisions`.

use std::{collections::BTreeSet, fs, net::SocketAddr};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Case, Host, Named, POOL, PORTS, source};
use crate::{
    sock::Sock,
    tracer::{
        START_LIMIT, run,
        watch::{number, text},
    },
};

pub(super) fn cases() -> Vec<Case> {
    let tests: [Named; 5] = [
        ("dry_run", dry_run),
        ("dry_run_where_nothing_is_connected", dry_run_of_nothing),
        ("all_decisions", all_decisions),
        ("decisions_into_a_file", decisions_into_a_file),
        ("status_for_people", status_for_people),
    ];
    tests.map(|(name, test)| Case::new(format!("spread::output::{name}"), test)).into()
}

/// What `--dry-run` prints. It has changed nothing.
fn dry(host: &Host) -> Result<String> {
    let cgroup = host.cgroup.path().to_string_lossy();
    let mut command = host.rule.command(&["--dry-run", "--cgroup", &cgroup])?;
    command.args(POOL.iter().flat_map(|address| ["--pool", address]));
    let ended = host.stage.netns.run(|| run(&mut command, START_LIMIT))?;
    ensure!(ended.code() == 0 && ended.stderr.is_empty(), "{ended:?}");
    ensure!(host.cgroup.attached()? == 0, "programs are attached");
    host.rule.check_nothing_left()?;
    Ok(ended.stdout)
}

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

fn dry_run_of_nothing() -> Result<()> {
    let said = dry(&Host::new()?)?;
    ensure!(said.contains("peak saturation 0 % -> 0 %"), "it says {said:?}");
    Ok(())
}

/// The lines, each an object with the fields of every line, without a gap.
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

fn all_decisions() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let spread = host.spread(&POOL, &["--decisions", "all"])?;
    let held = (0..200).map(|_| host.connect(server.address)).collect::<Result<Vec<_>>>()?;
    let stdout = spread.stop()?.stdout;
    let lines = lines(&stdout)?;
    let decisions: Vec<_> =
        lines.iter().filter(|line| line["event.name"] == "spread.decision").collect();
    ensure!(decisions.len() == held.len(), "{} lines of 200 decisions", decisions.len());
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
            && number(line, "process.pid")? == u64::from(std::process::id());
        ensure!(right, "not the decision about {sock:?}: {line}");
    }
    let cookies = decisions.iter().map(|line| number(line, "socket.cookie"));
    let cookies = cookies.collect::<Result<BTreeSet<_>>>()?;
    ensure!(cookies.len() == held.len(), "{} cookies of 200 sockets", cookies.len());
    Ok(())
}

/// A full pool, ports of ours, and an address that is replaced are told as such.
fn decisions_into_a_file() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("decisions.jsonl");
    let file = path.to_str().context("path is not UTF-8")?;
    let arguments = ["--rebind", "--decisions", "all", "-o", file];
    let spread = host.spread(&POOL[..1], &arguments)?;
    let fast_ports = host.rule.status()?.0["fast_ports"] == true;
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
    let lines = lines(&fs::read_to_string(&path)?)?;
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

fn status_for_people() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let spread = host.spread(&POOL, &[])?;
    let _held = (0..10).map(|_| host.connect(server.address)).collect::<Result<Vec<_>>>()?;
    let mut command = crate::tracer::command(&["status", "--rule", host.rule.name()])?;
    let ended = run(&mut command, START_LIMIT)?;
    ensure!(ended.code() == 0 && ended.stderr.is_empty(), "{ended:?}");
    let cgroup = host.cgroup.path().to_string_lossy();
    let pid = spread.process.id().to_string();
    let words = [host.rule.name(), &pid, &cgroup, "10.1.0.1:7000", "1000", "least_used 10"];
    for word in words.iter().chain(&POOL) {
        ensure!(ended.stdout.contains(word), "no {word:?} in {}", ended.stdout);
    }
    spread.stop()?;
    Ok(())
}
