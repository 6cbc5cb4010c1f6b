//! `spread::harmless`: while the pool is full, other processes of the same namespace lose only what is documented.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

use super::{Application, Case, Host, POOL, PORTS, Plan, fill::others, source};
use crate::harness::{sock::Sock, stage::Server};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("spread::harmless")
        .once(&[("others_while_full", others_while_full), ("other_cgroup", other_cgroup)])
        .cases()
}

/// The tests that guests run: few, because guests are slow.
pub(super) fn cases_of_guests(plan: &Plan) -> Vec<Case> {
    plan.group("spread::harmless").once(&[("other_cgroup", other_cgroup)]).cases()
}

/// An address of the host that is not in the pool.
const OTHER: &str = "10.1.0.2";
/// The first of 250 free ports outside of the range.
const LISTENING: u16 = 30_000;
/// How many connections the unrelated process opens and closes, one after the other.
const BRIEF: usize = 10_000;

/// What an unrelated process could do: how many calls of each kind succeeded.
#[derive(Debug, Eq, PartialEq)]
struct Life {
    /// Number of connections that the process can hold at a time to a destination that the application does not use, from the
    /// address that the kernel chooses.
    held: u64,
    /// As `held`, but from an address of the pool, which the process binds itself.
    held_from_the_pool: u64,
    /// Number of sockets that the process can bind at a time by bind(address, 0) to an address outside of the pool.
    bound: u64,
    /// As `bound`, but to an address of the pool.
    bound_in_the_pool: u64,
    /// As `bound`, but to 0.0.0.0.
    bound_to_any: u64,
    /// Number of ports of the range that the process can bind, one after another, at an address outside of the pool; it also
    /// listens on every second one.
    chosen: u64,
    /// As `chosen`, but at an address of the pool.
    chosen_in_the_pool: u64,
    /// As `chosen`, but at 0.0.0.0.
    chosen_of_any: u64,
    /// As `chosen`, but at 0.0.0.0, of the 250 ports from [`LISTENING`] on.
    listening: u64,
}

/// What the unrelated process can do if no other process uses the namespace.
const ALONE: Life = Life {
    held: PORTS,
    held_from_the_pool: PORTS,
    bound: PORTS,
    bound_in_the_pool: PORTS,
    bound_to_any: PORTS,
    chosen: PORTS,
    chosen_in_the_pool: PORTS,
    chosen_of_any: PORTS,
    listening: 250,
};

/// What the unrelated process can do while another program, without a rule, holds every port of every address of the pool
/// towards one destination: bind() finds no free port at the pool's addresses.
const WITH_FULL_TUPLES: Life = Life {
    bound_in_the_pool: 0,
    bound_to_any: 0,
    chosen_in_the_pool: 0,
    chosen_of_any: 0,
    ..ALONE
};

/// What the unrelated process can do while the application holds the same ports by a rule. Half of the ports, those of one
/// parity, are fast ports: a fast port is bound, and no other connect() is given a bound port.
const WITH_A_FULL_POOL: Life =
    Life { held: PORTS / 2, held_from_the_pool: PORTS / 2, ..WITH_FULL_TUPLES };

impl Life {
    fn live(host: &Host, servers: &[Server]) -> Result<Self> {
        let range = || 40_000..40_000 + u16::try_from(PORTS).unwrap_or_default();
        let peer = servers[0].address;
        host.stage.netns.run(|| {
            brief(servers)?;
            Ok(Self {
                held: until_refused(|| Sock::connected(peer), Errno::ADDRNOTAVAIL)?,
                held_from_the_pool: until_refused(
                    || {
                        let sock = Sock::tcp(peer)?;
                        sock.set_bind_address_no_port()?;
                        sock.bind(at(POOL[0], 0))?;
                        sock.connect(peer).map(|()| sock)
                    },
                    Errno::ADDRNOTAVAIL,
                )?,
                bound: until_refused(|| bound(at(OTHER, 0)), Errno::ADDRINUSE)?,
                bound_in_the_pool: until_refused(|| bound(at(POOL[0], 0)), Errno::ADDRINUSE)?,
                bound_to_any: until_refused(|| bound(at("0.0.0.0", 0)), Errno::ADDRINUSE)?,
                chosen: binds_and_listens(range(), OTHER)?,
                chosen_in_the_pool: binds_and_listens(range(), POOL[0])?,
                chosen_of_any: binds_and_listens(range(), "0.0.0.0")?,
                listening: binds_and_listens(LISTENING..LISTENING + 250, "0.0.0.0")?,
            })
        })
    }
}

fn at(address: &str, port: u16) -> SocketAddr {
    format!("{address}:{port}").parse().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], port)))
}

fn bound(address: SocketAddr) -> rustix::io::Result<Sock> {
    let sock = Sock::tcp(address)?;
    sock.bind(address)?;
    Ok(sock)
}

/// Opens and closes connections to other destinations, none of which may fail or be spread.
fn brief(servers: &[Server]) -> Result<()> {
    for (turn, server) in servers.iter().cycle().take(BRIEF).enumerate() {
        let sock = Sock::connected(server.address)
            .with_context(|| format!("connect {turn} to {}", server.address))?;
        let from = source(&sock)?;
        ensure!(from == server.address.ip(), "outside of the rule's cgroup, but from {from}");
        sock.set_reset_on_close()?;
    }
    Ok(())
}

/// How many sockets can be made and held; the next call must fail with this errno. An error if it fails with another one, or if
/// some 2,000 sockets are held without a failure.
fn until_refused(make: impl Fn() -> rustix::io::Result<Sock>, refusal: Errno) -> Result<u64> {
    let mut held = Vec::new();
    let errno = loop {
        match make() {
            Ok(_) if held.len() as u64 > 2 * PORTS => anyhow::bail!("it is never refused"),
            Ok(sock) => held.push(sock),
            Err(errno) => break errno,
        }
    };
    ensure!(errno == refusal, "number {}: {errno}, not {refusal}", held.len());
    for sock in &held {
        sock.set_reset_on_close()?;
    }
    Ok(held.len() as u64)
}

/// How many of these ports can be bound, each socket being closed before the next call; every second one listens, too. A port
/// that is in use (EADDRINUSE) does not count; other failures are errors.
fn binds_and_listens(ports: std::ops::Range<u16>, address: &str) -> Result<u64> {
    let mut succeeded = 0;
    for port in ports {
        match bound(at(address, port)) {
            Ok(sock) if port % 2 == 0 => sock.listen(1).with_context(|| format!("port {port}"))?,
            Ok(_) => {}
            Err(Errno::ADDRINUSE) => continue,
            Err(errno) => anyhow::bail!("bind to port {port}: {errno}"),
        }
        succeeded += 1;
    }
    Ok(succeeded)
}

/// What an unrelated process can do alone ([`ALONE`]), with full tuples ([`WITH_FULL_TUPLES`]), with a full pool
/// ([`WITH_A_FULL_POOL`]), and after the pool is empty again (as alone).
fn others_while_full() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let servers: Vec<Server> = (7001..=7010)
        .map(|port| host.server(&format!("10.1.0.1:{port}")))
        .collect::<Result<_>>()?;
    let alone = Life::live(&host, &servers).context("alone")?;
    ensure!(alone == ALONE, "alone: {alone:?}");

    // The same tuples, filled by a program that binds the addresses itself.
    let held = POOL.map(|address| others(&host, address, server.address, PORTS));
    let held = held.into_iter().collect::<Result<Vec<_>>>()?;
    let without = Life::live(&host, &servers).context("with spreading off")?;
    ensure!(without == WITH_FULL_TUPLES, "with full tuples, and spreading off: {without:?}");
    held.iter().flatten().try_for_each(Sock::set_reset_on_close)?;
    drop(held);

    let spread = host.spread(&POOL, &[])?;
    let mut held = Vec::new();
    for _ in 0..PORTS * 4 {
        held.push(host.connect(server.address)?);
    }
    let counts = host.in_use(&POOL, server.address)?;
    ensure!(counts.iter().all(|count| *count == PORTS), "not full: {counts:?}");
    let with = Life::live(&host, &servers).context("while the pool is full")?;
    ensure!(with == WITH_A_FULL_POOL, "with a full pool: {with:?}");
    // The calls of the unrelated process cost the application nothing. Ports that it held while the agent read the bound ports
    // are missing in the rule until the next reading.
    held.iter().try_for_each(Sock::set_reset_on_close)?;
    drop(held);
    let status = host.rule.status_when("every port is room", |status| status.capacity == PORTS)?;
    let next = host.connect(servers[0].address)?;
    let from = source(&next)?;
    ensure!(POOL.contains(&&*from.to_string()), "the next one is from {from}; before: {status:?}");
    next.set_reset_on_close()?;
    drop(next);
    let after = Life::live(&host, &servers).context("when the pool is empty again")?;
    ensure!(after == ALONE, "what was lost does not come back: {after:?}");
    spread.stop()?;
    host.rule.check_nothing_left()
}

/// Two rules at the same time, each for its own application and two addresses: 50 connections of each come from the pool of their
/// own rule, and when the first rule ends, only its application is not spread any more.
fn other_cgroup() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let first = host.spread(&POOL[..2], &[])?;
    let neighbour = Application::new(&host.stage.netns)?;
    let second = neighbour.spread_in(&host.stage.netns, &POOL[2..], &[])?;
    for (application, pool) in [(&*host, &POOL[..2]), (&neighbour, &POOL[2..])] {
        for _ in 0..50 {
            let from = source(&application.connect(server.address)?)?.to_string();
            ensure!(pool.contains(&&*from), "{from} is of the other rule");
        }
    }
    first.stop()?;
    host.rule.check_nothing_left()?;
    ensure!(source(&host.connect(server.address)?)? == server.address.ip(), "still spread");
    let from = source(&neighbour.connect(server.address)?)?.to_string();
    ensure!(POOL[2..].contains(&&*from), "the other rule has ended too: {from}");
    second.stop()?;
    neighbour.rule.check_nothing_left()
}
