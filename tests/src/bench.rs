//! Measures what spreading brings and costs: `spread-bench` prints the tables, `cargo xtask bench` runs it. [`view`] measures
//! what `tracer top` costs.

mod dialer;
mod fill;
mod flat;
mod harm;
mod hook;
mod targets;
pub mod view;

use std::ops::RangeInclusive;

use anyhow::{Context, Result};

pub use dialer::serve;
use dialer::{Dialer, Plan};
use targets::Targets;

use crate::harness::{
    cgroup::Cgroup,
    stage::{SERVER, Server, Stage},
    tracer::spread::{Rule, Spread},
};

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// How many times connect() is timed; the tables have the medians. The hook's run time is measured once, and so is how full a
    /// pool gets.
    pub rounds: u32,
    /// Sizes of the pools that are filled, in addresses.
    pub pools: &'static [u32],
    /// First and last port, both inclusive, of the range in which connect() and the hook are timed.
    pub range: (u16, u16),
}

impl Size {
    /// The default range of Linux, and pools of up to 64 addresses.
    pub const FULL: Self = Self { rounds: 3, pools: &[1, 2, 4, 16, 64], range: (32_768, 60_999) };
    /// A quick run, which shows only that everything works.
    pub const QUICK: Self = Self { rounds: 1, pools: &[1, 4], range: (32_768, 36_767) };
}

/// Measures the time of connect(), how full a pool gets, the hook's run time, and connect() of programs that are not spread.
/// Returns the tables as Markdown.
///
/// # Errors
/// The namespace, the cgroup or a program cannot be set up, or a connect() failed: with another error than EADDRNOTAVAIL, or
/// where all must succeed.
pub fn run(size: Size) -> Result<String> {
    let mut targets = Targets::default();
    let parts = [
        flat::measure(size, &mut targets).context("flat connect()")?,
        fill::measure(size, &mut targets).context("fill")?,
        hook::measure(size, &mut targets).context("hook")?,
        harm::measure(size, &mut targets).context("others")?,
        targets.table(),
    ];
    Ok(parts.join("\n"))
}

/// A network namespace with a pool of addresses on `lo`, a cgroup and a rule, and a server that never calls accept() itself:
/// connections wait in its queue, unless a client process accepts them.
struct Field {
    stage: Stage,
    rule: Rule,
    cgroup: Cgroup,
    pool: Vec<String>,
    server: Server,
}

impl Field {
    /// Makes a namespace with this port range, `addresses` addresses for the pool and a listening server; and a cgroup.
    /// Spreading is off until [`Self::spread`].
    fn new(addresses: u32, range: RangeInclusive<u16>) -> Result<Self> {
        let mut stage = Stage::new(&[])?;
        let pool: Vec<_> =
            (0..addresses).map(|it| format!("10.1.{}.{}", 1 + it / 200, 1 + it % 200)).collect();
        for address in &pool {
            stage.netns.ip(&format!("addr add {address}/32 dev lo"))?;
        }
        let range = format!("{} {}", range.start(), range.end());
        stage.netns.sysctl("ipv4/ip_local_port_range", &range)?;
        stage.netns.sysctl("core/somaxconn", "65535")?;
        // With 0, connect() takes over no port in TIME_WAIT, whatever the kernel's default is.
        stage.netns.sysctl("ipv4/tcp_tw_reuse", "0")?;
        let server = stage.server(&format!("{SERVER}:7000"))?;
        server.listener.listen(65_535)?;
        let rule = Rule::new();
        let cgroup = Cgroup::new(rule.name())?;
        Ok(Self { stage, rule, cgroup, pool, server })
    }

    /// Starts `tracer spread` for the cgroup, with this pool. If the pool is full, a connect() fails with EADDRNOTAVAIL
    /// (`--fail-fast`).
    fn spread(&self, pool: &[String]) -> Result<Spread> {
        let cgroup = self.cgroup.path().to_string_lossy();
        let mut arguments = vec!["--cgroup", &cgroup, "--on-exit", "release", "--fail-fast"];
        arguments.extend(pool.iter().flat_map(|address| ["--pool", address]));
        self.stage.netns.run(|| Spread::start(&self.rule, &arguments))
    }

    /// Starts a client process, `inside` the cgroup or outside; it makes no connection yet.
    fn dialer(&self, inside: bool, plan: &Plan) -> Result<Dialer> {
        let dialer = self.stage.netns.run(|| Dialer::spawn(plan))?;
        if inside {
            self.cgroup.add(dialer.id())?;
        }
        Ok(dialer)
    }
}

/// Sorts the values, and returns their quantile: about `percent` of the values are below it; 0 if there are no values. `percent`
/// must be below 100 (not checked: the result would be 0).
fn quantile(values: &mut [u64], percent: usize) -> u64 {
    values.sort_unstable();
    values.get(values.len() * percent / 100).copied().unwrap_or(0)
}

/// A time in ns, as text in µs, with one decimal that is not rounded: `1.2 µs`.
fn microseconds(ns: u64) -> String {
    format!("{}.{} µs", ns / 1000, ns % 1000 / 100)
}
