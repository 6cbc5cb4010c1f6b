//! 10,000 tuples, of which few change: connections over `lo` of a namespace, held by this process.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::io::Errno;

use crate::harness::{netns::NetNs, sock::Sock};

/// Number of destination addresses, from 127.1.0.1 on.
const ADDRESSES: u8 = 100;
/// Number of destination ports of each address, from [`FIRST_PORT`] on.
const PORTS: u16 = 100;
const FIRST_PORT: u16 = 7000;
/// Number of tuples, one for each destination: an address with a port.
pub(super) const TUPLES: usize = ADDRESSES as usize * PORTS as usize;
/// Connections a second that are opened and closed.
pub(super) const CHANGES: u32 = 20;

/// Runs `work` while there is a connection to each of [`TUPLES`] destinations, and others are opened and closed ([`CHANGES`] a
/// second). Returns the result of `work`.
///
/// # Errors
/// A connection or `work` failed, or the limit of open files is below 10,200.
pub(super) fn during<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let netns = NetNs::new()?;
    netns.sysctl("core/somaxconn", "65535")?;
    let held = netns.run(hold)?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let changing = scope.spawn(|| netns.run(|| change(&over)));
        let done = work();
        over.store(true, Relaxed);
        let changed = changing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        drop(held);
        done.and_then(|done| changed.map(|()| done))
    })
}

/// Makes a server on each port, which accepts nothing, and a connection to each destination. Returns the sockets of both.
fn hold() -> Result<Vec<Sock>> {
    let mut held = Vec::new();
    for port in FIRST_PORT..FIRST_PORT + PORTS {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let server = Sock::tcp(any)?;
        server.bind(any)?;
        server.listen(65_535)?;
        held.push(server);
    }
    let limit =
        "cannot hold 10,000 connections: raise the limit of open files (ulimit -n) to 10,200";
    for number in 0..TUPLES {
        held.push(match Sock::connected(destination(number)) {
            Err(Errno::MFILE) => Err(Errno::MFILE).context(limit)?,
            sock => sock?,
        });
    }
    Ok(held)
}

/// Until `over` is set, opens one more connection to one destination after the other ([`CHANGES`] a second), and resets it, so
/// that no TIME_WAIT stays.
fn change(over: &AtomicBool) -> Result<()> {
    let mut number = 0;
    while !over.load(Relaxed) {
        let sock = Sock::connected(destination(number))?;
        sock.set_reset_on_close()?;
        thread::sleep(Duration::from_secs(1) / CHANGES);
        // The step is a prime number, so that the changes are spread over the whole table.
        number = (number + 7919) % TUPLES;
    }
    Ok(())
}

fn destination(number: usize) -> SocketAddr {
    let address = u8::try_from(number % usize::from(ADDRESSES)).unwrap_or_default();
    let port = u16::try_from(number / usize::from(ADDRESSES)).unwrap_or_default();
    SocketAddr::from((Ipv4Addr::new(127, 1, 0, 1 + address), FIRST_PORT + port))
}
