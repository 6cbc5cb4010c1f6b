//! Socket calls, and how many of them the kernel grants before it refuses one because no port is left.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use rustix::io::Errno;

use crate::harness::{probe::Place, sock::Sock, stage::Server};

/// True if the call succeeded, false if it failed with `full`, the errno for "no port left".
///
/// # Errors
/// The call failed with another errno.
pub(super) fn granted(result: rustix::io::Result<()>, full: Errno) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(errno) if errno == full => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// A socket bound to this address and port (0: one that the kernel chooses); `None` if bind() fails with EADDRINUSE. Any other
/// failure is an error.
pub(super) fn bound(at: SocketAddr) -> Result<Option<Sock>> {
    let sock = Sock::tcp(at)?;
    Ok(granted(sock.bind(at), Errno::ADDRINUSE)?.then_some(sock))
}

/// A connected pair (client, accepted). The client has the address `from`, and a port that connect() chose; `None` if no port is
/// left (EADDRNOTAVAIL). Any other failure is an error.
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

/// Closes the socket with an RST: its port is free without TIME_WAIT.
pub(super) fn reset(sock: Sock) -> Result<()> {
    sock.set_reset_on_close()?;
    drop(sock);
    Ok(())
}

/// Opens `count` connections, waiting whenever no port is left, and closes the client's end of each immediately. The accepted end
/// stays open for 5 s, or until this function returns: longer than FIN_WAIT2, which the caller has set to 2 s
/// (`tcp_fin_timeout`).
///
/// # Errors
/// A call failed, or `count` is not reached within 20 s (longer in a guest).
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

/// Opens connections from the address `from` until no port is left, and resets them all. Returns how many there were.
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

/// Calls bind() with the address `at` and port 0 until no port is left, and closes all these sockets. Returns how many there
/// were.
pub(super) fn fill_bound(at: &str) -> Result<u64> {
    let at = SocketAddr::new(at.parse()?, 0);
    let mut socks = Vec::new();
    while let Some(sock) = bound(at)? {
        socks.push(sock);
    }
    Ok(socks.len() as u64)
}
