//! `spread::reuse`: the room of an address towards a destination, with TIME_WAITs that the kernel takes over, and with ports that
//! bind() took.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{Case, Host, POOL, Plan, source};
use crate::harness::{probe, sock::Sock};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("spread::reuse")
        .once(&[
            ("bursts", || Bursts::NOT_LOOPBACK.play(&[])),
            ("bursts_with_ports_by_the_kernel", || {
                Bursts::NOT_LOOPBACK.play(&["--ports", "kernel"])
            }),
            ("bursts_over_loopback", || Bursts::LOOPBACK.play(&[])),
            ("ports_bound_outside_of_the_range", || bound(41_000, 1, 200)),
            ("ports_bound_in_the_range", || bound(40_001, 2, 100)),
        ])
        .once(&[("bursts_that_would_fail_fast", || Bursts::NOT_LOOPBACK.play(&["--fail-fast"]))])
        .unless(probe::no_fail_fast())
        .cases()
}

/// The port range, of 200 ports.
const RANGE: &str = "40000 40199";
/// Number of connections in a burst.
const EACH: u32 = 200;

/// Five bursts of connections, each of which is closed immediately, so that its port goes to TIME_WAIT. `reuse` is the value of
/// `net.ipv4.tcp_tw_reuse`.
struct Bursts {
    reuse: &'static str,
    server: &'static str,
    pool: [&'static str; 2],
}

impl Bursts {
    const NOT_LOOPBACK: Self =
        Self { reuse: "1", server: "10.1.0.1:7000", pool: ["10.1.0.11", "10.1.0.12"] };
    const LOOPBACK: Self =
        Self { reuse: "2", server: "127.0.0.1:7000", pool: ["127.0.1.1", "127.0.1.2"] };

    /// Plays the bursts, in all 1,000 connections, each of which must be spread. The pool has 400 ports: later bursts must take
    /// over ports that have been in TIME_WAIT for a second. `arguments`: more of `tracer spread`.
    fn play(&self, arguments: &[&str]) -> Result<()> {
        let mut host = Host::new()?;
        host.stage.netns.sysctl("ipv4/ip_local_port_range", RANGE)?;
        host.stage.netns.sysctl("ipv4/tcp_tw_reuse", self.reuse)?;
        let server = host.server(self.server)?;
        let spread = host.spread(&self.pool, arguments)?;
        for burst in 1..=5 {
            for number in 0..EACH {
                let what = || format!("connect {number} of burst {burst}");
                let sock = host.connect(server.address).with_context(what)?;
                let from = source(&sock)?.to_string();
                ensure!(self.pool.contains(&&*from), "{}: not spread: {from}", what());
                let accepted = server.listener.accept()?;
                drop(sock);
                drop(accepted);
            }
            // The kernel takes over TIME_WAITs that are older than a second.
            thread::sleep(Duration::from_millis(1100));
        }
        spread.stop()?;
        host.rule.check_nothing_left()
    }
}

/// The application binds `count` ports at each address of the pool: `first` and every `step`th port after it. Connections that it
/// opens without a bind() must all succeed, and all be spread once the agent has read these ports.
fn bound(first: u16, step: u16, count: usize) -> Result<()> {
    let mut host = Host::new()?;
    host.stage.netns.sysctl("ipv4/ip_local_port_range", RANGE)?;
    let server = host.server("10.1.0.1:7000")?;
    let fail_fast = probe::no_fail_fast().is_none();
    let arguments: &[&str] = if fail_fast { &["--fail-fast"] } else { &[] };
    let spread = host.spread(&POOL, arguments)?;
    let mut held: Vec<Sock> = Vec::new();
    for address in POOL {
        for port in (first..).step_by(step.into()).take(count) {
            let sock = host.app.tcp(server.address)?;
            sock.bind(SocketAddr::new(address.parse()?, port))?;
            sock.connect(server.address)?;
            held.push(sock);
        }
    }
    let mut connect = |count: u32, when: &str| -> Result<u32> {
        let mut of_the_pool = 0;
        for number in 0..count {
            let what = || format!("connect {number} {when}");
            let sock = host.connect(server.address).with_context(what)?;
            of_the_pool += u32::from(POOL.contains(&&*source(&sock)?.to_string()));
            held.push(sock);
        }
        Ok(of_the_pool)
    };
    connect(60, "at once")?;
    // Once the status has this capacity, the agent has read which ports are bound.
    host.rule.status_when("the bound ports to be known", |status| {
        let room = Some(status.capacity);
        room == Some(if first == 40_001 { 100 } else { 200 })
    })?;
    let spread_of = connect(60, "when they are known")?;
    ensure!(spread_of == 60, "{spread_of} of 60 are spread while ports are bound");
    spread.stop()?;
    host.rule.check_nothing_left()
}
