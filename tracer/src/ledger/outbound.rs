//! Decides which sockets of a dump hold their port because of connect(). No I/O.
//!
//! A dump shows both ends of every local connection, and does not say which of them called connect(). Only that one
//! belongs in the ledger, so states, listeners and ports must decide.

use std::{cell::OnceCell, cmp::Ordering, hash::BuildHasher as _};

use foldhash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _, fast::RandomState};
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
    let judged = |socket| is_connected(socket).then(|| assume(socket, &listeners, &in_range));
    let verdicts: Vec<Option<Verdict>> = sockets.iter().map(judged).collect();
    let by_ends = ByEnds::new(sockets, |index| verdicts.get(index).copied().flatten().is_some());
    // Needed only where neither state nor listeners distinguish two ends.
    let users = OnceCell::new();
    let users = |socket: &DiagSocket| {
        let all = users.get_or_init(|| users_of_ports(sockets));
        all.get(&(socket.source, socket.source_port)).copied()
    };
    let decide = |(index, socket): (usize, &DiagSocket)| {
        let Some(mine) = verdicts.get(index).copied().flatten() else { return false };
        // What the other end says would not be asked.
        if mine.certain {
            return mine.outbound;
        }
        let other = by_ends.get(&reversed(ends(socket))).filter(|other| *other != index);
        let Some(other) = other else { return mine.outbound };
        match (verdicts.get(other).copied().flatten(), sockets.get(other)) {
            (Some(theirs), Some(peer)) => between(mine, theirs, || users(socket).cmp(&users(peer))),
            _ => mine.outbound,
        }
    };
    let decided: Vec<bool> = sockets.iter().enumerate().map(decide).collect();
    sockets.iter().zip(decided).filter_map(|(socket, outbound)| outbound.then_some(socket))
}

/// How many connections use each local address and port.
fn users_of_ports(sockets: &[DiagSocket]) -> HashMap<(Addr, u16), u32> {
    let mut users = HashMap::new();
    for socket in sockets.iter().filter(|socket| is_connected(socket)) {
        *users.entry((socket.source, socket.source_port)).or_default() += 1;
    }
    users
}

/// Sockets of a dump by their ends: a hash table of indices, which takes 8 to 16 bytes for each socket of the dump. (A map with the
/// ends in it takes 56 or more.)
struct ByEnds<'a> {
    sockets: &'a [DiagSocket],
    hasher: RandomState,
    /// Index of a socket and 1; 0: free. At least half of them are free, and their number is a power of two.
    slots: Vec<u32>,
}

impl<'a> ByEnds<'a> {
    /// The sockets whose index is `wanted`; of several with the same ends, the last one.
    fn new(sockets: &'a [DiagSocket], wanted: impl Fn(usize) -> bool) -> Self {
        let slots = vec![0; (sockets.len() * 2).next_power_of_two()];
        let mut new = Self { sockets, hasher: RandomState::default(), slots };
        for (index, socket) in sockets.iter().enumerate().filter(|(index, _)| wanted(*index)) {
            let (slot, _) = new.find(&ends(socket));
            if let (Some(slot), Ok(number)) = (new.slots.get_mut(slot), u32::try_from(index + 1)) {
                *slot = number;
            }
        }
        new
    }

    /// Index of the socket with these ends; `None`: there is none.
    fn get(&self, ends: &Ends) -> Option<usize> {
        self.find(ends).1
    }

    /// The slot of these ends, or the one in which they would be, and the index of the socket in it.
    fn find(&self, wanted: &Ends) -> (usize, Option<usize>) {
        let last = self.slots.len() - 1;
        #[expect(clippy::cast_possible_truncation, reason = "any bits of the hash will do")]
        let mut slot = self.hasher.hash_one(wanted) as usize & last;
        // Ends at a free slot.
        loop {
            let number = self.slots.get(slot).copied().unwrap_or(0);
            let Some(index) = (number as usize).checked_sub(1) else { return (slot, None) };
            if self.sockets.get(index).is_some_and(|it| ends(it) == *wanted) {
                return (slot, Some(index));
            }
            slot = (slot + 1) & last;
        }
    }
}

/// Whether the end with the verdict `mine` is outbound, given the verdict about the other end. If both are uncertain and
/// call both ends outbound, or neither, the server's end is the one whose port more connections share; with as many on
/// each, `mine` holds. `users`: how many connections use the port of `mine`, compared with that of `theirs`.
fn between(mine: Verdict, theirs: Verdict, users: impl FnOnce() -> Ordering) -> bool {
    match (mine.certain, theirs.certain) {
        (false, true) => !theirs.outbound,
        (false, false) if mine.outbound == theirs.outbound => match users() {
            Ordering::Equal => mine.outbound,
            fewer_or_more => fewer_or_more.is_lt(),
        },
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
