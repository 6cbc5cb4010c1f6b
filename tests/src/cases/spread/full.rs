//! `spread::full`: pools that are full, or nearly so.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::{io::Errno, process::Signal};

use super::{Case, Host, POOL, PORTS, Plan, fill::others, source};
use crate::harness::{
    netns::NetNs,
    probe,
    sock::Sock,
    tracer::{record::Record, status::Status, wait_for},
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("spread::full")
        .once(&[
            ("room_is_found_anywhere_in_a_large_pool", room_anywhere),
            ("reserved_ports_are_not_handed_out", reserved_ports),
            ("bound_ports_after_the_rule_has_moved", bound_ports_after_the_rule_has_moved),
        ])
        .once(&[
            ("fail_fast", fail_fast),
            ("fail_fast_beside_bound_ports", fail_fast_with_bound_ports),
        ])
        .unless(probe::no_fail_fast())
        .cases()
}

/// The source of a connection that is not spread.
const DEFAULT: &str = "10.1.0.1";

/// In a pool of 256 addresses with 20 ports each, all are full, and the next connection has the default source. When one port
/// becomes free, the next connection has its address, wherever it is: 16 times.
fn room_anywhere() -> Result<()> {
    const EACH: u64 = 20;
    let mut host = Host::new()?;
    host.stage.netns.ip("route add local 10.5.0.0/24 dev lo")?;
    host.stage.netns.sysctl("ipv4/ip_local_port_range", &format!("40000 {}", 39_999 + EACH))?;
    let server = host.server("10.1.0.1:7000")?;
    let spread = host.spread(&["10.5.0.0-10.5.0.255"], &[])?;
    let is_of_pool = |address: &IpAddr| address.to_string().starts_with("10.5.0.");
    let mut held = Vec::new();
    for number in 0..256 * EACH {
        let sock = host.connect(server.address).with_context(|| format!("connect {number}"))?;
        let from = source(&sock)?;
        ensure!(is_of_pool(&from), "connect {number} was not spread: {from}");
        held.push(sock);
    }
    let passed = source(&host.connect(server.address)?)?.to_string();
    ensure!(passed == DEFAULT, "the source is {passed}, though the pool is full");
    for turn in 0..16 {
        let closed = held.swap_remove(turn * 256);
        let free = source(&closed)?;
        closed.set_reset_on_close()?;
        drop(closed);
        let sock = host.connect(server.address)?;
        let from = source(&sock)?;
        ensure!(from == free, "turn {turn}: {free} alone had room, but the source is {from}");
        held.push(sock);
    }
    drop(held);
    spread.stop()?;
    host.rule.check_nothing_left()
}

/// 99 of 1,000 ports are reserved, at the end of a list that is longer than 32 bytes: the pool has room for 901 connections from
/// each of four addresses, none with a reserved port, also as a fast port; the next one has the default source. The status has
/// `reserved` as what takes ports, capacity 0 when all ports are reserved, and 1,000 when none is.
fn reserved_ports() -> Result<()> {
    const RESERVED: RangeInclusive<u16> = 40_001..=40_099;
    let mut host = Host::new()?;
    // The list names other ports before these, so that it is longer than 32 bytes: a program that reads the file into a buffer of
    // that size first gets no more than that.
    let others = (30_001..30_100).step_by(2).map(|port| port.to_string());
    let list = others.chain(["40001-40099".to_owned()]).collect::<Vec<_>>().join(",");
    host.stage.netns.sysctl("ipv4/ip_local_reserved_ports", &list)?;
    let server = host.server("10.1.0.1:7000")?;
    let spread = host.spread(&POOL, &[])?;
    let room = (PORTS - u64::try_from(RESERVED.count())?) * POOL.len() as u64;
    let mut held = Vec::new();
    for number in 0..room {
        let sock = host.connect(server.address).with_context(|| format!("connect {number}"))?;
        let local = sock.local()?;
        ensure!(!RESERVED.contains(&local.port()), "connect {number} has a reserved port: {local}");
        ensure!(local.ip().to_string() != DEFAULT, "connect {number} was not spread");
        held.push(sock);
    }
    let passed = source(&host.connect(server.address)?)?.to_string();
    ensure!(passed == DEFAULT, "the source is {passed}, though the pool is full");
    let status = host.rule.status()?;
    let fast = status.decided("fast_port")?;
    ensure!(fast > 0 || probe::no_fast_ports().is_some(), "no fast ports: {}", status.decisions());
    let taken_by = |status: &Status| status.taken_by == "reserved";
    ensure!(taken_by(&status), "what takes ports: {status:?}");
    host.stage.netns.sysctl("ipv4/ip_local_reserved_ports", "30000-50000")?;
    host.rule.status_when("no port to be left, and the reason", |status| {
        status.capacity == 0 && taken_by(status)
    })?;
    host.stage.netns.sysctl("ipv4/ip_local_reserved_ports", "\n")?;
    host.rule.status_when("all ports to be left", |status| {
        status.capacity == PORTS && status.taken_by.is_empty()
    })?;
    drop(held);
    spread.stop()?;
    Ok(())
}

/// With `--fail-fast` and all 1,000 ports taken, a connect() fails with EADDRNOTAVAIL, three times of three: another tracer has
/// these as `denied`, the status as `failed_fast`. Calls to another destination, of a process outside of the cgroup, and from an
/// address of its own succeed; so does the same socket once a port is free.
fn fail_fast() -> Result<()> {
    let mut host = Host::new()?;
    let servers = [host.server("10.1.0.1:7000")?, host.server("10.1.0.1:7001")?];
    let [full, other]: [SocketAddr; 2] = [servers[0].address, servers[1].address];
    let spread = host.spread(&POOL[..1], &["--fail-fast"])?;
    let mut held = (0..PORTS).map(|_| host.connect(full)).collect::<Result<Vec<_>>>()?;

    let record = Record::start("auto", &[])?;
    let sock = host.app.tcp(full)?;
    for turn in 1..=3 {
        let failed = sock.connect(full);
        ensure!(failed == Err(Errno::ADDRNOTAVAIL), "turn {turn}: {failed:?}");
    }
    let recording = record.stop()?;
    let failures = recording.events("connect.failed", host.stage.netns.inum());
    let causes: Vec<_> = failures.iter().map(|it| &it["cause"]).collect();
    ensure!(causes == ["denied"; 3], "{failures:?}");
    let status = host.rule.status()?;
    let right = status.decided("failed_fast")? == 3
        && status.decided("pool_full")? == 0
        && status.spread()? == PORTS;
    ensure!(right, "{}", status.decisions());

    let from = source(&host.connect(other)?)?.to_string();
    ensure!(from == POOL[0], "to another destination the source is {from}");
    let unspread = host.stage.netns.run(|| Sock::connected(full))?;
    let from = source(&unspread)?.to_string();
    ensure!(from == DEFAULT, "a process outside of the rule's cgroup has {from}");
    let chosen = host.app.tcp(full)?;
    chosen.set_bind_address_no_port()?;
    chosen.bind("10.1.0.2:0".parse()?)?;
    chosen.connect(full).context("from an address of its own")?;

    // The call failed, but the socket can still be used.
    let closed = held.swap_remove(500);
    closed.set_reset_on_close()?;
    drop(closed);
    sock.connect(full).context("when there was room again")?;
    let from = source(&sock)?.to_string();
    ensure!(from == POOL[0], "when there was room again the source is {from}");
    let status = host.rule.status()?;
    ensure!(status.decided("failed_fast")? == 3, "{}", status.decisions());
    drop((held, sock));
    spread.stop()?;
    host.rule.check_nothing_left()
}

/// With `--fail-fast`, a port that bind() had taken is free as soon as its socket is closed: in each of six turns, the next
/// connect() succeeds, although connect() was denied before, and in every other turn another port is bound at the same time.
fn fail_fast_with_bound_ports() -> Result<()> {
    const BOUND: u16 = 6;
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let bind = |port: u16| -> Result<Sock> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let sock = host.stage.netns.run(|| Sock::tcp(address))?;
        sock.bind(address)?;
        Ok(sock)
    };
    let mut bound = (40_000..40_000 + BOUND).map(bind).collect::<Result<Vec<_>>>()?;
    let spread = host.spread(&POOL[..1], &["--fail-fast"])?;
    let mut held = Vec::new();
    for turn in 0..BOUND {
        fill_until_denied(&host, server.address, &mut held)?;
        drop(bound.pop());
        let _another = if turn % 2 == 1 { Some(bind(40_500 + turn)?) } else { None };
        let sock = host.app.tcp(server.address)?;
        sock.connect(server.address).with_context(|| {
            format!("turn {turn}: denied, though a port was released: {:?}", host.rule.status())
        })?;
        sock.set_reset_on_close()?;
        drop(sock);
        for free in others(&host, POOL[0], server.address, 1).context("there was no port")? {
            free.set_reset_on_close()?;
        }
    }
    drop((held, bound));
    spread.stop()?;
    host.rule.check_nothing_left()
}

/// A rule has moved to another namespace, and its agent is stopped: a port that is bound there counts immediately, not only after
/// the agent's next reading, even if the same port was bound in the rule's earlier namespace, too. With all 1,000 ports bound,
/// the next connect() fails with EADDRNOTAVAIL, and `pool_full` is counted.
fn bound_ports_after_the_rule_has_moved() -> Result<()> {
    const ALL: RangeInclusive<u16> = 40_000..=40_999;
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let earlier = NetNs::new()?;
    earlier.ip(&format!("addr add {}/32 dev lo", POOL[0]))?;
    let bind_all = |netns: &NetNs| -> Result<Vec<Sock>> {
        let bind = |port: u16| {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let sock = netns.run(|| Sock::tcp(address))?;
            sock.bind(address)?;
            Ok(sock)
        };
        ALL.map(bind).collect()
    };
    let first = host.spread_in(&earlier, &POOL[..1], &["--on-exit", "keep"])?;
    let _bound_there = bind_all(&earlier)?;
    first.stop()?;
    let spread = host.spread(&POOL[..1], &[])?;
    spread.process.signal(Signal::STOP)?;
    let _bound_here = bind_all(&host.stage.netns)?;
    let sock = host.app.tcp(server.address)?;
    ensure!(sock.connect(server.address) == Err(Errno::ADDRNOTAVAIL), "there is no free port");
    let status = host.rule.status()?;
    ensure!(status.decided("pool_full")? == 1, "not full, but {}", status.decisions());
    spread.process.signal(Signal::CONT)?;
    spread.stop()?;
    host.rule.check_nothing_left()
}

/// Opens connections, which it adds to `held`, until all ports of the pool are used and a call is denied. An error if none is
/// denied for 10 s (longer in a guest), or a call fails in another way.
fn fill_until_denied(host: &Host, peer: SocketAddr, held: &mut Vec<Sock>) -> Result<()> {
    wait_for("a full pool", Duration::from_secs(10), || {
        loop {
            let sock = host.app.tcp(peer)?;
            match sock.connect(peer) {
                Ok(()) if source(&sock)?.to_string() == DEFAULT => {
                    // This call was neither spread nor denied: the agent has not read the bound ports yet.
                    sock.set_reset_on_close()?;
                    return Ok(None);
                }
                Ok(()) => held.push(sock),
                Err(Errno::ADDRNOTAVAIL) => return Ok(Some(())),
                Err(error) => return Err(error.into()),
            }
        }
    })
}
