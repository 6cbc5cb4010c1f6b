//! Lists the kernel's TCP sockets, by netlink sock_diag (sock_diag(7)).
//!
//! A dump lists the network namespace of the calling thread. It is not a snapshot: the kernel walks its hash table
//! while sockets come and go.

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

/// TCP states, by the numbers of the kernel (`include/net/tcp_states.h`).
pub mod tcp_state {
    pub const ESTABLISHED: u8 = 1;
    pub const SYN_SENT: u8 = 2;
    pub const SYN_RECV: u8 = 3;
    pub const FIN_WAIT1: u8 = 4;
    pub const FIN_WAIT2: u8 = 5;
    pub const TIME_WAIT: u8 = 6;
    /// In a dump: a socket that is bound, and neither connected nor listening. Requests ask for it by
    /// `BOUND_INACTIVE`.
    pub const CLOSE: u8 = 7;
    pub const CLOSE_WAIT: u8 = 8;
    pub const LAST_ACK: u8 = 9;
    pub const LISTEN: u8 = 10;
    pub const CLOSING: u8 = 11;
    pub const NEW_SYN_RECV: u8 = 12;
    /// Only in requests: asks for sockets that are bound and idle, which kernels list from Linux 6.8 on.
    pub const BOUND_INACTIVE: u8 = 13;
}

/// The bits of all states, for [`dump`]. Kernels ignore bits that they do not know.
pub const ALL_STATES: u32 = 0x3ffe;

/// A dump of more sockets than this is an error: each takes 80 bytes.
pub const MAX_SOCKETS: usize = 4_000_000;

/// The address family of a socket. A v4-mapped socket is `V6` to the kernel.
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
    /// Local address; unspecified (`::` or `::ffff:0.0.0.0`): all addresses.
    pub source: Addr,
    /// Host byte order.
    pub source_port: u16,
    /// Address of the peer; unspecified (`::` or `::ffff:0.0.0.0`): it is not connected.
    pub destination: Addr,
    /// Host byte order; 0: it is not connected.
    pub destination_port: u16,
    /// Number of the socket, unique and never reused; a time-wait socket keeps it.
    pub cookie: u64,
    /// Inode of the socket; 0 for a time-wait socket and for one that no process has open.
    pub inode: u32,
    /// User that owns the socket, in this process's user namespace; overflowuid (65534) if it has no id there. Only valid if
    /// `inode` is not 0: of a socket that no process has open, the kernel reports 0 or its last owner.
    pub uid: u32,
    /// Whether it is a time-wait socket: in TIME_WAIT, or in FIN_WAIT2 after the application has closed it.
    pub time_wait: bool,
    /// For a time-wait socket, how long it still lasts in ms; else 0.
    pub expires_ms: u32,
    /// How often the unanswered segment was sent again; in SYN_SENT, that is the SYN.
    pub sent_again: u8,
    /// For a listener, how many connections wait to be accepted; else, how many bytes wait to be read.
    pub receive_queue: u32,
    /// For a listener, how many connections may wait to be accepted: with more than these its queue is full. Else, how many
    /// bytes the peer has not acknowledged yet.
    pub send_queue: u32,
    /// Whether it is a listener that accepts no IPv4 connections (IPV6_V6ONLY).
    pub v6_only: bool,
    /// Id of the cgroup v2 in which the socket was made, whose hooks run for it; 0: not known (a time-wait
    /// socket, or a kernel that does not report it).
    pub cgroup: u64,
}

#[cfg(test)]
impl DiagSocket {
    /// For tests: a socket in this state between two ends, with inode 7 and cookie 1, that nothing waits for.
    pub(crate) fn between(state: u8, source: (Addr, u16), destination: (Addr, u16)) -> Self {
        Self {
            family: if source.0.to_v4().is_some() { Family::V4 } else { Family::V6 },
            state,
            source: source.0,
            source_port: source.1,
            destination: destination.0,
            destination_port: destination.1,
            cookie: 1,
            inode: 7,
            uid: 0,
            time_wait: state == tcp_state::TIME_WAIT,
            expires_ms: 0,
            sent_again: 0,
            receive_queue: 0,
            send_queue: 0,
            v6_only: false,
            cgroup: 0,
        }
    }
}

/// Lists the TCP sockets of one family in the calling thread's network namespace, in the states whose bit (`1 <<
/// state`) is set in `states`.
///
/// # Errors
/// The step that failed. `NotFound`: the kernel lacks tcp_diag, or has no sockets of this family. `Interrupted`: the dump was
/// inconsistent (`NLM_F_DUMP_INTR`) each of the five times that it was tried. `QuotaExceeded`: there are more than
/// [`MAX_SOCKETS`].
pub fn dump(family: Family, states: u32) -> io::Result<Vec<DiagSocket>> {
    dump_up_to(MAX_SOCKETS, family, states)
}

/// Lists the TCP sockets of both families that have this local port (host byte order, not 0), in these states (see [`dump`]). On
/// a kernel without IPv6, those of IPv4.
///
/// # Errors
/// As [`dump`]. `QuotaExceeded`: there are more than `limit` sockets of both families together.
pub fn dump_port(port: u16, limit: usize, states: u32) -> io::Result<Vec<DiagSocket>> {
    let mut sockets = dump_both(port, limit, states)?;
    sockets.retain(|socket| socket.source_port == port);
    Ok(sockets)
}

fn dump_up_to(limit: usize, family: Family, states: u32) -> io::Result<Vec<DiagSocket>> {
    dump_of(0, limit, family, states)
}

/// Lists sockets with this local port; 0: with any.
fn dump_of(port: u16, limit: usize, family: Family, states: u32) -> io::Result<Vec<DiagSocket>> {
    let request = wire::request(family, port, states);
    let mut sockets =
        ask(&request, wire::SOCK_DIAG_BY_FAMILY, limit, states).map_err(with_advice)?;
    sockets.retain(|socket| socket.family == family);
    Ok(sockets)
}

/// Lists sockets of both families with this local port; 0: with any. The kernel walks its hash tables, which are those of the
/// whole host, once if it answers the older request, which names no family, and else once for each family.
fn dump_both(port: u16, limit: usize, states: u32) -> io::Result<Vec<DiagSocket>> {
    let request = wire::request_for_both(port, states);
    match ask(&request, wire::TCPDIAG_GETSOCK, limit, states) {
        Err(error) if is_refused(&error) => {
            tracing::debug!("IPv4 and IPv6 are listed one after the other: {error}");
            dump_each(port, limit, states)
        }
        answer => answer,
    }
}

/// As [`dump_both`], one family after the other.
fn dump_each(port: u16, limit: usize, states: u32) -> io::Result<Vec<DiagSocket>> {
    let mut sockets = dump_of(port, limit, Family::V4, states)?;
    match dump_of(port, limit.saturating_sub(sockets.len()), Family::V6, states) {
        Ok(more) => sockets.extend(more),
        // The first family was listed, so tcp_diag is there: this kernel has no IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(sockets)
}

/// Whether the kernel does not know the request, or may not answer it. (Without the module inet_diag, the errno is EOPNOTSUPP.)
fn is_refused(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, NotFound, PermissionDenied, Unsupported};
    matches!(error.kind(), InvalidInput | NotFound | PermissionDenied | Unsupported)
}

/// Sends this request, whose answers have the type `reply`, and returns the sockets in these states.
fn ask(request: &[u8], reply: u16, limit: usize, states: u32) -> io::Result<Vec<DiagSocket>> {
    let query = Query {
        name: "sock_diag",
        things: "TCP sockets",
        protocol: Some(netlink::SOCK_DIAG),
        request,
        reply,
        parse: wire::socket,
        limit,
    };
    let mut sockets = query.answers()?;
    sockets.retain(|socket| is_wanted(socket.state, states));
    Ok(sockets)
}

/// Whether a socket's state is one of `states`: a socket can change its state after the kernel has chosen it.
fn is_wanted(state: u8, states: u32) -> bool {
    let asks = |state: u8| states.checked_shr(state.into()).is_some_and(|bits| bits & 1 == 1);
    asks(state) || (state == tcp_state::CLOSE && asks(tcp_state::BOUND_INACTIVE))
}

/// Lists the TCP sockets of both families in these states (see [`dump`]); on a kernel without IPv6, those of IPv4.
///
/// # Errors
/// As [`dump`]. `QuotaExceeded`: both families together have more than [`MAX_SOCKETS`].
pub fn dump_all(states: u32) -> io::Result<Vec<DiagSocket>> {
    dump_all_up_to(MAX_SOCKETS, states)
}

/// Lists the TCP sockets of both families in these states (see [`dump`]), if there are at most `limit`; on a kernel without IPv6,
/// those of IPv4.
///
/// # Errors
/// As [`dump`]. `QuotaExceeded`: both families together have more than `limit`.
pub fn dump_all_up_to(limit: usize, states: u32) -> io::Result<Vec<DiagSocket>> {
    dump_both(0, limit, states)
}

/// Whether this kernel lists sockets that are bound and idle (Linux 6.8). Finds out by binding one and listing it.
///
/// # Errors
/// The socket cannot be made or bound, or as [`dump`].
pub fn lists_idle() -> io::Result<bool> {
    // An address that is hardly ever used has a free port on any host.
    let any_port = SocketAddrV4::new(Ipv4Addr::new(127, 84, 82, 67), 0);
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &any_port)?;
    let address = SocketAddrV4::try_from(getsockname(&socket)?)?;
    let idle = dump(Family::V4, 1 << tcp_state::BOUND_INACTIVE)?;
    Ok(idle.iter().any(|found| found.source_port == address.port()))
}

/// Adds to the error for a missing module what to do.
fn with_advice(error: io::Error) -> io::Error {
    if error.kind() != io::ErrorKind::NotFound {
        return error;
    }
    let hint = "the kernel lacks the tcp_diag module: run `modprobe tcp_diag`";
    io::Error::new(error.kind(), format!("{error}; {hint}"))
}
