//! Sockets of all kinds behave as they do without us, but for their source.

mod rebind;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{Case, Host, POOL, POOL6, source};
use crate::{
    maker::Kind,
    probe,
    sock::Sock,
    stage::Server,
    tracer::spread::{Spread, Status},
    workloads::variant::submit_connect,
};

pub(super) fn cases() -> Vec<Case> {
    let case = |name: &str, test: fn() -> Result<()>| {
        Case::new(format!("spread::odd_sockets::{name}"), test)
    };
    let mut cases = vec![
        case("udp", udp),
        case("bound_to_a_device", bound_to_a_device),
        case("transparent", transparent),
        case("bound_to_a_port", bound_to_a_port),
        case("bound_to_an_address", bound_to_an_address),
        case("bound_to_no_address", bound_to_no_address),
        case("reuse_port", reuse_port),
        case("loopback_destination", loopback_destination),
        case("loopback_pool", loopback_pool),
        case("ipv6_with_an_ipv4_pool", ipv6_with_an_ipv4_pool).unless(probe::no_ipv6()),
        case("two_families_in_one_pool", two_families).unless(probe::no_ipv6()),
        case("older_than_the_rule", older_than_the_rule),
        case("same_outcomes", same_outcomes),
        case("connect_again_after_refusal", connect_again_after_refusal),
        case("connect_again_to_another_destination", connect_again_elsewhere),
        case("disconnected_and_connected_elsewhere", disconnected),
        case("nonblocking", nonblocking),
        case("io_uring", io_uring).unless(probe::no_io_uring()),
        case("mptcp", mptcp).unless(probe::no_mptcp()),
        case("fast_open", fast_open),
        case("fast_open_connect", fast_open_connect),
    ];
    cases.extend(rebind::cases());
    cases
}

/// A host whose rule is there, and a server.
struct Scene {
    spread: Spread,
    server: Server,
    host: Host,
}

/// What a socket has that is not spread.
const DEFAULT: &str = "10.1.0.1";
/// A port of the server's address on which nothing listens.
const CLOSED: &str = "10.1.0.1:7999";

impl Scene {
    fn new(arguments: &[&str]) -> Result<Self> {
        let mut host = Host::new()?;
        let server = host.server("10.1.0.1:7000")?;
        let spread = host.spread(&POOL, arguments)?;
        Ok(Self { spread, server, host })
    }

    fn tcp(&self) -> Result<Sock> {
        self.host.app.tcp(self.server.address)
    }

    /// The socket has been connected by a source of the pool, or by this one.
    fn check(sock: &Sock, expected: Option<&str>) -> Result<()> {
        let from = source(sock)?.to_string();
        let right = expected.map_or(POOL.contains(&&*from), |expected| from == expected);
        ensure!(right, "the source is {from}, not {}", expected.unwrap_or("one of the pool"));
        Ok(())
    }

    /// So often connect() was left alone for this reason; nothing was spread. The rule ends well.
    fn left_alone(self, reason: &str, count: u64) -> Result<()> {
        let status = self.host.rule.status()?;
        ensure!(status.decided(reason)? == count, "{reason} is not {count}: {status:?}");
        ensure!(status.spread()? == 0, "spread: {status:?}");
        self.end().map(drop)
    }

    /// The rule ends well; its last status.
    fn end(self) -> Result<Status> {
        let status = self.host.rule.status()?;
        self.spread.stop()?;
        self.host.rule.check_nothing_left()?;
        Ok(status)
    }
}

fn udp() -> Result<()> {
    let scene = Scene::new(&[])?;
    let sock = scene.host.app.make(Kind::Udp, false)?;
    sock.connect(scene.server.address)?;
    Scene::check(&sock, Some(DEFAULT))?;
    scene.left_alone("other_family", 1)
}

fn bound_to_a_device() -> Result<()> {
    let scene = Scene::new(&[])?;
    let sock = scene.tcp()?;
    sock.set_device_lo()?;
    sock.connect(scene.server.address)?;
    Scene::check(&sock, Some(DEFAULT))?;
    scene.left_alone("bound_to_device", 1)
}

fn transparent() -> Result<()> {
    let scene = Scene::new(&[])?;
    let sock = scene.tcp()?;
    sock.set_transparent()?;
    sock.connect(scene.server.address)?;
    Scene::check(&sock, Some(DEFAULT))?;
    scene.left_alone("transparent", 1)
}

/// To a port alone, to both, and to an address without leaving the port to connect().
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
        Scene::check(&sock, Some(from))?;
        ensure!(sock.local()?.port() == port, "bound to {port}, connected by {:?}", sock.local());
    }
    scene.left_alone("has_port", 3)
}

fn bound_to_an_address() -> Result<()> {
    let scene = Scene::new(&[])?;
    let sock = scene.tcp()?;
    sock.set_bind_address_no_port()?;
    sock.bind("10.1.0.2:0".parse()?)?;
    sock.connect(scene.server.address)?;
    Scene::check(&sock, Some("10.1.0.2"))?;
    scene.left_alone("has_address", 1)
}

/// bind(0.0.0.0, 0) that leaves the port to connect() says nothing.
fn bound_to_no_address() -> Result<()> {
    let scene = Scene::new(&[])?;
    let sock = scene.tcp()?;
    sock.set_bind_address_no_port()?;
    sock.bind("0.0.0.0:0".parse()?)?;
    sock.connect(scene.server.address)?;
    Scene::check(&sock, None)?;
    scene.end().map(drop)
}

fn reuse_port() -> Result<()> {
    let scene = Scene::new(&[])?;
    let mut held = Vec::new();
    for _ in 0..20 {
        let sock = scene.tcp()?;
        sock.set_reuse_port()?;
        sock.connect(scene.server.address)?;
        Scene::check(&sock, None)?;
        held.push(sock);
    }
    scene.end().map(drop)
}

fn loopback_destination() -> Result<()> {
    let mut scene = Scene::new(&[])?;
    let server = scene.host.server("127.0.0.1:7001")?;
    let sock = scene.host.connect(server.address)?;
    Scene::check(&sock, Some("127.0.0.1"))?;
    scene.left_alone("loopback", 1)
}

/// A pool of loopback addresses is for loopback destinations only.
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

/// Connected ones stay as they are, others are spread.
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

/// What connect() says, call after call, to a socket of the application and to one of others.
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
        // No route.
        &["192.0.2.1:7000", server],
        &["127.0.0.1:7999", server],
    ];
    for play in plays {
        let outcomes = |sock: &Sock| -> Result<Vec<_>> {
            play.iter().map(|peer| Ok(sock.connect(peer.parse()?))).collect()
        };
        let others = scene.host.stage.netns.run(|| outcomes(&Sock::tcp(scene.server.address)?))?;
        let sock = scene.tcp()?;
        let ours = outcomes(&sock)?;
        ensure!(ours == others, "{play:?}: {ours:?}, without us {others:?}");
    }
    scene.end().map(drop)
}

fn connect_again_after_refusal() -> Result<()> {
    let scene = Scene::new(&[])?;
    let sock = scene.tcp()?;
    ensure!(sock.connect(CLOSED.parse()?).is_err(), "not refused");
    sock.connect(scene.server.address)?;
    Scene::check(&sock, None)?;
    let status = scene.end()?;
    ensure!(status.spread()? == 2, "{status:?}");
    Ok(())
}

/// A source of ours must not stay where the rule does not reach.
fn connect_again_elsewhere() -> Result<()> {
    let scene = Scene::new(&["--to", CLOSED])?;
    let sock = scene.tcp()?;
    ensure!(sock.connect(CLOSED.parse()?).is_err(), "not refused");
    sock.connect(scene.server.address)?;
    Scene::check(&sock, Some(DEFAULT))?;
    let status = scene.end()?;
    let right = status.spread()? == 1 && status.decided("other_destination")? == 1;
    ensure!(right, "{status:?}");
    Ok(())
}

fn disconnected() -> Result<()> {
    let mut scene = Scene::new(&["--to", "10.1.0.1:7000"])?;
    let elsewhere = scene.host.server("10.1.0.1:7001")?;
    let sock = scene.tcp()?;
    for (peer, expected) in [(scene.server.address, None), (elsewhere.address, Some(DEFAULT))] {
        sock.connect(peer)?;
        Scene::check(&sock, expected)?;
        sock.disconnect()?;
    }
    sock.connect(scene.server.address)?;
    Scene::check(&sock, None)?;
    scene.end().map(drop)
}

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
        let ours = play(&sock, peer)?;
        ensure!(ours == others, "{peer}: {ours:?}, without us {others:?}");
        if peer == scene.server.address {
            Scene::check(&sock, None)?;
        }
    }
    scene.end().map(drop)
}

fn io_uring() -> Result<()> {
    let scene = Scene::new(&[])?;
    let sock = scene.tcp()?;
    let result = submit_connect(&sock, scene.server.address)?;
    ensure!(result == 0, "connect: {result}");
    Scene::check(&sock, None)?;
    let result = submit_connect(&scene.tcp()?, CLOSED.parse()?)?;
    ensure!(result == -libc::ECONNREFUSED, "not refused, but {result}");
    scene.end().map(drop)
}

/// Older kernels do not call the hooks for them: they are spread or not, and work.
fn mptcp() -> Result<()> {
    let scene = Scene::new(&[])?;
    let sock = scene.host.app.make(Kind::Mptcp, false)?;
    sock.connect(scene.server.address)?;
    let from = source(&sock)?.to_string();
    ensure!(from == DEFAULT || POOL.contains(&&*from), "from {from}");
    sock.send(b"x")?;
    let accepted = scene.server.listener.accept()?;
    ensure!(accepted.receive()? == 1, "no data came");
    scene.end().map(drop)
}

fn fast_open_server(scene: &Scene) -> Result<()> {
    scene.host.stage.netns.sysctl("ipv4/tcp_fastopen", "3")?;
    Ok(scene.server.listener.set_fast_open(64)?)
}

/// The first asks for a cookie, those after it carry data in their SYN.
fn fast_open() -> Result<()> {
    let scene = Scene::new(&[])?;
    fast_open_server(&scene)?;
    for turn in 0..10 {
        let sock = scene.tcp()?;
        let sent = sock.send_fast_open(b"hello", scene.server.address);
        let sent = sent.with_context(|| format!("sendto {turn}"))?;
        let accepted = scene.server.listener.accept()?;
        ensure!(sent == 5 && accepted.receive()? == 5, "not all data came");
        Scene::check(&sock, None)?;
    }
    scene.end().map(drop)
}

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
        Scene::check(&sock, None)?;
    }
    scene.end().map(drop)
}
