//! Work with a deadline goes on while the agent's other work is blocked: the lease is renewed, and a removed address leaves the
//! rule.

use std::{net::IpAddr, thread, time::Duration};

use anyhow::{Result, ensure};

use super::{begin, none_spread};
use crate::{
    cases::{
        Case, Plan,
        errors::{USAGE, says},
        spread::{Host, POOL, full_pipe::FullPipe, load::Load},
    },
    harness::{
        held::Held,
        probe::Place,
        tracer::{START_LIMIT, run, wait_for},
    },
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("spread::fail_open")
        .once(&[
            ("deadlines_with_an_output_that_nobody_reads", unread_output),
            ("deadlines_with_a_comparison_that_does_not_end", endless_comparison),
            ("lease_shorter_than_its_renewals", short_lease),
        ])
        .cases()
}

/// A lease that an agent on a busy machine still renews in time.
const LEASE: Duration = Duration::from_secs(1);
/// How soon a removed address must be out of the rule; longer in a guest ([`Place::limit`]).
const OUT_LIMIT: Duration = Duration::from_millis(100);

/// Checks that for two and a half leases every connection is spread, and that a removed address leaves the rule within 100 ms
/// ([`OUT_LIMIT`]): the next 200 connections come from the three others.
fn deadlines_hold(host: &Host, load: &Load) -> Result<()> {
    let lease = Place::get().limit(LEASE);
    let unspread = load.unspread();
    thread::sleep(lease * 5 / 2);
    ensure!(load.unspread() == unspread, "a living agent's lease was over");
    let gone: IpAddr = POOL[1].parse()?;
    load.forgive_one();
    host.stage.netns.ip(&format!("addr del {gone}/32 dev lo"))?;
    thread::sleep(Place::get().limit(OUT_LIMIT));
    let refused = host.rule.status()?.decided("refused")?;
    let unspread = load.unspread();
    let made = load.more(200)?;
    ensure!(made.len() == 3 && !made.contains_key(&gone), "without {gone}: {made:?}");
    ensure!(load.unspread() == unspread, "{} went unspread", load.unspread() - unspread);
    let still = host.rule.status()?.decided("refused")?;
    ensure!(still == refused, "the rule still has {gone}: refused {refused}, then {still} times");
    Ok(())
}

fn arguments(lease: Duration) -> Vec<String> {
    ["--lease", &lease.as_secs().to_string()].map(str::to_owned).into()
}

/// The deadlines hold ([`deadlines_hold`]), and health checks are made, while the output is a pipe that is full and not read.
/// Once it is read again, the agent ends without an error.
fn unread_output() -> Result<()> {
    let host = Host::new()?;
    let output = FullPipe::new()?;
    let mut arguments = arguments(Place::get().limit(LEASE));
    arguments.extend(output.arguments());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Load::start(&host)?.around(|load| {
        let spread = begin(&host, load, &arguments)?;
        wait_for("the FIFO to be full", START_LIMIT, || Ok(output.is_full()?.then_some(())))?;
        deadlines_hold(&host, load)?;
        health_check_runs(&host)?;
        // Once the pipe is read again, the agent ends without an error.
        let stderr = output.read_while(|| spread.stop())?.stderr;
        ensure!(!stderr.contains("error:"), "{stderr}");
        none_spread(load)?;
        host.rule.check_nothing_left()
    })
}

/// Checks that the status follows a removed address that is added again: that is the work of the agent's main thread, not of the
/// threads with deadlines.
fn health_check_runs(host: &Host) -> Result<()> {
    let gone: IpAddr = POOL[1].parse()?;
    host.rule.status_when("the status to follow", |status| status.left_out() == [gone])?;
    host.stage.netns.ip(&format!("addr add {gone}/32 dev lo"))?;
    host.rule.status_when("the status to follow", |status| status.left_out().is_empty())?;
    Ok(())
}

/// The deadlines hold ([`deadlines_hold`]) while the thread that reads sockets in namespaces is stopped, so that no comparison
/// ends.
fn endless_comparison() -> Result<()> {
    let host = Host::new()?;
    let arguments = arguments(Place::get().limit(LEASE));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Load::start(&host)?.around(|load| {
        let spread = begin(&host, load, &arguments)?;
        let held = Held::threads(spread.process.id(), "netns")?;
        deadlines_hold(&host, load)?;
        drop(held);
        spread.stop()?;
        none_spread(load)?;
        host.rule.check_nothing_left()
    })
}

/// A lease that is too short for the agent to renew it in time, below 0.5 s, is an error (exit code 2).
fn short_lease() -> Result<()> {
    let host = Host::new()?;
    let cgroup = host.cgroup.path().to_string_lossy().into_owned();
    for lease in ["0.1", "0.499"] {
        let arguments = ["--pool", POOL[0], "--cgroup", &cgroup, "--lease", lease];
        let ended = run(&mut host.rule.command(&arguments)?, START_LIMIT)?;
        says(&ended, &[USAGE], &[lease, "0.5 seconds at least"])?;
    }
    host.rule.check_nothing_left()
}
