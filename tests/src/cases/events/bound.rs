//! Events of ports that bind() and listen() take, and the time that a port search of connect() takes.

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;
use serde_json::Value;

use super::{as_comm, is, is_number, one};
use crate::{
    harness::{
        process::Helper,
        sock::Sock,
        stage::{CLIENT, Stage},
        tracer::{
            record::{Recording, eventually},
            shared_record,
            watch::number,
        },
    },
    workloads::failure::expect_error,
};

/// A port from bind(address, 0), a port that bind() names, and one from listen() alone: each has an event when it is taken, with
/// the process, and one when it is released.
pub(super) fn bound_ports(backend: &str) -> Result<()> {
    let stage = Stage::new(&[])?;
    let shared = shared_record::begin(backend, &stage.netns)?;
    let any = "10.1.0.2:0".parse()?;
    let (bound, named, listening) = as_comm(&stage, c"evt-binder", || {
        let socks = [Sock::tcp(any)?, Sock::tcp(any)?, Sock::tcp(any)?];
        socks[0].bind(any)?;
        socks[1].bind("10.1.0.2:41000".parse()?)?;
        socks[2].listen(8)?;
        let ports = socks.iter().map(|sock| Ok(sock.local()?.port()));
        let ports = ports.collect::<Result<Vec<_>>>()?;
        drop(socks);
        Ok((ports[0], ports[1], ports[2]))
    })?;
    let recording = shared.end(&stage.netns)?;
    recording.assert_valid()?;
    let netns = stage.netns.inum();
    let cases = [
        (bound, "bind", CLIENT),
        (named, "bind", CLIENT),
        // listen() alone binds to any address.
        (listening, "listen", "0.0.0.0"),
    ];
    for (port, by, address) in cases {
        let allocated = one(&recording, "port.allocated", netns, port)?;
        is(allocated, "port.by", by)?;
        let released = one(&recording, "port.released", netns, port)?;
        ensure!(released["port.time_wait"] == Value::Bool(false), "{released}");
        let held = number(released, "port.held_ns")?;
        ensure!((1..5_000_000_000).contains(&held), "held for {held} ns");
        for event in [allocated, released] {
            is(event, "network.local.address", address)?;
            is(event, "network.type", "ipv4")?;
            is(event, "thread.name", "evt-binder")?;
            is_number(event, "process.pid", u64::from(std::process::id()))?;
            ensure!(event.get("network.peer.address").is_none(), "it has a peer: {event}");
            // listen() alone gives a socket no cookie; the ledger's key for it is no cookie, and must not be shown as one.
            let cookie = event.get("socket.cookie");
            ensure!(cookie.is_some() == (by == "bind"), "socket.cookie is {cookie:?}");
        }
        ensure!(allocated["socket.cookie"] == released["socket.cookie"], "{allocated} {released}");
    }
    let allocated = recording.events("port.allocated", netns).len();
    ensure!(allocated == cases.len(), "{allocated} ports, not {}", cases.len());
    Ok(())
}

/// The event of a failed bind() names what holds the port, and which process: a listener, a bound socket, a connection of another
/// process (with its peer's port), and a time-wait socket, which has a peer but belongs to no process.
pub(super) fn port_holders(backend: &str) -> Result<()> {
    let mut stage = Stage::new(&[])?;
    // The recording begins first: before Linux 6.8, the tracer knows only those bound, idle sockets that were bound after its
    // start.
    let shared = shared_record::begin(backend, &stage.netns)?;
    let server = stage.server("10.1.0.1:7000")?;
    let helper = stage.netns.run(|| -> Result<_> {
        let mut helper = Helper::spawn(&["hold", "10.1.0.1:7000", "1"])?;
        helper.ready()?;
        Ok(helper)
    })?;
    let accepted = server.listener.accept()?;
    let peer = accepted.peer()?;
    let (bound, waiting) = stage.netns.run(|| -> Result<_> {
        let bound = Sock::tcp("10.1.0.2:0".parse()?)?;
        bound.bind("10.1.0.2:41000".parse()?)?;
        let (client, accepted) = server.pair()?;
        let waiting = client.local()?;
        drop(client);
        drop(accepted);
        Ok((bound, waiting))
    })?;
    let here = u64::from(std::process::id());
    let cases = [
        (server.address, "listen", Some(here), None),
        (peer, "established", Some(u64::from(helper.id())), Some(7000)),
        (bound.local()?, "bound", Some(here), None),
        (waiting, "time_wait", None, Some(7000)),
    ];
    for (address, ..) in cases {
        // The call is repeated, because tracer looks for holders at a bounded rate, which other failures on the host may use up.
        eventually("an event with a holder", || {
            let bind = || expect_error(Sock::tcp(address)?.bind(address), Errno::ADDRINUSE);
            stage.netns.run(bind).with_context(|| address.to_string())?;
            let failures = shared.lines("bind.failed", address.port())?;
            Ok(failures.iter().any(|line| line.get("port.holder.state").is_some()))
        })?;
    }
    let recording = shared.end(&stage.netns)?;
    recording.assert_valid()?;
    for (address, state, pid, peer_port) in cases {
        let events = recording.events("bind.failed", stage.netns.inum());
        let named = events.into_iter().filter(|event| {
            event["network.local.port"].as_u64() == Some(address.port().into())
                && event.get("port.holder.state").is_some()
        });
        let named: Vec<_> = named.collect();
        ensure!(!named.is_empty(), "no event of {address} has a holder");
        for event in named {
            is(event, "port.holder.state", state)?;
            let number = |key: &str| event.get(key).and_then(Value::as_u64);
            ensure!(number("port.holder.pid") == pid, "the holder is not {pid:?}: {event}");
            ensure!(number("port.holder.peer.port") == peer_port, "{event}");
            ensure!(event.get("port.holder.name").is_some() == pid.is_some(), "{event}");
        }
    }
    drop((accepted, helper, bound));
    Ok(())
}

/// The event of a port that connect() chose has the time that the search took, more than 0 and below 1 s; the two events of a
/// port that bind() chose (taken, then used by connect()) have none.
pub(super) fn time_of_a_port_search(backend: &str) -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let shared = shared_record::begin(backend, &stage.netns)?;
    let (searched, bound) = stage.netns.run(|| -> Result<_> {
        let (client, _accepted) = server.pair()?;
        let bound = Sock::tcp(server.address)?;
        bound.bind("10.1.0.2:0".parse()?)?;
        bound.connect(server.address)?;
        Ok((client.local()?.port(), bound.local()?.port()))
    })?;
    let recording = shared.end(&stage.netns)?;
    recording.assert_valid()?;
    let netns = stage.netns.inum();
    let event = one(&recording, "port.allocated", netns, searched)?;
    let took = number(event, "search.duration_ns")?;
    ensure!((1..1_000_000_000).contains(&took), "the search took {took} ns");
    let events = of_port(&recording, netns, bound);
    // One event when bind() took the port, one when connect() used the port for a destination.
    ensure!(events.len() == 2, "{} events of a bound port: {events:?}", events.len());
    for event in events {
        ensure!(event.get("search.duration_ns").is_none(), "it has a search: {event}");
        is(event, "port.by", "bind")?;
    }
    Ok(())
}

fn of_port(recording: &Recording, netns: u64, port: u16) -> Vec<&Value> {
    let mut events = recording.events("port.allocated", netns);
    events.retain(|event| number(event, "network.local.port").ok() == Some(u64::from(port)));
    events
}
