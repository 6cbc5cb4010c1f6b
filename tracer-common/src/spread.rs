//! What the spreader goes by, and how it chooses: shared, so that the choice is tested on the host
//! and used as it is in the hook.

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

/// A destination that is spread: a network and a range of ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Destination {
    /// An IPv4 network is v4-mapped.
    pub prefix: Prefix,
    pub ports: Ports,
    pub zero: u32,
}

const _: () = assert!(size_of::<Destination>() == 40);

impl Destination {
    /// Whether a connect() goes there.
    #[inline(always)]
    pub fn contains(&self, address: &Addr, port: u16) -> bool {
        port >= self.ports.low && port <= self.ports.high && self.prefix.contains(address)
    }
}

/// The addresses of one family.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Side {
    /// How many of `addresses` there are.
    pub count: u32,
    /// How many of `slots` there are: at least one for each address, more for a heavier one.
    pub slot_count: u32,
    /// 1: the addresses are loopback ones, and so must the destinations be.
    pub loopback: u32,
    pub zero: u32,
    /// Draws among addresses by weight: indices into `addresses`.
    pub slots: [u8; POOL_MAX],
    /// From 1 up.
    pub weights: [u16; POOL_MAX],
    pub addresses: [Addr; POOL_MAX],
}

const _: () = assert!(size_of::<Side>() == 16 + POOL_MAX * (1 + 2 + 16));

impl Default for Side {
    fn default() -> Self {
        Self {
            count: 0,
            slot_count: 0,
            loopback: 0,
            zero: 0,
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
    /// Ports that a tuple can hold: the range less reserved and bound ones.
    pub capacity: u32,
    /// First port of the half that the kernel gives to connect() last.
    pub other_low: u16,
    pub zero: u16,
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
    pub destinations: [Destination; DESTINATIONS_MAX],
    pub v4: Side,
    pub v6: Side,
}

const _: () = assert!(
    size_of::<Rule>() == 48 + DESTINATIONS_MAX * size_of::<Destination>() + 2 * size_of::<Side>()
);

/// Ports of one (source, destination, destination port) in use.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// All of them, TIME_WAIT included.
    pub in_use: u32,
    /// Those of the parity that the kernel gives to connect() last; with [`Self::ON_TRIAL`] until the choice is
    /// made.
    pub other_half: u32,
}

impl Usage {
    /// A bit of `other_half`: as many connections as such an address may have wait for an answer, and none was
    /// ever established. It is taken only where no other address has more than one port left. (In a field of
    /// its own, the compiler would copy usages by loops, which the verifier refuses.)
    pub const ON_TRIAL: u32 = 1 << 31;

    /// 1: [`Self::ON_TRIAL`]; else 0.
    #[inline(always)]
    const fn trial(&self) -> u32 {
        self.other_half >> 31
    }

    /// Without that bit.
    #[inline(always)]
    #[must_use]
    pub const fn chosen(self) -> Self {
        Self { other_half: self.other_half & !Self::ON_TRIAL, ..self }
    }
}

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

/// Near its end, an address is taken only after the others were looked at.
const NEARLY_FULL_SHIFT: u32 = 5;
/// Addresses of which the emptiest is taken then, from the first one drawn on. Choosing the emptier of two
/// keeps all equally full, so these many stand for the rest of a larger pool, unless they are all full.
const SEARCHED: u32 = 32;
const ALL: u32 = 256;
const _: () = assert!(ALL as usize == POOL_MAX);

/// The address to use, as its index in `side.addresses`, and what is known of it; `None`: none has
/// room, or there are none. `random` is 32 random bits, `usage` asks the ledger.
///
/// The emptier of two drawn at random, by weight: as good as the emptiest of all (Mitzenmacher, "The
/// Power of Two Choices in Randomized Load Balancing", 2001), at a cost that does not depend on
/// how many there are. When that one is nearly full, more are looked at.
#[inline(always)]
pub fn choose(
    side: &Side,
    capacity: u32,
    random: u32,
    mut usage: impl FnMut(&Addr) -> Usage,
) -> Option<(u8, Usage)> {
    if side.count == 0 {
        return None;
    }
    let first = draw(side, random & 0xffff);
    let mut second = draw(side, random >> 16);
    if second == first && side.count > 1 {
        second = next(side, first);
    }
    let mut best = (first, usage(&side.addresses[usize::from(first)]));
    if second != first {
        let other = usage(&side.addresses[usize::from(second)]);
        if lighter(side, capacity, (second, other), best) {
            best = (second, other);
        }
    }
    if best.1.in_use + best.1.trial() * capacity < capacity - (capacity >> NEARLY_FULL_SHIFT) {
        return Some(best);
    }
    // A bounded search: the verifier follows every path through every round. The emptiest is taken, so
    // that two calls at once do not go for one last port while there are others.
    let mut seen = 0;
    while seen < SEARCHED && seen < side.count {
        let index = (u32::from(first) + seen).checked_rem(side.count)?;
        let found = usage(&side.addresses[index as usize & (POOL_MAX - 1)]);
        if load(&found, capacity) < load(&best.1, capacity) {
            best = ((index & 0xff) as u8, found);
        }
        seen += 1;
    }
    if best.1.in_use < capacity {
        return Some(best);
    }
    // Room can be anywhere: heavier addresses fill up first, and connections end where they like. The first
    // that has any is taken, because nothing that one round leaves to the next is cheap to verify.
    while seen < side.count && seen < ALL {
        let index = (u32::from(first) + seen).checked_rem(side.count)?;
        let found = usage(&side.addresses[index as usize & (POOL_MAX - 1)]);
        if found.in_use < capacity {
            return Some(((index & 0xff) as u8, found));
        }
        seen += 1;
    }
    None
}

/// One of the slots, by 16 random bits.
#[inline(always)]
pub fn draw(side: &Side, random: u32) -> u8 {
    side.slots[((random * side.slot_count) >> 16) as usize & (POOL_MAX - 1)]
}

#[inline(always)]
fn next(side: &Side, index: u8) -> u8 {
    if u32::from(index) + 1 < side.count { index + 1 } else { 0 }
}

/// Whether `one` is used less than `other`, in proportion to their weights.
#[inline(always)]
fn lighter(side: &Side, capacity: u32, one: (u8, Usage), other: (u8, Usage)) -> bool {
    let weight = |index: u8| u64::from(side.weights[usize::from(index)]);
    load(&one.1, capacity) * weight(other.0) < load(&other.1, capacity) * weight(one.0)
}

/// What addresses are compared by: the ports in use; one on trial counts as if it had one port left, and among
/// those its own ports decide.
#[inline(always)]
fn load(usage: &Usage, capacity: u32) -> u64 {
    let in_use = u64::from(usage.in_use);
    // Arithmetic instead of a branch, which the verifier would follow through every round.
    let left = u64::from(capacity).wrapping_sub(in_use + 1);
    let counted = in_use.wrapping_add(u64::from(usage.trial()).wrapping_mul(left));
    (counted << 20).wrapping_add(in_use)
}

/// Ports of the kernel's half that must be left by count for the kernel to be asked: the count is what was
/// so a moment ago, and of ports that others bound it knows nothing.
const UNSURE: u32 = 2;

/// Where the kernel has no more than these left, as many calls at once could all be sent to it for the same
/// ones: the other half is used up before.
const SCARCE: u32 = 16;

/// A search for a port, before the kernel is asked for one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Search {
    /// How many ports to look at.
    pub tries: u32,
    /// So many of them are of the other half; the rest is of the kernel's own.
    pub others: u32,
    /// Where nothing is found, the kernel may find nothing either.
    pub last: bool,
}

/// How many ports to look at before the kernel is asked. None as long as less than nine tenths of the
/// kernel's own half are in use: it finds one soon.
///
/// From there on, the other half goes first until only half as much again is left of it as of the kernel's;
/// then both run out together, three of five calls going to the other half. What is left costs a search
/// either way, and so neither half is searched to its end while the other one has room.
/// The last of the other half must be found when nothing is left of the kernel's: the kernel never gives
/// connect() a port that is bound, so it would find none of these. Then both halves are searched, and what
/// is found is sure.
#[inline(always)]
pub const fn search(usage: &Usage, rule: &Rule) -> Search {
    let kernel_capacity = rule.capacity.saturating_sub(rule.other_capacity);
    let kernel_half = usage.in_use.saturating_sub(usage.other_half);
    let kernel_left = kernel_capacity.saturating_sub(kernel_half);
    let left = rule.other_capacity.saturating_sub(usage.other_half);
    if kernel_left <= UNSURE && rule.half > 0 {
        return Search { tries: rule.half * 2, others: rule.half, last: true };
    }
    let enough = kernel_left > SCARCE && left * 2 <= kernel_left * 3;
    let tries = if kernel_left > kernel_capacity / 10 || left == 0 || enough {
        0
    } else if left > rule.other_capacity / 16 {
        64
    } else {
        // Where connections end in any order, a long search would cost more than the kernel's.
        8
    };
    Search { tries, others: tries, last: false }
}

/// The `number`th candidate of the other half. `None` where there is no such half.
#[inline(always)]
pub fn candidate(rule: &Rule, number: u32) -> Option<u16> {
    let place = (u64::from(number) * u64::from(rule.step) + u64::from(rule.offset))
        .checked_rem(u64::from(rule.half))?;
    // Truncation: the place is below half of 65,536.
    #[expect(clippy::cast_possible_truncation, reason = "below 32,768")]
    let place = place as u16;
    Some(rule.other_low.wrapping_add(place.wrapping_mul(2)))
}

/// One record of the `DECISIONS` ring buffer, host byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Told {
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
    /// Ports of (chosen, destination, destination port) in use before.
    pub in_use: u32,
    /// Host byte order.
    pub destination_port: u16,
    /// Port of ours, host byte order; 0: the kernel finds one.
    pub port: u16,
    /// [`Decision`]
    pub decision: u32,
}

const _: () = assert!(size_of::<Told>() == 112);

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
