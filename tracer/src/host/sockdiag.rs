//! The kernel's own list of TCP sockets, by netlink sock_diag (sock_diag(7)).
//!
//! A dump is of the network namespace of the calling thread, and is not a snapshot: the kernel
//! walks its hash table while sockets come and go.

#[cfg(test)]
mod tests;
mod wire;

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
};

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, netlink, socket_with,
};
use tracer_common::Addr;

use crate::host::netlink::Query;

/// TCP states as sock_diag and the kernel number them (`include/net/tcp_states.h`).
pub mod tcp_state {
    pub const ESTABLISHED: u8 = 1;
    pub const SYN_SENT: u8 = 2;
    pub const SYN_RECV: u8 = 3;
    pub const FIN_WAIT1: u8 = 4;
    pub const FIN_WAIT2: u8 = 5;
    pub const TIME_WAIT: u8 = 6;
    /// In a dump: bound, and neither connected nor listening. It is asked for by another number.
    pub const CLOSE: u8 = 7;
    pub const CLOSE_WAIT: u8 = 8;
    pub const LAST_ACK: u8 = 9;
    pub const LISTEN: u8 = 10;
    pub const CLOSING: u8 = 11;
    pub const NEW_SYN_RECV: u8 = 12;
    /// Only a word to ask for sockets that are bound and idle with; kernels from 6.8 on list these.
    pub const BOUND_INACTIVE: u8 = 13;
}

/// All states, for [`dump`]. Kernels ignore the bits that they do not know.
pub const ALL_STATES: u32 = 0x3ffe;

/// More sockets than this are not read: some 80 bytes each. That is eight times what a ledger of the default
/// size holds.
pub const MAX_SOCKETS: usize = 4_000_000;

/// The address family of the sockets. v4-mapped sockets are `V6` to the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Family {
    V4,
    V6,
}

/// One TCP socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DiagSocket {
    pub family: Family,
    /// One of [`tcp_state`].
    pub state: u8,
    pub source: Addr,
    /// Host byte order.
    pub source_port: u16,
    pub destination: Addr,
    /// Host byte order.
    pub destination_port: u16,
    /// Unique and never re-used; kept when the socket goes into TIME_WAIT.
    pub cookie: u64,
    /// Inode of the socket; 0 for a time-wait socket and for one that no process holds.
    pub inode: u32,
    /// Of who made it, in this process's user namespace; 0 where `inode` is.
    pub uid: u32,
    /// A time-wait socket: TIME_WAIT itself, or FIN_WAIT2 after the application has closed.
    pub time_wait: bool,
    /// Milliseconds that a time-wait socket has left; 0 for any other.
    pub expires_ms: u32,
    /// How often the segment that has had no answer was sent again: in SYN_SENT, the SYN.
    pub sent_again: u8,
    /// A listener that takes no IPv4 connections (IPV6_V6ONLY).
    pub v6_only: bool,
    /// Id of the cgroup v2 that made it, whose hooks run for it; 0: not known (a time-wait socket).
    pub cgroup: u64,
}

/// The TCP sockets of one family in the calling thread's network namespace whose state's bit
/// (`1 << state`) is set in `states`.
///
/// Errors name the step that failed. A dump that was still inconsistent (`NLM_F_DUMP_INTR`) when
/// it was last tried is an error of kind `Interrupted`.
pub fn dump(family: Family, states: u32) -> io::Result<Vec<DiagSocket>> {
    dump_up_to(MAX_SOCKETS, family, states)
}

/// As [`dump_all_up_to`], those with this local port.
pub fn dump_port(port: u16, limit: usize, states: u32) -> io::Result<Vec<DiagSocket>> {
    let mut sockets = dump_of(port, limit, Family::V4, states)?;
    match dump_of(port, limit.saturating_sub(sockets.len()), Family::V6, states) {
        Ok(more) => sockets.extend(more),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    sockets.retain(|socket| socket.source_port == port);
    Ok(sockets)
}

fn dump_up_to(limit: usize, family: Family, states: u32) -> io::Result<Vec<DiagSocket>> {
    dump_of(0, limit, family, states)
}

/// `port`: the local port; 0: any.
fn dump_of(port: u16, limit: usize, family: Family, states: u32) -> io::Result<Vec<DiagSocket>> {
    let query = Query {
        name: "sock_diag",
        things: "TCP sockets",
        protocol: Some(netlink::SOCK_DIAG),
        request: &wire::request(family, port, states),
        reply: wire::SOCK_DIAG_BY_FAMILY,
        parse: wire::socket,
        limit,
    };
    let mut sockets = query.answers().map_err(explained)?;
    sockets.retain(|socket| socket.family == family && is_asked_for(socket.state, states));
    Ok(sockets)
}

/// One can change its state after the kernel has chosen it, and is of another then.
fn is_asked_for(state: u8, states: u32) -> bool {
    let asks = |state: u8| states.checked_shr(state.into()).is_some_and(|bits| bits & 1 == 1);
    asks(state) || (state == tcp_state::CLOSE && asks(tcp_state::BOUND_INACTIVE))
}

/// Both families: see [`dump`].
pub fn dump_all(states: u32) -> io::Result<Vec<DiagSocket>> {
    dump_all_up_to(MAX_SOCKETS, states)
}

/// The same; more than `limit` sockets are an error of kind `QuotaExceeded`.
pub fn dump_all_up_to(limit: usize, states: u32) -> io::Result<Vec<DiagSocket>> {
    let mut sockets = dump_up_to(limit, Family::V4, states)?;
    match dump_up_to(limit.saturating_sub(sockets.len()), Family::V6, states) {
        Ok(more) => sockets.extend(more),
        // tcp_diag is there, so this is a kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(sockets)
}

/// Whether this kernel lists sockets that are bound and idle (Linux 6.8): it is asked about one.
pub fn lists_idle() -> io::Result<bool> {
    // An address that hardly anybody uses has a port left on any host.
    let any_port = SocketAddrV4::new(Ipv4Addr::new(127, 84, 82, 67), 0);
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &any_port)?;
    let address = SocketAddrV4::try_from(getsockname(&socket)?)?;
    let idle = dump(Family::V4, 1 << tcp_state::BOUND_INACTIVE)?;
    Ok(idle.iter().any(|found| found.source_port == address.port()))
}

fn explained(error: io::Error) -> io::Error {
    if error.kind() != io::ErrorKind::NotFound {
        return error;
    }
    let hint = "the kernel lacks the tcp_diag module: run `modprobe tcp_diag`";
    io::Error::new(error.kind(), format!("{error}; {hint}"))
}
