//! While the pool is full, other processes of the same namespace notice nothing.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};

use super::{Application, Case, Host, POOL, PORTS, named, source};
use crate::{sock::Sock, stage::Server};

pub(super) fn cases() -> Vec<Case> {
    named(
        "spread::harmless",
        &[("others_while_full", others_while_full), ("other_cgroup", other_cgroup)],
    )
}

/// Those for guests, where time is dear.
pub(super) fn cases_of_guests() -> Vec<Case> {
    named("spread::harmless", &[("other_cgroup", other_cgroup)])
}

/// An address that is not of the pool, and free ports outside of the range.
const OTHER: &str = "10.1.0.2";
const LISTENING: u16 = 30_000;

/// What an unrelated process does; every failure is one too many.
fn everyday_life(host: &Host, servers: &[Server]) -> Result<()> {
    let other = |port: u16| -> Result<SocketAddr> { Ok(format!("{OTHER}:{port}").parse()?) };
    host.stage.netns.run(|| {
        let mut held = Vec::new();
        for turn in 0..100 {
            for server in servers {
                let sock = Sock::connected(server.address)
                    .with_context(|| format!("connect {turn} to {}", server.address))?;
                let from = source(&sock)?;
                ensure!(from == server.address.ip(), "not its cgroup, but from {from}");
                held.push(sock);
            }
        }
        drop(held);
        let mut held = Vec::new();
        for turn in 0..PORTS / 4 {
            let sock = Sock::tcp(other(0)?)?;
            sock.bind(other(0)?).with_context(|| format!("bind {turn} to a free port"))?;
            held.push(sock);
        }
        drop(held);
        // Every port of the range, and every other one listens.
        for port in 40_000..40_000 + u16::try_from(PORTS)? {
            let sock = Sock::tcp(other(port)?)?;
            sock.bind(other(port)?).with_context(|| format!("bind to port {port}"))?;
            if port % 2 == 0 {
                sock.listen(1).with_context(|| format!("listen on port {port}"))?;
            }
        }
        for port in LISTENING..LISTENING + 250 {
            let any = SocketAddr::from(([0, 0, 0, 0], port));
            let sock = Sock::tcp(any)?;
            sock.bind(any)?;
            sock.listen(1).with_context(|| format!("listen on port {port} of all addresses"))?;
        }
        Ok(())
    })
}

fn others_while_full() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let servers: Vec<Server> = (7001..=7010)
        .map(|port| host.server(&format!("10.1.0.1:{port}")))
        .collect::<Result<_>>()?;
    everyday_life(&host, &servers).context("without us")?;
    let spread = host.spread(&POOL, &[])?;
    let mut held = Vec::new();
    for _ in 0..PORTS * 4 {
        held.push(host.connect(server.address)?);
    }
    let counts = host.in_use(&POOL, server.address)?;
    ensure!(counts.iter().all(|count| *count == PORTS), "not full: {counts:?}");
    everyday_life(&host, &servers).context("while the pool is full")?;
    // Nor does what they do cost the application anything.
    drop(held);
    let from = source(&host.connect(servers[0].address)?)?;
    ensure!(POOL.contains(&&*from.to_string()), "the next one is from {from}");
    spread.stop()?;
    host.rule.check_nothing_left()
}

/// Two rules at once, each for its own application and pool.
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
