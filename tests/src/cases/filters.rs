//! `filters::*`: a filter lets through what it names, and the rest costs nothing.

use anyhow::{Context, Result, ensure};
use rustix::thread::set_name;

use super::{BackendTest, Case, Plan, per_backend};
use crate::{
    cgroup::Cgroup,
    probe::Place,
    process::Helper,
    sock::Sock,
    stage::Stage,
    tracer::{
        record::Record,
        watch::{number, text},
    },
};

pub fn cases(plan: &Plan) -> Vec<Case> {
    let tests: &[BackendTest] = &[
        ("comm", comm),
        ("pid", pid),
        ("cgroup", cgroup),
        ("netns", netns),
        ("addresses_and_ports", addresses_and_ports),
    ];
    per_backend(plan.sampled_backends(), "filters", tests)
}

/// Records while `work` runs; returns the failures of the stage's namespace.
///
/// With `exact`, nothing else on the host passes the filter: then the kernel side must not have
/// seen any event but these.
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

/// `count` refused connects to this address.
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

fn comm(backend: &str) -> Result<()> {
    let stage = Stage::new(&[])?;
    let events = recorded(backend, &stage, &["--comm", "flt-wanted"], true, || {
        refuse(&stage, c"flt-wanted", "10.1.0.1:7999", 5)?;
        refuse(&stage, c"flt-other", "10.1.0.1:7999", 7)?;
        refuse(&stage, c"flt-wanted2", "10.1.0.1:7999", 7)
    })?;
    ensure!(events.len() == 5, "{} events, not 5", events.len());
    for event in &events {
        ensure!(text(event, "process.executable.name")? == "flt-wanted", "{event}");
    }
    Ok(())
}

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

/// Children of the cgroup are in it too; the path is named in each event.
fn cgroup(backend: &str) -> Result<()> {
    let stage = Stage::new(&[])?;
    let cgroup = Cgroup::new("tracer-test")?;
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
    }
    Ok(())
}

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

fn addresses_and_ports(backend: &str) -> Result<()> {
    let stage = Stage::new(&[])?;
    let inum = stage.netns.inum().to_string();
    let cases: [(&[&str], usize); 8] = [
        (&["--dport", "7998"], 2),
        (&["--dport", "7990-7998"], 2),
        (&["--dst", "10.1.0.2"], 3),
        (&["--dst", "10.1.0.0/24"], 5),
        (&["--src", "127.0.0.0/8"], 4),
        (&["--src", "10.1.0.2", "--dport", "7999"], 3),
        (&["-6"], 0),
        (&["-4"], 9),
    ];
    // Each is a tracer of its own; a guest has time for a few.
    let step = if Place::get() == Place::Vm { 3 } else { 1 };
    for (filter, expected) in cases.into_iter().step_by(step) {
        let filter = [filter, &["--netns", &inum]].concat();
        let events = recorded(backend, &stage, &filter, true, || {
            refuse(&stage, c"flt", "10.1.0.1:7998", 2)?;
            refuse(&stage, c"flt", "10.1.0.2:7999", 3)?;
            refuse(&stage, c"flt", "127.0.0.1:7999", 4)
        })?;
        ensure!(events.len() == expected, "{filter:?}: {} events, not {expected}", events.len());
    }
    Ok(())
}
