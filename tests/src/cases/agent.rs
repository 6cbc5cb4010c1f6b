//! `agent::*`: one agent writes several outputs and offers metrics, and none of them waits for another.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    io::Errno,
};

use serde_json::Value;

use super::{Case, Plan};
use crate::{
    harness::{
        lines::SOCKET_EVENTS,
        sock::Sock,
        stage::{Server, Stage},
        tracer::{
            START_LIMIT,
            agent::{Agent, free_address, get, metric},
            command,
            record::{Recording, eventually, name},
            run,
            watch::{number, text},
        },
    },
    workloads::failure::expect_error,
};

pub fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("agent")
        .once(&[
            ("two_outputs", two_outputs),
            ("metrics", metrics),
            ("output_that_nobody_reads", output_that_nobody_reads),
            ("reload", reload),
        ])
        .once(&[("configuration_that_is_wrong", configuration_that_is_wrong)])
        .kernel_independent()
        .cases()
}

/// Opens `count` connections and resets each, and makes 3 connect() calls to a port at which nobody listens.
fn traffic(stage: &Stage, server: &Server, count: usize) -> Result<()> {
    let closed: SocketAddr = "10.1.0.1:7999".parse()?;
    stage.netns.run(|| {
        for _ in 0..count {
            let (client, _accepted) = server.pair()?;
            client.set_reset_on_close()?;
        }
        for _ in 0..3 {
            expect_error(Sock::tcp(closed)?.connect(closed), Errno::CONNREFUSED)?;
        }
        Ok(())
    })
}

fn count(recording: &Recording, kind: &str, netns: u64) -> usize {
    recording.events(kind, netns).len()
}

/// Each output has the kinds of lines that it asks for, of the calls that its filter lets through; all have the fields of the
/// configuration and the host's name; each is whole and adds up for itself. A field that is not in the file is in no line.
fn two_outputs() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let mut agent = Agent::start(
        r#"
        [[output]]
        path = "DIR/made/all.jsonl"
        events = ["all"]
        [[output]]
        path = "DIR/refused.jsonl"
        events = ["failed", "lost"]
        dport = ["7999"]
        [fields]
        "deployment.environment.name" = "test \"1\""
        "#,
    )?;
    traffic(&stage, &server, 20)?;
    let netns = stage.netns.inum();
    eventually("the events", || {
        let written = fs::read_to_string(agent.path("refused.jsonl"))?;
        Ok(written.matches("connect.failed").count() >= 3)
    })?;
    let stderr = agent.stop()?;
    ensure!(stderr.is_empty(), "stderr: {stderr}");
    ensure!(agent.notified()?.contains("STOPPING=1"), "{}", agent.notified()?);
    for line in fs::read_to_string(agent.path("made/all.jsonl"))?.lines() {
        ensure!(line.matches("\"host.name\"").count() == 1, "twice in {line}");
    }
    let [mut all, mut refused] =
        [agent.recording("made/all.jsonl")?, agent.recording("refused.jsonl")?];
    for recording in [&mut all, &mut refused] {
        recording.assert_gap_free()?;
        for line in &mut recording.lines {
            ensure!(text(line, "deployment.environment.name")? == "test \"1\"", "{line}");
            ensure!(!text(line, "host.name")?.is_empty(), "{line}");
            // The schema does not know the fields of a configuration.
            line.as_object_mut().map(|line| line.remove("deployment.environment.name"));
        }
        recording.assert_valid()?;
        ensure!(count(recording, "connect.failed", netns) == 3, "not 3 failures: {recording:?}");
    }
    all.assert_nothing_lost()?;
    ensure!(count(&all, "port.allocated", netns) == 23, "{}", count(&all, "port.allocated", netns));
    let others = |kind: &&&str| **kind != "connect.failed" && count(&refused, kind, netns) > 0;
    ensure!(!SOCKET_EVENTS.iter().any(|kind| others(&kind)), "lines of other kinds: {refused:?}");
    let readings = ["tuple.stats", "address.stats", "tracer.stats"];
    ensure!(!refused.lines.iter().any(|line| readings.contains(&name(line))), "a reading");
    Ok(())
}

/// An output is a FIFO whose reader does not read: the other output has every event at once, the metrics say that the FIFO takes
/// nothing more, and the agent's end does not wait for it.
fn output_that_nobody_reads() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let folder = tempfile::tempdir()?;
    let fifo = folder.path().join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    // Open for reading and writing: opening does not wait.
    let reader = fs::OpenOptions::new().read(true).write(true).open(&fifo)?;
    let address = free_address()?;
    let config = r#"
        [metrics]
        listen = "ADDRESS"
        interval = 1
        [[output]]
        path = "DIR/fifo"
        events = ["all"]
        [[output]]
        path = "DIR/all.jsonl"
        events = ["all"]
        "#;
    let config = config.replace("ADDRESS", &address.to_string());
    let mut agent = Agent::start_in(folder, &config)?;
    let netns = stage.netns.inum();
    let seen = |path: &Path| -> Result<usize> {
        let lines = fs::read_to_string(path)?;
        let here = format!("\"netns\":{netns},");
        let is_port = |line: &&str| line.contains("\"port.allocated\"") && line.contains(&here);
        Ok(lines.lines().filter(is_port).count())
    };
    let file = agent.path("all.jsonl");
    // The FIFO takes 64 KiB.
    for round in 1..=8 {
        traffic(&stage, &server, 40)?;
        eventually("the other output", || Ok(seen(&file)? == round * 43))?;
    }
    let file_lines = fs::read_to_string(&file)?.lines().count();
    let lines = |text: &str, name: &str| -> Result<Option<f64>> {
        let path = agent.path(name);
        metric(text, &format!("tracer_output_lines_total{{output=\"{}\"}}", path.display()))
    };
    eventually("the lines of both outputs in the metrics", || {
        let text = get(address, "/metrics")?;
        let (all, some) = (lines(&text, "all.jsonl")?, lines(&text, "fifo")?);
        let (all, some) = (all.context("no output")?, some.context("no FIFO")?);
        let at_least = f64::from(u32::try_from(file_lines)?);
        Ok(all >= at_least && some > 0.0 && some < at_least / 2.0)
    })?;
    agent.assert_runs()?;
    let stderr = agent.stop()?;
    ensure!(stderr.contains("fifo") && stderr.contains("takes no lines"), "stderr: {stderr}");
    drop(reader);
    let all = agent.recording("all.jsonl")?;
    all.assert_nothing_lost()?;
    ensure!(count(&all, "port.allocated", netns) == 8 * 43, "not 344 allocations");
    Ok(())
}

/// A tuple of 20 ports is full: the metrics have its ports, its saturation, and the failed calls by cause; every cause is there
/// from the first scrape on; the sum of the search times is that of the events; `/ready` says yes; a text file has the same, and
/// the threads that serve and write have no capabilities.
fn metrics() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    stage.netns.sysctl("ipv4/ip_local_port_range", "40000 40019")?;
    let server = stage.server("10.1.0.1:7000")?;
    let address = free_address()?;
    let mut agent = Agent::start(&format!(
        "[metrics]\nlisten = \"{address}\"\ninterval = \"1s\"\ntextfile = \"DIR/tracer.prom\"\n\
         [[output]]\npath = \"DIR/allocated.jsonl\"\nevents = \"allocated\"\n"
    ))?;
    ensure!(get(address, "/ready")?.starts_with("HTTP/1.1 200"), "not ready");
    let first = get(address, "/metrics")?;
    let exhausted = "tracer_failures_total{cause=\"ports_exhausted\"}";
    let before = metric(&first, exhausted)?.context("no failures from the first scrape on")?;
    let (_clients, _accepted) = stage.netns.run(|| server.pairs(20))?;
    stage.netns.run(|| -> Result<()> {
        for _ in 0..7 {
            expect_error(Sock::tcp(server.address)?.connect(server.address), Errno::ADDRNOTAVAIL)?;
        }
        Ok(())
    })?;
    let labels = format!(
        "{{netns=\"{}\",src=\"10.1.0.1\",dst=\"10.1.0.1\",dport=\"7000\"}}",
        stage.netns.inum()
    );
    let of = |text: &str, name: &str| metric(text, &format!("{name}{labels}"));
    eventually("a reading with the full tuple", || {
        Ok(of(&get(address, "/metrics")?, "tracer_tuple_ports_in_use")? == Some(20.0))
    })?;
    let text = get(address, "/metrics")?;
    let expected = [
        ("tracer_tuple_ports_capacity", 20.0),
        ("tracer_tuple_saturation_ratio", 1.0),
        ("tracer_tuple_exhausted_total", 7.0),
        ("tracer_tuple_opened_total", 20.0),
    ];
    for (name, value) in expected {
        ensure!(of(&text, name)? == Some(value), "{name}: {:?} in\n{text}", of(&text, name)?);
    }
    let after = metric(&text, exhausted)?.context("no failures")?;
    ensure!(after >= before + 7.0, "{before} failures before, {after} after");
    eventually("the text file", || {
        let file = fs::read_to_string(agent.path("tracer.prom"))?;
        Ok(of(&file, "tracer_tuple_ports_in_use")? == Some(20.0))
    })?;
    eventually("a ping of the watchdog", || Ok(agent.notified()?.contains("WATCHDOG=1")))?;
    for thread in fs::read_dir(format!("/proc/{}/task", agent.process.id()))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        let comm = status.lines().next().unwrap_or_default().to_owned();
        let none = status.contains("CapEff:\t0000000000000000");
        let may_have = !["http", "textfile", "output"].iter().any(|name| comm.ends_with(name));
        ensure!(none || may_have, "{comm}: {status}");
    }
    let searched = metric(&text, "tracer_port_search_duration_seconds_sum")?.context("no sum")?;
    let stderr = agent.stop()?;
    ensure!(stderr.is_empty(), "stderr: {stderr}");
    // Other tests' connections are counted, too.
    let allocated = agent.recording("allocated.jsonl")?;
    let sum = |lines: &[&Value]| -> f64 {
        let times = lines.iter().filter_map(|line| number(line, "search.duration_ns").ok());
        Duration::from_nanos(times.sum()).as_secs_f64()
    };
    let own = sum(&allocated.events("port.allocated", stage.netns.inum()));
    let all = sum(&allocated.lines.iter().collect::<Vec<_>>());
    ensure!(own > 0.0 && (own..=all).contains(&searched), "{own} <= {searched} <= {all}?");
    Ok(())
}

/// A SIGHUP has the agent take over other fields and thresholds; its output goes on without a gap. A file with a fault and one that
/// needs a restart change nothing, not even what could change; log, metrics and the service manager's status say so, until
/// one is taken over again.
fn reload() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let address = free_address()?;
    let config = |output: &str, rack: &str, (threshold, interval): (&str, u32)| {
        format!(
            "[metrics]\nlisten = \"{address}\"\ninterval = {interval}\n[[output]]\npath = \"DIR/{output}\"\nevents = \"all\"\n\
             [fields]\nrack = \"{rack}\"\n[thresholds]\nsaturation = [{threshold}]\n"
        )
    };
    let mut agent = Agent::start(&config("all.jsonl", "a", ("0.1", 60)))?;
    let is = |name: &str, value: f64| -> Result<bool> {
        Ok(metric(&get(address, "/metrics")?, name)? == Some(value))
    };
    let newest = "tracer_config_last_reload_successful";
    ensure!(is(newest, 1.0)?, "not the newest at the start");
    let since = "tracer_config_last_reload_success_timestamp_seconds";
    let began = metric(&get(address, "/metrics")?, since)?.context("no time")?;
    traffic(&stage, &server, 5)?;
    let file = agent.path("all.jsonl");
    let has = |text: &str| Ok(fs::read_to_string(&file)?.contains(text));
    eventually("lines of the first rack", || has("\"rack\":\"a\""))?;

    let second = config("all.jsonl", "b", ("0.2", 1));
    agent.reload(&second)?;
    eventually("the second threshold", || {
        Ok(get(address, "/metrics")?.contains("tracer_tuples_above{threshold=\"0.20\"}"))
    })?;
    let text = get(address, "/metrics")?;
    ensure!(!text.contains("threshold=\"0.10\""), "both thresholds: {text}");
    ensure!(metric(&text, since)?.is_some_and(|now| now > began), "{began} and later: {text}");
    // The first reading is that of the reload; a later one shows that the interval is no longer a minute.
    let at = "tracer_reading_timestamp_seconds";
    let read = metric(&text, at)?.context("no reading")?;
    eventually("the next reading", || {
        Ok(metric(&get(address, "/metrics")?, at)?.is_some_and(|now| now > read))
    })?;
    traffic(&stage, &server, 5)?;
    eventually("lines of the second rack", || has("\"rack\":\"b\""))?;

    let mut refusals = 0;
    for (refused, why) in
        [("[metrics\n", "tracer.toml:1:"), (&*config("other.jsonl", "c", ("0.3", 1)), "[[output]]")]
    {
        agent.reload(refused)?;
        eventually(why, || is(newest, 0.0))?;
        ensure!(get(address, "/metrics")?.contains("threshold=\"0.20\""), "it was changed");
        let said = agent.notified()?.matches("was refused").count();
        refusals += 1;
        ensure!(said == refusals, "{said} refusals, not {refusals}: {}", agent.notified()?);
        agent.reload(&second)?;
        eventually("a configuration that is taken over", || is(newest, 1.0))?;
    }
    traffic(&stage, &server, 5)?;
    let stderr = agent.stop()?;
    let place = agent.path("tracer.toml").display().to_string() + ":1:";
    ensure!(stderr.contains(&place), "no fault with its place: {stderr}");
    let differs = format!("[[output]] {}", agent.path("other.jsonl").display());
    ensure!(stderr.contains("with a restart") && stderr.contains(&differs), "stderr: {stderr}");
    ensure!(!agent.path("other.jsonl").exists(), "the other output was opened");
    let all = agent.recording("all.jsonl")?;
    all.assert_gap_free()?;
    all.assert_nothing_lost()?;
    let allocated = count(&all, "port.allocated", stage.netns.inum());
    ensure!(allocated == 24, "{allocated} allocations, not 24");
    ensure!(!all.lines.iter().any(|line| line["rack"] == "c"), "a line of the third rack");
    Ok(())
}

/// All faults of a file are printed at once, with their places, and the agent ends with 78 before it attaches.
fn configuration_that_is_wrong() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("wrong.toml");
    fs::write(&file, "[metrics]\nlisten = \"nowhere\"\ntpo = 5\n[[output]]\npath = 7\n")?;
    let path = file.to_str().context("path is not UTF-8")?;
    for arguments in [["agent", "--config", path], ["config", "check", path]] {
        let ended = run(&mut command(&arguments)?, START_LIMIT)?;
        ensure!(ended.code() == 78, "exit code {}: {}", ended.code(), ended.stderr);
        for place in ["wrong.toml:2:", "wrong.toml:3:1:", "wrong.toml:5:"] {
            ensure!(ended.stderr.contains(place), "{place} is missing: {}", ended.stderr);
        }
        ensure!(ended.stderr.contains("top"), "no nearest name: {}", ended.stderr);
    }
    let missing = run(&mut command(&["agent", "--config", "/nowhere/tracer.toml"])?, START_LIMIT)?;
    ensure!(missing.code() != 0 && missing.stderr.contains("/nowhere/tracer.toml"), "{missing:?}");
    Ok(())
}
