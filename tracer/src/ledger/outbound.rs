//! Decides which sockets of a dump hold their port because of connect(). No I/O.
//!
//! A dump shows both ends of every local connection, and does not say which of them called connect(). Only that one
//! belongs in the ledger, so states, listeners and ports must decide.

use foldhash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};

use tracer_common::Addr;

use crate::host::sockdiag::{DiagSocket, Family, tcp_state};

/// `source, source port, destination, destination port`
type Ends = (Addr, u16, Addr, u16);

/// What one socket alone, without its other end, says about whether it called connect().
#[derive(Clone, Copy, PartialEq)]
struct Verdict {
    outbound: bool,
    /// Whether the socket's state proves the value of `outbound`; false: listeners and its ports only make that value likely.
    certain: bool,
}

/// The sockets of one namespace's dump that hold a port because of connect(), as far as states, listeners and ports show. The
/// dump must have the sockets of all states. `in_range`: whether a port is in the range that connect() chooses from.
///
/// A socket in SYN_SENT is returned; one in SYN_RECV, LISTEN or CLOSE is not. Any other is returned if no listener accepts at
/// its address and port, and its port is in the range or its peer's is not.
///
/// If the peer's socket is in the dump, too, and only one of the two states decides (SYN_SENT, SYN_RECV), the other end is the
/// opposite. If neither does and both ends get the same answer, the end whose port fewer connections use is returned; if as many
/// use both, that answer stays: both ends, or neither.
pub fn outbound(
    sockets: &[DiagSocket],
    in_range: impl Fn(u16) -> bool,
) -> impl Iterator<Item = &DiagSocket> {
    let listeners = Listeners::new(sockets);
    let mut by_ends: HashMap<Ends, usize> = HashMap::with_capacity(sockets.len());
    let mut users: HashMap<(Addr, u16), u32> = HashMap::with_capacity(sockets.len());
    let mut verdicts = Vec::with_capacity(sockets.len());
    for (index, socket) in sockets.iter().enumerate() {
        let verdict = is_connected(socket).then(|| assume(socket, &listeners, &in_range));
        if verdict.is_some() {
            by_ends.insert(ends(socket), index);
            *users.entry((socket.source, socket.source_port)).or_default() += 1;
        }
        verdicts.push(verdict);
    }
    let users = |socket: &DiagSocket| users.get(&(socket.source, socket.source_port)).copied();
    let decided: Vec<bool> = sockets
        .iter()
        .enumerate()
        .map(|(index, socket)| {
            let Some(mine) = verdicts.get(index).copied().flatten() else { return false };
            let other = by_ends.get(&reversed(ends(socket))).filter(|other| **other != index);
            let Some(other) = other else { return mine.outbound };
            let theirs = verdicts.get(*other).copied().flatten();
            match (theirs, sockets.get(*other)) {
                (Some(theirs), Some(peer)) => {
                    between(mine, theirs, users(socket).cmp(&users(peer)))
                }
                _ => mine.outbound,
            }
        })
        .collect();
    sockets.iter().zip(decided).filter_map(|(socket, outbound)| outbound.then_some(socket))
}

/// Whether the end with the verdict `mine` is outbound, given the verdict about the other end. If both are uncertain and
/// call both ends outbound, or neither, the server's end is the one whose port more connections share; with as many on
/// each, `mine` holds. `users`: how many connections use the port of `mine`, compared with that of `theirs`.
fn between(mine: Verdict, theirs: Verdict, users: std::cmp::Ordering) -> bool {
    match (mine.certain, theirs.certain) {
        (false, true) => !theirs.outbound,
        (false, false) if mine.outbound == theirs.outbound && users.is_ne() => users.is_lt(),
        _ => mine.outbound,
    }
}

/// Whether the socket has a connection (TIME_WAIT included), or is making one: any state but LISTEN and CLOSE, and neither of its
/// ports is 0.
pub(crate) fn is_connected(socket: &DiagSocket) -> bool {
    let idle = matches!(socket.state, tcp_state::LISTEN | tcp_state::CLOSE);
    !idle && socket.source_port != 0 && socket.destination_port != 0
}

/// The verdict about a socket by its state, the listeners and its ports, without its other end.
fn assume(socket: &DiagSocket, listeners: &Listeners, in_range: impl Fn(u16) -> bool) -> Verdict {
    let certain = |outbound| Verdict { outbound, certain: true };
    let likely = |outbound| Verdict { outbound, certain: false };
    match socket.state {
        tcp_state::SYN_RECV | tcp_state::NEW_SYN_RECV => certain(false),
        tcp_state::SYN_SENT => certain(true),
        _ if listeners.accept(socket) => likely(false),
        _ if in_range(socket.source_port) => likely(true),
        _ => likely(!in_range(socket.destination_port)),
    }
}

fn ends(socket: &DiagSocket) -> Ends {
    (socket.source, socket.source_port, socket.destination, socket.destination_port)
}

fn reversed((source, source_port, destination, destination_port): Ends) -> Ends {
    (destination, destination_port, source, source_port)
}

/// Addresses and ports at which connections are accepted.
struct Listeners {
    at: HashSet<(Addr, u16)>,
    /// Ports with a listener that accepts at all IPv4 addresses.
    any_v4: HashSet<u16>,
    /// Ports with a listener that accepts at all IPv6 addresses.
    any_v6: HashSet<u16>,
}

impl Listeners {
    fn new(sockets: &[DiagSocket]) -> Self {
        let mut new = Self { at: HashSet::new(), any_v4: HashSet::new(), any_v6: HashSet::new() };
        for socket in sockets.iter().filter(|socket| socket.state == tcp_state::LISTEN) {
            let port = socket.source_port;
            new.at.insert((socket.source, port));
            if socket.source == Addr::v4([0; 4]) {
                new.any_v4.insert(port);
            }
            if socket.family == Family::V6 && socket.source == Addr::UNSPECIFIED {
                new.any_v6.insert(port);
                if !socket.v6_only {
                    new.any_v4.insert(port);
                }
            }
        }
        new
    }

    fn accept(&self, socket: &DiagSocket) -> bool {
        let any = if socket.source.to_v4().is_some() { &self.any_v4 } else { &self.any_v6 };
        any.contains(&socket.source_port) || self.at.contains(&(socket.source, socket.source_port))
    }
}

#[cfg(test)]
mod tests;
