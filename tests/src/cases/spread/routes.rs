//! `spread::routes`: addresses of the pool from which there is no route to a destination that the host can reach from another
//! address.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{Case, Host, POOL, POOL6, Plan, source};
use crate::harness::{
    netns::NetNs,
    probe,
    sock::Sock,
    tracer::{status::Status, wait_for},
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("spread::routes")
        .once(&[
            ("none_from_the_whole_pool", || whole_pool(&IPV4, "unreachable")),
            ("prohibited_from_the_whole_pool", || whole_pool(&IPV4, "prohibit")),
        ])
        .once(&[("prohibited_from_the_whole_pool_by_ipv6", || whole_pool(&IPV6, "prohibit"))])
        .unless(probe::no_ipv6())
        .once(&[
            ("none_from_one_address", one_address),
            ("none_to_one_destination", one_destination),
        ])
        .cases()
}

/// A link from the host to another one with a server.
struct Link {
    pool: [&'static str; 4],
    /// The network of the pool.
    network: &'static str,
    /// Address of the host on the link.
    near: &'static str,
    /// Address of the server on the link.
    far: &'static str,
    /// What follows both addresses in `ip addr add`: the prefix length, and for IPv6 `nodad`.
    length: &'static str,
    /// The option of `ip` for the address family, `-4` or `-6`.
    option: &'static str,
}

const IPV4: Link = Link {
    pool: POOL,
    network: "10.1.0.0/24",
    near: "10.2.0.1",
    far: "10.2.0.2",
    length: "/24",
    option: "-4",
};
const IPV6: Link = Link {
    pool: POOL6,
    network: "fd00::/64",
    near: "fd02::1",
    far: "fd02::2",
    length: "/64 nodad",
    option: "-6",
};

/// How soon the agent must leave addresses out, or use them again.
const KNOWN: Duration = Duration::from_secs(4);

impl Link {
    /// Makes the link. Returns the other host's namespace, the listener in it, and the listener's address.
    fn add(&self, host: &Host) -> Result<(NetNs, Sock, SocketAddr)> {
        let Self { network, near, far, length, option, .. } = self;
        let other = NetNs::new()?;
        let [near_end, far_end] = [near, far].map(|address| format!("{address}{length}"));
        host.stage.netns.veth(&[&near_end], &other, &[&far_end])?;
        other.ip(&format!("{option} route add {network} via {near}"))?;
        let peer = SocketAddr::new(far.parse()?, 7000);
        let listener = other.run(|| -> Result<Sock> {
            let listener = Sock::tcp(peer)?;
            listener.bind(peer)?;
            listener.listen(4096)?;
            Ok(listener)
        })?;
        Ok((other, listener, peer))
    }

    /// Runs `ip rule WHAT from FROM KIND` on the host, where WHAT is `add` or `del`, and KIND is what happens to packets with
    /// such a source, for example `prohibit`.
    fn ip_rule(&self, host: &Host, what: &str, from: &str, kind: &str) -> Result<()> {
        host.stage.netns.ip(&format!("{} rule {what} from {from} {kind}", self.option))
    }
}

/// Waits until exactly these addresses are left out towards this destination, because there is no route, and none is left out
/// towards all destinations.
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

/// There is no route from any address of the pool; with spreading off, every connection would succeed, from the address of the
/// interface. The agent must leave the whole pool out in time, and use it again when the routes are back. `kind`: see
/// [`Link::ip_rule`].
fn whole_pool(link: &Link, kind: &str) -> Result<()> {
    let host = if link.option == "-6" { Host::with_ipv6()? } else { Host::new()? };
    let (_other, _listener, peer) = link.add(&host)?;
    let spread = host.spread(&link.pool, &[])?;
    let is_spread = || -> Result<bool> {
        let from = source(&host.connect(peer)?)?.to_string();
        ensure!(from == link.near || link.pool.contains(&&*from), "from {from}");
        Ok(from != link.near)
    };
    ensure!(is_spread()?, "with routes from all addresses, it is not spread");

    link.ip_rule(&host, "add", link.network, kind)?;
    let begun = Instant::now();
    let mut failed = 0;
    while failed < 1000 && is_spread().unwrap_or(true) {
        failed += 1;
        thread::sleep(Duration::from_millis(10));
    }
    ensure!(begun.elapsed() < KNOWN, "{failed} connects failed in {:?}", begun.elapsed());
    left_out(&host, peer, &link.pool)?;
    // The agent looks for the routes again at each health check, every 1 s: while there is none, the addresses must stay
    // left out.
    while begun.elapsed() < KNOWN * 2 {
        ensure!(!is_spread().context("though the pool was left out")?, "spread without a route");
        thread::sleep(Duration::from_millis(10));
    }

    link.ip_rule(&host, "del", link.network, kind)?;
    wait_for("the pool to be used again", KNOWN, || Ok(is_spread()?.then_some(())))?;
    left_out(&host, peer, &[])?;
    spread.stop()?;
    Ok(())
}

/// There is no route to one destination: towards another one, all addresses are used as before (each for more than an eighth),
/// although the application calls both in turn. Towards the first, the whole pool is left out within 4 s.
fn one_destination() -> Result<()> {
    let mut host = Host::new()?;
    let (_other, _listener, unreachable) = IPV4.add(&host)?;
    let server = host.server("10.1.0.1:7000")?;
    let spread = host.spread(&POOL, &[])?;
    IPV4.ip_rule(&host, "add", IPV4.network, &format!("to {} prohibit", unreachable.ip()))?;
    let mut made = BTreeMap::new();
    let mut turn = || -> Result<()> {
        _ = host.connect(unreachable);
        *made.entry(source(&host.connect(server.address)?)?.to_string()).or_insert(0) += 1;
        Ok(())
    };
    wait_for("the pool to be left out there", KNOWN, || {
        turn()?;
        Ok(has_no_route(&host.rule.status()?, unreachable, &POOL).then_some(()))
    })?;
    for _ in 0..100 {
        turn()?;
    }
    let all = made.values().sum::<u32>();
    let even = made.len() == POOL.len() && made.values().all(|count| count * 8 > all);
    ensure!(even, "elsewhere it is spread over {made:?}");
    let from = source(&host.connect(unreachable)?)?.to_string();
    ensure!(from == IPV4.near, "the source is {from}, though the pool is left out");
    let status = host.rule.status()?;
    let here = status.left_out_towards(server.address);
    ensure!(status.left_out().is_empty() && here.is_empty(), "{status:?}");
    spread.stop()?;
    Ok(())
}

/// There is no route from one address of the pool: within 4 s it is left out, and the other three are used; when the route is
/// back, none is left out.
fn one_address() -> Result<()> {
    let host = Host::new()?;
    let (_other, _listener, peer) = IPV4.add(&host)?;
    let spread = host.spread(&POOL, &[])?;
    IPV4.ip_rule(&host, "add", POOL[1], "prohibit")?;
    wait_for("the address to be left out", KNOWN, || {
        _ = host.connect(peer);
        Ok(has_no_route(&host.rule.status()?, peer, &[POOL[1]]).then_some(()))
    })?;
    for _ in 0..200 {
        let from = source(&host.connect(peer)?)?.to_string();
        ensure!(from != POOL[1] && POOL.contains(&&*from), "from {from}");
    }
    IPV4.ip_rule(&host, "del", POOL[1], "prohibit")?;
    left_out(&host, peer, &[])?;
    spread.stop()?;
    Ok(())
}
