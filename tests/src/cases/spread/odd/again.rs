//! connect() on a socket whose first connect() failed.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

use super::{CLOSED, DEFAULT, GROUP, POOL, check};
use crate::{
    cases::{
        Case, Plan,
        spread::{Host, POOL6, PORTS, source},
    },
    harness::{maker::Kind, probe, sock::Sock},
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group(GROUP)
        .once(&[("connect_again_when_the_pool_is_full", pool_full)])
        .once(&[
            ("ipv6_only_sockets_to_ipv4", ipv6_only),
            ("connect_again_to_ipv4_after_ipv6", ipv4_after_ipv6),
        ])
        .unless(probe::no_ipv6())
        .once(&[("connect_again_after_a_fast_port", fast_port)])
        .unless(probe::no_fast_ports())
        .cases()
}

/// A socket that a refused connect() bound to the pool's address connects when all 1,000 ports of the pool are taken: the call
/// succeeds, and its source is the one that it has with spreading off.
fn pool_full() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let spread = host.spread(&POOL[..1], &[])?;
    let held = (0..PORTS).map(|_| host.connect(server.address)).collect::<Result<Vec<_>>>()?;
    let sock = host.app.tcp(server.address)?;
    let refused = sock.connect(CLOSED.parse()?);
    ensure!(refused == Err(Errno::CONNREFUSED), "{refused:?}");
    let from = source(&sock)?.to_string();
    ensure!(from == POOL[0], "the first connect() was not spread: {from}");
    sock.connect(server.address).context("which succeeds with spreading off")?;
    check(&sock, Some(DEFAULT))?;
    drop((sock, held));
    spread.stop()?;
    host.rule.check_nothing_left()
}

/// IPv6-only sockets cannot be bound to an IPv4 address of the pool: their connect() to a v4-mapped address fails as with
/// spreading off, and because of these failures the agent must not leave out any address.
fn ipv6_only() -> Result<()> {
    let mut host = Host::with_ipv6()?;
    let server = host.server("10.1.0.1:7000")?;
    let mapped = "[::ffff:10.1.0.1]:7000".parse()?;
    let spread = host.spread(&POOL, &[])?;
    let nothing_left_out = || -> Result<()> {
        let left_out = host.rule.status()?.left_out();
        ensure!(left_out.is_empty(), "left out: {left_out:?}");
        Ok(())
    };
    let others = host.stage.netns.run(|| -> Result<_> {
        let sock = Sock::tcp6()?;
        sock.set_ipv6_only()?;
        Ok(sock.connect(mapped))
    })?;
    for turn in 0..100 {
        let sock = host.app.make(Kind::Tcp, true)?;
        sock.set_ipv6_only()?;
        let result = sock.connect(mapped);
        let same = result == others && result.is_err();
        ensure!(same, "turn {turn}: {result:?}, with spreading off {others:?}");
        if turn % 20 == 0 {
            nothing_left_out()?;
        }
    }
    // After this time the agent has read the decisions about these calls.
    thread::sleep(Duration::from_millis(200));
    nothing_left_out()?;
    let status = host.rule.status()?;
    ensure!(status.decided("refused")? == 100, "{}", status.decisions());
    check(&host.connect(server.address)?, None)?;
    spread.stop()?;
    Ok(())
}

/// A limit in `tracer/doc/limits.md`: bind() to an IPv6 address, also by a BPF program, makes a socket IPv6-only. So after a
/// spread connect() to an IPv6 address, which was refused, the socket cannot connect to a v4-mapped address (ENETUNREACH).
fn ipv4_after_ipv6() -> Result<()> {
    let mut host = Host::with_ipv6()?;
    let server = host.server("10.1.0.1:7000")?;
    let [closed, mapped]: [SocketAddr; 2] =
        ["[fd00::1]:7999".parse()?, "[::ffff:10.1.0.1]:7000".parse()?];
    let spread = host.spread(&[&POOL[..], &POOL6[..]].concat(), &[])?;
    let sock = host.app.make(Kind::Tcp, true)?;
    let refused = sock.connect(closed);
    ensure!(refused == Err(Errno::CONNREFUSED), "{refused:?}");
    let failed = sock.connect(mapped);
    ensure!(failed == Err(Errno::NETUNREACH), "{failed:?}");
    let sock = host.app.make(Kind::Tcp, true)?;
    sock.connect(mapped)?;
    check(&sock, None)?;
    drop((sock, server));
    spread.stop()?;
    Ok(())
}

/// A limit in `tracer/doc/limits.md`: a fast port (one that the spreader has bound) and its source stay with the socket when its
/// connect() fails. With spreading off, the kernel would choose again for the next connect().
fn fast_port() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let (first, elsewhere) = (server.address, host.server("10.1.0.1:7001")?);
    let spread = host.spread(&POOL[..1], &["--to", &first.to_string()])?;
    // The connections are accepted, because those in the queue would end with the listener.
    let mut held = Vec::new();
    for _ in 0..PORTS * 6 / 10 {
        held.push((host.connect(first)?, server.listener.accept()?));
    }
    drop(server);
    let refused = || -> Result<Sock> {
        let sock = host.app.tcp(first)?;
        let refused = sock.connect(first);
        ensure!(refused == Err(Errno::CONNREFUSED), "{refused:?}");
        Ok(sock)
    };
    let sock = refused()?;
    let given = sock.local()?;
    ensure!(given.port() != 0, "the port is gone: {given}");
    sock.connect(elsewhere.address)?;
    ensure!(sock.local()? == given, "{given} did not stay: {}", sock.local()?);

    // Another socket has the 4-tuple that the kept port would give: only then does connect() fail where it would not with
    // spreading off.
    let sock = refused()?;
    let given = sock.local()?;
    let _other = host.stage.netns.run(|| -> Result<Sock> {
        let other = Sock::tcp(given)?;
        other.set_reuse_address()?;
        other.bind(given)?;
        other.connect(elsewhere.address)?;
        Ok(other)
    })?;
    let failed = sock.connect(elsewhere.address);
    ensure!(failed == Err(Errno::ADDRNOTAVAIL), "{failed:?}");
    // A new socket, which is what programs use, is not affected.
    check(&host.connect(elsewhere.address)?, Some(DEFAULT))?;

    // The socket also keeps its port and source towards the first destination, once a server listens there again.
    let sock = refused()?;
    let given = sock.local()?;
    let _server = host.server(&first.to_string())?;
    sock.connect(first)?;
    ensure!(sock.local()? == given, "{given} did not stay: {}", sock.local()?);
    let status = host.rule.status()?;
    ensure!(status.decided("fast_port")? > 0, "{}", status.decisions());
    drop((sock, held));
    spread.stop()?;
    Ok(())
}
