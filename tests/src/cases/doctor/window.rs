//! Findings of `tracer doctor` for which its hooks must watch for some seconds (`--window`): failures, the rate of connections,
//! the time of port searches.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};

use super::{
    edge::{Edge, Load},
    table,
};
use crate::harness::{
    sock::Sock,
    tracer::doctor::{Diagnosis, Finding, doctor},
};

const WINDOW: &[&str] = &["--window", "2"];

/// How far a rate that was measured may be from the rates that the load counted, because the window may be longer by the time
/// that it takes to begin and to end it.
const EXACT: f64 = 0.05;

/// An error if `connects_per_s` of the finding is not a rate that this load had in an interval as long as the diagnosis's window,
/// within 5 % ([`EXACT`]), or if the finding has no such number.
pub(super) fn has_rate(found: &Diagnosis, finding: &Finding, load: &Load) -> Result<()> {
    let (lowest, highest) = load.rates(found.window_s);
    let seen = finding.number("connects_per_s")?;
    ensure!(
        (lowest * (1.0 - EXACT)..=highest * (1.0 + EXACT)).contains(&seen),
        "{seen}/s, and the load made {lowest}/s to {highest}/s: {finding:?}"
    );
    Ok(())
}

/// A full tuple of 100 ports to which programs still connect: doctor finds `ports_exhausted` first (exit code 2), with calls that
/// failed, the load's rate, 1.5 to 1.67 connections a second as the most that one address can give, and a need of more than one
/// address.
pub(super) fn failing_calls() -> Result<()> {
    let edge = Edge::new(100)?;
    edge.leave_time_waits(100)?;
    let (found, load) = edge.under_load(edge.first(), 50, || doctor(&edge.here, WINDOW))?;
    ensure!(found.exit == 2 && found.causes().first() == Some(&"ports_exhausted"), "{found:?}");
    let full = found.finding("ports_exhausted")?;
    ensure!(full.number("failed")? > 0.0 && load.failed > 0, "{load:?} {full:?}");
    has_rate(&found, full, &load)?;
    // 100 ports, each held for a TIME_WAIT: 60 s and a step of the timer.
    let largest = full.number("connects_per_s.largest")?;
    ensure!((1.5..=100.0 / 60.0).contains(&largest), "{full:?}");
    ensure!(full.number("addresses.needed")? > 1.0, "{full:?}");
    ensure!(found.check("window")?.status != "not_made", "{found:?}");
    Ok(())
}

/// 4,200 of 8,000 ports are in use, so that the half that connect() tries first has no free port: doctor finds `slow_search`,
/// critical and measured, with a mean of more than 0.05 ms.
pub(super) fn first_half_full() -> Result<()> {
    let edge = Edge::new(8_000)?;
    edge.leave_time_waits(4_200)?;
    let (other, listener) = edge.another(8_082)?;
    let (found, _) = edge.under_load((other, &listener), 50, || {
        let (found, _) = edge.under_load(edge.first(), 200, || doctor(&edge.here, WINDOW))?;
        Ok(found)
    })?;
    table::check("first_half_full", &found)?;
    let slow = found.finding("slow_search")?;
    ensure!(slow.severity == "critical" && slow.certainty == "measured", "{slow:?}");
    ensure!(slow.number("search.mean_ms")? > 0.05, "{slow:?}");
    Ok(())
}

/// No port is held, and yet every call fails, because all are reserved: doctor finds `ports_exhausted` (exit code 2), with
/// capacity and saturation 0.
pub(super) fn every_port_reserved() -> Result<()> {
    let edge = Edge::new(10)?;
    edge.here.sysctl("ipv4/ip_local_reserved_ports", "40000-40009")?;
    let (found, load) = edge.under_load(edge.first(), 20, || doctor(&edge.here, WINDOW))?;
    ensure!(load.opened == 0 && found.exit == 2, "{load:?} {found:?}");
    table::check("every_port_reserved", &found)?;
    let full = found.finding("ports_exhausted")?;
    ensure!(full.count("ports.capacity")? == 0 && full.number("saturation")? < 0.01, "{full:?}");
    Ok(())
}

/// A program binds an address before each connect(), so that ports run out for all destinations together: doctor finds
/// `ports_exhausted` (exit code 2) with bind() calls that failed, and advises `--rebind`.
pub(super) fn bound_addresses() -> Result<()> {
    let edge = Edge::new(20)?;
    let bound = || -> Result<Sock> {
        let sock = Sock::tcp(edge.upstream)?;
        sock.bind("10.2.0.1:0".parse()?)?;
        Ok(sock)
    };
    let ends = AtomicBool::new(false);
    let (found, failed) = thread::scope(|scope| {
        let binder = scope.spawn(|| {
            edge.here.run(|| {
                let mut failed = 0;
                while !ends.load(Relaxed) {
                    let (held, refused): (Vec<_>, Vec<_>) =
                        (0..25).map(|_| bound()).partition(Result::is_ok);
                    failed += refused.len();
                    thread::sleep(Duration::from_millis(100));
                    drop(held);
                }
                failed
            })
        });
        let found = doctor(&edge.here, WINDOW);
        ends.store(true, Relaxed);
        (found, binder.join().unwrap_or(0))
    });
    let found = found?;
    ensure!(failed > 0 && found.exit == 2, "{failed} {found:?}");
    table::check("bound_addresses", &found)?;
    let full = found.finding("ports_exhausted")?;
    ensure!(full.number("failed")? > 0.0 && full.what.contains("bind()"), "{full:?}");
    let spread = full
        .advice
        .iter()
        .any(|it| it.command.as_deref().is_some_and(|it| it.contains("--rebind")));
    ensure!(spread, "{full:?}");
    Ok(())
}

/// 30 connections a second of 20,000 ports are healthy: no call fails, doctor finds nothing, and the exit code, but for
/// `small_range`, is 0.
pub(super) fn a_load_that_fits() -> Result<()> {
    let edge = Edge::new(20_000)?;
    let (found, load) = edge.under_load(edge.first(), 30, || doctor(&edge.here, WINDOW))?;
    ensure!(load.failed == 0 && found.exit_but_for_the_range() == 0, "{load:?} {found:?}");
    table::check("a_load_that_fits", &found)
}
