//! Findings of `tracer doctor` for which the kernel's list of sockets is enough, without hooks. Exit codes: 0 for healthy, 1 for
//! a warning, 2 for critical, in each case but for `small_range`.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Result, ensure};

use super::{
    edge::{Edge, begin},
    table,
};
use crate::harness::{
    sock::Sock,
    tracer::{
        doctor::{Diagnosis, doctor},
        wait_for,
    },
};

const SNAPSHOT: &[&str] = &["--window", "0"];
const SHORT: &[&str] = &["--window", "0.5"];

/// An error unless the exit code, but for `small_range`, is `exit`, and the ids of [`Diagnosis::causes`] are exactly `causes`.
fn expect(found: &Diagnosis, exit: i32, causes: &[&str]) -> Result<()> {
    ensure!(
        found.exit_but_for_the_range() == exit && found.causes() == causes,
        "not {exit} {causes:?}: {found:?}"
    );
    Ok(())
}

/// All 100 ports are in TIME_WAIT, and nothing connects any more: `ports_exhausted` with these numbers, measured (exit code 2).
/// The first advice is the command that sets tcp_tw_reuse to 1; with that, the exit code is 0 within 10 s.
pub(super) fn full_of_time_waits() -> Result<()> {
    let edge = Edge::new(100)?;
    edge.leave_time_waits(100)?;
    let found = doctor(&edge.here, SNAPSHOT)?;
    expect(&found, 2, &["ports_exhausted"])?;
    let full = found.finding("ports_exhausted")?;
    for (key, number) in [("ports.in_use", 100), ("ports.capacity", 100), ("ports.time_wait", 100)]
    {
        ensure!(full.count(key)? == number, "{key}: {full:?}");
    }
    ensure!(full.certainty == "measured", "{full:?}");
    ensure!(full.what.contains("the ports come back within"), "{full:?}");
    ensure!(
        full.advice[0].command.as_deref().is_some_and(|it| it.ends_with("net.ipv4.tcp_tw_reuse=1")),
        "{full:?}"
    );
    // As the first advice says: the ports are free from the second on.
    edge.here.sysctl("ipv4/tcp_tw_reuse", "1")?;
    wait_for("the ports to be free", Duration::from_secs(10), || {
        let found = doctor(&edge.here, SNAPSHOT)?;
        Ok((found.exit_but_for_the_range() == 0).then_some(()))
    })
}

/// A tuple with 79 of its 100 ports in use is healthy (exit code 0); with 80, doctor finds `ports_exhausted` (exit code 1), and
/// no advice names TIME_WAIT.
pub(super) fn nearly_full() -> Result<()> {
    let edge = Edge::new(100)?;
    let _held = edge.open(79)?;
    expect(&doctor(&edge.here, SNAPSHOT)?, 0, &[])?;
    let _one_more = edge.open(1)?;
    let found = doctor(&edge.here, SNAPSHOT)?;
    expect(&found, 1, &["ports_exhausted"])?;
    let full = found.finding("ports_exhausted")?;
    ensure!(full.advice.iter().all(|it| !it.what.contains("TIME_WAIT")), "{full:?}");
    Ok(())
}

/// 100 of 100 ports in TIME_WAIT that connect() takes over (tcp_tw_reuse is 1, and they are 2.1 s old) are healthy (exit code 0).
/// Without TCP timestamps, none is taken over: exit code 2.
pub(super) fn taken_over_time_waits() -> Result<()> {
    for (timestamps, exit) in [("1", 0), ("0", 2)] {
        // Each has its own TIME_WAITs: they end after a minute, and a guest can need half of it for one look.
        let edge = Edge::new(100)?;
        edge.here.sysctl("ipv4/tcp_tw_reuse", "1")?;
        edge.here.sysctl("ipv4/tcp_timestamps", timestamps)?;
        edge.leave_time_waits(100)?;
        thread::sleep(Duration::from_millis(2_100));
        let found = doctor(&edge.here, SNAPSHOT)?;
        let judged = found.exit_but_for_the_range();
        ensure!(judged == exit, "tcp_timestamps is {timestamps}: {found:?}");
    }
    Ok(())
}

/// 20 connections in SYN_SENT to an upstream that answers nothing fill all 20 ports: doctor finds `black_hole` with this number
/// (exit code 2). `ports_exhausted` is a consequence of it, without advice, because more ports would not help.
pub(super) fn black_hole() -> Result<()> {
    let edge = Edge::new(20)?;
    // No interface has this hardware address: whatever is sent to it is dropped.
    edge.here.ip("neigh add 10.2.0.9 lladdr 02:00:00:00:00:09 dev t0")?;
    let peer: SocketAddr = "10.2.0.9:443".parse()?;
    let begin_all = || (0..20).map(|_| begin(peer)).collect::<Result<_>>();
    let _waiting: Vec<Sock> = edge.here.run(begin_all)?;
    // The SYNs are sent again after a second.
    thread::sleep(Duration::from_millis(1_300));
    let found = doctor(&edge.here, SNAPSHOT)?;
    expect(&found, 2, &["black_hole"])?;
    let full = found.finding("ports_exhausted")?;
    let consequence = full.consequence_of.as_deref() == Some("black_hole");
    ensure!(consequence && full.advice.is_empty(), "{full:?}");
    ensure!(found.finding("black_hole")?.count("ports.syn_sent")? == 20, "{found:?}");
    Ok(())
}

/// A program does not close 20 connections whose other end is closed: doctor finds `held_open` with this number (exit code 1),
/// measured with a window, inferred without one. Once the program has closed them, it finds nothing (exit code 0).
pub(super) fn held_open() -> Result<()> {
    let edge = Edge::new(100)?;
    let (held, theirs): (Vec<Sock>, Vec<Sock>) = edge.open(20)?.into_iter().unzip();
    drop(theirs);
    let found = doctor(&edge.here, SHORT)?;
    expect(&found, 1, &["held_open"])?;
    let leak = found.finding("held_open")?;
    ensure!(leak.certainty == "measured" && leak.count("ports.close_wait")? == 20, "{leak:?}");
    let found = doctor(&edge.here, SNAPSHOT)?;
    ensure!(found.finding("held_open")?.certainty == "inferred", "{found:?}");
    drop(held);
    let found = doctor(&edge.here, SHORT)?;
    expect(&found, 0, &[])?;
    table::check("closed_in_time", &found)
}

/// An upstream does not close its end of 20 connections: with 100 ports, doctor finds `fin_wait2_held` with this number (exit
/// code 1); with 1,000 ports, nothing (exit code 0).
pub(super) fn fin_wait2_held() -> Result<()> {
    let edge = Edge::new(100)?;
    // On a busy machine doctor may begin later than a minute from now.
    edge.here.sysctl("ipv4/tcp_fin_timeout", "600")?;
    let (closed, _held): (Vec<Sock>, Vec<Sock>) = edge.open(20)?.into_iter().unzip();
    drop(closed);
    let found = doctor(&edge.here, SHORT)?;
    expect(&found, 1, &["fin_wait2_held"])?;
    ensure!(found.finding("fin_wait2_held")?.count("ports.fin_wait2")? == 20, "{found:?}");
    edge.here.sysctl("ipv4/ip_local_port_range", "40000 40999")?;
    expect(&doctor(&edge.here, SHORT)?, 0, &[])
}
