//! The gain that `tracer doctor` prints with an advice for a full tuple is what is measured once the advice is followed. (That of
//! more addresses is measured by `largest_rate`.)

use std::{process::Command, thread, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{
    edge::{Edge, listen},
    load::{Load, TIME_WAITS, plain, run, run_during},
};
use crate::harness::{
    netns::Named,
    tracer::{
        self,
        doctor::{Advice, Diagnosis, Finding, doctor},
    },
};

/// Calls per second of the load under which doctor looks at a full tuple.
const WANTED: u32 = 50;
/// How long loads go on whose ports are held for at most a second.
const WHILE_REUSED: Duration = Duration::from_secs(15);

/// The advice for a full tuple whose command has these words (or whose text, if it has no command). Returns the largest rate that
/// is promised with it, in calls per second, and the advice. An error if there is none, or it has no factor.
fn advised<'a>(full: &'a Finding, words: &str) -> Result<(f64, &'a Advice)> {
    let named = |it: &&Advice| it.command.as_ref().unwrap_or(&it.what).contains(words);
    let advice = full.advice.iter().find(named);
    let advice = advice.with_context(|| format!("no advice with {words}: {full:?}"))?;
    let factor = advice.factor.with_context(|| format!("no factor: {full:?}"))?;
    Ok((full.number("connects_per_s.largest")? * factor, advice))
}

/// Executes a command as it was printed.
fn execute(advice: &Advice) -> Result<()> {
    let command = advice.command.as_deref().context("no command")?;
    let mut shell = Command::new("sh");
    let ended = tracer::run(shell.args(["-c", command]), Duration::from_secs(10))?;
    ensure!(ended.code() == 0 && ended.stderr.is_empty(), "{command}: {ended:?}");
    Ok(())
}

/// Runs a load below the rate that was promised (calls per second) and one above it for this time, each to an upstream of its own
/// after `change`. An error unless no call fails at 90 % of the rate, and some do at 110 %.
fn measure(
    edge: &Edge,
    promised: f64,
    time: Duration,
    change: impl Fn(Load) -> Load,
) -> Result<()> {
    let mut loads = [
        change(Load::new(edge, 9101, promised * 0.9, false)?),
        change(Load::new(edge, 9102, promised * 1.1, true)?),
    ];
    run(&edge.here, &mut loads, time, plain)?;
    let results = loads.each_ref().map(Load::result);
    ensure!(loads.each_ref().map(Load::fails) == [false, true], "{promised}/s: {results:?}");
    Ok(())
}

/// A host with this many ports, which are all in TIME_WAIT, and what doctor finds there under a load of [`WANTED`] calls a second. A
/// name of the namespace, by which commands enter it, is returned as well. `prepare` is called before.
fn full(
    ports: u16,
    name: &str,
    prepare: impl FnOnce(&Edge) -> Result<()>,
) -> Result<(Edge, Named, Diagnosis)> {
    let edge = Edge::new(ports)?;
    let named = edge.here.name(&format!("{name}-{}", std::process::id()))?;
    prepare(&edge)?;
    edge.leave_time_waits(usize::from(ports))?;
    let look = || doctor(&edge.here, &["--window", "2"]);
    let (found, _) = edge.under_load(edge.first(), WANTED, look)?;
    Ok((edge, named, found))
}

/// connect() takes over TIME_WAITs.
fn take_over() -> Result<()> {
    let (edge, _named, found) = full(100, "gain-reuse", |_| Ok(()))?;
    let (promised, advice) = advised(found.finding("ports_exhausted")?, "tcp_tw_reuse=1")?;
    execute(advice)?;
    measure(&edge, promised, WHILE_REUSED, |load| load).context("tcp_tw_reuse")
}

/// A range of 1,000 ports becomes one of 55,296, of which all but 2,000 are reserved, and a service has one more.
fn wider_range() -> Result<()> {
    let mut service = None;
    let (edge, _named, found) = full(1_000, "gain-range", |edge| {
        edge.here.sysctl("ipv4/ip_local_reserved_ports", "10240-38999,41000-65535")?;
        service = Some(edge.here.run(|| listen("10.2.0.1:39500".parse()?, 16))?);
        Ok(())
    })?;
    let (promised, advice) = advised(found.finding("ports_exhausted")?, "ip_local_port_range")?;
    execute(advice)?;
    measure(&edge, promised, TIME_WAITS, |load| load).context("ip_local_port_range")
}

/// The upstream closes first. While doctor looks, this host closes first, and somewhat more calls are made than its ports allow:
/// TIME_WAITs are taken over after a second.
fn other_end_closes() -> Result<()> {
    const PORTS: u16 = 60;
    // Not a multiple of the time between doctor's readings (0.25 s), nor a divisor of it.
    const OPEN: Duration = Duration::from_millis(180);
    let edge = Edge::new(PORTS)?;
    edge.here.sysctl("ipv4/tcp_tw_reuse", "1")?;
    let rate = 1.1 * f64::from(PORTS) / (OPEN.as_secs_f64() + 1.0);
    let mut load = [Load::new(&edge, 9100, rate, true)?.open_for(OPEN)];
    let found = run_during(&edge.here, &mut load, || {
        thread::sleep(Duration::from_secs(3));
        doctor(&edge.here, &["--window", "8"])
    })?;
    let (promised, _) =
        advised(found.finding("ports_exhausted")?, "let the other end close first")?;
    let was_open = load[0].was_open()?;
    let exact = f64::from(PORTS) / was_open.as_secs_f64();
    ensure!((promised / exact - 1.0).abs() <= 0.1, "{promised}/s, {was_open:?} open: {exact}/s");
    let change = |load: Load| load.open_for(was_open).closed_there();
    measure(&edge, promised, WHILE_REUSED, change).context("the other end closes first")
}

/// For each advice that says by which factor the largest rate of a full tuple grows: once it is followed, no call fails at 90 % of
/// that rate, and some do at 110 %.
pub(super) fn printed_gains() -> Result<()> {
    thread::scope(|scope| {
        let all = [take_over, wider_range, other_end_closes].map(|one| scope.spawn(one));
        let join = |one: thread::ScopedJoinHandle<'_, Result<()>>| {
            one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        let wrong: Vec<_> = all.map(join).into_iter().filter_map(Result::err).collect();
        ensure!(wrong.is_empty(), "{wrong:?}");
        Ok(())
    })
}
