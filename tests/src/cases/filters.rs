//! `filters::*`: events and rows that match a filter pass; the kernel side makes no event of what does not match.

use anyhow::{Context, Result, ensure};
use rustix::thread::set_name;

use super::{Case, Plan, group::BackendTest};
use crate::harness::{
    cgroup::Cgroup,
    probe,
    process::Helper,
    sock::Sock,
    stage::Stage,
    tracer::{
        START_LIMIT, command,
        record::Record,
        run,
        watch::{number, text},
    },
};

pub fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("filters")
        .sampled(&[("comm", comm), ("pid", pid), ("cgroup", cgroup), ("netns", netns)])
        .sampled(&[
            ("netns_by_name_and_path", netns_by_name_and_path),
            ("rows_of_tuples", rows_of_tuples),
        ])
        .kernel_independent()
        .sampled(&[("ipv6", ipv6)])
        .unless(probe::no_ipv6())
        .with(addresses_and_ports(plan))
        .cases()
}

fn addresses_and_ports(plan: &Plan) -> Vec<Case> {
    let mut group = plan.group("filters::addresses_and_ports");
    for (index, test) in ADDRESSES_AND_PORTS.iter().enumerate() {
        group = group.sampled(&[*test]);
        // Each test of the table starts a tracer, which is slow in a guest: guests run a third of the tests.
        if index % 3 != 0 {
            group = group.only_host();
        }
    }
    group.cases()
}

/// Records with this filter while `work` runs; returns the failures of the stage's namespace.
///
/// `exact`: nothing else on the host can pass the filter, so the kernel side must have no other event.
fn recorded(
    backend: &str,
    stage: &Stage,
    filter: &[&str],
    exact: bool,
    work: impl FnOnce() -> Result<()>,
) -> Result<Vec<serde_json::Value>> {
    let arguments = [&["--events", "failed"], filter].concat();
    let record = Record::start(backend, &arguments)?;
    work()?;
    let recording = record.stop()?;
    recording.assert_nothing_lost()?;
    let events = recording.events("connect.failed", stage.netns.inum());
    let seen = number(recording.totals()?, "events.seen")?;
    let count = u64::try_from(events.len())?;
    ensure!(!exact || seen == count, "{seen} events seen for {count} lines");
    Ok(events.into_iter().cloned().collect())
}

/// Makes `count` refused connects to this address, on a thread with this name.
fn refuse(stage: &Stage, comm: &std::ffi::CStr, peer: &str, count: usize) -> Result<()> {
    let peer = peer.parse()?;
    stage.netns.run(|| -> Result<()> {
        set_name(comm)?;
        for _ in 0..count {
            Sock::tcp(peer)?.connect(peer).err().context("not refused")?;
        }
        Ok(())
    })
}

/// `--comm flt-wanted` passes the five calls of threads with exactly this name, and none of a thread with another name or with
/// one that only begins with it.
fn comm(backend: &str) -> Result<()> {
    let stage = Stage::new(&[])?;
    let events = recorded(backend, &stage, &["--comm", "flt-wanted"], true, || {
        refuse(&stage, c"flt-wanted", "10.1.0.1:7999", 5)?;
        refuse(&stage, c"flt-other", "10.1.0.1:7999", 7)?;
        refuse(&stage, c"flt-wanted2", "10.1.0.1:7999", 7)
    })?;
    ensure!(events.len() == 5, "{} events, not 5", events.len());
    for event in &events {
        ensure!(text(event, "thread.name")? == "flt-wanted", "{event}");
    }
    Ok(())
}

/// `--pid` passes the five calls of that process, and none of another one in the same namespace.
fn pid(backend: &str) -> Result<()> {
    let stage = Stage::new(&[])?;
    let mut helper = stage.netns.run(|| Helper::spawn(&["try", "10.1.0.1:7999", "5"]))?;
    helper.ready()?;
    let pid = helper.id().to_string();
    let events = recorded(backend, &stage, &["--pid", &pid], true, || {
        refuse(&stage, c"flt-other", "10.1.0.1:7999", 7)?;
        helper.go()?;
        helper.ready()
    })?;
    ensure!(events.len() == 5, "{} events, not 5", events.len());
    for event in &events {
        ensure!(number(event, "process.pid")?.to_string() == pid, "{event}");
    }
    Ok(())
}

/// `--cgroup` passes the five calls of the process in that cgroup only. Each event has the cgroup's path and, as its container
/// id, the last part of that path.
fn cgroup(backend: &str) -> Result<()> {
    let stage = Stage::new(&[])?;
    let cgroup = Cgroup::container()?;
    let path = cgroup.path().to_str().context("path is not UTF-8")?;
    let mut helper = stage.netns.run(|| Helper::spawn(&["try", "10.1.0.1:7999", "5"]))?;
    helper.ready()?;
    cgroup.add(helper.id())?;
    let events = recorded(backend, &stage, &["--cgroup", path], true, || {
        refuse(&stage, c"flt-other", "10.1.0.1:7999", 7)?;
        helper.go()?;
        helper.ready()
    })?;
    helper.kill()?;
    ensure!(events.len() == 5, "{} events, not 5", events.len());
    let name = cgroup.path().file_name().and_then(|name| name.to_str()).context("no name")?;
    for event in &events {
        let named = text(event, "process.linux.cgroup")?;
        ensure!(named.ends_with(name), "{named} is not {name}: {event}");
        ensure!(text(event, "container.id")? == name, "{event}");
    }
    Ok(())
}

/// `--netns` with an inode number passes the five calls in that namespace, and none in another one.
fn netns(backend: &str) -> Result<()> {
    let stage = Stage::new(&[])?;
    let other = Stage::new(&[])?;
    let inum = stage.netns.inum().to_string();
    let events = recorded(backend, &stage, &["--netns", &inum], true, || {
        refuse(&stage, c"flt", "10.1.0.1:7999", 5)?;
        refuse(&other, c"flt", "10.1.0.1:7999", 7)
    })?;
    ensure!(events.len() == 5, "{} events, not 5", events.len());
    Ok(())
}

/// `--netns` with the name in /run/netns, and with a path, passes the five calls in that namespace only. Each event has the name.
fn netns_by_name_and_path(backend: &str) -> Result<()> {
    let stage = Stage::new(&[])?;
    let other = Stage::new(&[])?;
    let name = format!("tracer-test-{}", std::process::id());
    let named = stage.netns.name(&name)?;
    let path = named.path().to_str().context("path is not UTF-8")?;
    for spec in [name.as_str(), path] {
        let events = recorded(backend, &stage, &["--netns", spec], true, || {
            refuse(&stage, c"flt", "10.1.0.1:7999", 5)?;
            refuse(&other, c"flt", "10.1.0.1:7999", 7)
        })?;
        ensure!(events.len() == 5, "--netns {spec}: {} events, not 5", events.len());
        for event in &events {
            ensure!(text(event, "netns.name")? == name, "{event}");
        }
    }
    Ok(())
}

/// `-6` passes the three calls to an IPv6 address, and none to an IPv4 address.
fn ipv6(backend: &str) -> Result<()> {
    let stage = Stage::new(&[])?;
    let inum = stage.netns.inum().to_string();
    let events = recorded(backend, &stage, &["-6", "--netns", &inum], true, || {
        refuse(&stage, c"flt", "[::1]:7999", 3)?;
        refuse(&stage, c"flt", "127.0.0.1:7999", 4)
    })?;
    ensure!(events.len() == 3, "{} events, not 3", events.len());
    for event in &events {
        ensure!(text(event, "network.type")? == "ipv6", "{event}");
    }
    Ok(())
}

/// `tracer tuples` with a filter of destinations shows only the row that passes, of two, with four ports in use and the name of
/// its namespace.
fn rows_of_tuples(backend: &str) -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let name = format!("tracer-test-rows-{}", std::process::id());
    let _named = stage.netns.name(&name)?;
    let (one, other) = (stage.server("10.1.0.1:7000")?, stage.server("10.1.0.2:7001")?);
    let _pairs = stage.netns.run(|| Ok::<_, anyhow::Error>((one.pairs(3)?, other.pairs(4)?)))?;
    let filters: [&[&str]; 3] = [
        &["--dst", "10.1.0.2"],
        &["--dport", "7001"],
        &["--dst", "10.1.0.0/24", "--dport", "7001"],
    ];
    for filter in filters {
        let mut command = command(&["--backend", backend, "tuples", "--once", "-o", "json"])?;
        let ended = run(command.args(["--netns", &name]).args(filter), START_LIMIT)?;
        ensure!(ended.code() == 0, "{ended:?}");
        let reading: serde_json::Value = serde_json::from_str(&ended.stdout)?;
        let [row] = reading["tuples"].as_array().context("no tuples")?.as_slice() else {
            anyhow::bail!("{filter:?}: not one row: {reading}")
        };
        ensure!(number(row, "network.peer.port")? == 7001, "{filter:?}: {row}");
        ensure!(number(row, "ports.in_use")? == 4, "{filter:?}: {row}");
        ensure!(text(row, "netns.name")? == name, "{filter:?}: {row}");
    }
    Ok(())
}

const ADDRESSES_AND_PORTS: &[BackendTest] = &[
    ("port", |backend| passes(backend, &["--dport", "7998"], 2)),
    ("ports", |backend| passes(backend, &["--dport", "7990-7998"], 2)),
    ("destination", |backend| passes(backend, &["--dst", "10.1.0.2"], 3)),
    ("destinations", |backend| passes(backend, &["--dst", "10.1.0.0/24"], 5)),
    ("sources", |backend| passes(backend, &["--src", "127.0.0.0/8"], 4)),
    ("source_and_port", |backend| passes(backend, &["--src", "10.1.0.2", "--dport", "7999"], 3)),
    ("not_ipv6", |backend| passes(backend, &["-6"], 0)),
    ("ipv4", |backend| passes(backend, &["-4"], 9)),
];

/// Checks that exactly `expected` of nine failures pass this filter: two to 10.1.0.1:7998, three to 10.1.0.2:7999, four to
/// 127.0.0.1:7999.
fn passes(backend: &str, filter: &[&str], expected: usize) -> Result<()> {
    let stage = Stage::new(&[])?;
    let inum = stage.netns.inum().to_string();
    let filter = [filter, &["--netns", &inum]].concat();
    let events = recorded(backend, &stage, &filter, true, || {
        refuse(&stage, c"flt", "10.1.0.1:7998", 2)?;
        refuse(&stage, c"flt", "10.1.0.2:7999", 3)?;
        refuse(&stage, c"flt", "127.0.0.1:7999", 4)
    })?;
    ensure!(events.len() == expected, "{filter:?}: {} events, not {expected}", events.len());
    Ok(())
}
