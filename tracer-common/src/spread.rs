//! The spreader's rule, and how it chooses an address. Shared, so that the host tests the same code that the
//! hooks run.
//!
//! connect() searches the ports of one parity first: the *first parity*, that of the range's first port. The *second
//! parity* is what it searches last.

mod choice;

pub use choice::{Room, Rounds, Search, Usage, candidate, choose, choose_by, draw, search};

use crate::{
    Addr, Who,
    filter::{Ports, Prefix},
    named::named,
};

/// How many addresses of one family a pool can have.
pub const POOL_MAX: usize = 256;
/// How many destinations a rule can name.
pub const DESTINATIONS_MAX: usize = 16;

/// Bits of [`Rule::flags`].
pub mod rule_flag {
    /// Also replace an address that the application bound without a port, or asks for in a bind(address, 0).
    pub const REBIND: u32 = 1;
    /// Past 45 % of a tuple's ports, bind ports of the second parity.
    pub const FAST_PORTS: u32 = 1 << 1;
    /// If the pool is known to be full, fail the connect() at once with EADDRNOTAVAIL instead of letting the kernel search every
    /// port first.
    pub const FAIL_FAST: u32 = 1 << 2;
    /// Exempt every call once the agent's lease (the map `LEASE`) has expired.
    pub const LEASED: u32 = 1 << 3;
}

/// Indices in the `HELD` map: counters of bound ports in the namespace and the range of the rule, of ports that the spreader
/// bound (*fast ports*), and of the agent's readings.
pub mod held {
    /// How often bind() or listen() took a port that was not bound at any address: once for each port, however many addresses it
    /// is then bound at. Only grows.
    pub const BOUND: u32 = 0;
    /// How often a bound port was released, at any address. Only grows.
    pub const RELEASED: u32 = 1;
    /// Ports that the spreader bound and that are held now (fast ports).
    pub const FAST: u32 = 2;
    /// Number of the agent's newest reading of the bound ports, from 1 up.
    pub const LOOK: u32 = 3;
    /// Of [`BOUND`]: ports that were released again, at all addresses, before the agent's next reading. Only grows.
    pub const BACK: u32 = 4;
    /// Entries of the map.
    pub const COUNT: u32 = 5;
}

/// A destination of a rule: a network and a range of ports. Of those that contain the address and port of a connect(), the last
/// decides whether it is spread; if none contains them, it is not. A rule without destinations spreads to all
/// ([`Self::is_spread`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Destination {
    /// An IPv4 network is v4-mapped.
    pub prefix: Prefix,
    pub ports: Ports,
    /// 0: the rule spreads connections to it; 1: they are exempt.
    pub exempt: u32,
}

const _: () = assert!(size_of::<Destination>() == 40);

impl Destination {
    /// Whether this destination contains the address and port (host byte order) of a connect().
    #[inline(always)]
    pub fn contains(&self, address: &Addr, port: u16) -> bool {
        port >= self.ports.low && port <= self.ports.high && self.prefix.contains(address)
    }

    /// Whether a rule with these destinations spreads a connect() to this address and port (host byte order): whether the last
    /// destination that contains them is not exempt. With an empty list, it spreads all; if none contains them, it does not.
    pub fn is_spread(all: &[Self], address: &Addr, port: u16) -> bool {
        let last = all.iter().rev().find(|one| one.contains(address, port));
        all.is_empty() || last.is_some_and(|one| one.exempt == 0)
    }
}

/// The pool's addresses of one family.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FamilyPool {
    /// How many of `addresses` are used.
    pub count: u32,
    /// How many of `slots` are used: at least one for each address, more for one with more weight.
    pub slot_count: u32,
    /// 1: these are loopback addresses, for loopback destinations only; 0: these are other addresses, for all other destinations.
    pub loopback: u32,
    /// 1: the kernel's port search reuses TIME_WAITs of these addresses that are old enough
    /// (net.ipv4.tcp_tw_reuse is 1, or 2 and they are loopback addresses); else 0.
    pub reuse: u32,
    /// Indices into `addresses`: a slot drawn at random draws an address by weight.
    pub slots: [u8; POOL_MAX],
    /// Weight of each address, from 1 up.
    pub weights: [u16; POOL_MAX],
    /// Of the family: IPv4 addresses are v4-mapped.
    pub addresses: [Addr; POOL_MAX],
}

const _: () = assert!(size_of::<FamilyPool>() == 16 + POOL_MAX * (1 + 2 + 16));

impl Default for FamilyPool {
    fn default() -> Self {
        Self {
            count: 0,
            slot_count: 0,
            loopback: 0,
            reuse: 0,
            slots: [0; POOL_MAX],
            weights: [0; POOL_MAX],
            addresses: [Addr::UNSPECIFIED; POOL_MAX],
        }
    }
}

/// Value of the `RULES` map: a rule, as the hooks read it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Rule {
    /// Cookie of the network namespace that the pool's addresses are in (SO_NETNS_COOKIE, Linux
    /// 5.14); 0: not known, and the inode number decides.
    pub netns_cookie: u64,
    /// Inode number of that namespace.
    pub netns: u32,
    /// [`rule_flag`] bits.
    pub flags: u32,
    /// How many ports of the range are neither reserved nor taken by bind() or listen(), without the port of `unsure`: connect()
    /// is sure to find as many for a tuple that holds none.
    pub capacity: u32,
    /// First port of the second parity, host byte order: the range's second port.
    pub other_low: u16,
    /// 1: the range has an odd number of ports, and the last one, which connect()'s search can skip, is neither reserved nor
    /// bound; else 0.
    pub unsure: u16,
    /// How many ports of the second parity the range has (each is 2 above the one before). The first parity has as many, without
    /// the last port of an odd number of ports.
    pub half: u32,
    /// Of the ports in `half`: those that are neither reserved nor bound.
    pub other_capacity: u32,
    /// Candidate n is port number `(n * step + offset) % half` of the second parity, counted from 0. `step` is coprime with
    /// `half`. So an observer cannot predict the next port from the last one (RFC 6056).
    pub step: u32,
    /// See `step`.
    pub offset: u32,
    /// N (a power of two), if about 1 in N decisions is recorded; 0: none. Whatever N is, every address that the kernel refused
    /// to bind is recorded, and at most once a second that no address could be chosen. If N is 1, that is recorded each time, and
    /// exempt calls are recorded, too.
    pub sample: u32,
    /// How many of `destinations` are used; 0: the rule is for every destination.
    pub destination_count: u32,
    /// Age from which on the kernel reuses a TIME_WAIT, ms (net.ipv4.tcp_tw_reuse_delay, Linux 6.14). Older
    /// kernels reuse it from the next second of their clock on.
    pub reuse_delay_ms: u32,
    /// The counters [`held::BOUND`], [`held::RELEASED`] and [`held::BACK`] as they were when the agent computed `capacity`. The
    /// growth of `BOUND` minus `BACK` since then is the number of ports in `capacity` that are bound now; the growth of
    /// `RELEASED` is how often a port was released, perhaps one that `capacity` does not count.
    pub bound: u32,
    /// See `bound`.
    pub released: u32,
    /// See `bound`.
    pub back: u32,
    /// Of several that contain an address, the last one decides ([`Destination`]).
    pub destinations: [Destination; DESTINATIONS_MAX],
    /// For IPv4 destinations, also of AF_INET6 sockets.
    pub v4: FamilyPool,
    pub v6: FamilyPool,
}

impl Rule {
    /// Whether a port (host byte order) is in the range: in the `half * 2` ports from its first one on. So of a range with an odd
    /// number of ports, the last one does not count.
    #[inline(always)]
    pub const fn has_port(&self, port: u16) -> bool {
        let low = (self.other_low as u32).wrapping_sub(1);
        (port as u32).wrapping_sub(low) < self.half * 2
    }
}

const _: () = assert!(
    size_of::<Rule>()
        == 64 + DESTINATIONS_MAX * size_of::<Destination>() + 2 * size_of::<FamilyPool>()
);

/// If this many of the spreader's connections from one source to one destination are unanswered, and none was established since
/// the source was last left out, other addresses come first. Calls that ended without an answer count, too, until the agent's
/// next health check (1 s).
pub const TRIALS: u32 = 4;

/// [`Usage::in_use`] of an address that is left out towards the destination is at least this (more than there are ports): so the
/// address has no room.
pub const NO_ROOM: u32 = 1 << 20;

/// Why the agent leaves an address out towards one destination. The value is on the wire: append. The hooks add
/// it to the ports in use, so it is at least [`NO_ROOM`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum LeftOut {
    /// Its connections have no answer, while those of another address are established.
    Failing = NO_ROOM,
    /// The host has no route from this address, but reaches the destination otherwise.
    NoRoute = NO_ROOM << 1,
}

impl LeftOut {
    /// The reason in output and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failing => "its connections fail where others succeed",
            Self::NoRoute => "no route from it, where there is one without it",
        }
    }

    /// The reason with this value; `None`: no reason has it (0: the address is not left out).
    pub fn from_wire(value: u32) -> Option<Self> {
        [Self::Failing, Self::NoRoute].into_iter().find(|reason| *reason as u32 == value)
    }
}

/// One record of the `DECISION_RING` ring buffer, host byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct DecisionRecord {
    /// CLOCK_MONOTONIC, ns.
    pub mono_ns: u64,
    /// The socket's cookie.
    pub cookie: u64,
    /// The address that the spreader chose; unspecified: none.
    pub chosen: Addr,
    /// The source address that the socket had before; unspecified: none, or in the record of an exempt call one that the spreader
    /// had bound.
    pub original: Addr,
    pub destination: Addr,
    /// The caller of connect().
    pub who: Who,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Ports of (chosen, destination, destination port) in use before, without those that the application bound and those that
    /// connect() cannot be given ([`crate::conn_flag::APART`]); 0 if no address was chosen.
    pub in_use: u32,
    /// Host byte order.
    pub destination_port: u16,
    /// The port that the spreader bound, host byte order; 0: none.
    pub port: u16,
    /// A [`Decision`].
    pub decision: u32,
}

const _: () = assert!(size_of::<DecisionRecord>() == 112);

named! {
    /// What the spreader decided about a call. The value is the index of its counter, and on the wire: append.
    pub enum Decision: u32 {
        /// The spreader bound the least-used address; the kernel finds the port.
        LeastUsed = 0 => "least_used",
        /// The spreader bound the least-used address, and a port.
        FastPort => "fast_port",
        /// No address of the pool has a port that is sure to be free: the connect() or bind() goes on as with spreading off.
        PoolFull => "pool_full",
        /// No address of the pool has a free port: the hook denied the connect().
        FailedFast => "failed_fast",
        /// The spreader replaced the address of a bind(address, 0).
        Moved => "moved",
        /// The rule does not spread connections to the destination.
        OtherDestination => "other_destination",
        /// The call is not TCP, or the pool has no address of its family.
        OtherFamily => "other_family",
        /// The socket is in another network namespace than the pool.
        OtherNetns => "other_netns",
        /// The socket had a port: the application bound it.
        HasPort => "has_port",
        /// The application bound an address, and the rule does not replace such an address.
        HasAddress => "has_address",
        /// The socket is bound to a device or VRF (SO_BINDTODEVICE).
        BoundToDevice => "bound_to_device",
        /// The socket is IP_TRANSPARENT: its address need not be the host's.
        Transparent => "transparent",
        /// The socket is the kernel's own (NFS, iSCSI).
        KernelSocket => "kernel_socket",
        /// The destination is loopback (or unspecified, which connect() takes for loopback) and the pool is not, or the other way
        /// round; or the destination is link-local.
        Loopback => "loopback",
        /// The agent's lease has expired.
        LeaseOver => "lease_over",
        /// The kernel refused to bind the chosen address: the connect() goes on as with spreading off.
        Refused => "refused",
        /// The kernel refused to bind the chosen port; the connect() goes on as after `NoCandidate`. Counted besides another
        /// decision.
        PortRefused => "port_refused",
        /// The spreader found no port that is sure to be free: it binds the address alone ([`Self::LeastUsed`]), or if the kernel
        /// might find no port either, it decides [`Self::PoolFull`]. Counted besides that decision.
        NoCandidate => "no_candidate",
        /// The ring buffer was full, so that a decision was not recorded. Counted besides that decision.
        NotTold => "not_told",
        /// At least one address of the pool is left out towards this destination, and no other has a free port: the connect()
        /// goes on as with spreading off, even with `--fail-fast`.
        AllLeftOut => "all_left_out",
    }
}

#[cfg(test)]
mod tests;
