//! Ports of sockets that call bind() or listen().

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::harness::{
    sock::Sock,
    stage::{CLIENT, Expected, Outcome, Server, Stage},
    tracer::{wait_for, watch::Reading},
    tuple::Tuple,
};

const ANY_PORT: &str = "10.1.0.2:0";

fn bound(
    peer: SocketAddr,
    local: &str,
    prepare: fn(&Sock) -> rustix::io::Result<()>,
) -> Result<Sock> {
    let sock = Sock::tcp(peer)?;
    prepare(&sock)?;
    sock.bind(local.parse()?)?;
    Ok(sock)
}

/// Ten sockets call `prepare`, bind(address, 0) and connect(), and are closed. `searches`: whether connect() must search for the
/// port, so that the tracer has measured how long that took; otherwise the tracer must have no such time.
fn bound_address(
    stage: &mut Stage,
    prepare: fn(&Sock) -> rustix::io::Result<()>,
    searches: bool,
) -> Result<()> {
    let server = stage.server("10.1.0.1:7000")?;
    let tuple = server.tuple_from(CLIENT)?;
    let socks = stage.netns.run(|| {
        (0..10).map(|_| bound(server.address, ANY_PORT, prepare)).collect::<Result<Vec<_>>>()
    })?;
    // A port that bind() took is in no tuple yet.
    stage.check(&[])?;
    for sock in &socks {
        sock.connect(server.address)?;
    }
    stage.check(&[(tuple, Expected::ports(10, 0).opened(10))])?;
    for (backend, reading) in stage.readings()? {
        let counts = reading.of(stage.netns.inum()).get(&tuple).cloned().unwrap_or_default();
        let took = counts.search_p99;
        let right = took.map_or(!searches, |ns| searches && (1..1_000_000_000).contains(&ns));
        ensure!(right, "{backend}: a port search of connect() took {took:?} ns");
    }
    drop(socks);
    stage.check(&[(tuple, Expected::ports(10, 10).opened(10))])
}

/// Ten sockets call bind(address, 0), by which the kernel chooses their ports, and then connect(): no tuple counts the ports
/// before connect(), then the tuple counts ten, and after close() ten in TIME_WAIT. The tracer has no time of a port search,
/// because connect() makes none.
pub fn bind_address(stage: &mut Stage) -> Result<()> {
    bound_address(stage, |_| Ok(()), false)
}

/// Ten sockets call bind(address, 0) with IP_BIND_ADDRESS_NO_PORT, so that connect() chooses the ports: the tuple counts ten, and
/// after close() ten in TIME_WAIT. The tracer has measured how long the port searches took: from 1 ns to less than 1 s.
pub fn bind_address_no_port(stage: &mut Stage) -> Result<()> {
    bound_address(stage, Sock::set_bind_address_no_port, true)
}

/// A socket that got its port by bind() keeps the port when the peer resets its connection, but the tuple does not count the port
/// any more. When the same descriptor connects again, the tuple counts the port again, and after close() in TIME_WAIT.
pub fn explicit_port(stage: &mut Stage) -> Result<()> {
    let server = stage.server("10.1.0.1:7000")?;
    let tuple = server.tuple_from(CLIENT)?;
    let sock = stage.netns.run(|| bound(server.address, "10.1.0.2:41000", |_| Ok(())))?;
    stage.netns.run(|| -> Result<()> {
        sock.connect(server.address)?;
        let accepted = server.listener.accept()?;
        accepted.set_reset_on_close()?;
        Ok(())
    })?;
    stage.check(&[(tuple, Expected::ports(0, 0).opened(1))])?;
    // The same descriptor connects again from the same port.
    stage.netns.run(|| sock.disconnect().and_then(|()| sock.connect(server.address)))?;
    stage.check(&[(tuple, Expected::ports(1, 0).opened(2))])?;
    drop(sock);
    stage.check(&[(tuple, Expected::ports(1, 1).opened(2))])
}

/// Two sockets share one local port by SO_REUSEADDR, and connect to two servers: the tuple of each server counts the port, and
/// after close() counts it in TIME_WAIT.
pub fn reuse_address(stage: &mut Stage) -> Result<()> {
    let first = stage.server("10.1.0.1:7000")?;
    let second = stage.server("10.1.0.1:7001")?;
    let local = "10.1.0.2:41000";
    let socks = stage.netns.run(|| -> Result<_> {
        let one = bound(first.address, local, Sock::set_reuse_address)?;
        let two = bound(second.address, local, Sock::set_reuse_address)?;
        one.connect(first.address)?;
        two.connect(second.address)?;
        Ok((one, two))
    })?;
    let tuples = [first.tuple_from(CLIENT)?, second.tuple_from(CLIENT)?];
    stage.check(&tuples.map(|tuple| (tuple, Expected::ports(1, 0).opened(1))))?;
    drop(socks);
    stage.check(&tuples.map(|tuple| (tuple, Expected::ports(1, 1).opened(1))))
}

/// The socket of one descriptor is a client, then a listener, then a client again: as a listener it is in no tuple, and a
/// connection to it is in the tuple of the connecting socket. In the end, its server's tuple has one port in use, and two that
/// were taken.
pub fn listen_in_between(stage: &mut Stage) -> Result<()> {
    let server = stage.server("10.1.0.1:7000")?;
    let sock = stage.netns.run(|| Sock::connected(server.address))?;
    stage.check(&[(server.tuple(), Expected::ports(1, 0).opened(1))])?;
    let (visitor, address) = stage.netns.run(|| -> Result<_> {
        sock.disconnect()?;
        sock.listen(8)?;
        let port = sock.local()?.port();
        let address = SocketAddr::from(([10, 1, 0, 1], port));
        Ok((Sock::connected(address)?, address))
    })?;
    stage.add_server(address.port());
    let visited = Tuple::new(address.ip(), address);
    stage.check(&[
        (server.tuple(), Expected::ports(0, 0).opened(1)),
        (visited, Expected::ports(1, 0).opened(1)),
    ])?;
    stage.netns.run(|| -> Result<()> {
        visitor.set_reset_on_close()?;
        drop(visitor);
        sock.shutdown_both()?;
        sock.connect(server.address)?;
        Ok(())
    })?;
    // The socket may have got the listener's old port again. `Stage::oracle` would leave it out as a server's, although the
    // socket is outgoing now: so only the server's port is left out here.
    let table = stage.oracle_with(&[server.address.port()])?;
    let here = table.get(&server.tuple()).map(|sockets| sockets.in_use);
    ensure!(here == Some(1), "the kernel has {table:?}");
    for (backend, reading) in stage.readings()? {
        let counts = reading.of(stage.netns.inum());
        let counts = counts.get(&server.tuple()).cloned().unwrap_or_default();
        ensure!((counts.in_use, counts.opened) == (1, 2), "{backend}: {counts:?}");
    }
    Ok(())
}

/// Each port of the range on which a program listens, and each reserved port, lowers the capacity of every tuple of the namespace
/// by one: with 50 ports, one listener and 4 reserved ports, connect() after 45 connections fails (`ports_exhausted`), and the
/// tracers show a capacity of 45 within 5 s.
pub fn listener_lowers_capacity(stage: &mut Stage) -> Result<()> {
    stage.netns.sysctl("ipv4/ip_local_port_range", "40000 40049")?;
    stage.netns.sysctl("ipv4/ip_local_reserved_ports", "40010-40013")?;
    let server = stage.server("10.1.0.1:7000")?;
    let _inside = stage.server("10.1.0.2:40020")?;
    let (_clients, _accepted) = stage.netns.run(|| server.pairs(45))?;
    stage.netns.run(|| -> Result<()> {
        let sock = Sock::tcp(server.address)?;
        super::failure::expect_error(sock.connect(server.address), rustix::io::Errno::ADDRNOTAVAIL)
    })?;
    let full = Expected::ports(45, 0).opened(45).failed("ports_exhausted", 1);
    stage.check(&[(server.tuple(), full)])?;
    // The tracer reads the ranges once a second.
    wait_capacity(stage, &server, 45, Duration::from_secs(5))
}

/// Waits until every tracer has this capacity (ports in all) for connections to this server; returns at once if the stage has no
/// tracer.
///
/// # Errors
/// A tracer still has another capacity, or none, after `limit` (see [`Place::limit`](crate::harness::probe::Place::limit)); the
/// text has what each of them has.
pub fn wait_capacity(
    stage: &mut Stage,
    server: &Server,
    wanted: u64,
    limit: Duration,
) -> Result<()> {
    let inum = stage.netns.inum();
    let capacity = |reading: &Reading| reading.of(inum).get(&server.tuple())?.capacity;
    let mut newest = Vec::new();
    wait_for(&format!("a capacity of {wanted}"), limit, || {
        newest = stage.readings()?.iter().map(|(_, reading)| capacity(reading)).collect();
        Ok(newest.iter().all(|one| *one == Some(wanted)).then_some(()))
    })
    .with_context(|| format!("the tracers say {newest:?}"))
}

/// connect(AF_UNSPEC) resets the connection, so that its port is free; then the same descriptor connects again: five times, with
/// no port in use at the end. For a connection of which one end has sent a FIN, the tracer must have what the kernel has.
pub fn disconnect(stage: &mut Stage) -> Result<()> {
    let first = stage.server("10.1.0.1:7000")?;
    let second = stage.server("10.1.0.1:7001")?;
    let sock = stage.netns.run(|| -> Result<Sock> {
        let sock = Sock::tcp(first.address)?;
        for _ in 0..5 {
            sock.connect(first.address)?;
            sock.disconnect()?;
        }
        Ok(sock)
    })?;
    stage.check(&[(first.tuple(), Expected::ports(0, 0).opened(5))])?;
    // The same for a socket that has sent a FIN. It depends on timing whether a time-wait socket stays, so `settle` compares the
    // tracer with whatever the kernel has.
    stage.netns.run(|| -> Result<()> {
        let (again, accepted) = second.pair()?;
        again.shutdown_write()?;
        drop(accepted);
        again.disconnect()?;
        again.connect(second.address)?;
        sock.connect(second.address)?;
        Ok(())
    })?;
    let outcome = Outcome::opened(8);
    stage.settle(&outcome)?;
    drop(sock);
    stage.settle(&outcome)?;
    Ok(())
}
