//! The choice of an address, and of who finds the port.

use super::{FamilyPool, POOL_MAX, Rule};
use crate::{Addr, Halves};

/// What a tuple holds of the ports that a rule counts: those that bind() took are not in it, because
/// [`Room`] is without them already.
///
/// As the ledger has it, and taken apart without branches, of which the verifier would follow every combination.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Ports held, TIME_WAIT included.
    pub held: Halves,
    /// Of these: TIME_WAITs that the kernel's search takes over once they are old enough. None where it takes
    /// over none. With [`Self::ON_TRIAL`] until the choice is made.
    pub waiting: Halves,
}

impl Usage {
    /// A bit of `waiting`: as many connections as such an address may have wait for an answer, and none was
    /// ever established. It is taken only where no other address has more than one port left. (In a field of
    /// its own, the compiler would copy usages by loops, which the verifier refuses.)
    pub const ON_TRIAL: u64 = 1 << 63;

    /// 1: [`Self::ON_TRIAL`]; else 0.
    #[inline(always)]
    const fn trial(&self) -> u32 {
        (self.waiting.0 >> 63) as u32
    }

    /// Without that bit.
    #[inline(always)]
    #[must_use]
    pub const fn chosen(self) -> Self {
        Self { waiting: Halves(self.waiting.0 & !Self::ON_TRIAL), ..self }
    }

    /// Ports held, and what is added of an address that is left out: [`super::NO_ROOM`].
    #[inline(always)]
    pub const fn in_use(&self) -> u32 {
        self.held.sum()
    }

    /// Ports that nothing but the end of a connection gives back. Below 0 (wrapped) where [`Halves`] are.
    #[inline(always)]
    const fn live(&self) -> u32 {
        self.held.sum().wrapping_sub(self.chosen().waiting.sum())
    }

    /// Whether fewer than `capacity` ports are held that nothing but the end of a connection gives back, if there
    /// were `more` of them.
    #[inline(always)]
    const fn has_room(&self, capacity: u32, more: u32) -> bool {
        // More than a count can be below 0.
        const SPARE: u32 = 1 << 16;
        self.live().wrapping_add(more).wrapping_add(SPARE) < capacity.wrapping_add(SPARE)
    }

    /// What addresses are compared by: the ports in use; one on trial counts as if it had one port left. Where
    /// these are equal, ports that nothing but the end of a connection gives back decide.
    #[inline(always)]
    const fn load(&self, capacity: u32) -> u64 {
        let in_use = self.in_use() as u64;
        // Arithmetic instead of a branch, which the verifier would follow through every round.
        let left = (capacity as u64).wrapping_sub(in_use + 1);
        let counted = in_use.wrapping_add((self.trial() as u64).wrapping_mul(left));
        (counted << 20).wrapping_add(self.live() as u64)
    }
}

/// Ports that a tuple can be given, if it holds none: the range, less reserved and bound ports.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Room {
    /// Whether the half that the kernel gives to connect() last has the odd ports.
    pub other_is_odd: bool,
    /// Of the half that the kernel gives to connect() first.
    pub own: u32,
    /// Of the other half.
    pub other: u32,
    /// Ports of `other` that the spreader handed out, at any address, and which are still held: the kernel's
    /// search finds none of them.
    pub fast: u32,
    /// Ports that were bound since the rule was made: which ones is not known, so neither half is sure to have them.
    pub unknown: u32,
}

impl Room {
    /// `unknown` and `fast`: see there.
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

/// Near its end, an address is taken only after the others were looked at.
const NEARLY_FULL_SHIFT: u32 = 5;
/// Addresses of which the emptiest is taken then, from the first one drawn on. Choosing the emptier of two
/// keeps all equally full, so these many stand for the rest of a larger pool, unless they are all full.
const SEARCHED: u32 = 32;
const ALL: u32 = 256;
const _: () = assert!(ALL as usize == POOL_MAX);

/// The address to use, as its index in `side.addresses`, and what is known of it; `None`: none has room, or
/// there are none. An address has room while there are fewer than `capacity` ports that nothing but the end
/// of a connection gives back. `random` is 32 random bits, `usage` asks the ledger.
///
/// The emptier of two drawn at random, by weight: as good as the emptiest of all (Mitzenmacher, "The
/// Power of Two Choices in Randomized Load Balancing", 2001), at a cost that does not depend on
/// how many there are. When that one is nearly full, more are looked at.
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
    // A bounded search: the verifier follows every path through every round. The emptiest is taken, so
    // that two calls at once do not go for one last port while there are others.
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
    // Room can be anywhere: heavier addresses fill up first, and connections end where they like. The first
    // that has any is taken, because nothing that one round leaves to the next is cheap to verify.
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

/// As [`choose`], with its searches run by `R`. In a loop, the verifier follows every path through every round, and can come to
/// its limit of a million instructions (Linux 6.1 did); it looks at a callback once. (It is written out again,
/// because the verifier follows four times as many paths where the two share functions.)
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
    // One search for both: the emptiest of the first ones, and behind them the first that has room.
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

/// Of [`choose_by`].
pub trait Rounds {
    /// Calls `step` with 0, 1 and so on, `count` times, or until it returns false.
    fn run(count: u32, step: impl FnMut(u32) -> bool);
}

/// One of the slots, by 16 random bits.
#[inline(always)]
pub fn draw(side: &FamilyPool, random: u32) -> u8 {
    side.slots[((random * side.slot_count) >> 16) as usize & (POOL_MAX - 1)]
}

#[inline(always)]
fn next(side: &FamilyPool, index: u8) -> u8 {
    if u32::from(index) + 1 < side.count { index + 1 } else { 0 }
}

/// Whether `one` is used less than `other`, in proportion to their weights.
#[inline(always)]
fn lighter(side: &FamilyPool, capacity: u32, one: (u8, Usage), other: (u8, Usage)) -> bool {
    let weight = |index: u8| u64::from(side.weights[usize::from(index)]);
    one.1.load(capacity).wrapping_mul(weight(other.0))
        < other.1.load(capacity).wrapping_mul(weight(one.0))
}

/// Ports that must be left by count for the kernel to be asked: the count is what was so a moment ago.
const UNSURE: u32 = 2;

/// Where the kernel has no more than these left, as many calls at once could all be sent to it for the same
/// ones: the other half is used up before.
const SCARCE: u32 = 16;

/// Ports that are looked at for one that is free or can be taken over, or for one of the other half.
const TRIES: u32 = 64;
/// The same where few can be there.
const FEW_TRIES: u32 = 8;

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

/// How many ports to look at before the kernel is asked. `fast`: those of the other half may be handed out.
#[inline(always)]
pub const fn search(usage: &Usage, room: &Room, half: u32, fast: bool) -> Search {
    let (own_held, other_held) = of(usage.held, room);
    let (waiting, _) = of(usage.waiting, room);
    let own_left = room.own.saturating_sub(own_held);
    let left = room.other.saturating_sub(other_held);
    // Of the other half, the kernel finds what nobody was given by us.
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

/// Where no TIME_WAIT is taken over. No port is looked at as long as less than nine tenths of the kernel's own
/// half are in use: it finds one soon.
///
/// From there on, the other half goes first until only half as much again is left of it as of the kernel's;
/// then both run out together, three of five calls going to the other half. What is left costs a search
/// either way, and so neither half is searched to its end while the other one has room.
/// The last of the other half must be found when nothing is left of the kernel's: the kernel never gives
/// connect() a port that is bound, so it would find none of these. Then both halves are searched, and what
/// is found is sure.
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
        // Where connections end in any order, a long search would cost more than the kernel's.
        FEW_TRIES
    };
    Search { tries, others: tries, last: false }
}

/// Where the kernel takes over TIME_WAITs. It finds one soon, unless connections that are open (`own_live` of
/// its own half) leave it few of them: only then the other half is handed out, because a port that is bound is
/// not taken over when its time comes.
///
/// How many TIME_WAITs are old enough is not counted. Where no free port is sure, ports of the kernel's own
/// half are looked at until one is free or can be taken over.
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

/// Those of the kernel's own half, and of the other one.
#[inline(always)]
const fn of(ports: Halves, room: &Room) -> (u32, u32) {
    if room.other_is_odd { (ports.even(), ports.odd()) } else { (ports.odd(), ports.even()) }
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
