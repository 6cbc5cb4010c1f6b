//! The states that a connection can be in from ESTABLISHED on, while it holds a port.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

use super::failure::expect_error;
use crate::harness::{
    probe::Place,
    sock::Sock,
    stage::{Expected, Outcome, Server, Stage},
};

/// Brings eleven connections of one tuple into ESTABLISHED, CLOSE_WAIT, LAST_ACK, FIN_WAIT1, FIN_WAIT2, CLOSING and TIME_WAIT:
/// after each step, and after all were closed, the tracer must count as many ports in each group of states as the kernel has.
pub fn every_state(stage: &mut Stage) -> Result<()> {
    let server = stage.server("10.1.0.1:7000")?;
    let (mut clients, mut accepted) = stage.netns.run(|| server.pairs(11))?;
    wait(stage, &server, &[("ESTABLISHED", 11)])?;
    let mut pair = || clients.pop().zip(accepted.pop()).context("there are no more");

    // Only the peer closes these connections, the second one by shutdown().
    let (close_wait, peer) = pair()?;
    drop(peer);
    let (last_ack, last_ack_peer) = pair()?;
    last_ack_peer.shutdown_write()?;
    wait(stage, &server, &[("ESTABLISHED", 9), ("CLOSE_WAIT", 2)])?;
    // The client closes connections whose data the peer does not read: this data holds back the FIN.
    fill(&last_ack)?;
    drop(last_ack);
    let (fin_wait1, fin_wait1_peer) = pair()?;
    fill(&fin_wait1)?;
    drop(fin_wait1);
    let (closing, closing_peer) = pair()?;
    fill(&closing)?;
    drop(closing);
    let (fin_wait2, fin_wait2_peer) = pair()?;
    fin_wait2.shutdown_write()?;
    wait(
        stage,
        &server,
        &[
            ("ESTABLISHED", 6),
            ("CLOSE_WAIT", 1),
            ("LAST_ACK", 1),
            ("FIN_WAIT1", 2),
            ("FIN_WAIT2", 1),
        ],
    )?;
    closing_peer.shutdown_write()?;
    let (time_wait, peer) = pair()?;
    drop(time_wait);
    drop(peer);
    wait(
        stage,
        &server,
        &[
            ("ESTABLISHED", 5),
            ("CLOSE_WAIT", 1),
            ("LAST_ACK", 1),
            ("FIN_WAIT1", 1),
            ("CLOSING", 1),
            ("FIN_WAIT2", 1),
            ("TIME_WAIT", 1),
        ],
    )?;
    drop((close_wait, fin_wait2, fin_wait2_peer, fin_wait1_peer, closing_peer, last_ack_peer));
    drop((clients, accepted));
    stage.settle(&Outcome::opened(11))?;
    Ok(())
}

/// Waits until the kernel has this many connections to the server in each state, (name, number), and no others; then checks that
/// the tracers have the same. An error if the kernel does not have them within 10 s (see [`Place::limit`]).
fn wait(stage: &mut Stage, server: &Server, states: &[(&'static str, u64)]) -> Result<()> {
    let states: BTreeMap<_, _> = states.iter().copied().collect();
    let end = Instant::now() + Place::get().limit(Duration::from_secs(10));
    loop {
        let found = stage.oracle()?.remove(&server.tuple()).unwrap_or_default();
        if found.states == states {
            break;
        }
        ensure!(Instant::now() < end, "the kernel has {found:?}, not {states:?}");
        thread::sleep(Duration::from_millis(5));
    }
    let (in_use, time_wait) =
        (states.values().sum(), states.get("TIME_WAIT").copied().unwrap_or(0));
    stage.check(&[(server.tuple(), Expected::ports(in_use, time_wait).opened(11))])
}

/// Makes the socket non-blocking, and sends until its send buffer and the peer's receive buffer are full (EAGAIN).
fn fill(sock: &Sock) -> Result<()> {
    sock.set_nonblocking()?;
    let data = vec![0; 65_536];
    loop {
        match sock.send(&data) {
            Ok(_) => {}
            Err(error) => return expect_error::<usize>(Err(error), Errno::AGAIN),
        }
    }
}
