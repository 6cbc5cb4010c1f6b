//! Sockets that are older than the tracer: connections in several states, bound sockets and listeners.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use rustix::io::Errno;

use super::{binding::wait_capacity, failure::expect_error};
use crate::harness::{
    sock::Sock,
    stage::{CLIENT, Expected, Outcome, Server, Stage},
};

/// The tracer counts the connections that exist when it starts (in SYN_SENT, ESTABLISHED, CLOSE_WAIT, FIN_WAIT2 and TIME_WAIT),
/// and later their changes and ends.
pub fn every_state(stage: &mut Stage) -> Result<()> {
    let server = stage.server("10.1.0.1:7000")?;
    let (hole, _filler) = stage.black_hole("10.1.0.1:7001")?;
    let (pending, mut clients, mut accepted) = stage.netns.run(|| -> Result<_> {
        let pending = Sock::tcp(hole.address)?;
        pending.set_nonblocking()?;
        expect_error(pending.connect(hole.address), Errno::INPROGRESS)?;
        let (clients, accepted) = server.pairs(25)?;
        Ok((pending, clients, accepted))
    })?;
    // 5 connections come into each of these states: TIME_WAIT, FIN_WAIT2 as a time-wait socket, FIN_WAIT2 with an open
    // descriptor, CLOSE_WAIT, ESTABLISHED.
    drop(clients.split_off(20));
    drop(accepted.split_off(20));
    drop(clients.split_off(15));
    clients.iter().skip(10).try_for_each(Sock::shutdown_write)?;
    let held_open = accepted.split_off(10);
    drop(accepted.split_off(5));
    let holes = [
        (hole.tuple(), Expected::ports(1, 0)),
        (hole.tuple_from("127.0.0.1")?, Expected::ports(1, 0)),
    ];
    let all = |own: Expected| [vec![(server.tuple(), own)], holes.to_vec()].concat();
    // This waits until the kernel has these states, before the tracer reads them.
    stage.check(&all(Expected::ports(25, 10)))?;
    stage.watch()?;
    stage.check(&all(Expected::ports(25, 10)))?;
    drop(held_open);
    // The five that are shut down for writing have become time-wait sockets, while their descriptors are still open.
    stage.check(&all(Expected::ports(25, 15)))?;
    drop(clients);
    // The five connections in CLOSE_WAIT are gone, the five that were established are time-wait sockets in FIN_WAIT2.
    stage.check(&all(Expected::ports(20, 20)))?;
    drop(accepted);
    stage.check(&all(Expected::ports(20, 20)))?;
    drop(pending);
    let newer = stage.netns.run(|| server.pair())?;
    let mut after = all(Expected::ports(21, 20));
    after.retain(|(tuple, _)| *tuple != hole.tuple());
    stage.check(&after)?;
    drop(newer);
    Ok(())
}

/// New connections are opened and closed, and older ones are closed, while the starting tracer reads the sockets that exist
/// already: no event may be counted twice or missed, so that in the end the tracer has exactly the kernel's ports, and no failed
/// call.
pub fn churn_while_seeding(stage: &mut Stage) -> Result<()> {
    let server = stage.server("10.1.0.1:7000")?;
    let (old, _accepted) = stage.netns.run(|| server.pairs(2000))?;
    let stop = AtomicBool::new(false);
    let held = thread::scope(|scope| -> Result<_> {
        let churn = scope.spawn(|| {
            let result = churn_sockets(&server, old, &stop, &stage.netns);
            stop.store(true, Ordering::Relaxed);
            result
        });
        let watches = stage.start_watches();
        stop.store(true, Ordering::Relaxed);
        let held = churn.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((held, watches?))
    })?;
    let (held, watches) = held;
    stage.add_watches(watches);
    // How many connections the tracer saw being opened depends on timing, so that number is not compared; no connect() failed.
    let outcome = Outcome::default();
    let table = stage.settle(&outcome)?;
    let count = table.get(&server.tuple_from(CLIENT)?).map(|sockets| sockets.in_use);
    let open = held.len();
    ensure!(count == Some(u64::try_from(open)?), "{open} are open, the kernel has {table:?}");
    drop(held);
    stage.settle(&outcome)?;
    Ok(())
}

/// Opens new connections, closes most of them, and closes older ones, until `stop` is set. Returns the new ones that are still
/// open: every eighth, at most 500.
fn churn_sockets(
    server: &Server,
    mut old: Vec<Sock>,
    stop: &AtomicBool,
    netns: &crate::harness::netns::NetNs,
) -> Result<Vec<Sock>> {
    netns.run(|| {
        let mut held = Vec::new();
        for turn in 0_usize.. {
            let sock = Sock::tcp(server.address)?;
            sock.set_bind_address_no_port()?;
            sock.bind("10.1.0.2:0".parse()?)?;
            sock.set_reset_on_close()?;
            sock.connect(server.address)?;
            drop(server.listener.accept()?);
            if turn % 8 == 0 && held.len() < 500 {
                held.push(sock);
            }
            if turn % 4 == 0 {
                drop(old.pop());
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(held)
    })
}

/// Longest time until the tracer has next compared its tables with the kernel's sockets, and corrected them.
const COMPARED: Duration = Duration::from_secs(40);

/// Two ports of a range of 50 were bound before the tracer started. The tracer counts the port of the idle socket as bound from
/// the start on (capacity 49), but that of the connected socket only once the connection has ended (48, within 40 s): sock_diag
/// does not say whether bind() took the port. Each counts until its socket is closed.
pub fn bound_ports(stage: &mut Stage) -> Result<()> {
    stage.expect_drift();
    stage.netns.sysctl("ipv4/ip_local_port_range", "40000 40049")?;
    let server = stage.server("10.1.0.1:7000")?;
    let _held = stage.netns.run(|| server.pair())?;
    let (idle, used, accepted) = stage.netns.run(|| -> Result<_> {
        let (idle, used) = (Sock::tcp(server.address)?, Sock::tcp(server.address)?);
        // The bound ports are odd, because connect() takes the even ones first: a port that the tuple itself holds would not
        // lower its capacity.
        idle.bind("10.1.0.2:40021".parse()?)?;
        used.bind("10.1.0.2:40031".parse()?)?;
        used.connect(server.address)?;
        Ok((idle, used, server.listener.accept()?))
    })?;
    stage.watch()?;
    let soon = Duration::from_secs(5);
    wait_capacity(stage, &server, 49, soon)?;
    accepted.set_reset_on_close()?;
    drop(accepted);
    wait_capacity(stage, &server, 48, COMPARED)?;
    drop(used);
    wait_capacity(stage, &server, 49, soon)?;
    drop(idle);
    wait_capacity(stage, &server, 50, soon)
}

/// Up to 800 sockets, every other one a listener and the rest bound and idle, are closed while the tracer reads the older sockets
/// at its start: none of their ports may stay in its table of bound ports, so that within 40 s the capacity is the whole range of
/// 1,000 ports, without drift.
pub fn listeners_end(stage: &mut Stage) -> Result<()> {
    stage.netns.sysctl("ipv4/ip_local_port_range", "40000 40999")?;
    let server = stage.server("10.1.0.1:7000")?;
    let _held = stage.netns.run(|| server.pair())?;
    let mut listeners = stage.netns.run(|| {
        let listen = |port| -> Result<Sock> {
            let sock = Sock::tcp(server.address)?;
            sock.bind(SocketAddr::from(([10, 1, 0, 1], port)))?;
            if port % 2 == 0 {
                sock.listen(8)?;
            }
            Ok(sock)
        };
        // connect() may have taken one of the ports.
        (40_000..40_800).filter_map(|port| listen(port).ok()).collect::<Vec<_>>()
    });
    let watches = thread::scope(|scope| {
        let ending = scope.spawn(|| {
            while listeners.pop().is_some() {
                thread::sleep(Duration::from_millis(1));
            }
        });
        let watches = stage.start_watches();
        ending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        watches
    })?;
    stage.add_watches(watches);
    wait_capacity(stage, &server, 1000, COMPARED)
}
