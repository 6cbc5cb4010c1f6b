//! Calls of the hall's namespace, until the kernel refuses one for want of a port.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use rustix::io::Errno;

use crate::harness::{probe::Place, sock::Sock, stage::Server};

/// False where a call failed for want of a port, as it may.
pub(super) fn granted(result: rustix::io::Result<()>, full: Errno) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(errno) if errno == full => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

pub(super) fn bound(at: SocketAddr) -> Result<Option<Sock>> {
    let sock = Sock::tcp(at)?;
    Ok(granted(sock.bind(at), Errno::ADDRINUSE)?.then_some(sock))
}

pub(super) fn connected(from: &str, server: &Server) -> Result<Option<(Sock, Sock)>> {
    let from = SocketAddr::new(from.parse()?, 0);
    let sock = Sock::tcp(from)?;
    sock.set_bind_address_no_port()?;
    sock.bind(from)?;
    if !granted(sock.connect(server.address), Errno::ADDRNOTAVAIL)? {
        return Ok(None);
    }
    Ok(Some((sock, server.listener.accept()?)))
}

pub(super) fn reset(sock: Sock) -> Result<()> {
    sock.set_reset_on_close()?;
    drop(sock);
    Ok(())
}

/// So many connections that are closed at once, their other ends later than a FIN_WAIT2 lasts.
pub(super) fn churn(from: &str, server: &Server, count: u64) -> Result<()> {
    let (mut opened, mut others) = (0, VecDeque::new());
    let end = Instant::now() + Place::get().limit(Duration::from_secs(20));
    while opened < count {
        match connected(from, server)? {
            Some((client, accepted)) => {
                drop(client);
                opened += 1;
                others.push_back((Instant::now(), accepted));
            }
            None => thread::sleep(Duration::from_micros(200)),
        }
        while others.front().is_some_and(|(at, _)| at.elapsed() > Duration::from_secs(5)) {
            others.pop_front();
        }
        ensure!(Instant::now() < end, "only {opened} connections got a port");
    }
    Ok(())
}

/// Connections until there is no port left; all of them are gone afterwards.
pub(super) fn fill(from: &str, server: &Server) -> Result<u64> {
    let mut pairs = Vec::new();
    while let Some(pair) = connected(from, server)? {
        pairs.push(pair);
    }
    let count = pairs.len() as u64;
    for (client, accepted) in pairs {
        reset(client)?;
        drop(accepted);
    }
    Ok(count)
}

/// The same for bind(address, 0).
pub(super) fn fill_bound(at: &str) -> Result<u64> {
    let at = SocketAddr::new(at.parse()?, 0);
    let mut socks = Vec::new();
    while let Some(sock) = bound(at)? {
        socks.push(sock);
    }
    Ok(socks.len() as u64)
}
