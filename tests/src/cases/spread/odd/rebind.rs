//! `spread::rebind`: `--rebind` replaces the address of a bind() without a port; a bind() to a port that the application chose
//! keeps its address.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use anyhow::{Context, Result, ensure};

use super::{POOL, Scene, check};
use crate::{
    cases::{
        Case, Plan,
        spread::{Host, POOL6, PORTS, source},
    },
    harness::{probe, sock::Sock},
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("spread::rebind")
        .with(cases_of_guests(plan))
        .once(&[
            ("bound_with_a_port_of_the_kernel", bound_with_a_port_of_the_kernel),
            ("bound_with_a_port_and_some_destinations", bound_with_some_destinations),
            ("bound_to_a_port", bound_to_a_port),
            ("pool_full", pool_full),
            ("moved_address_full", moved_address_full),
            ("bound_ports_fill_the_pool", fills_the_pool),
            ("ports_bound_at_all_addresses", bound_everywhere),
            ("other_destination", other_destination),
            ("comes_and_goes", comes_and_goes),
        ])
        .cases()
}

/// The tests that guests run, too: few, because guests are slow. The first one is about the hook of connect() for IPv4, the
/// second one about that of bind() for IPv6.
pub(super) fn cases_of_guests(plan: &Plan) -> Vec<Case> {
    plan.group("spread::rebind")
        .once(&[("bound_without_a_port", bound_without_a_port)])
        .once(&[("ipv6_bound_with_a_port_of_the_kernel", ipv6)])
        .unless(probe::no_ipv6())
        .cases()
}

/// The tests that run with every backend on every kernel that can pin its links, because each backend has its own hooks for
/// bind().
pub(in crate::cases::spread) fn cases_by_backend(plan: &Plan) -> Vec<Case> {
    plan.group("spread::rebind")
        .each_backend(&[("fills_the_pool_without_a_port", fills_without_a_port)])
        .unless_on("kprobe", probe::no_links_of_probes())
        .cases()
}

/// An address of the host that is not in the pool.
const CHOSEN: &str = "10.1.0.2";

fn bound(scene: &Host, no_port: bool, port: u16) -> Result<Sock> {
    let address: SocketAddr = format!("{CHOSEN}:{port}").parse()?;
    let sock = scene.app.tcp(address)?;
    if no_port {
        sock.set_bind_address_no_port()?;
    }
    sock.bind(address)?;
    Ok(sock)
}

/// bind(address, 0) with IP_BIND_ADDRESS_NO_PORT, as in nginx and haproxy, 200 times: until connect(), getsockname() has the
/// bound address; then each is spread (`least_used`), with 45 to 55 of each address.
fn bound_without_a_port() -> Result<()> {
    let scene = Scene::new(&["--rebind"])?;
    let mut held = Vec::new();
    for _ in 0..200 {
        let sock = bound(&scene.host, true, 0)?;
        let before = source(&sock)?.to_string();
        ensure!(before == CHOSEN, "bound to {CHOSEN}, but getsockname() says {before}");
        sock.connect(scene.server.address)?;
        check(&sock, None)?;
        held.push(sock);
    }
    let counts = scene.host.in_use(&POOL, scene.server.address)?;
    ensure!(counts.iter().all(|count| (45..=55).contains(count)), "uneven: {counts:?}");
    // The sockets are closed before the rule ends: an emulated guest can hang when sockets are closed while a trampoline is
    // removed.
    drop(held);
    let status = scene.end()?;
    ensure!(status.decided("least_used")? == 200, "{}", status.decisions());
    Ok(())
}

/// The application's bind() takes no port, and past 45 % of a tuple's ports the spreader binds fast ports in connect(): these
/// must not count as bound by the application, which would lower the capacity of all addresses. All 120 ports of two addresses
/// are used, and the capacity stays 60.
fn fills_without_a_port(backend: &str) -> Result<()> {
    const EACH: u64 = 60;
    let mut host = Host::new()?;
    host.stage.netns.sysctl("ipv4/ip_local_port_range", &format!("40000 {}", 39_999 + EACH))?;
    let server = host.server("10.1.0.1:7000")?;
    let spread = host.spread(&POOL[..2], &["--rebind", "--backend", backend])?;
    let mut held = Vec::new();
    for turn in 0..EACH * 2 {
        let sock = bound(&host, true, 0)?;
        sock.connect(server.address).with_context(|| format!("connect {turn}"))?;
        let from = source(&sock)?.to_string();
        ensure!(from != CHOSEN, "connect {turn} was not spread: {:?}", host.rule.status()?);
        held.push(sock);
    }
    let status = host.rule.status()?;
    ensure!(status.capacity == EACH, "{status:?}");
    let fast = status.decided("fast_port")?;
    ensure!(fast > 0 || probe::no_fast_ports().is_some(), "no fast ports: {}", status.decisions());
    drop(held);
    spread.stop()?;
    host.rule.check_nothing_left()
}

/// bind(address, 0) without IP_BIND_ADDRESS_NO_PORT takes a port itself, so the address has to be replaced in bind() (`moved`):
/// 1,000 sockets keep their address and port in connect(), and are spread evenly (within 5 %).
fn bound_with_a_port_of_the_kernel() -> Result<()> {
    let scene = Scene::new(&["--rebind"])?;
    let mut held = Vec::new();
    for turn in 0..u32::try_from(PORTS)? {
        let sock = bound(&scene.host, false, 0).with_context(|| format!("bind {turn}"))?;
        let before = sock.local()?;
        sock.connect(scene.server.address).with_context(|| format!("connect {turn}"))?;
        ensure!(sock.local()? == before, "bound to {before}, connected by {:?}", sock.local()?);
        check(&sock, None)?;
        held.push(sock);
    }
    let counts = scene.host.in_use(&POOL, scene.server.address)?;
    let each = PORTS / counts.len() as u64;
    ensure!(counts.iter().all(|count| count.abs_diff(each) <= each / 20), "uneven: {counts:?}");
    let status = scene.end()?;
    ensure!(status.decided("moved")? == PORTS, "{}", status.decisions());
    Ok(())
}

/// In bind() the destination is not known yet: with `--to`, no address is replaced there (`moved` is 0), nor in connect() towards
/// the rule's destination or another one.
fn bound_with_some_destinations() -> Result<()> {
    let mut scene = Scene::new(&["--rebind", "--to", "10.1.0.1:7000"])?;
    let elsewhere = scene.host.server("10.1.0.1:7001")?;
    for peer in [scene.server.address, elsewhere.address] {
        let sock = bound(&scene.host, false, 0)?;
        check(&sock, Some(CHOSEN))?;
        sock.connect(peer)?;
        check(&sock, Some(CHOSEN))?;
    }
    let status = scene.host.rule.status()?;
    ensure!(status.decided("moved")? == 0, "{}", status.decisions());
    scene.end().map(drop)
}

/// As [`bound_with_a_port_of_the_kernel`], for IPv6 (cgroup/bind6): 200 sockets, more than an eighth of them from each address.
fn ipv6() -> Result<()> {
    const COUNT: u64 = 200;
    let mut host = Host::with_ipv6()?;
    let server = host.server("[fd00::1]:7000")?;
    let spread = host.spread(&POOL6, &["--rebind"])?;
    let mut held = Vec::new();
    for turn in 0..COUNT {
        let sock = host.app.tcp(server.address)?;
        sock.bind("[fd00::1]:0".parse()?).with_context(|| format!("bind {turn}"))?;
        let before = sock.local()?;
        sock.connect(server.address).with_context(|| format!("connect {turn}"))?;
        ensure!(sock.local()? == before, "bound to {before}, connected by {:?}", sock.local()?);
        held.push(sock);
    }
    let counts = host.in_use(&POOL6, server.address)?;
    let all = counts.iter().sum::<u64>() == COUNT;
    ensure!(all && counts.iter().all(|count| *count > COUNT / 8), "uneven: {counts:?}");
    drop(held);
    let status = host.rule.status()?;
    ensure!(status.decided("moved")? == COUNT, "{}", status.decisions());
    spread.stop()?;
    host.rule.check_nothing_left()
}

/// A bind() to a port that the application chose keeps its address and port, also after connect(): the socket is exempt, once
/// (`has_port`).
fn bound_to_a_port() -> Result<()> {
    let scene = Scene::new(&["--rebind"])?;
    let sock = bound(&scene.host, false, 40_100)?;
    sock.connect(scene.server.address)?;
    check(&sock, Some(CHOSEN))?;
    ensure!(sock.local()?.port() == 40_100, "another port: {:?}", sock.local()?);
    scene.end_exempt("has_port", 1)
}

/// With `--rebind`, 1,010 sockets that were bound to an address connect: the first 1,000 from the pool's address, until it is
/// full, the others from their own. No connect() fails.
fn pool_full() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let spread = host.spread(&POOL[..1], &["--rebind"])?;
    let mut held = Vec::new();
    for turn in 0..PORTS + 10 {
        let sock = bound(&host, true, 0)?;
        sock.connect(server.address).with_context(|| {
            format!("connect {turn}, which succeeds from {CHOSEN} with spreading off")
        })?;
        let from = source(&sock)?.to_string();
        let expected = if turn < PORTS { POOL[0] } else { CHOSEN };
        ensure!(from == expected, "connect {turn} is from {from}, not {expected}");
        held.push(sock);
    }
    spread.stop()?;
    host.rule.check_nothing_left()
}

/// Other processes have bound every port of one of two addresses of the pool: each of 50 bind() calls must be moved to the other
/// one.
fn moved_address_full() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let spread = host.spread(&POOL[..2], &["--rebind"])?;
    let full: IpAddr = POOL[1].parse()?;
    let _others = host.stage.netns.run(|| -> Result<Vec<Sock>> {
        (40_000..40_000 + u16::try_from(PORTS)?)
            .map(|port| {
                let address = SocketAddr::new(full, port);
                let sock = Sock::tcp(address)?;
                sock.bind(address)?;
                Ok(sock)
            })
            .collect()
    })?;
    let mut held = Vec::new();
    for turn in 0..50 {
        let sock = bound(&host, false, 0).with_context(|| {
            format!("bind {turn}, which succeeds at {CHOSEN} with spreading off")
        })?;
        let from = source(&sock)?.to_string();
        ensure!(from == POOL[0], "bind {turn} is at {from}, not at {}", POOL[0]);
        sock.connect(server.address)?;
        held.push(sock);
    }
    spread.stop()?;
    host.rule.check_nothing_left()
}

/// bind(address, 0) is moved to the pool until none of its addresses has a port left, evenly (within 5 %) half-way, too; then the
/// application's own address stays (`pool_full`). Once the ports are free, bind() is moved again.
fn fills_the_pool() -> Result<()> {
    const ALL: u64 = PORTS * POOL.len() as u64;
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let spread = host.spread(&POOL, &["--rebind"])?;
    let mut held = Vec::new();
    for part in 1..=2 {
        while (held.len() as u64) < ALL / 2 * part {
            let sock = bound(&host, false, 0).with_context(|| format!("bind {}", held.len()))?;
            sock.connect(server.address).with_context(|| format!("connect {}", held.len()))?;
            held.push(sock);
        }
        let (each, counts) = (PORTS / 2 * part, host.in_use(&POOL, server.address)?);
        let even = counts.iter().all(|count| count.abs_diff(each) <= each / 20);
        ensure!(even, "of {}, {counts:?}", held.len());
    }
    for turn in 0..10 {
        let sock =
            bound(&host, false, 0).with_context(|| format!("bind {turn} with a full pool"))?;
        check(&sock, Some(CHOSEN))?;
        held.push(sock);
    }
    let status = host.rule.status()?;
    ensure!(status.decided("pool_full")? == 10, "{}", status.decisions());
    // Once the ports are free, bind() is moved to the pool again.
    held.iter().try_for_each(Sock::set_reset_on_close)?;
    drop(held);
    let sock = bound(&host, false, 0)?;
    check(&sock, None)?;
    spread.stop()?;
    host.rule.check_nothing_left()
}

/// A port that is bound to any address (0.0.0.0 or ::) is bound at each address of the pool, too: when these ports and
/// those bound at one address make up the range, no bind() may be moved to that address.
fn bound_everywhere() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let spread = host.spread(&POOL[..1], &["--rebind"])?;
    // Half of these ports are bound at 0.0.0.0, the other half at :: if the kernel has IPv6: both take the port everywhere.
    let take = |from: u64, any: &str| -> Result<Vec<Sock>> {
        host.stage.netns.run(|| {
            (from..from + PORTS / 4)
                .map(|port| {
                    let address = SocketAddr::new(any.parse()?, 40_000 + u16::try_from(port)?);
                    let sock = Sock::tcp(address)?;
                    sock.bind(address)?;
                    Ok(sock)
                })
                .collect()
        })
    };
    let _by_ipv4 = take(0, "0.0.0.0")?;
    let any = if probe::no_ipv6().is_some() { "0.0.0.0" } else { "::" };
    let _by_other = take(PORTS / 4, any)?;
    let mut held = Vec::new();
    for turn in 0..PORTS / 2 + 10 {
        let sock = bound(&host, false, 0).with_context(|| {
            format!("bind {turn}, which succeeds at {CHOSEN} with spreading off")
        })?;
        let from = source(&sock)?.to_string();
        let expected = if turn < PORTS / 2 { POOL[0] } else { CHOSEN };
        ensure!(from == expected, "bind {turn} is at {from}, not at {expected}");
        sock.connect(server.address).with_context(|| format!("connect {turn}"))?;
        held.push(sock);
    }
    spread.stop()?;
    host.rule.check_nothing_left()
}

/// Towards a destination that is not the rule's, the bound address stays: the socket is exempt, once (`other_destination`).
fn other_destination() -> Result<()> {
    let scene = Scene::new(&["--rebind", "--to", "10.1.0.1:7999"])?;
    let sock = bound(&scene.host, true, 0)?;
    sock.connect(scene.server.address)?;
    check(&sock, Some(CHOSEN))?;
    scene.end_exempt("other_destination", 1)
}

/// Three agents take one rule over, the second one with `--rebind`: only with it are programs attached to bind(), and is the
/// address of a bind() replaced. Nothing is left after the release.
fn comes_and_goes() -> Result<()> {
    let host = Host::new()?;
    for rebind in [false, true, false] {
        let option: &[&str] = if rebind { &["--rebind"] } else { &[] };
        let spread = host.spread(&POOL, &[&["--on-exit", "keep"], option].concat())?;
        let sock = bound(&host, false, 0)?;
        let moved = source(&sock)?.to_string() != CHOSEN;
        ensure!(moved == rebind, "--rebind {rebind}: bind() was moved: {moved}");
        let hooks = hooks_of_bind(&host.rule.pins())?;
        ensure!(hooks.is_empty() != rebind, "--rebind {rebind}: {hooks:?}");
        drop(sock);
        spread.stop()?;
    }
    ensure!(host.rule.release()?.status.success(), "the rule is not released");
    host.rule.check_nothing_left()
}

/// The names of the rule's pinned links to cgroups for bind(). (Links of the ledger have no `@` in their names.)
fn hooks_of_bind(pins: &Path) -> Result<Vec<String>> {
    let names = fs::read_dir(pins.join("links"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut hooks = names.collect::<Result<Vec<_>>>()?;
    hooks.retain(|name| name.starts_with("bind") && name.contains('@'));
    Ok(hooks)
}
