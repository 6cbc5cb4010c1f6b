//! Addresses of the pool from which no way leads to a destination to which one leads from others.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{Case, Host, POOL, POOL6, source};
use crate::harness::{
    netns::NetNs,
    probe,
    sock::Sock,
    tracer::{spread::Status, wait_for},
};

pub(super) fn cases() -> Vec<Case> {
    let case =
        |name: &str, test: fn() -> Result<()>| Case::new(format!("spread::routes::{name}"), test);
    vec![
        case("none_from_the_whole_pool", || whole_pool(&IPV4, "unreachable")),
        case("prohibited_from_the_whole_pool", || whole_pool(&IPV4, "prohibit")),
        case("prohibited_from_the_whole_pool_by_ipv6", || whole_pool(&IPV6, "prohibit"))
            .unless(probe::no_ipv6()),
        case("none_from_one_address", one_address),
        case("none_to_one_destination", one_destination),
    ]
}

/// Two hosts and what leads from one to the other.
struct Way {
    pool: [&'static str; 4],
    network: &'static str,
    ours: &'static str,
    theirs: &'static str,
    length: &'static str,
    option: &'static str,
}

const IPV4: Way = Way {
    pool: POOL,
    network: "10.1.0.0/24",
    ours: "10.2.0.1",
    theirs: "10.2.0.2",
    length: "/24",
    option: "-4",
};
const IPV6: Way = Way {
    pool: POOL6,
    network: "fd00::/64",
    ours: "fd02::1",
    theirs: "fd02::2",
    length: "/64 nodad",
    option: "-6",
};

/// How soon the agent must know.
const KNOWN: Duration = Duration::from_secs(4);

impl Way {
    /// The server, in a namespace of its own.
    fn lay(&self, host: &Host) -> Result<(NetNs, Sock, SocketAddr)> {
        let Self { network, ours, theirs, length, option, .. } = self;
        let far = NetNs::new()?;
        let [near_end, far_end] = [ours, theirs].map(|address| format!("{address}{length}"));
        host.stage.netns.veth(&[&near_end], &far, &[&far_end])?;
        far.ip(&format!("{option} route add {network} via {ours}"))?;
        let peer = SocketAddr::new(theirs.parse()?, 7000);
        let listener = far.run(|| -> Result<Sock> {
            let listener = Sock::tcp(peer)?;
            listener.bind(peer)?;
            listener.listen(4096)?;
            Ok(listener)
        })?;
        Ok((far, listener, peer))
    }

    fn rule(&self, host: &Host, what: &str, from: &str, kind: &str) -> Result<()> {
        host.stage.netns.ip(&format!("{} rule {what} from {from} {kind}", self.option))
    }
}

/// Waits for these addresses, and no others, to be left out towards this destination, and there only.
fn left_out(host: &Host, peer: SocketAddr, expected: &[&str]) -> Result<()> {
    host.rule.status_when("addresses to be left out", |status| {
        status.left_out().is_empty() && has_no_route(status, peer, expected)
    })?;
    Ok(())
}

fn has_no_route(status: &Status, peer: SocketAddr, expected: &[&str]) -> bool {
    let out: BTreeSet<String> = status
        .left_out_towards(peer)
        .into_iter()
        .filter(|(_, why)| why == "no route from it, where there is one without it")
        .map(|(address, _)| address.to_string())
        .collect();
    out == expected.iter().map(|it| (*it).to_owned()).collect()
}

/// Without us every connection would succeed, from the address of the interface.
fn whole_pool(way: &Way, kind: &str) -> Result<()> {
    let host = if way.option == "-6" { Host::with_ipv6()? } else { Host::new()? };
    let (_far, _listener, peer) = way.lay(&host)?;
    let spread = host.spread(&way.pool, &[])?;
    let is_spread = || -> Result<bool> {
        let from = source(&host.connect(peer)?)?.to_string();
        ensure!(from == way.ours || way.pool.contains(&&*from), "from {from}");
        Ok(from != way.ours)
    };
    ensure!(is_spread()?, "with a way from everywhere it is not spread");

    way.rule(&host, "add", way.network, kind)?;
    let begun = Instant::now();
    let mut failed = 0;
    while failed < 1000 && is_spread().unwrap_or(true) {
        failed += 1;
        thread::sleep(Duration::from_millis(10));
    }
    ensure!(begun.elapsed() < KNOWN, "{failed} connects failed in {:?}", begun.elapsed());
    left_out(&host, peer, &way.pool)?;
    // Longer than an address that failed is distrusted at first.
    while begun.elapsed() < KNOWN * 2 {
        ensure!(!is_spread().context("though the pool was left out")?, "spread without a way");
        thread::sleep(Duration::from_millis(10));
    }

    way.rule(&host, "del", way.network, kind)?;
    wait_for("the pool to be used again", KNOWN, || Ok(is_spread()?.then_some(())))?;
    left_out(&host, peer, &[])?;
    spread.stop()?;
    Ok(())
}

/// Another destination costs it nothing, though the application goes there all the time.
fn one_destination() -> Result<()> {
    let mut host = Host::new()?;
    let (_far, _listener, odd) = IPV4.lay(&host)?;
    let server = host.server("10.1.0.1:7000")?;
    let spread = host.spread(&POOL, &[])?;
    IPV4.rule(&host, "add", IPV4.network, &format!("to {} prohibit", odd.ip()))?;
    let mut made = BTreeMap::new();
    let mut turn = || -> Result<()> {
        _ = host.connect(odd);
        *made.entry(source(&host.connect(server.address)?)?.to_string()).or_insert(0) += 1;
        Ok(())
    };
    wait_for("the pool to be left out there", KNOWN, || {
        turn()?;
        Ok(has_no_route(&host.rule.status()?, odd, &POOL).then_some(()))
    })?;
    for _ in 0..100 {
        turn()?;
    }
    let all = made.values().sum::<u32>();
    let even = made.len() == POOL.len() && made.values().all(|count| count * 8 > all);
    ensure!(even, "elsewhere it is spread over {made:?}");
    ensure!(source(&host.connect(odd)?)?.to_string() == IPV4.ours, "not as without us");
    let status = host.rule.status()?;
    let here = status.left_out_towards(server.address);
    ensure!(status.left_out().is_empty() && here.is_empty(), "{status:?}");
    spread.stop()?;
    Ok(())
}

/// The others go on.
fn one_address() -> Result<()> {
    let host = Host::new()?;
    let (_far, _listener, peer) = IPV4.lay(&host)?;
    let spread = host.spread(&POOL, &[])?;
    IPV4.rule(&host, "add", POOL[1], "prohibit")?;
    wait_for("the address to be left out", KNOWN, || {
        _ = host.connect(peer);
        Ok(has_no_route(&host.rule.status()?, peer, &[POOL[1]]).then_some(()))
    })?;
    for _ in 0..200 {
        let from = source(&host.connect(peer)?)?.to_string();
        ensure!(from != POOL[1] && POOL.contains(&&*from), "from {from}");
    }
    IPV4.rule(&host, "del", POOL[1], "prohibit")?;
    left_out(&host, peer, &[])?;
    spread.stop()?;
    Ok(())
}
