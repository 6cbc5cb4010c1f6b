//! Namespaces and cgroups are removed, and some are made again; tables are full.

use std::{fs, net::SocketAddr, thread, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{KEEP, all_spread, begin, none_spread};
use crate::{
    cases::{
        Case, Plan,
        spread::{Host, POOL, load::Load, source},
    },
    harness::{
        maker::Maker,
        netns::NetNs,
        sock::Sock,
        tracer::{spread::Spread, wait_for},
    },
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("spread::fail_open")
        .once(&[
            ("namespace_of_the_pool_gone", namespace_gone),
            ("cgroup_removed", cgroup_removed),
            ("cgroup_removed_of_a_dead_agent", cgroup_removed_of_a_dead_agent),
            ("tuples_full", tuples_full),
            ("conns_full", conns_full),
        ])
        .cases()
}

/// The pool's namespace ends: the agent goes on, and can be stopped. The load is in the same cgroup, but in another namespace,
/// and never spread.
fn namespace_gone() -> Result<()> {
    let host = Host::new()?;
    let other = NetNs::new()?;
    for address in POOL.iter().chain(&["10.1.0.1"]) {
        other.ip(&format!("addr add {address}/32 dev lo"))?;
    }
    // The kernel removes this link when the namespace ends: when the near end is gone, the test knows that the namespace is.
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

        // The process that the path names ends first: the agent must find the namespace in another way.
        drop(app);
        thread::sleep(Duration::from_millis(1500));
        ensure!(host.stage.netns.ip("link show t0").is_ok(), "the namespace ended too early");
        drop((sock, listener, other));
        wait_for("the namespace to end", Duration::from_secs(10), || {
            Ok(host.stage.netns.ip("link show t0").is_err().then_some(()))
        })?;
        // This is longer than the interval of the agent's health checks, which is 1 s.
        thread::sleep(Duration::from_millis(1500));
        none_spread(load)?;
        ensure!(host.rule.status()?.agent.is_some(), "the agent is gone: {}", spread.stderr());
        spread.stop()?;
        host.rule.check_nothing_left()
    })
}

/// Moves the processes to the cgroup's parent, and removes the cgroup; sockets that they made before still belong to it.
fn remove_cgroup(host: &Host, processes: &[u32]) -> Result<()> {
    let above = host.cgroup.path().parent().context("a cgroup at /")?;
    for process in processes {
        fs::write(above.join("cgroup.procs"), process.to_string())?;
    }
    Ok(fs::remove_dir(host.cgroup.path())?)
}

/// Connects sockets of the removed cgroup: each call must succeed, spread or not.
fn connect_all(socks: Vec<Sock>, peer: SocketAddr) -> Result<()> {
    for (turn, sock) in socks.into_iter().enumerate() {
        sock.connect(peer).with_context(|| format!("connect {turn} of a removed cgroup"))?;
    }
    Ok(())
}

/// The rule's cgroup is removed while the agent runs: 100 sockets that were made in it still connect, nothing is spread, and the
/// status has the cgroup as gone. When a cgroup of the same name is made, it is not gone any more, and connections are spread
/// again.
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
                status.cgroups_gone.is_empty() != gone
            })
        };
        is_gone(true)?;
        // A new cgroup of the same name is another one to the kernel.
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

/// The cgroup is removed when the agent was killed: nothing is spread. The next start finds links to a cgroup that does not exist
/// any more, spreads for the new cgroup of that name, and leaves nothing at its end.
fn cgroup_removed_of_a_dead_agent() -> Result<()> {
    let host = Host::new()?;
    Load::start(&host)?.around(|load| {
        begin(&host, load, KEEP)?.kill()?;
        remove_cgroup(&host, &[load.process(), host.app.id()])?;
        none_spread(load)?;
        let status = host.rule.status()?;
        ensure!(status.agent.is_none(), "{status:?}");
        fs::create_dir(host.cgroup.path())?;
        for process in [load.process(), host.app.id()] {
            host.cgroup.add(process)?;
        }
        begin(&host, load, &[])?.stop()?;
        none_spread(load)?;
        host.rule.check_nothing_left()
    })
}

/// 200 tuples, and the ledger has room for 64: all connections are spread.
fn tuples_full() -> Result<()> {
    const ROOM: usize = 64;
    let mut host = Host::new()?;
    let spread = host.spread(&POOL, &["--max-tuples", &ROOM.to_string()])?;
    let any = host.stage.server("0.0.0.0:7001")?;
    any.listener.listen(65_535)?;
    let mut held = Vec::new();
    for last in 1..=200 {
        let peer = SocketAddr::from(([10, 1, 1, last], 7001));
        host.stage.netns.ip(&format!("addr add {}/32 dev lo", peer.ip()))?;
        let sock = host.connect(peer)?;
        let from = source(&sock)?.to_string();
        ensure!(POOL.contains(&&*from), "connect to {peer} is not spread: {from}");
        held.push(sock);
    }
    let known = host.rule.status()?.tuples.len();
    let full = (1..=ROOM).contains(&known);
    ensure!(full, "of {} tuples, {known} are in a table for {ROOM}", held.len());
    spread.stop()?;
    host.rule.check_nothing_left()
}

/// 1,536 connections, and the ledger has room for 1,024: all are spread.
fn conns_full() -> Result<()> {
    const ROOM: u64 = 1024;
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let spread = host.spread(&POOL, &["--max-conns", &ROOM.to_string()])?;
    let mut held = Vec::new();
    for turn in 0..ROOM * 3 / 2 {
        let sock = host.connect(server.address).with_context(|| format!("connect {turn}"))?;
        held.push(sock);
    }
    let counts = host.in_use(&POOL, server.address)?;
    let (all, counted) = (counts.iter().sum::<u64>(), host.rule.status()?.in_use());
    ensure!(all == ROOM * 3 / 2, "{all} connections are spread: {counts:?}");
    // Other sockets of this machine have entries, too.
    let full = (ROOM * 3 / 4..=ROOM).contains(&counted);
    ensure!(full, "of {all} connections, {counted} are in a table for {ROOM}");
    spread.stop()?;
    host.rule.check_nothing_left()
}
