//! Sockets of a namespace that are no connections to a peer: listeners, sockets that are only bound, and those that are connected
//! to themselves.

use tracer_common::Addr;

use crate::host::sockdiag::{DiagSocket, Family, tcp_state};

/// A socket that listens.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Listener {
    pub port: u16,
    /// The address at which it listens; the unspecified one (0.0.0.0 or ::): at any.
    pub address: Addr,
    /// Whether it accepts connections to IPv4 addresses (first), and to IPv6 addresses (second).
    pub accepts: [bool; 2],
    /// Inode of the socket, by which its process is found.
    pub inode: u32,
    /// How many connections are in its accept queue.
    pub queue: u32,
    /// The length of that queue (the backlog of listen()): with more connections, it is full, and SYNs are dropped
    /// (`sk_acceptq_is_full`, include/net/sock.h).
    pub longest: u32,
}

impl Listener {
    /// Whether its accept queue has more connections than its length.
    pub fn is_full(&self) -> bool {
        self.queue > self.longest
    }

    /// Whether it listens at any address.
    pub fn is_wildcard(&self) -> bool {
        [Addr::UNSPECIFIED, Addr::v4([0; 4])].contains(&self.address)
    }

    /// Whether connections to this address and port reach it: it listens at this address, or at any one of that family. That the
    /// address is one of its namespace is not checked.
    pub fn is_for(&self, address: Addr, port: u16) -> bool {
        let [v4, v6] = self.accepts;
        let family = if address.to_v4().is_some() { v4 } else { v6 };
        self.port == port && if self.is_wildcard() { family } else { self.address == address }
    }
}

/// A port that bind() took, whose socket neither listens nor is connected.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Idle {
    pub port: u16,
    /// Inode of the socket, by which its process is found.
    pub inode: u32,
}

/// A connection of a socket to its own address and port (TCP simultaneous open).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Loop {
    /// The address of both ends.
    pub address: Addr,
    pub port: u16,
    /// Inode of the socket, by which its process is found.
    pub inode: u32,
}

/// The listeners among the sockets, sorted by port.
pub(super) fn listeners(sockets: &[DiagSocket]) -> Vec<Listener> {
    let listens = sockets.iter().filter(|it| it.state == tcp_state::LISTEN);
    let mut all: Vec<Listener> = listens.map(listener).collect();
    all.sort_unstable();
    all
}

fn listener(socket: &DiagSocket) -> Listener {
    let v6 = socket.family == Family::V6;
    Listener {
        port: socket.source_port,
        address: socket.source,
        accepts: [!v6 || !socket.v6_only, v6],
        inode: socket.inode,
        queue: socket.receive_queue,
        longest: socket.send_queue,
    }
}

/// The sockets that are only bound, sorted by port; empty before Linux 6.8, which does not list them.
pub(super) fn idle(sockets: &[DiagSocket]) -> Vec<Idle> {
    let bound = sockets.iter().filter(|it| it.state == tcp_state::CLOSE && it.source_port != 0);
    let mut all: Vec<Idle> =
        bound.map(|it| Idle { port: it.source_port, inode: it.inode }).collect();
    all.sort_unstable();
    all
}

/// The sockets in ESTABLISHED that are connected to themselves, sorted by address, then by port.
pub(super) fn loops(sockets: &[DiagSocket]) -> Vec<Loop> {
    let is_loop = |it: &&DiagSocket| {
        it.state == tcp_state::ESTABLISHED
            && (it.source, it.source_port) == (it.destination, it.destination_port)
    };
    let all = sockets.iter().filter(is_loop);
    let mut all: Vec<Loop> =
        all.map(|it| Loop { address: it.source, port: it.source_port, inode: it.inode }).collect();
    all.sort_unstable();
    all
}
