//! Sockets that are exempt, by reason; and sockets that are not, although they look similar.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};

use super::{DEFAULT, GROUP, Scene, check};
use crate::{
    cases::{
        Case, Plan,
        spread::{Host, POOL, POOL6, source},
    },
    harness::{maker::Kind, probe},
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group(GROUP)
        .once(&[
            ("udp", udp),
            ("bound_to_a_device", bound_to_a_device),
            ("transparent", transparent),
            ("bound_to_a_port", bound_to_a_port),
            ("bound_to_an_address", bound_to_an_address),
            ("bound_to_no_address", bound_to_no_address),
            ("reuse_port", reuse_port),
            ("loopback_destination", loopback_destination),
            ("loopback_pool", loopback_pool),
        ])
        .once(&[
            ("ipv6_with_an_ipv4_pool", ipv6_with_an_ipv4_pool),
            ("two_families_in_one_pool", two_families),
        ])
        .unless(probe::no_ipv6())
        .once(&[("older_than_the_rule", older_than_the_rule)])
        .cases()
}

/// A UDP socket is exempt: `other_family` is counted once, and its source is the one that it has with spreading off.
fn udp() -> Result<()> {
    let scene = Scene::new(&[])?;
    let sock = scene.host.app.make(Kind::Udp, false)?;
    sock.connect(scene.server.address)?;
    check(&sock, Some(DEFAULT))?;
    scene.end_exempt("other_family", 1)
}

/// A socket that is bound to a device (SO_BINDTOIFINDEX) is exempt: `bound_to_device` is counted once, and its source is the one
/// that it has with spreading off.
fn bound_to_a_device() -> Result<()> {
    let scene = Scene::new(&[])?;
    let sock = scene.tcp()?;
    sock.set_device_lo()?;
    sock.connect(scene.server.address)?;
    check(&sock, Some(DEFAULT))?;
    scene.end_exempt("bound_to_device", 1)
}

/// A socket with IP_TRANSPARENT is exempt: `transparent` is counted once, and its source is the one that it has with spreading
/// off.
fn transparent() -> Result<()> {
    let scene = Scene::new(&[])?;
    let sock = scene.tcp()?;
    sock.set_transparent()?;
    sock.connect(scene.server.address)?;
    check(&sock, Some(DEFAULT))?;
    scene.end_exempt("transparent", 1)
}

/// Three sockets are bound: to a port only, to an address and a port, and to an address by a bind() that also chooses a port.
/// Each keeps its address and port, and is exempt (`has_port`).
fn bound_to_a_port() -> Result<()> {
    let scene = Scene::new(&[])?;
    for (bound, from) in
        [("0.0.0.0:40100", DEFAULT), ("10.1.0.2:40200", "10.1.0.2"), ("10.1.0.2:0", "10.1.0.2")]
    {
        let bound: SocketAddr = bound.parse()?;
        let sock = scene.tcp()?;
        sock.bind(bound)?;
        let port = sock.local()?.port();
        sock.connect(scene.server.address)?;
        check(&sock, Some(from))?;
        ensure!(sock.local()?.port() == port, "bound to {port}, connected by {:?}", sock.local());
    }
    scene.end_exempt("has_port", 3)
}

/// A socket that is bound to an address without a port (IP_BIND_ADDRESS_NO_PORT) keeps it, and is exempt: `has_address` is
/// counted once.
fn bound_to_an_address() -> Result<()> {
    let scene = Scene::new(&[])?;
    let sock = scene.tcp()?;
    sock.set_bind_address_no_port()?;
    sock.bind("10.1.0.2:0".parse()?)?;
    sock.connect(scene.server.address)?;
    check(&sock, Some("10.1.0.2"))?;
    scene.end_exempt("has_address", 1)
}

/// After bind(0.0.0.0, 0) with IP_BIND_ADDRESS_NO_PORT, the socket has neither address nor port: it connects from an address of
/// the pool.
fn bound_to_no_address() -> Result<()> {
    let scene = Scene::new(&[])?;
    let sock = scene.tcp()?;
    sock.set_bind_address_no_port()?;
    sock.bind("0.0.0.0:0".parse()?)?;
    sock.connect(scene.server.address)?;
    check(&sock, None)?;
    scene.end().map(drop)
}

/// 20 sockets with SO_REUSEPORT connect from addresses of the pool, as others do.
fn reuse_port() -> Result<()> {
    let scene = Scene::new(&[])?;
    let mut held = Vec::new();
    for _ in 0..20 {
        let sock = scene.tcp()?;
        sock.set_reuse_port()?;
        sock.connect(scene.server.address)?;
        check(&sock, None)?;
        held.push(sock);
    }
    scene.end().map(drop)
}

/// A connection to 127.0.0.1 is exempt, once (`loopback`), if the pool has no loopback address: its source is 127.0.0.1.
fn loopback_destination() -> Result<()> {
    let mut scene = Scene::new(&[])?;
    let server = scene.host.server("127.0.0.1:7001")?;
    let sock = scene.host.connect(server.address)?;
    check(&sock, Some("127.0.0.1"))?;
    scene.end_exempt("loopback", 1)
}

/// With a pool of loopback addresses, a connection to a loopback destination comes from the pool; one to another address does
/// not, and is counted as `loopback`, once.
fn loopback_pool() -> Result<()> {
    let mut host = Host::new()?;
    let servers = [host.server("127.0.0.1:7000")?, host.server("10.1.0.1:7001")?];
    let spread = host.spread(&["127.0.0.11-127.0.0.12"], &[])?;
    let from = source(&host.connect(servers[0].address)?)?.to_string();
    ensure!(["127.0.0.11", "127.0.0.12"].contains(&&*from), "from {from}");
    let from = source(&host.connect(servers[1].address)?)?.to_string();
    ensure!(from == DEFAULT, "a loopback address to another host: {from}");
    let status = host.rule.status()?;
    ensure!(status.decided("loopback")? == 1, "{status:?}");
    spread.stop()?;
    Ok(())
}

/// A connection to an IPv6 destination is exempt, once (`other_family`), if the pool has IPv4 addresses only: it has the source
/// that it has with spreading off.
fn ipv6_with_an_ipv4_pool() -> Result<()> {
    let mut host = Host::with_ipv6()?;
    let server = host.server("[fd00::1]:7000")?;
    let spread = host.spread(&POOL, &[])?;
    let from = source(&host.connect(server.address)?)?;
    ensure!(from == server.address.ip(), "from {from}");
    let status = host.rule.status()?;
    ensure!(status.decided("other_family")? == 1 && status.spread()? == 0, "{status:?}");
    spread.stop()?;
    Ok(())
}

/// A pool with two IPv4 and two IPv6 addresses: connections of each family use both addresses of that family alike (9 to 11 of
/// 20).
fn two_families() -> Result<()> {
    let mut host = Host::with_ipv6()?;
    let servers = [host.server("10.1.0.1:7000")?, host.server("[fd00::1]:7000")?];
    let pool = [&POOL[..2], &POOL6[..2]].concat();
    let spread = host.spread(&pool, &[])?;
    for (server, pool) in servers.iter().zip([&POOL[..2], &POOL6[..2]]) {
        let held = (0..20).map(|_| host.connect(server.address));
        let _held = held.collect::<Result<Vec<_>>>()?;
        let counts = host.in_use(pool, server.address)?;
        ensure!(counts.iter().all(|count| (9..=11).contains(count)), "{pool:?}: {counts:?}");
    }
    spread.stop()?;
    Ok(())
}

/// Of two sockets that are older than the rule, the connected one keeps its source and can send; the other one connects from an
/// address of the pool, and can send after the rule has ended.
fn older_than_the_rule() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let connected = host.connect(server.address)?;
    let made = host.app.tcp(server.address)?;
    let spread = host.spread(&POOL, &[])?;
    made.connect(server.address)?;
    let sources = [source(&connected)?.to_string(), source(&made)?.to_string()];
    let right = sources[0] == DEFAULT && POOL.contains(&&*sources[1]);
    ensure!(right, "sources are {sources:?}");
    connected.send(b"x").context("on the older connection")?;
    spread.stop()?;
    made.send(b"x").context("on a connection of an ended rule")?;
    Ok(())
}
