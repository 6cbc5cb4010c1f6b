//! `spread::fills_the_pool`: every port of every address of the pool is used before a connection is not spread.

use std::{
    env,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use anyhow::{Context, Result, ensure};

use super::{Case, Host, POOL, POOL6, PORTS, Plan, source};
use crate::{
    cases::group::Test,
    harness::{
        maker::{Kind, Maker},
        probe,
        sock::Sock,
        tracer::{status::Counts, wait_for},
        tuple::Tuple,
    },
};

const IPV4: Test = ("ipv4", || Fill::new(false, "10.1.0.1:7000").play(&[]));

/// The tests that guests run: few, because guests are slow. Their test of IPv6 has fewer ports than the host's.
pub(super) fn cases_of_guests(plan: &Plan) -> Vec<Case> {
    let few = || Fill { ports: 50, ..Fill::new(true, "[fd00::1]:7000") }.play(&[]);
    plan.group("spread::fills_the_pool")
        .once(&[IPV4])
        .once(&[("ipv6_with_few_ports", few)])
        .unless(probe::no_ipv6())
        .cases()
}

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("spread::fills_the_pool")
        .once(&[IPV4])
        .once(&[
            ("ipv6", || Fill::new(true, "[fd00::1]:7000").play(&[])),
            ("v4_mapped", || Fill::new(true, "[::ffff:10.1.0.1]:7000").play(&[])),
        ])
        .unless(probe::no_ipv6())
        .once(&[
            ("ports_by_the_kernel", || {
                Fill::new(false, "10.1.0.1:7000").play(&["--ports", "kernel"])
            }),
            ("an_address_partly_used_by_others", partly_used),
            ("eight_processes_at_once", eight_at_once),
            ("time_wait_counts", time_wait),
        ])
        .cases()
}

/// Number of ports of the whole pool towards one destination.
const ROOM: u64 = PORTS * POOL.len() as u64;

struct Fill {
    v6: bool,
    peer: &'static str,
    /// Number of ports of each address.
    ports: u64,
}

impl Fill {
    fn new(v6: bool, peer: &'static str) -> Self {
        Self { v6, peer, ports: PORTS }
    }

    fn play(&self, arguments: &[&str]) -> Result<()> {
        let peer: SocketAddr = self.peer.parse()?;
        let destination = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let pool = if destination.is_ipv6() { POOL6 } else { POOL };
        let mut host = if self.v6 { Host::with_ipv6()? } else { Host::new()? };
        let range = format!("40000 {}", 40_000 + self.ports - 1);
        host.stage.netns.sysctl("ipv4/ip_local_port_range", &range)?;
        let room = self.ports * POOL.len() as u64;
        let _server = host.server(&destination.to_string())?;
        let spread = host.spread(&pool, arguments)?;
        let fast = match env::var("TRACER_FAST_PORTS") {
            _ if arguments.contains(&"kernel") => false,
            Ok(expected) => expected == "true",
            Err(_) => probe::no_fast_ports().is_none(),
        };
        let status = host.rule.status()?;
        ensure!(status.fast_ports == fast, "expected {fast}: {status:?}");
        let mut held = Vec::new();
        for part in 1..=2 {
            for _ in 0..room / 2 {
                let sock = host.app.make(Kind::Tcp, self.v6)?;
                sock.connect(peer).with_context(|| format!("connect {}", held.len()))?;
                held.push(sock);
            }
            // The least used address is chosen, so the counts stay close.
            let counts = host.in_use(&pool, destination)?;
            let each = self.ports * part / 2;
            let even = counts.iter().all(|count| count.abs_diff(each) <= (self.ports / 100).max(2));
            ensure!(even, "{counts:?} after {} connections", held.len());
        }
        check_full(&host, &pool, destination, self.ports)?;
        // The next connection has the source that it has with spreading off: the destination's own address, which is local.
        let sock = host.app.make(Kind::Tcp, self.v6)?;
        sock.connect(peer).context("connect after the pool was full")?;
        let passed = source(&sock)?;
        ensure!(passed == destination.ip(), "the source is {passed}, though the pool is full");
        let status = host.rule.status()?;
        ensure!(status.decided("pool_full")? == 1, "{status:?}");
        ensure!(status.spread()? == room, "{status:?}");
        // With fast ports, nearly all ports of one parity, which are half of the range, are handed out as fast ports.
        let count = status.decided("fast_port")?;
        let right = if fast { count > room / 3 } else { count == 0 };
        ensure!(right, "{count} fast ports: {}", status.decisions());
        // The sockets are closed before the rule ends: an emulated guest can hang when sockets are closed while a trampoline is
        // removed.
        drop((sock, held));
        spread.stop()?;
        host.rule.check_nothing_left()
    }
}

/// Checks that all `each` ports of each address of the pool are in use, by the kernel's list and by the status.
fn check_full(host: &Host, pool: &[&str], destination: SocketAddr, each: u64) -> Result<()> {
    let counts = host.in_use(pool, destination)?;
    ensure!(counts.iter().all(|count| *count == each), "ports in use: {counts:?}");
    host.rule.status_when("the status to have what the kernel has", |status| {
        pool.iter().filter_map(|address| address.parse().ok()).all(|address| {
            let expected = Counts { in_use: each, time_wait: 0, opened: each, failed: 0 };
            status.counts(Tuple::new(address, destination)) == expected
        })
    })?;
    Ok(())
}

/// Opens `count` connections to `peer` in the host's namespace, by this process, which is not in the rule's cgroup, and binds
/// them to the source `address` itself. An error if one fails.
pub(super) fn others(
    host: &Host,
    address: &str,
    peer: SocketAddr,
    count: u64,
) -> Result<Vec<Sock>> {
    host.stage.netns.run(|| {
        let connect = |_| -> Result<Sock> {
            let sock = Sock::tcp(peer)?;
            sock.set_bind_address_no_port()?;
            sock.bind(SocketAddr::new(address.parse()?, 0))?;
            sock.connect(peer)?;
            Ok(sock)
        };
        (0..count).map(connect).collect()
    })
}

/// Another process holds 300 ports of an address, half of them since before the rule: the rule uses all other ports of the pool.
fn partly_used() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let _older = others(&host, POOL[0], server.address, 150)?;
    let _spread = host.spread(&POOL, &[])?;
    let _newer = others(&host, POOL[0], server.address, 150)?;
    let mut held = Vec::new();
    for number in 0..ROOM - 300 {
        let sock = host.connect(server.address).with_context(|| format!("connect {number}"))?;
        held.push(sock);
    }
    check_full(&host, &POOL, server.address, PORTS)?;
    let passed = source(&host.connect(server.address)?)?;
    ensure!(passed == server.address.ip(), "the source is {passed}, though the pool is full");
    Ok(())
}

/// Eight threads connect sockets of eight processes at the same time: 99.9 % of the ports are used before a call fails or is not
/// spread.
fn eight_at_once() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let _spread = host.spread(&POOL, &[])?;
    let spawn = |_| host.stage.netns.run(|| Maker::spawn(&host.cgroup));
    let apps = (0..8).map(spawn).collect::<Result<Vec<_>>>()?;
    let (made, full, first_miss) = (AtomicU64::new(0), AtomicBool::new(false), AtomicU64::new(0));
    let connect = |app: &Maker| -> Result<Vec<Sock>> {
        let mut held = Vec::new();
        while !full.load(Ordering::Relaxed) {
            let sock = app.tcp(server.address)?;
            // Two calls can want the same last port, so that one of them fails: the test checks that the pool is nearly full by
            // then.
            let refused = sock.connect(server.address).is_err();
            if refused || source(&sock)? == server.address.ip() {
                if !full.swap(true, Ordering::Relaxed) {
                    first_miss.store(made.load(Ordering::Relaxed), Ordering::Relaxed);
                }
                break;
            }
            made.fetch_add(1, Ordering::Relaxed);
            held.push(sock);
        }
        Ok(held)
    };
    let held: Vec<Result<Vec<Sock>>> = thread::scope(|scope| {
        let running: Vec<_> = apps.iter().map(|app| scope.spawn(|| connect(app))).collect();
        let join = |it: thread::ScopedJoinHandle<'_, _>| {
            it.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        running.into_iter().map(join).collect()
    });
    let _held = held.into_iter().collect::<Result<Vec<_>>>()?;
    // Each of the seven other threads may have made a connection that it had not counted yet.
    let first_miss = first_miss.into_inner() + 7;
    ensure!(first_miss * 1000 >= ROOM * 999, "the first was not spread after {first_miss}");
    Ok(())
}

/// 4,000 connections are closed as soon as they are open: each port is in TIME_WAIT, and counts as used. So the kernel and the
/// status have all 1,000 ports of each of the four addresses in use, and the next connection has the default source.
fn time_wait() -> Result<()> {
    let mut host = Host::new()?;
    // With this, connect() takes over no TIME_WAIT, whatever the kernel's default is.
    host.stage.netns.sysctl("ipv4/tcp_tw_reuse", "0")?;
    let server = host.server("10.1.0.1:7000")?;
    let _spread = host.spread(&POOL, &[])?;
    for number in 0..ROOM {
        let sock = host.connect(server.address).with_context(|| format!("connect {number}"))?;
        let from = source(&sock)?;
        ensure!(from != server.address.ip(), "connect {number} was not spread");
        let accepted = server.listener.accept()?;
        drop(sock);
        drop(accepted);
    }
    let counts = host.in_use(&POOL, server.address)?;
    ensure!(counts.iter().all(|count| *count == PORTS), "ports in use: {counts:?}");
    wait_for("TIME_WAIT in the status", std::time::Duration::from_secs(3), || {
        let status = host.rule.status()?;
        let tuple = Tuple::new(POOL[0].parse()?, server.address);
        let expected = Counts { in_use: PORTS, time_wait: PORTS, opened: PORTS, failed: 0 };
        Ok((status.counts(tuple) == expected).then_some(()))
    })?;
    let passed = source(&host.connect(server.address)?)?;
    ensure!(passed == server.address.ip(), "the source is {passed}, though the pool is full");
    Ok(())
}
