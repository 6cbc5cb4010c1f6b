//! `spread::fail_open`: whatever ends or is removed, a connect() that would succeed with spreading off succeeds, and is spread
//! as long as the hooks are attached and the lease is valid.

mod addresses;
mod deadlines;
mod differential;
mod surroundings;

use std::{
    env, fs,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::{Case, Host, POOL, Plan, load::Load};
use crate::harness::{
    probe::Place,
    tracer::{spread::Spread, wait_for},
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("spread::fail_open")
        .once(&[
            ("killed_and_started_again", killed_and_started_again),
            ("restarts", restarts),
            ("started_again_with_another_pool", another_pool),
            ("stopped", stopped),
            ("released", released),
            ("detached", detached),
            ("pins_deleted", pins_deleted),
            ("pins_deleted_of_a_dead_agent", pins_deleted_of_a_dead_agent),
            ("lease_over", lease_over),
        ])
        .with(differential::cases(plan))
        .with(addresses::cases(plan))
        .with(deadlines::cases(plan))
        .with(surroundings::cases(plan))
        .cases()
}

/// The tests of [`cases`], under the same names, that run in emulated guests ([`Place::Vm`]), too: few, because guests are slow.
pub(super) fn cases_of_guests(plan: &Plan) -> Vec<Case> {
    plan.group("spread::fail_open")
        .once(&[("killed_and_started_again", killed_and_started_again)])
        .cases()
}

/// The number in an environment variable, or `default` if it is not set; an error if it is not a number.
fn number(variable: &str, default: u64) -> Result<u64> {
    match env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable} is not a number")),
        Err(_) => Ok(default),
    }
}

const KEEP: &[&str] = &["--on-exit", "keep"];

/// Starts `tracer spread` while the load runs, and checks that all connections are spread from then on.
fn begin(host: &Host, load: &Load, arguments: &[&str]) -> Result<Spread> {
    load.more(10)?;
    let spread = host.spread(&POOL, arguments)?;
    all_spread(load)?;
    Ok(spread)
}

/// Checks that the next 200 connections come from the addresses of the pool, and from all of them.
fn all_spread(load: &Load) -> Result<()> {
    let made = load.more(200)?;
    let pool = POOL.iter().map(|it| Ok(it.parse()?)).collect::<Result<Vec<IpAddr>>>()?;
    ensure!(made.keys().eq(&pool), "spread over {made:?}");
    Ok(())
}

/// Checks that the next 200 connections have the source that they have with spreading off.
fn none_spread(load: &Load) -> Result<()> {
    let made = load.more(200)?;
    let default: IpAddr = "10.1.0.1".parse()?;
    ensure!(made.keys().eq([&default]), "still spread: {made:?}");
    Ok(())
}

/// Waits until the programs are detached, which is some time after the last reference to their links is gone.
fn all_detached(host: &Host) -> Result<()> {
    let detached = || Ok((host.cgroup.attached()? == 0).then_some(()));
    wait_for("the programs to be detached", Duration::from_secs(5), detached)
}

/// The agent is killed (SIGKILL), and another one takes over the rule: the status has no agent between, no connection under load
/// is unspread at any time, and the counts of the rule go on.
fn killed_and_started_again() -> Result<()> {
    let host = Host::new()?;
    Load::start(&host)?.around(|load| {
        let first = begin(&host, load, KEEP)?;
        let unspread = load.unspread();
        let before = host.rule.status()?;
        first.kill()?;
        all_spread(load)?;
        let alone = host.rule.status()?;
        ensure!(alone.agent.is_none(), "there is an agent after SIGKILL: {alone:?}");
        ensure!(alone.spread()? > before.spread()?, "{before:?}, then {alone:?}");

        let second = host.spread(&POOL, KEEP)?;
        all_spread(load)?;
        let adopted = host.rule.status()?;
        ensure!(adopted.agent == Some(second.process.id().into()), "{adopted:?}");
        ensure!(adopted.spread()? > alone.spread()?, "counts were reset: {adopted:?}");
        ensure!(load.unspread() == unspread, "{} were not spread", load.unspread() - unspread);
        second.stop()?;
        Ok(())
    })
}

/// Agents start and end `TRACER_TEST_UPGRADES` times (20, in the soak test 100), as in upgrades. Every second one is killed.
fn restarts() -> Result<()> {
    let host = Host::new()?;
    let count = number("TRACER_TEST_UPGRADES", 20)?;
    Load::start(&host)?.around(|load| {
        begin(&host, load, KEEP)?.stop()?;
        let unspread = load.unspread();
        let attached = host.cgroup.attached()?;
        for turn in 0..count {
            let spread = host.spread(&POOL, KEEP)?;
            load.more(20)?;
            if turn % 2 == 0 {
                spread.kill()?;
            } else {
                spread.stop()?;
            }
            let lost = load.unspread() - unspread;
            ensure!(lost == 0, "restart {turn}: {lost} connections were not spread");
        }
        let now = host.cgroup.attached()?;
        ensure!(now == attached, "{attached} programs were attached, now {now}");
        Ok(())
    })
}

/// A new agent takes over the rule of four addresses with the first of them as its pool: the next 200 connections come from it
/// only, no connection is unspread meanwhile, and after its end nothing is left of the rule.
fn another_pool() -> Result<()> {
    let host = Host::new()?;
    Load::start(&host)?.around(|load| {
        begin(&host, load, KEEP)?.stop()?;
        let unspread = load.unspread();
        let second = host.spread(&POOL[..1], &["--on-exit", "release"])?;
        let made = load.more(200)?;
        let only: IpAddr = POOL[0].parse()?;
        ensure!(made.keys().eq([&only]), "the pool is {only} now: {made:?}");
        ensure!(load.unspread() == unspread, "{} were not spread", load.unspread() - unspread);
        second.stop()?;
        host.rule.check_nothing_left()
    })
}

/// The agent is stopped (SIGSTOP): each of the next 1,000 connections is still spread, and the status still has the agent.
fn stopped() -> Result<()> {
    let host = Host::new()?;
    Load::start(&host)?.around(|load| {
        let spread = begin(&host, load, &[])?;
        let unspread = load.unspread();
        spread.process.signal(Signal::STOP)?;
        let made = load.more(1000);
        let status = host.rule.status();
        spread.process.signal(Signal::CONT)?;
        made?;
        ensure!(status?.agent.is_some(), "the status has no agent, but it is only stopped");
        ensure!(load.unspread() == unspread, "{} were not spread", load.unspread() - unspread);
        spread.stop()?;
        Ok(())
    })
}

/// The agent ends with `--on-exit release`: the next 200 connections have the source that they have with spreading off, and
/// nothing is left attached or pinned.
fn released() -> Result<()> {
    let host = Host::new()?;
    Load::start(&host)?.around(|load| {
        begin(&host, load, &["--on-exit", "release"])?.stop()?;
        none_spread(load)?;
        ensure!(host.cgroup.attached()? == 0, "programs are still attached");
        host.rule.check_nothing_left()
    })
}

/// The agent ends after the start with exit code 0 (`--detach`), and the status has none; connections are spread until
/// `--release`, after which nothing is attached or pinned.
fn detached() -> Result<()> {
    let host = Host::new()?;
    Load::start(&host)?.around(|load| {
        load.more(10)?;
        let ended = host.spread(&POOL, &["--detach"])?.wait()?;
        ensure!(ended.code() == 0, "{ended:?}");
        all_spread(load)?;
        let status = host.rule.status()?;
        ensure!(status.agent.is_none(), "{status:?}");
        let released = host.rule.release()?;
        ensure!(released.code() == 0, "{released:?}");
        none_spread(load)?;
        ensure!(host.cgroup.attached()? == 0, "programs are still attached");
        host.rule.check_nothing_left()
    })
}

/// The pins are removed while the agent runs: it holds links and maps by descriptors, so every connection is still spread, also
/// after its next health check. At its end, nothing is attached although it should keep the rule; another start makes a new rule.
fn pins_deleted() -> Result<()> {
    let host = Host::new()?;
    Load::start(&host)?.around(|load| {
        let spread = begin(&host, load, KEEP)?;
        let unspread = load.unspread();
        fs::remove_dir_all(host.rule.pins())?;
        all_spread(load)?;
        // This is longer than the interval of the agent's health checks, which is 1 s.
        thread::sleep(Duration::from_millis(1200));
        all_spread(load)?;
        ensure!(load.unspread() == unspread, "{} were not spread", load.unspread() - unspread);
        spread.stop()?;
        all_detached(&host)?;
        none_spread(load)?;
        // Another start makes a new rule.
        begin(&host, load, &[])?.stop()?;
        host.rule.check_nothing_left()
    })
}

/// The pins are removed after the agent was killed: the kernel detaches the programs, nothing is spread, and another start makes
/// a new rule.
fn pins_deleted_of_a_dead_agent() -> Result<()> {
    let host = Host::new()?;
    Load::start(&host)?.around(|load| {
        begin(&host, load, KEEP)?.kill()?;
        fs::remove_dir_all(host.rule.pins())?;
        all_detached(&host)?;
        none_spread(load)?;
        begin(&host, load, &[])?.stop()?;
        host.rule.check_nothing_left()
    })
}

/// The agent renews the lease as long as it runs: for two and a half leases all connections are spread. Once it is killed, the
/// lease expires within one and a quarter, and nothing is spread any more (`lease_over`).
fn lease_over() -> Result<()> {
    let host = Host::new()?;
    let lease = Place::get().limit(Duration::from_secs(1));
    let arguments = ["--on-exit", "keep", "--lease", &lease.as_secs().to_string()];
    Load::start(&host)?.around(|load| {
        let first = begin(&host, load, &arguments)?;
        let unspread = load.unspread();
        thread::sleep(lease * 5 / 2);
        ensure!(load.unspread() == unspread, "a living agent's lease was over");
        let killed = Instant::now();
        first.kill()?;
        while load.unspread() == unspread {
            ensure!(killed.elapsed() < lease * 3, "its lease is never over");
            thread::sleep(Duration::from_millis(5));
        }
        ensure!(killed.elapsed() < lease * 5 / 4, "over after {:?}", killed.elapsed());
        none_spread(load)?;
        let status = host.rule.status()?;
        ensure!(status.decided("lease_over")? > 0, "{status:?}");
        begin(&host, load, &arguments)?.stop()?;
        Ok(())
    })
}
