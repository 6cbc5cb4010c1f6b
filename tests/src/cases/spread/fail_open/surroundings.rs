//! Addresses, namespaces and cgroups go, and some come back.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{KEEP, all_spread, begin, none_spread};
use crate::{
    cases::{
        Case,
        spread::{Host, POOL, Test, load::Load, named, source},
    },
    maker::Maker,
    netns::NetNs,
    probe::Place,
    sock::Sock,
    tracer::{spread::Spread, wait_for},
};

pub(super) fn cases() -> Vec<Case> {
    let tests: &[Test] = &[
        ("address_removed", address_removed),
        ("all_addresses_gone", all_addresses_gone),
        ("namespace_of_the_pool_gone", namespace_gone),
        ("cgroup_removed", cgroup_removed),
        ("cgroup_removed_of_a_dead_agent", cgroup_removed_of_a_dead_agent),
        ("tables_full", tables_full),
    ];
    named("spread::fail_open", tests)
}

/// How soon a missing address must be out of the pool; the status itself takes a part of it.
const OUT_LIMIT: Duration = Duration::from_millis(300);
/// How soon one that is back must be used: it may be distrusted for some seconds.
const BACK_LIMIT: Duration = Duration::from_secs(8);

fn address_removed() -> Result<()> {
    let host = Host::new()?;
    let (name, gone): (_, IpAddr) = (POOL[1], POOL[1].parse()?);
    Load::start(&host)?.around(|load| {
        let spread = begin(&host, load, &[])?;
        for _ in 0..2 {
            load.forgive_one();
            host.stage.netns.ip(&format!("addr del {name}/32 dev lo"))?;
            let removed = Instant::now();
            let what = "the address to be left out";
            host.rule.status_when(what, |status| status.left_out() == [gone])?;
            let took = removed.elapsed();
            ensure!(took < Place::get().limit(OUT_LIMIT), "{gone} was left out after {took:?}");
            let made = load.go_on(200)?;
            ensure!(!made.contains_key(&gone) && made.len() == 3, "spread over {made:?}");
            host.stage.netns.ip(&format!("addr add {name}/32 dev lo"))?;
            wait_for("the address to be used again", BACK_LIMIT, || {
                Ok(load.go_on(20)?.contains_key(&gone).then_some(()))
            })?;
            let status = host.rule.status()?;
            ensure!(status.left_out().is_empty(), "{status:?}");
        }
        spread.stop()?;
        host.rule.check_nothing_left()
    })
}

fn all_addresses_gone() -> Result<()> {
    let host = Host::new()?;
    let all = |what: &str| {
        let mut addresses = POOL.iter();
        addresses.try_for_each(|it| host.stage.netns.ip(&format!("addr {what} {it}/32 dev lo")))
    };
    Load::start(&host)?.around(|load| {
        let spread = begin(&host, load, &[])?;
        for _ in POOL {
            load.forgive_one();
        }
        all("del")?;
        host.rule.status_when("all to be left out", |status| status.left_out().len() == 4)?;
        none_spread(load)?;
        all("add")?;
        wait_for("the pool to be used again", BACK_LIMIT, || {
            Ok((load.go_on(50)?.len() == 4).then_some(()))
        })?;
        host.rule.status_when("none to be left out", |status| status.left_out().is_empty())?;
        all_spread(load)?;
        spread.stop()?;
        Ok(())
    })
}

/// The pool is in a namespace of its own; the load, from the same cgroup, in another.
fn namespace_gone() -> Result<()> {
    let host = Host::new()?;
    let other = NetNs::new()?;
    for address in POOL.iter().chain(&["10.1.0.1"]) {
        other.ip(&format!("addr add {address}/32 dev lo"))?;
    }
    // Its near end goes when the namespace does.
    host.stage.netns.veth(&[], &other, &[])?;
    let app = other.run(|| Maker::spawn(&host.cgroup))?;
    let peer: SocketAddr = "10.1.0.1:7000".parse()?;
    let listener = other.run(|| -> Result<Sock> {
        let listener = Sock::tcp(peer)?;
        listener.bind(peer)?;
        listener.listen(64)?;
        Ok(listener)
    })?;
    Load::start(&host)?.around(|load| {
        let cgroup = host.cgroup.path().to_string_lossy();
        let netns = format!("/proc/{}/ns/net", app.id());
        let arguments = ["--cgroup", &cgroup, "--netns", &netns, "--on-exit", "release"];
        let pool = POOL.iter().flat_map(|address| ["--pool", address]);
        let arguments: Vec<&str> = arguments.into_iter().chain(pool).collect();
        let spread = Spread::start(&host.rule, &arguments)?;
        none_spread(load)?;
        let sock = app.tcp(peer)?;
        sock.connect(peer)?;
        let from = source(&sock)?.to_string();
        ensure!(POOL.contains(&&*from), "in its namespace nothing is spread: {from}");
        let status = host.rule.status()?;
        ensure!(status.decided("other_netns")? > 0, "{status:?}");

        // The process that the path names ends first: what else leads there will do.
        drop(app);
        thread::sleep(Duration::from_millis(1500));
        ensure!(host.stage.netns.ip("link show t0").is_ok(), "it is gone while it is held");
        drop((sock, listener, other));
        wait_for("the namespace to end", Duration::from_secs(10), || {
            Ok(host.stage.netns.ip("link show t0").is_err().then_some(()))
        })?;
        // Longer than it takes the agent to look at everything.
        thread::sleep(Duration::from_millis(1500));
        none_spread(load)?;
        ensure!(host.rule.status()?.agent().is_some(), "the agent is gone: {}", spread.said());
        spread.stop()?;
        host.rule.check_nothing_left()
    })
}

/// Takes the application out of its cgroup, and removes that; its sockets still belong to it.
fn remove_cgroup(host: &Host, processes: &[u32]) -> Result<()> {
    let above = host.cgroup.path().parent().context("a cgroup at /")?;
    for process in processes {
        fs::write(above.join("cgroup.procs"), process.to_string())?;
    }
    Ok(fs::remove_dir(host.cgroup.path())?)
}

/// The sockets that were made before connect, whether they are spread or not.
fn connect_all(socks: Vec<Sock>, peer: SocketAddr) -> Result<()> {
    for (turn, sock) in socks.into_iter().enumerate() {
        sock.connect(peer).with_context(|| format!("connect {turn} of a removed cgroup"))?;
    }
    Ok(())
}

fn cgroup_removed() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    Load::start(&host)?.around(|load| {
        let spread = begin(&host, load, &[])?;
        let socks = (0..100).map(|_| host.app.tcp(server.address)).collect::<Result<Vec<_>>>()?;
        remove_cgroup(&host, &[load.process(), host.app.id()])?;
        connect_all(socks, server.address)?;
        none_spread(load)?;
        let is_gone = |gone: bool| {
            host.rule.status_when("the cgroup to be gone, or back", |status| {
                status.0["cgroups_gone"].as_array().is_some_and(|all| all.is_empty() != gone)
            })
        };
        is_gone(true)?;
        // One of the same name is another cgroup.
        fs::create_dir(host.cgroup.path())?;
        for process in [load.process(), host.app.id()] {
            host.cgroup.add(process)?;
        }
        is_gone(false)?;
        all_spread(load)?;
        spread.stop()?;
        none_spread(load)?;
        host.rule.check_nothing_left()
    })
}

/// The next start finds links to a cgroup that is no more.
fn cgroup_removed_of_a_dead_agent() -> Result<()> {
    let host = Host::new()?;
    Load::start(&host)?.around(|load| {
        begin(&host, load, KEEP)?.kill()?;
        remove_cgroup(&host, &[load.process(), host.app.id()])?;
        none_spread(load)?;
        let status = host.rule.status()?;
        ensure!(status.agent().is_none(), "{status:?}");
        fs::create_dir(host.cgroup.path())?;
        for process in [load.process(), host.app.id()] {
            host.cgroup.add(process)?;
        }
        begin(&host, load, &[])?.stop()?;
        none_spread(load)?;
        host.rule.check_nothing_left()
    })
}

/// More connections and more destinations than the ledger can take.
fn tables_full() -> Result<()> {
    let mut host = Host::new()?;
    let spread = host.spread(&POOL, &["--max-conns", "1024", "--max-tuples", "64"])?;
    let server = host.server("10.1.0.1:7000")?;
    let mut held = Vec::new();
    for turn in 0..1500 {
        let sock = host.connect(server.address).with_context(|| format!("connect {turn}"))?;
        held.push(sock);
    }
    let any = host.stage.server("0.0.0.0:7001")?;
    any.listener.listen(65_535)?;
    for last in 1..=200 {
        let peer = SocketAddr::from(([10, 1, 1, last], 7001));
        host.stage.netns.ip(&format!("addr add {}/32 dev lo", peer.ip()))?;
        held.push(host.connect(peer)?);
    }
    let counts = host.in_use(&POOL, server.address)?;
    ensure!(counts.iter().all(|count| *count > 0), "not spread at all: {counts:?}");
    spread.stop()?;
    host.rule.check_nothing_left()
}
