//! The rates that `tracer doctor` prints are those at which connections begin to fail, and at which they do not.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

use super::edge::Edge;
use crate::{
    cases::spread::Application,
    harness::{netns::NetNs, sock::Sock, tracer::doctor::doctor, tuple::Tuple},
};

const PORTS: u16 = 1000;
/// Calls per second of the load for which the number of addresses is printed.
const WANTED: u32 = 50;
/// How long the loads go on: a TIME_WAIT lasts 60 s and up to a step of the kernel's timer (2.05 s with 250 ticks a second,
/// 5.12 s with 100), and until two steps have passed, the ports of a whole TIME_WAIT are not in use at the same time.
const TIME: Duration = Duration::from_secs(70);

/// Calls to one upstream at one rate; each connection is closed at once by this host.
struct Load {
    per_second: f64,
    peer: SocketAddr,
    listener: Sock,
    /// Whether calls that a busy machine delays are made up for: the rate is then never lower for long, else never higher.
    makes_up: bool,
    next: Instant,
    opened: u64,
    failed: u64,
}

impl Load {
    fn new(edge: &Edge, port: u16, per_second: f64, makes_up: bool) -> Result<Self> {
        let (peer, listener) = edge.another(port)?;
        let next = Instant::now();
        Ok(Self { per_second, peer, listener, makes_up, next, opened: 0, failed: 0 })
    }

    /// The next call, on a socket of `make`.
    fn call(&mut self, make: impl Fn(SocketAddr) -> Result<Sock>) -> Result<()> {
        let sock = make(self.peer)?;
        match sock.connect(self.peer) {
            Ok(()) => {
                self.opened += 1;
                drop(sock);
                drop(self.listener.accept()?);
            }
            Err(Errno::ADDRNOTAVAIL) => self.failed += 1,
            Err(errno) => return Err(errno).context("connect()"),
        }
        let from = if self.makes_up { self.next } else { self.next.max(Instant::now()) };
        self.next = from + Duration::from_secs_f64(1.0 / self.per_second);
        Ok(())
    }

    fn result(&self) -> String {
        format!("{:.2}/s: {} opened, {} failed", self.per_second, self.opened, self.failed)
    }
}

/// Makes the calls of all loads in this namespace when they are due, for [`TIME`], each on a socket of `make`.
fn run(
    here: &NetNs,
    loads: &mut [Load],
    make: impl Fn(SocketAddr) -> Result<Sock> + Sync,
) -> Result<()> {
    here.run(|| {
        let end = Instant::now() + TIME;
        loop {
            let next = loads.iter_mut().min_by_key(|load| load.next);
            let load = next.context("there is no load")?;
            if load.next > end {
                return Ok(());
            }
            thread::sleep(load.next.saturating_duration_since(Instant::now()));
            load.call(&make)?;
        }
    })
}

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
        let running = scope.spawn(|| run(&plain.here, &mut loads, |peer| Ok(Sock::tcp(peer)?)));
        run(&spread.here, &mut spread_loads, |peer| application.app.tcp(peer))?;
        running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;

    let all = || loads.iter().chain(&spread_loads);
    let results: Vec<_> = all().map(Load::result).collect();
    let failing: Vec<_> = all().map(|load| load.failed > 0).collect();
    ensure!(failing == [false, true, false, true, false], "{largest}/s, {factor}: {results:?}");
    let status = application.rule.status()?;
    for address in pool {
        let in_use = status.counts(Tuple::new(address.parse()?, spread_loads[2].peer)).in_use;
        let most = u64::from(PORTS) * 45 / 100;
        ensure!((most / 2..=most).contains(&in_use), "{address}: {in_use} ports; {results:?}");
    }
    agent.stop()?;
    application.rule.check_nothing_left()
}
