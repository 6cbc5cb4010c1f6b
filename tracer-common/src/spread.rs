//! What the spreader goes by, and how it chooses: shared, so that the choice is tested on the host
//! and used as it is in the hook.

mod choice;

pub use choice::{Room, Rounds, Search, Usage, candidate, choose, choose_by, draw, search};

use crate::{
    Addr, Who,
    filter::{Ports, Prefix},
};

/// Addresses of one family that a pool can have.
pub const POOL_MAX: usize = 256;
/// Destinations that a rule can name.
pub const DESTINATIONS_MAX: usize = 16;

/// Bits of [`Rule::flags`].
pub mod rule_flag {
    /// An address that the application chose (without a port) is replaced too.
    pub const REBIND: u32 = 1;
    /// Past 45 % of a tuple's ports, hand out ports of the parity that the kernel tries last.
    pub const FAST_PORTS: u32 = 1 << 1;
    /// Where the pool is full, fail at once instead of letting the kernel search in vain.
    pub const FAIL_FAST: u32 = 1 << 2;
    /// Do nothing once the lease is over.
    pub const LEASED: u32 = 1 << 3;
}

/// Indices in the `HELD` map: what the hooks count of ports in the namespace and the range of a rule.
pub mod held {
    /// Ports that bind() or listen() took while nobody had them bound: each once, however many addresses it is bound at. Only
    /// grows.
    pub const BOUND: u32 = 0;
    /// How often such a port was given back, at any address. Only grows.
    pub const RELEASED: u32 = 1;
    /// Ports that the spreader bound and that are held now.
    pub const FAST: u32 = 2;
    /// Number of the agent's newest look at what is bound, from 1 up.
    pub const LOOK: u32 = 3;
    /// Of [`BOUND_BY_ADDR`], ports that nobody has bound any more, if that was so before the look after. Only grows.
    pub const BACK: u32 = 4;
    /// Entries of the map.
    pub const COUNT: u32 = 5;
}

/// A destination: a network and a range of ports. Where several have one, the last of them decides.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Destination {
    /// An IPv4 network is v4-mapped.
    pub prefix: Prefix,
    pub ports: Ports,
    /// 0: connections there are spread; 1: they are left alone.
    pub exempt: u32,
}

const _: () = assert!(size_of::<Destination>() == 40);

impl Destination {
    /// Whether a connect() goes there.
    #[inline(always)]
    pub fn contains(&self, address: &Addr, port: u16) -> bool {
        port >= self.ports.low && port <= self.ports.high && self.prefix.contains(address)
    }

    /// Whether a connect() there is spread. An empty list has every destination.
    pub fn is_spread(all: &[Self], address: &Addr, port: u16) -> bool {
        let last = all.iter().rev().find(|one| one.contains(address, port));
        all.is_empty() || last.is_some_and(|one| one.exempt == 0)
    }
}

/// The addresses of one family.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FamilyPool {
    /// How many of `addresses` there are.
    pub count: u32,
    /// How many of `slots` there are: at least one for each address, more for a heavier one.
    pub slot_count: u32,
    /// 1: the addresses are loopback ones, and so must the destinations be.
    pub loopback: u32,
    /// 1: the kernel's own search takes over TIME_WAITs of these addresses that are old enough
    /// (net.ipv4.tcp_tw_reuse of 1; of 2 if they are loopback addresses).
    pub reuse: u32,
    /// Draws among addresses by weight: indices into `addresses`.
    pub slots: [u8; POOL_MAX],
    /// From 1 up.
    pub weights: [u16; POOL_MAX],
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

/// Value of the `RULES` map: all that the hooks need to know.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Rule {
    /// Cookie of the network namespace that the pool's addresses are in (SO_NETNS_COOKIE, Linux
    /// 5.14); 0: not known, the inode number decides.
    pub netns_cookie: u64,
    /// Inode number of that namespace.
    pub netns: u32,
    /// [`rule_flag`] bits.
    pub flags: u32,
    /// The range less reserved ports and those that bind() and listen() took: what a tuple can hold beside
    /// ports of the last kind, and beside `unsure`.
    pub capacity: u32,
    /// First port of the half that the kernel gives to connect() last.
    pub other_low: u16,
    /// 1: there is one port more, because their number is odd, which a search can pass over. Else 0.
    pub unsure: u16,
    /// Ports in that half, two apart; those of the other half are as many.
    pub half: u32,
    /// Of these, those that are neither reserved nor bound.
    pub other_capacity: u32,
    /// Candidates are taken `step` apart (coprime with `half`), from `offset` on, so that nobody
    /// can tell the next port from the last one (RFC 6056).
    pub step: u32,
    pub offset: u32,
    /// One decision in so many is told; 0: none.
    pub sample: u32,
    pub destination_count: u32,
    /// Age from which on a TIME_WAIT can be taken over, ms (net.ipv4.tcp_tw_reuse_delay, Linux 6.14). Older
    /// kernels take it over in the next second of their clock.
    pub reuse_delay_ms: u32,
    /// What [`held::BOUND`], [`held::RELEASED`] and [`held::BACK`] were when `capacity` was made: bind() took ports since
    /// then that are in it, or gave back some that are not.
    pub bound: u32,
    pub released: u32,
    pub back: u32,
    pub destinations: [Destination; DESTINATIONS_MAX],
    pub v4: FamilyPool,
    pub v6: FamilyPool,
}

impl Rule {
    /// Whether a port is one of the two halves.
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

/// Where other addresses have connections established towards a destination: for how many connections an
/// address that never had any may wait there at once, failures of the last second included.
pub const TRIALS: u32 = 4;

/// [`Usage::in_use`] of an address that is left out towards the destination is no less: it has no room.
pub const NO_ROOM: u32 = 1 << 20;

/// Why the agent leaves an address out towards one destination. The value is on the wire: append. It is added to
/// the ports in use, and so at least [`NO_ROOM`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum LeftOut {
    /// Nothing comes back to its connections, while those of another address get established.
    Failing = NO_ROOM,
    /// There is no route from it, where there is one without it.
    NoRoute = NO_ROOM << 1,
}

impl LeftOut {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failing => "its connections fail where others succeed",
            Self::NoRoute => "no route from it, where there is one without it",
        }
    }

    pub fn from_wire(value: u32) -> Option<Self> {
        [Self::Failing, Self::NoRoute].into_iter().find(|reason| *reason as u32 == value)
    }
}

/// One record of the `DECISION_RING` ring buffer, host byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct DecisionRecord {
    pub mono_ns: u64,
    pub cookie: u64,
    /// Unspecified: none.
    pub chosen: Addr,
    /// What the socket had before; unspecified: none.
    pub original: Addr,
    pub destination: Addr,
    pub who: Who,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Ports of (chosen, destination, destination port) in use before, but for those that the application bound.
    pub in_use: u32,
    /// Host byte order.
    pub destination_port: u16,
    /// Port of ours, host byte order; 0: the kernel finds one.
    pub port: u16,
    /// [`Decision`]
    pub decision: u32,
}

const _: () = assert!(size_of::<DecisionRecord>() == 112);

/// What was decided about a connect(). The value is the index of its counter and on the wire: append.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Decision {
    /// The least-used address was bound; the kernel finds the port.
    LeastUsed = 0,
    /// As that, with a port of ours.
    FastPort,
    /// No address of the pool has a port left: the kernel chooses as without us.
    PoolFull,
    /// As that, and the connect() was failed at once.
    FailedFast,
    /// The address of a bind(address, 0) was replaced.
    Moved,
    /// Not among the rule's destinations.
    OtherDestination,
    /// Neither TCP nor an address of a family that the pool has.
    OtherFamily,
    /// In another network namespace than the pool.
    OtherNetns,
    /// The application bound a port.
    HasPort,
    /// The application bound an address, and the rule does not replace those.
    HasAddress,
    /// Bound to a device or VRF (SO_BINDTODEVICE).
    BoundToDevice,
    /// IP_TRANSPARENT: the address is somebody else's.
    Transparent,
    /// Of the kernel itself (NFS, iSCSI).
    KernelSocket,
    /// To a loopback or link-local address, from a pool that is not.
    Loopback,
    /// The agent's lease is over.
    LeaseOver,
    /// The kernel refused the chosen address, and connects without.
    Refused,
    /// As that for the port: the kernel finds one, with or without the address as for `NoCandidate`.
    PortRefused,
    /// No free candidate: as that, or where the kernel would find none either, [`Self::PoolFull`].
    NoCandidate,
    /// Beside one of the others: it was to be told, and the ring buffer was full.
    NotTold,
    /// Addresses of the pool are left out towards this destination, and no other has a port left: the kernel
    /// chooses as without us.
    AllLeftOut,
}

impl Decision {
    pub const COUNT: usize = 20;
    pub const ALL: [Self; Self::COUNT] = [
        Self::LeastUsed,
        Self::FastPort,
        Self::PoolFull,
        Self::FailedFast,
        Self::Moved,
        Self::OtherDestination,
        Self::OtherFamily,
        Self::OtherNetns,
        Self::HasPort,
        Self::HasAddress,
        Self::BoundToDevice,
        Self::Transparent,
        Self::KernelSocket,
        Self::Loopback,
        Self::LeaseOver,
        Self::Refused,
        Self::PortRefused,
        Self::NoCandidate,
        Self::NotTold,
        Self::AllLeftOut,
    ];

    /// The word for it, in `tracer status` and in `spread.passed`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LeastUsed => "least_used",
            Self::FastPort => "fast_port",
            Self::PoolFull => "pool_full",
            Self::FailedFast => "failed_fast",
            Self::Moved => "moved",
            Self::OtherDestination => "other_destination",
            Self::OtherFamily => "other_family",
            Self::OtherNetns => "other_netns",
            Self::HasPort => "has_port",
            Self::HasAddress => "has_address",
            Self::BoundToDevice => "bound_to_device",
            Self::Transparent => "transparent",
            Self::KernelSocket => "kernel_socket",
            Self::Loopback => "loopback",
            Self::LeaseOver => "lease_over",
            Self::Refused => "refused",
            Self::PortRefused => "port_refused",
            Self::NoCandidate => "no_candidate",
            Self::NotTold => "not_told",
            Self::AllLeftOut => "all_left_out",
        }
    }

    pub fn from_wire(value: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|decision| *decision as u32 == value)
    }
}

#[cfg(test)]
mod tests;
