//! `who::*`: which process has the ports: by the name of its main thread, whichever of its threads called connect().

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use super::{Case, Plan};
use crate::harness::{
    cgroup::Cgroup,
    process::Helper,
    pty::{Pty, Size},
    stage::Stage,
    tracer::{
        START_LIMIT, command,
        record::{Record, Recording},
        run,
        watch::{number, text},
    },
};

/// Number of threads of the helper, each with its own name.
const THREADS: u64 = 6;

pub fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("who")
        .sampled(&[
            ("threads_have_their_process", threads_have_their_process),
            ("a_process_that_is_gone", a_process_that_is_gone),
            ("a_unit_where_there_is_no_container", a_unit_where_there_is_no_container),
        ])
        .once(&[("rows_that_look_alike", rows_that_look_alike)])
        .kernel_independent()
        .once(&[
            ("a_process_is_one_row", a_process_is_one_row),
            ("holds_is_not_opened", holds_is_not_opened),
        ])
        .kernel_independent()
        .needs(&["setsid"])
        .cases()
}

fn helper(stage: &Stage, peer: &str) -> Result<Helper> {
    let mut helper = stage.netns.run(|| Helper::spawn(&["threads", peer, &THREADS.to_string()]))?;
    helper.ready()?;
    Ok(helper)
}

/// The rows of the stage's namespace that `tracer tuples` prints with this filter.
fn rows(backend: &str, stage: &Stage, filter: &[&str]) -> Result<Vec<Value>> {
    let inum = stage.netns.inum().to_string();
    let mut command = command(&["--backend", backend, "tuples", "--once", "-o", "json"])?;
    let ended = run(command.args(["--netns", &inum]).args(filter), START_LIMIT)?;
    ensure!(ended.code() == 0, "{ended:?}");
    let reading: Value = serde_json::from_str(&ended.stdout)?;
    Ok(reading["tuples"].as_array().context("no tuples")?.clone())
}

/// Each event has the names of the process and the thread, and `--comm` accepts either: that of the process passes all threads'
/// events, that of a thread only its own. Rows of sockets that are older than the tracer have the name of the process, and none
/// of a thread.
fn threads_have_their_process(backend: &str) -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let mut helper = helper(&stage, "10.1.0.1:7000")?;
    let pid = helper.id().to_string();
    let arguments = ["--pid", &pid, "--comm", "who-leader", "--interval", "1"];
    let by_process = Record::start(backend, &arguments)?;
    let by_thread = Record::start(backend, &["--events", "allocated", "--comm", "who-thread-2"])?;
    helper.go()?;
    helper.ready()?;
    by_process.wait_for_reading()?;
    let recording = by_process.stop()?;
    recording.assert_valid()?;
    recording.assert_nothing_lost()?;
    let netns = stage.netns.inum();
    let allocated = recording.events("port.allocated", netns);
    let mut threads = Vec::new();
    for event in &allocated {
        ensure!(text(event, "process.executable.name")? == "who-leader", "{event}");
        ensure!(number(event, "process.pid")? == u64::from(helper.id()), "{event}");
        ensure!(event.get("process.executable.name.source").is_none(), "{event}");
        threads.push(text(event, "thread.name")?.to_owned());
    }
    ensure_each_once(&recording, &threads)?;
    let stats = recording.events("tuple.stats", netns);
    let newest = stats.last().context("no tuple.stats")?;
    ensure!(text(newest, "process.executable.name")? == "who-leader", "{newest}");
    ensure!(text(newest, "thread.name")?.starts_with("who-thread-"), "{newest}");
    ensure!(number(newest, "ports.in_use")? == 2 * THREADS, "{newest}");
    let recording = by_thread.stop()?;
    let one = recording.events("port.allocated", netns);
    ensure!(one.len() <= 1, "{} events of one thread", one.len());
    ensure!(!one.is_empty() || recording.unseen(1)? == 1, "no event of a thread");
    for event in one {
        ensure!(text(event, "process.executable.name")? == "who-leader", "{event}");
    }
    // All of these sockets are older than this tracer.
    let [row] = &rows(backend, &stage, &["--comm", "who-leader"])?[..] else {
        anyhow::bail!("no row of older sockets by their process's name")
    };
    ensure!(text(row, "process.executable.name")? == "who-leader", "{row}");
    ensure!(row.get("thread.name").is_none(), "it has a thread: {row}");
    let others = rows(backend, &stage, &["--comm", "who-nobody"])?;
    ensure!(others.is_empty(), "{others:?}");
    drop(server);
    Ok(())
}

/// The process has ended before its name could be read, because the tracer was stopped: events have the thread's name instead,
/// and `process.executable.name.source` is `thread`.
fn a_process_that_is_gone(backend: &str) -> Result<()> {
    let stage = Stage::new(&[])?;
    let record = Record::start(backend, &["--events", "failed"])?;
    record.process.signal(Signal::STOP)?;
    // Nobody listens on this port.
    let ended = helper(&stage, "10.1.0.1:7999").and_then(Helper::end);
    record.process.signal(Signal::CONT)?;
    ended?;
    let recording = record.stop()?;
    recording.assert_valid()?;
    let failed = recording.events("connect.failed", stage.netns.inum());
    let mut threads = Vec::new();
    for event in failed {
        let thread = text(event, "thread.name")?;
        threads.push(thread.to_owned());
        ensure!(text(event, "process.executable.name")? == thread, "{event}");
        ensure!(text(event, "process.executable.name.source")? == "thread", "{event}");
    }
    ensure_each_once(&recording, &threads)
}

/// Checks the thread names of the events: each thread of the helper is there once, apart from calls whose hook was missed, and at
/// least one is there.
fn ensure_each_once(recording: &Recording, threads: &[String]) -> Result<()> {
    let unseen = recording.unseen(THREADS)?;
    let names: BTreeSet<_> = threads.iter().collect();
    let all: Vec<_> = (0..THREADS).map(|number| format!("who-thread-{number}")).collect();
    ensure!(!threads.is_empty(), "no event of {THREADS}");
    ensure!(names.len() == threads.len(), "a thread has two events: {threads:?}");
    ensure!(names.iter().all(|name| all.contains(name)), "{threads:?}");
    let counted = u64::try_from(threads.len())?;
    ensure!(counted + unseen >= THREADS, "{threads:?}, {unseen} may not have been seen");
    Ok(())
}

/// The screen of `top` for processes has exactly one row for a process, with its name and its 6 older and 6 newer sockets
/// together: 12 ports.
fn a_process_is_one_row() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let mut helper = helper(&stage, "10.1.0.1:7000")?;
    let inum = stage.netns.inum().to_string();
    let mut command = command(&["top"])?;
    command.args(["--netns", &inum]);
    let mut top = Pty::spawn(&command, Size(130, 30))?;
    top.wait("the first screen", START_LIMIT, |text| text.contains("[1 tuples]"))?;
    helper.go()?;
    helper.ready()?;
    top.press("2")?;
    let pid = helper.id().to_string();
    let ports = (2 * THREADS).to_string();
    let of_it = |text: &str| -> Vec<String> {
        let its = |line: &&str| line.split_whitespace().any(|word| word == pid);
        text.lines().filter(its).map(str::to_owned).collect()
    };
    let screen = top.wait("all ports of the process", START_LIMIT, |text| {
        of_it(text).iter().any(|line| line.split_whitespace().any(|word| word == ports))
    })?;
    let rows = of_it(&screen);
    ensure!(rows.len() == 1 && rows[0].contains("who-leader"), "{rows:?}");
    top.press("q")?;
    top.wait_for_end(START_LIMIT)?;
    drop(server);
    Ok(())
}

/// Two failures in a cgroup that is named like a systemd service: their events have that name as `systemd.unit`, and no
/// `container.id`. A tracer that starts later has no row of them.
fn a_unit_where_there_is_no_container(backend: &str) -> Result<()> {
    let stage = Stage::new(&[])?;
    let cgroup = Cgroup::unit("tracer-test")?;
    let unit = cgroup.path().file_name().and_then(|name| name.to_str()).context("no name")?;
    let record = Record::start(backend, &["--events", "failed"])?;
    let mut helper = stage.netns.run(|| Helper::spawn(&["try", "10.1.0.1:7999", "2"]))?;
    helper.ready()?;
    cgroup.add(helper.id())?;
    helper.go()?;
    helper.ready()?;
    let recording = record.stop()?;
    recording.assert_valid()?;
    let failed = recording.events("connect.failed", stage.netns.inum());
    let unseen = recording.unseen(2)?;
    let counted = u64::try_from(failed.len())?;
    ensure!(counted <= 2 && counted + unseen >= 2, "{counted} failures, {unseen} unseen");
    for event in failed {
        ensure!(text(event, "systemd.unit")? == unit, "{event}");
        ensure!(event.get("container.id").is_none(), "{event}");
    }
    let later = rows(backend, &stage, &["--dport", "7999"])?;
    ensure!(later.is_empty(), "what failed before this tracer has no row in it: {later:?}");
    helper.kill()
}

/// The same tuple in two namespaces, as in many pods: each has a row with the name of its namespace, of which the table with one
/// namespace has no column, but CSV has. The filter `netns:NAME` of `top` leaves the row of that namespace only.
fn rows_that_look_alike() -> Result<()> {
    let mut stages = [Stage::new(&[])?, Stage::new(&[])?];
    let mut held = Vec::new();
    let mut named = Vec::new();
    for (stage, name) in stages.iter_mut().zip(["blue", "green"]) {
        let name = format!("tracer-test-{name}-{}", std::process::id());
        named.push((stage.netns.name(&name)?, name));
        let server = stage.server("10.1.0.1:7000")?;
        held.push((stage.netns.run(|| server.pairs(3))?, server));
    }
    let [(_, blue), (_, green)] = &named[..] else { anyhow::bail!("not two") };
    let print = |arguments: &[&str]| -> Result<String> {
        let ended = run(command(arguments)?.args(["--dport", "7000"]), START_LIMIT)?;
        ensure!(ended.code() == 0, "{ended:?}");
        Ok(ended.stdout)
    };
    let both = print(&["tuples", "--once", "--netns", blue, "--netns", green])?;
    ensure!(both.contains(" NETNS "), "{both}");
    for name in [blue, green] {
        let its = both.lines().filter(|line| line.split_whitespace().any(|cell| cell == name));
        ensure!(its.count() == 1, "{name} has no row: {both}");
    }
    let one = print(&["tuples", "--once", "--netns", blue])?;
    ensure!(!one.contains("NETNS"), "{one}");
    let csv = print(&["tuples", "--once", "--netns", blue, "-o", "csv"])?;
    ensure!(csv.contains(&format!(",{blue},")), "{csv}");
    let filter = format!("netns:{green}");
    let json = print(&["top", "-b", "-n", "1", "-i", "0.2", "-o", "json", "--filter", &filter])?;
    let line = json.lines().next().context("no reading")?;
    let reading: Value = serde_json::from_str(line)?;
    let shown = reading["tuples"].as_array().context("no tuples")?;
    ensure!(shown.len() == 1 && text(&shown[0], "netns.name")? == green, "{json}");
    Ok(())
}

/// A child inherits the seven connections of a process that ends: the detail of `top` has the child as their holder, and the
/// ended process, with its id, as the one that opened them; the list of processes has the child only. For a tracer that starts
/// later, who opened them is `not known`.
fn holds_is_not_opened() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let inum = stage.netns.inum().to_string();
    let start = || -> Result<Pty> {
        let mut command = command(&["top"])?;
        Pty::spawn(command.args(["--netns", &inum]), Size(150, 40))
    };
    let mut top = start()?;
    top.wait("the first screen", START_LIMIT, |text| text.contains("tuples]"))?;
    let mut helper = stage.netns.run(|| Helper::spawn(&["bequeath", "10.1.0.1:7000", "7"]))?;
    helper.ready()?;
    helper.wait()?;
    top.wait("the tuple", START_LIMIT, |text| text.contains("10.1.0.1:7000"))?;
    top.press("\r")?;
    let heirs =
        |text: &str| text.lines().find(|line| line.contains("who-heir (")).map(str::to_owned);
    let opened = format!("ended: who-leader ({})", helper.id());
    top.wait("who holds them and who opened them", START_LIMIT, |text| {
        heirs(text).is_some_and(|line| line.contains(&opened) && line.contains(" 7 "))
    })?;
    let leader = format!("{} ", helper.id());
    top.press("\u{1b}2")?;
    top.wait("the process that holds them", START_LIMIT, |text| {
        text.lines().any(|line| line.contains("who-heir") && line.contains(" 7 "))
            && !text.lines().any(|line| line.trim_start().starts_with(&leader))
    })?;
    top.press("q")?;
    top.wait_for_end(START_LIMIT)?;
    let mut later = start()?;
    later.wait("the tuple", START_LIMIT, |text| text.contains("10.1.0.1:7000"))?;
    later.press("\r")?;
    later.wait("that this is not known", START_LIMIT, |text| {
        heirs(text).is_some_and(|line| line.contains("not known"))
    })?;
    later.press("q")?;
    later.wait("the list", START_LIMIT, |text| text.contains("Enter detail"))?;
    later.press("q")?;
    later.wait_for_end(START_LIMIT)?;
    drop(server);
    Ok(())
}
