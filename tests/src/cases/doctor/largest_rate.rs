//! The rates that `tracer doctor` prints are those at which connections begin to fail, and at which they do not.

use std::thread;

use anyhow::{Context, Result, ensure};

use super::{
    edge::Edge,
    load::{self, Load, TIME_WAITS, run},
};
use crate::{
    cases::spread::Application,
    harness::{tracer::doctor::doctor, tuple::Tuple},
};

const PORTS: u16 = 1000;
/// Calls per second of the load for which the number of addresses is printed.
const WANTED: u32 = 50;

/// A full tuple of 1,000 ports: within 2 % of the largest rate that is printed, calls begin to fail; with as many addresses as
/// the advice asks for, within 10 % of the rate that it promises; and the load is then below 45 % of each address.
pub(super) fn largest_rate() -> Result<()> {
    let edge = Edge::new(PORTS)?;
    edge.leave_time_waits(usize::from(PORTS))?;
    let (found, _) =
        edge.under_load(edge.first(), WANTED, || doctor(&edge.here, &["--window", "2"]))?;
    let full = found.finding("ports_exhausted")?;
    let largest = full.number("connects_per_s.largest")?;
    let advice = full.advice.iter().find(|it| {
        it.command.as_deref().is_some_and(|command| command.starts_with("tracer spread "))
    });
    let factor = advice.and_then(|it| it.factor).with_context(|| format!("no factor: {full:?}"))?;
    ensure!(full.number("addresses.needed")?.total_cmp(&factor).is_eq(), "{full:?}");

    let promised = largest * factor;

    let plain = Edge::new(PORTS)?;
    let mut loads = [
        Load::new(&plain, 9001, largest * 0.98, false)?,
        Load::new(&plain, 9002, largest * 1.02, true)?,
    ];
    // In a namespace of its own: a port that the spreader binds is not available to other programs.
    let spread = Edge::new(PORTS)?;
    let numbers = (0..200).take_while(|number| f64::from(*number) < factor);
    let pool: Vec<String> = numbers.map(|number| format!("10.2.0.{}", 11 + number)).collect();
    for address in &pool {
        spread.here.ip(&format!("addr add {address}/24 dev t0"))?;
    }
    let application = Application::new(&spread.here)?;
    let pool: Vec<&str> = pool.iter().map(String::as_str).collect();
    let agent = application.spread_in(&spread.here, &pool, &[])?;
    let mut spread_loads = [
        Load::new(&spread, 9003, promised * 0.9, false)?,
        Load::new(&spread, 9004, promised * 1.1, true)?,
        Load::new(&spread, 9005, f64::from(WANTED), true)?,
    ];
    thread::scope(|scope| {
        let running = scope.spawn(|| run(&plain.here, &mut loads, TIME_WAITS, load::plain));
        run(&spread.here, &mut spread_loads, TIME_WAITS, |peer| application.app.tcp(peer))?;
        running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;

    let all = || loads.iter().chain(&spread_loads);
    let results: Vec<_> = all().map(Load::result).collect();
    let failing: Vec<_> = all().map(Load::fails).collect();
    ensure!(failing == [false, true, false, true, false], "{largest}/s, {factor}: {results:?}");
    let status = application.rule.status()?;
    for address in pool {
        let in_use = status.counts(Tuple::new(address.parse()?, spread_loads[2].peer())).in_use;
        let most = u64::from(PORTS) * 45 / 100;
        ensure!((most / 2..=most).contains(&in_use), "{address}: {in_use} ports; {results:?}");
    }
    agent.stop()?;
    application.rule.check_nothing_left()
}
