//! Chooses an address of the pool, and whether the spreader or the kernel finds the port.
//!
//! Names of the first parity have `own` (the kernel's own half), those of the second parity `other`.

use super::{FamilyPool, POOL_MAX, Rule};
use crate::{Addr, Halves};

/// What a tuple holds of the ports that a rule counts. Ports that bind() took are not in it, because
/// [`Room`] does not have them either.
///
/// The values are those of the ledger, and read without branches: the verifier would follow every combination of them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Ports held, TIME_WAIT included.
    pub held: Halves,
    /// Of `held`: TIME_WAITs that the kernel's port search reuses once they are old enough; 0 if it reuses none. Contains
    /// [`Self::ON_TRIAL`] until the choice is made.
    pub waiting: Halves,
}

impl Usage {
    /// A bit of `waiting`: the address is on trial. No connection from it to the destination was established since it was last
    /// left out, and [`super::TRIALS`] or more are unanswered. It is chosen only if no other address has more than one port left.
    /// (If the bit were a field of its own, LLVM would copy usages with loops, which the verifier rejects.)
    pub const ON_TRIAL: u64 = 1 << 63;

    /// 1 if [`Self::ON_TRIAL`] is set, else 0.
    #[inline(always)]
    const fn trial(&self) -> u32 {
        (self.waiting.0 >> 63) as u32
    }

    /// The usage without [`Self::ON_TRIAL`].
    #[inline(always)]
    #[must_use]
    pub const fn chosen(self) -> Self {
        Self { waiting: Halves(self.waiting.0 & !Self::ON_TRIAL), ..self }
    }

    /// Ports held, plus at least [`super::NO_ROOM`] if the address is left out; wrapped while the sum is below 0 for a moment.
    #[inline(always)]
    pub const fn in_use(&self) -> u32 {
        self.held.sum()
    }

    /// Live ports: only the end of a connection releases them. Below 0 (wrapped) if [`Halves`] are.
    #[inline(always)]
    const fn live(&self) -> u32 {
        self.held.sum().wrapping_sub(self.chosen().waiting.sum())
    }

    /// Whether fewer than `capacity` ports would be live if `more` ports were live besides those that are.
    #[inline(always)]
    const fn has_room(&self, capacity: u32, more: u32) -> bool {
        // No count is below 0 by as much as this.
        const SPARE: u32 = 1 << 16;
        self.live().wrapping_add(more).wrapping_add(SPARE) < capacity.wrapping_add(SPARE)
    }

    /// The number by which addresses are compared: the ports in use, or for an address on trial all but one of `capacity`. If
    /// two addresses have the same number, the live ports decide.
    #[inline(always)]
    const fn load(&self, capacity: u32) -> u64 {
        let in_use = self.in_use() as u64;
        // Arithmetic instead of a branch, whose paths the verifier would follow through every round.
        let left = (capacity as u64).wrapping_sub(in_use + 1);
        let counted = in_use.wrapping_add((self.trial() as u64).wrapping_mul(left));
        (counted << 20).wrapping_add(self.live() as u64)
    }
}

/// How many ports connect() can give a tuple that holds none: those of the range that are neither reserved nor bound, by parity.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Room {
    /// Whether the second parity is odd.
    pub other_is_odd: bool,
    /// Ports of the first parity.
    pub own: u32,
    /// Ports of the second parity.
    pub other: u32,
    /// Of `other`: ports that the spreader bound at any address and that are still held. The kernel's search finds
    /// none of them.
    pub fast: u32,
    /// Ports that bind() took since the rule was made. Their parity is not known, so both `own` and `other` are reduced by
    /// them.
    pub unknown: u32,
}

impl Room {
    /// The room by a rule's counts: [`Rule::capacity`] and [`Rule::other_capacity`], each without the `unknown` ports, and 0 if
    /// those are more. `unknown` and `fast`: see the fields of these names.
    #[inline(always)]
    pub const fn new(rule: &Rule, unknown: u32, fast: u32) -> Self {
        let own = rule.capacity.saturating_sub(rule.other_capacity);
        Self {
            other_is_odd: rule.other_low & 1 != 0,
            own: own.saturating_sub(unknown),
            other: rule.other_capacity.saturating_sub(unknown),
            fast,
            unknown,
        }
    }
}

/// An address with less than 1/32 (1 / 2^5) of its ports left is chosen only after others were compared with it.
const NEARLY_FULL_SHIFT: u32 = 5;
/// How many addresses are then compared for the emptiest, from the first one drawn on. Choosing the emptier of two
/// keeps all equally full, so the compared ones represent a larger pool, unless all of them are full.
const SEARCHED: u32 = 32;
/// How many addresses are searched at most: all.
const ALL: u32 = 256;
const _: () = assert!(ALL as usize == POOL_MAX);

/// The address to use, as its index in `side.addresses`, and its usage, which may have [`Usage::ON_TRIAL`]; `None`: no address
/// has room, or the pool has none. `capacity`: how many ports each address can hold towards the destination: it has room while
/// fewer of its ports are live (only the end of a connection releases them). `random`: 32 random bits; `usage`: reads the usage
/// of an address from the ledger, and can be called several times for one address.
///
/// It is the emptier of two drawn at random, by weight: as good as the emptiest of all (Mitzenmacher, "The
/// Power of Two Choices in Randomized Load Balancing", 2001), at a cost that does not depend on
/// how many there are. If that one is nearly full, more are compared.
#[inline(always)]
pub fn choose(
    side: &FamilyPool,
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
    let trial = best.1.trial() * capacity;
    if best.1.has_room(capacity - (capacity >> NEARLY_FULL_SHIFT), trial) {
        return Some(best);
    }
    // A bounded search: the verifier follows every path through every round. It takes the emptiest, so
    // that two calls at once do not compete for one last port while there are others.
    let mut seen = 0;
    while seen < SEARCHED && seen < side.count {
        let index = (u32::from(first) + seen).checked_rem(side.count)?;
        let found = usage(&side.addresses[index as usize & (POOL_MAX - 1)]);
        if found.load(capacity) < best.1.load(capacity) {
            best = ((index & 0xff) as u8, found);
        }
        seen += 1;
    }
    if best.1.has_room(capacity, 0) {
        return Some(best);
    }
    // Any address can have room: addresses with more weight fill up first, and connections end at random. This takes the
    // first with room, because state that one round passes to the next is expensive to verify.
    while seen < side.count && seen < ALL {
        let index = (u32::from(first) + seen).checked_rem(side.count)?;
        let found = usage(&side.addresses[index as usize & (POOL_MAX - 1)]);
        if found.has_room(capacity, 0) {
            return Some(((index & 0xff) as u8, found));
        }
        seen += 1;
    }
    None
}

/// Does what [`choose`] does, with the same arguments and result; `R` runs its searches. The verifier follows every path through
/// every round of a loop, and can reach its limit of a million instructions (on Linux 6.1 it did); it checks a callback once.
/// (Written out again, because the verifier follows four times as many paths if the two share functions.)
#[inline(always)]
pub fn choose_by<R: Rounds>(
    side: &FamilyPool,
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
    let trial = best.1.trial() * capacity;
    if best.1.has_room(capacity - (capacity >> NEARLY_FULL_SHIFT), trial) {
        return Some(best);
    }
    // One loop in place of the two of `choose`: the emptiest of the first `SEARCHED`, and after these the first with room.
    R::run(side.count.min(ALL), |seen| {
        let searched = seen >= SEARCHED;
        if searched && best.1.has_room(capacity, 0) {
            return false;
        }
        let Some(index) = (u32::from(first) + seen).checked_rem(side.count) else { return false };
        let found = ((index & 0xff) as u8, usage(&side.addresses[index as usize & (POOL_MAX - 1)]));
        let emptier = found.1.load(capacity) < best.1.load(capacity);
        if if searched { found.1.has_room(capacity, 0) } else { emptier } {
            best = found;
        }
        true
    });
    best.1.has_room(capacity, 0).then_some(best)
}

/// Runs the searches of [`choose_by`].
pub trait Rounds {
    /// Calls `step` with 0, 1 and so on, `count` times, or until it returns false.
    fn run(count: u32, step: impl FnMut(u32) -> bool);
}

/// Draws a slot by `random`, and returns the index of its address in `side.addresses`. Not checked: `random` must be below 2^16,
/// and the pool must have an address (without one, the index is 0).
#[inline(always)]
pub fn draw(side: &FamilyPool, random: u32) -> u8 {
    side.slots[((random * side.slot_count) >> 16) as usize & (POOL_MAX - 1)]
}

/// The index of the pool's next address after `index`; after the last one 0.
#[inline(always)]
fn next(side: &FamilyPool, index: u8) -> u8 {
    if u32::from(index) + 1 < side.count { index + 1 } else { 0 }
}

/// Whether `one` has less load than `other`, in proportion to their weights.
#[inline(always)]
fn lighter(side: &FamilyPool, capacity: u32, one: (u8, Usage), other: (u8, Usage)) -> bool {
    let weight = |index: u8| u64::from(side.weights[usize::from(index)]);
    one.1.load(capacity).wrapping_mul(weight(other.0))
        < other.1.load(capacity).wrapping_mul(weight(one.0))
}

/// If at most this many ports are free by the ledger, which lags, the spreader searches for a free one before it leaves the
/// search to the kernel.
const UNSURE: u32 = 2;

/// If at most this many ports of the first parity are free, calls at the same time could compete for the last ones in the
/// kernel's search, so the second parity is used up first.
const SCARCE: u32 = 16;

/// How many candidates are tried for a free port of the second parity, or for one of the first that is free or reusable.
const TRIES: u32 = 64;
/// In place of [`TRIES`] if at most 1/16 of the second parity is free.
const FEW_TRIES: u32 = 8;

/// The spreader's search for a port, before it leaves the search to the kernel.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Search {
    /// How many candidates to try, at most `half * 2` or 128; 0: none, the kernel finds a port.
    pub tries: u32,
    /// How many of `tries` are of the second parity. They come first; the rest are of the first parity.
    pub others: u32,
    /// Whether the kernel may find no port either if this search finds none.
    pub last: bool,
}

/// The search that the spreader does before it leaves the search to the kernel, for an address with this usage and room. `half`:
/// [`Rule::half`], ports of each parity in the range, free or not; if it is 0, no port of the second parity is searched for.
/// `fast`: whether the spreader may bind ports of the second parity.
#[inline(always)]
pub const fn search(usage: &Usage, room: &Room, half: u32, fast: bool) -> Search {
    let (own_held, other_held) = of(usage.held, room);
    let (waiting, _) = of(usage.waiting, room);
    let own_left = room.own.saturating_sub(own_held);
    let left = room.other.saturating_sub(other_held);
    // The kernel finds no port of the second parity that the spreader bound.
    let kernel_left = own_left + left.saturating_sub(room.fast);
    if usage.waiting.0 != 0 {
        let own_live = own_held.saturating_sub(waiting);
        return beside_time_waits(own_live, room, left, kernel_left, fast);
    }
    if fast {
        return both_halves(own_left, left, room, half);
    }
    if kernel_left <= UNSURE && half > 0 {
        return Search { tries: half * 2, others: half, last: true };
    }
    Search { tries: 0, others: 0, last: false }
}

/// The search if the kernel reuses no TIME_WAIT. No candidate is tried while less than nine tenths of the first
/// parity are in use: the kernel finds a port soon.
///
/// From there on, calls get ports of the second parity, until it has at most 1.5 times as many free ports as the first; then
/// three calls of five do, which keeps this ratio. So both run out together: the last ports of either cost a long search, and
/// neither is searched to its end while the other has room.
/// If the first parity has at most [`UNSURE`] ports left, the spreader has to find the last ones of the second: the kernel gives
/// no connect() a port that is bound, at whatever address, so it could miss these. Then both parities are searched, as many
/// candidates as there are ports, and a port that is found is sure to be free.
#[inline(always)]
const fn both_halves(own_left: u32, left: u32, room: &Room, half: u32) -> Search {
    if own_left <= UNSURE && half > 0 {
        return Search { tries: half * 2, others: half, last: true };
    }
    let enough = own_left > SCARCE && left * 2 <= own_left * 3;
    let tries = if own_left > room.own / 10 || left == 0 || enough {
        0
    } else if left > room.other / 16 {
        TRIES
    } else {
        // Free candidates are scattered: a long search would cost more than the kernel's.
        FEW_TRIES
    };
    Search { tries, others: tries, last: false }
}

/// The search if the kernel reuses TIME_WAITs. The kernel finds a port soon, unless open connections (`own_live` of the first
/// parity) leave it few TIME_WAITs: only then the spreader binds ports of the second parity, because the kernel never
/// reuses the TIME_WAIT of a bound port.
///
/// How many TIME_WAITs are old enough is not counted. If no free port is sure, candidates of the first parity
/// are tried until one is free or reusable.
#[inline(always)]
const fn beside_time_waits(
    own_live: u32,
    room: &Room,
    left: u32,
    kernel_left: u32,
    fast: bool,
) -> Search {
    let filled = own_live >= room.own - room.own / 10;
    let others = if !fast || !filled || left == 0 {
        0
    } else if left > room.other / 16 {
        TRIES
    } else {
        FEW_TRIES
    };
    let last = kernel_left <= UNSURE;
    Search { tries: if last { others + TRIES } else { others }, others, last }
}

/// The two counts of `ports`: those of the first parity, and those of the second.
#[inline(always)]
const fn of(ports: Halves, room: &Room) -> (u32, u32) {
    if room.other_is_odd { (ports.even(), ports.odd()) } else { (ports.odd(), ports.even()) }
}

/// Candidate `number`, counted from 0, of the second parity, host byte order: bound and reserved ports are among them. After all
/// ports of that parity, the first comes again. `None`: the range has no such ports.
#[inline(always)]
pub fn candidate(rule: &Rule, number: u32) -> Option<u16> {
    let place = (u64::from(number) * u64::from(rule.step) + u64::from(rule.offset))
        .checked_rem(u64::from(rule.half))?;
    // The remainder is below `half`, which is at most 32,768.
    #[expect(clippy::cast_possible_truncation, reason = "below 32,768")]
    let place = place as u16;
    Some(rule.other_low.wrapping_add(place.wrapping_mul(2)))
}
