//! The tuples of one network namespace in a list of its sockets: how many ports each holds, in which states, and of how many.

mod local;
mod parity;

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

pub use local::{Idle, Listener, Loop};
pub use parity::Parity;

use tracer_common::Addr;

use crate::{
    host::{
        capacity::{PackedPorts, PortRange, Reuse, Usable, is_loopback},
        sockdiag::{DiagSocket, tcp_state},
    },
    ledger::outbound::outbound,
};

/// A source address and a destination: the key of a tuple in its namespace.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Ends {
    pub source: Addr,
    pub destination: Addr,
    /// Port of the destination, in host byte order.
    pub port: u16,
}

impl Ends {
    /// The source address; a v4-mapped one as IPv4.
    pub fn from(&self) -> IpAddr {
        ip(self.source)
    }

    /// The destination, with its port; a v4-mapped address as IPv4.
    pub fn peer(&self) -> SocketAddr {
        SocketAddr::new(ip(self.destination), self.port)
    }
}

/// An address as the standard library has it; a v4-mapped one as IPv4.
pub fn ip(address: Addr) -> IpAddr {
    match address.to_v4() {
        Some(octets) => Ipv4Addr::from(octets).into(),
        None => Ipv6Addr::from(address.0).into(),
    }
}

/// How many ports a tuple holds: those of connections from one source address to one destination that connect() opened.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tuple {
    /// All ports that it holds, those in TIME_WAIT and those outside of the range included.
    pub held: u32,
    /// Ports in TIME_WAIT, without those in FIN_WAIT2.
    pub time_wait: u32,
    /// Of `time_wait`: ports that connect() can reuse, because they are old enough and `net.ipv4.tcp_tw_reuse` lets it.
    pub reusable: u32,
    /// Ports in FIN_WAIT2: this host has closed the connection, the peer has not.
    pub fin_wait2: u32,
    /// Ports in CLOSE_WAIT: the peer has closed the connection, the program has not.
    pub close_wait: u32,
    /// Ports in ESTABLISHED.
    pub established: u32,
    /// Ports in SYN_SENT.
    pub syn_sent: u32,
    /// Of `syn_sent`: ports whose SYN was sent again at least once.
    pub unanswered: u32,
    /// Ports of the range that a connect() of this tuple can be given, those that it holds included.
    pub capacity: u32,
    /// Whether every port of the parity that connect() tries first, that of the range's first port, is held by this tuple, or
    /// taken by bind() or listen(): each connect() then tries all of them before it finds a free port of the other parity
    /// (`__inet_hash_connect`, net/ipv4/inet_hashtables.c). False also if all ports of the first parity are reserved.
    pub first_half_full: bool,
    /// Its ports of the range by parity.
    pub parity: Parity,
    /// Inodes of sockets that a process has open, at most 64, in no order.
    pub inodes: Vec<u32>,
    /// Cookies (`sock_diag`) of the sockets in CLOSE_WAIT, sorted: two looks show which of them stay.
    pub close_wait_cookies: Vec<u64>,
    /// The cookies of the sockets in FIN_WAIT2, sorted.
    pub fin_wait2_cookies: Vec<u64>,
    /// Ids of the cgroups in which its open sockets were made, sorted, each once, at most 8.
    pub cgroups: Vec<u64>,
}

/// How many inodes are kept of a tuple, to find who holds it.
const INODES: usize = 64;
/// How many cgroups are kept of a tuple, to find out in which container it is.
const CGROUPS: usize = 8;
/// How long a TIME_WAIT lasts, in ms (TCP_TIMEWAIT_LEN).
const TIME_WAIT_MS: u32 = 60_000;
/// The age from which on a TIME_WAIT can be reused where there is no `tcp_tw_reuse_delay` (before Linux 6.14), in ms: reuse
/// begins with the next second of a clock that counts whole seconds.
const NEXT_SECOND_MS: u32 = 2_000;

impl Tuple {
    /// Ports that it holds and that a connect() cannot be given: all but the reusable ones.
    pub fn in_use(&self) -> u32 {
        self.held.saturating_sub(self.reusable)
    }

    /// Share of the ports that it holds which are in TIME_WAIT, 0 to 1; 0 if it holds none.
    pub fn waiting(&self) -> f64 {
        f64::from(self.time_wait) / f64::from(self.held.max(1))
    }

    /// [`Self::in_use`] divided by the capacity; 1 if the capacity is 0. Above 1 if it holds ports outside of the range.
    pub fn saturation(&self) -> f64 {
        if self.capacity == 0 { 1.0 } else { f64::from(self.in_use()) / f64::from(self.capacity) }
    }
}

/// The settings of a namespace by which the kernel chooses ports for connect().
#[derive(Clone, Debug)]
pub struct Settings {
    pub range: PortRange,
    pub reuse: Reuse,
}

/// What the sockets of a namespace say about its ports.
#[derive(Clone, Debug, Default)]
pub struct Tuples {
    /// The tuples that hold a port.
    pub by_ends: BTreeMap<Ends, Tuple>,
    /// Ports of the range on which a socket listens, sorted, each once.
    pub listening: Vec<u16>,
    /// Ports of the range that bind() took and whose sockets are not connected, sorted, each once; empty before Linux 6.8, which
    /// does not list these.
    pub bound: Vec<u16>,
    /// How many ports connect() can be given for a tuple that holds none.
    pub usable: u32,
    /// All listeners, those on ports outside of the range included, sorted by port.
    pub listeners: Vec<Listener>,
    /// Sockets that are only bound, on any port, sorted by port; empty before Linux 6.8, which does not list these.
    pub idle: Vec<Idle>,
    /// Sockets in ESTABLISHED that are connected to themselves, sorted by address.
    pub loops: Vec<Loop>,
}

/// The ports that a tuple holds, each with whether connect() can reuse it.
type Held = HashMap<u16, bool>;

/// The tuples of a namespace, and its listening, bound and self-connected sockets, by its sockets in all states. Of tuples, only
/// connections that connect() opened count (see [`outbound`]), and a port once. Without sockets, only [`Tuples::usable`] is set.
pub fn tuples(sockets: &[DiagSocket], settings: &Settings) -> Tuples {
    let in_range = |port: &u16| settings.range.contains(*port);
    let taken = |state: u8| {
        let of = sockets.iter().filter(|it| it.state == state).map(|it| it.source_port);
        let mut ports: Vec<u16> = of.filter(in_range).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    };
    let (listening, bound) = (taken(tcp_state::LISTEN), taken(tcp_state::CLOSE));
    let mut blocked: Vec<u16> = listening.iter().chain(&bound).copied().collect();
    blocked.sort_unstable();
    blocked.dedup();
    let usable = Usable::new(&settings.range, PackedPorts::of_sorted(blocked));
    let mut found: BTreeMap<Ends, (Tuple, Held)> = BTreeMap::new();
    for socket in outbound(sockets, |port| settings.range.contains(port)) {
        let (source, destination) = (socket.source, socket.destination);
        let ends = Ends { source, destination, port: socket.destination_port };
        let (tuple, ports) = found.entry(ends).or_default();
        // A port counts once, also if a TIME_WAIT and a new connection of it are listed during a take-over.
        if ports.contains_key(&socket.source_port) {
            continue;
        }
        let loopback = is_loopback(source) || is_loopback(destination);
        let reusable = is_reusable(socket, settings.reuse, loopback);
        ports.insert(socket.source_port, reusable);
        add(tuple, socket, reusable);
        tuple.parity.add(socket, &settings.range);
    }
    let by_ends = found.into_iter().map(|(ends, (mut tuple, ports))| {
        let own = ports.keys().filter(|port| !usable.has(**port) && in_range(port));
        tuple.close_wait_cookies.sort_unstable();
        tuple.fin_wait2_cookies.sort_unstable();
        tuple.capacity = usable.limits().usable().saturating_add(count(own));
        tuple.first_half_full =
            first_half_is(&settings.range, &usable, &ports, |reusable| !reusable);
        tuple.parity.first_all_held = first_half_is(&settings.range, &usable, &ports, |_| true);
        (ends, tuple)
    });
    Tuples {
        by_ends: by_ends.collect(),
        listening,
        bound,
        usable: usable.limits().usable(),
        listeners: local::listeners(sockets),
        idle: local::idle(sockets),
        loops: local::loops(sockets),
    }
}

/// Whether connect() can reuse the port: it is in TIME_WAIT, old enough, and the settings let it.
fn is_reusable(socket: &DiagSocket, reuse: Reuse, loopback: bool) -> bool {
    let age = TIME_WAIT_MS.saturating_sub(socket.expires_ms);
    let old = age >= reuse.delay_ms.unwrap_or(NEXT_SECOND_MS);
    socket.state == tcp_state::TIME_WAIT && old && reuse.timestamps && reuse.is_on(loopback)
}

fn add(tuple: &mut Tuple, socket: &DiagSocket, reusable: bool) {
    tuple.held += 1;
    tuple.reusable += u32::from(reusable);
    match socket.state {
        tcp_state::TIME_WAIT => tuple.time_wait += 1,
        tcp_state::FIN_WAIT2 => {
            tuple.fin_wait2 += 1;
            tuple.fin_wait2_cookies.push(socket.cookie);
        }
        tcp_state::CLOSE_WAIT => {
            tuple.close_wait += 1;
            tuple.close_wait_cookies.push(socket.cookie);
        }
        tcp_state::ESTABLISHED => tuple.established += 1,
        tcp_state::SYN_SENT => {
            tuple.syn_sent += 1;
            tuple.unanswered += u32::from(socket.sent_again > 0);
        }
        _ => {}
    }
    if socket.inode != 0 && tuple.inodes.len() < INODES {
        tuple.inodes.push(socket.inode);
    }
    if socket.cgroup != 0
        && tuple.cgroups.len() < CGROUPS
        && let Err(place) = tuple.cgroups.binary_search(&socket.cgroup)
    {
        tuple.cgroups.insert(place, socket.cgroup);
    }
}

/// Whether every port that connect() tries first is taken by another program, or held by the tuple so that `held_so` is true (its
/// argument: whether connect() can take the port over). False if there are no such ports.
fn first_half_is(
    range: &PortRange,
    usable: &Usable,
    held: &Held,
    held_so: impl Fn(bool) -> bool,
) -> bool {
    let unreserved = |port: &u16| usable.unreserved().has(*port);
    let mut first = (range.low..=range.high).step_by(2).filter(unreserved).peekable();
    let taken = |port| match held.get(&port) {
        Some(reusable) => held_so(*reusable),
        None => !usable.has(port),
    };
    first.peek().is_some() && first.all(taken)
}

fn count<T>(all: impl Iterator<Item = T>) -> u32 {
    u32::try_from(all.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
