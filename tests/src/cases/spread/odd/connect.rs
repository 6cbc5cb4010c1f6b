//! connect() in all ways (blocking, non-blocking, by io_uring, MPTCP and TCP Fast Open), and again on the same socket.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{CLOSED, DEFAULT, GROUP, Scene, check};
use crate::{
    cases::{Case, Plan},
    harness::{maker::Kind, probe, sock::Sock},
    workloads::variant::submit_connect,
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group(GROUP)
        .once(&[
            ("same_outcomes", same_outcomes),
            ("connect_again_after_refusal", connect_again_after_refusal),
            ("connect_again_to_another_destination", connect_again_elsewhere),
            ("disconnected_and_connected_elsewhere", disconnected),
            ("nonblocking", nonblocking),
        ])
        .once(&[("io_uring", io_uring)])
        .unless(probe::no_io_uring())
        .once(&[("mptcp", mptcp)])
        .unless(probe::no_mptcp())
        .once(&[("fast_open", fast_open), ("fast_open_connect", fast_open_connect)])
        .cases()
}

/// Eight sequences of connect() calls, also to port 0, to multicast and broadcast addresses, and without a route, have the same
/// results on a socket of the application and on one of another process.
fn same_outcomes() -> Result<()> {
    let scene = Scene::new(&[])?;
    let server = "10.1.0.1:7000";
    let plays: [&[&str]; 8] = [
        &[server, server],
        &[CLOSED, CLOSED, server],
        &["10.1.0.1:0", server],
        &["0.0.0.0:7000", server],
        &["224.0.0.1:7000", server],
        &["255.255.255.255:7000", server],
        // There is no route to the first destination.
        &["192.0.2.1:7000", server],
        &["127.0.0.1:7999", server],
    ];
    for play in plays {
        let outcomes = |sock: &Sock| -> Result<Vec<_>> {
            play.iter().map(|peer| Ok(sock.connect(peer.parse()?))).collect()
        };
        let others = scene.host.stage.netns.run(|| outcomes(&Sock::tcp(scene.server.address)?))?;
        let sock = scene.tcp()?;
        let spread = outcomes(&sock)?;
        ensure!(spread == others, "{play:?}: {spread:?}, with spreading off {others:?}");
    }
    scene.end().map(drop)
}

/// A socket whose first connect() was spread and refused connects again, from an address of the pool: both calls count as spread.
fn connect_again_after_refusal() -> Result<()> {
    let scene = Scene::new(&[])?;
    let sock = scene.tcp()?;
    ensure!(sock.connect(CLOSED.parse()?).is_err(), "not refused");
    sock.connect(scene.server.address)?;
    check(&sock, None)?;
    let status = scene.end()?;
    ensure!(status.spread()? == 2, "{status:?}");
    Ok(())
}

/// An address of the pool that a refused connect() bound does not stay when the next destination is not the rule's: the source is
/// then that with spreading off (`other_destination`).
fn connect_again_elsewhere() -> Result<()> {
    let scene = Scene::new(&["--to", CLOSED])?;
    let sock = scene.tcp()?;
    ensure!(sock.connect(CLOSED.parse()?).is_err(), "not refused");
    sock.connect(scene.server.address)?;
    check(&sock, Some(DEFAULT))?;
    let status = scene.end()?;
    let right = status.spread()? == 1 && status.decided("other_destination")? == 1;
    ensure!(right, "{status:?}");
    Ok(())
}

/// One socket connects to the rule's destination, to another one and to the first again, with connect(AF_UNSPEC) between: its
/// source is of the pool, then that with spreading off, then of the pool.
fn disconnected() -> Result<()> {
    let mut scene = Scene::new(&["--to", "10.1.0.1:7000"])?;
    let elsewhere = scene.host.server("10.1.0.1:7001")?;
    let sock = scene.tcp()?;
    for (peer, expected) in [(scene.server.address, None), (elsewhere.address, Some(DEFAULT))] {
        sock.connect(peer)?;
        check(&sock, expected)?;
        sock.disconnect()?;
    }
    sock.connect(scene.server.address)?;
    check(&sock, None)?;
    scene.end().map(drop)
}

/// A non-blocking connect() that succeeds, and one that is refused, have the same results as with spreading off, also when they
/// have ended, and of a second call; the source of the first is of the pool.
fn nonblocking() -> Result<()> {
    let scene = Scene::new(&[])?;
    let play = |sock: &Sock, peer: SocketAddr| -> Result<_> {
        sock.set_nonblocking()?;
        let begun = sock.connect(peer);
        let ended = sock.wait_connected(Duration::from_secs(5));
        Ok((begun, ended, sock.connect(peer)))
    };
    for peer in [scene.server.address, CLOSED.parse()?] {
        let others = scene.host.stage.netns.run(|| play(&Sock::tcp(peer)?, peer))?;
        let sock = scene.tcp()?;
        let spread = play(&sock, peer)?;
        ensure!(spread == others, "{peer}: {spread:?}, with spreading off {others:?}");
        if peer == scene.server.address {
            check(&sock, None)?;
        }
    }
    scene.end().map(drop)
}

/// connect() through io_uring gets a source of the pool, and one to a port on which nobody listens ends with ECONNREFUSED.
fn io_uring() -> Result<()> {
    let scene = Scene::new(&[])?;
    let sock = scene.tcp()?;
    let result = submit_connect(&sock, scene.server.address)?;
    ensure!(result == 0, "connect: {result}");
    check(&sock, None)?;
    let result = submit_connect(&scene.tcp()?, CLOSED.parse()?)?;
    ensure!(result == -libc::ECONNREFUSED, "not refused, but {result}");
    scene.end().map(drop)
}

/// An MPTCP socket connects by a socket that the kernel makes: it is exempt, once (`kernel_socket`), has the source that it has
/// with spreading off, and its data arrives. This is the easiest way to get a socket of the kernel.
fn mptcp() -> Result<()> {
    let scene = Scene::new(&[])?;
    let sock = scene.host.app.make(Kind::Mptcp, false)?;
    sock.connect(scene.server.address)?;
    check(&sock, Some(DEFAULT))?;
    sock.send(b"x")?;
    let accepted = scene.server.listener.accept()?;
    ensure!(accepted.receive()? == 1, "no data came");
    scene.end_exempt("kernel_socket", 1)
}

fn fast_open_server(scene: &Scene) -> Result<()> {
    scene.host.stage.netns.sysctl("ipv4/tcp_fastopen", "3")?;
    Ok(scene.server.listener.set_fast_open(64)?)
}

/// sendto() with MSG_FASTOPEN, ten times: the first call requests a cookie, the others send data in their SYN. Each is spread,
/// and its data arrives.
fn fast_open() -> Result<()> {
    let scene = Scene::new(&[])?;
    fast_open_server(&scene)?;
    for turn in 0..10 {
        let sock = scene.tcp()?;
        let sent = sock.send_fast_open(b"hello", scene.server.address);
        let sent = sent.with_context(|| format!("sendto {turn}"))?;
        let accepted = scene.server.listener.accept()?;
        ensure!(sent == 5 && accepted.receive()? == 5, "not all data came");
        check(&sock, None)?;
    }
    scene.end().map(drop)
}

/// connect() with TCP_FASTOPEN_CONNECT and a first write, ten times: each is spread, and its data arrives.
fn fast_open_connect() -> Result<()> {
    let scene = Scene::new(&[])?;
    fast_open_server(&scene)?;
    for turn in 0..10 {
        let sock = scene.tcp()?;
        sock.set_fast_open_connect()?;
        sock.connect(scene.server.address).with_context(|| format!("connect {turn}"))?;
        sock.send(b"hello")?;
        let accepted = scene.server.listener.accept()?;
        ensure!(accepted.receive()? == 5, "not all data came");
        check(&sock, None)?;
    }
    scene.end().map(drop)
}
