//! Shares: how much of a table one owner may hold, and at what rate it may have events, so that no user can exhaust a
//! table for the others.
//!
//! An owner is a user in a network namespace, and each user except root (and unknown ones) is also one owner over all namespaces
//! together: containers run as root compete only for free entries, and a user gains nothing by making namespaces. Each owner may
//! hold eight times as many entries as are free in the table, no more (the "dynamic threshold" of shared buffers in switches):
//! one owner alone gets 8/9 of the table, n greedy ones get 8/(8n+1) each, and an owner with fewer than eight entries finds room
//! while one entry is free.

/// In place of a uid that is not known (for example of a call whose attempt is missing): one owner for each namespace.
pub const UNKNOWN_USER: u32 = u32::MAX;

/// Entries of the `SHARES` map. Index 0 has the totals; the indices from 1 to 4,095 are of users in one network namespace each,
/// those from 4,096 on of users over all namespaces. An owner's index is a keyed hash, so that no user can choose the index of a
/// victim. Two owners that have the same index by chance share its limits.
pub const SLOTS: u32 = 8192;
const HALF: u64 = 4096;

/// Value of the `SHARES` map: what one owner holds (index 0: what all hold). A count changes only when an insert into, or a
/// delete from, the table that it counts succeeded.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Share {
    /// Entries of each [`Table`].
    pub held: [u64; Table::COUNT],
    /// For each [`Rate`]: until when the owner's events so far use up that rate, CLOCK_MONOTONIC, ns. Each event adds an
    /// interval, to this time or to the present, whichever is later.
    pub paid_ns: [u64; Rate::COUNT],
    /// At index 0: the key of the hash, never 0 once it is set. The process that made the map sets it, before anything is
    /// attached. At other indices 0.
    pub key: u64,
    /// Padding, always 0.
    pub zero: u64,
}

const _: () = assert!(size_of::<Share>() == 64);

/// A table whose entries are limited by shares.
#[repr(usize)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Table {
    /// The `TUPLES` map.
    Tuples = 0,
    /// The `CONNS` map.
    Conns,
    /// The `BOUND_PORTS` map.
    Binds,
    /// The `TOUCHED` map. Its size is no setting: [`crate::settings::MAX_TOUCHED`].
    Touched,
}

impl Table {
    /// Number of tables.
    pub const COUNT: usize = 4;
}

/// The rates at which an owner may have events of failed connect(), bind() and listen() calls; a burst comes on top.
#[repr(usize)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rate {
    /// Failures other than [`Self::Exhaustion`]: 100 a second, 2,000 in a burst.
    Failures = 0,
    /// Failures with the cause `PortsExhausted`, `BindExhausted` or `TupleInUse` ([`crate::Cause`]): 500 a second, 20,000 in a
    /// burst.
    Exhaustion,
}

impl Rate {
    /// Number of rates.
    pub const COUNT: usize = 2;

    /// Interval between two events at this rate, ns.
    #[inline(always)]
    pub const fn interval_ns(self) -> u64 {
        match self {
            Self::Failures => 10_000_000,
            Self::Exhaustion => 2_000_000,
        }
    }

    /// How far in the future [`Share::paid_ns`] may be when another event is let through, ns: as many intervals as a burst has
    /// events.
    #[inline(always)]
    pub const fn burst_ns(self) -> u64 {
        match self {
            Self::Failures => 2_000 * self.interval_ns(),
            Self::Exhaustion => 20_000 * self.interval_ns(),
        }
    }
}

/// Whether an owner that holds `held` entries of a table may have one more, if `all` of the table's `max` are in use: if `held`
/// is less than eight times the number of free entries. False if none is free. Counts that are read while they change can be
/// below 0 (wrapped) for a moment: they count as 0.
#[inline(always)]
pub const fn has_room(held: u64, all: u64, max: u32) -> bool {
    let all = positive(all);
    let max = max as u64;
    all < max && positive(held) < (max - all) * 8
}

#[inline(always)]
const fn positive(count: u64) -> u64 {
    if count >> 63 == 0 { count } else { 0 }
}

/// The owner for this user in this network namespace, as two packed indices of the `SHARES` map: the lower 16 bits are the index
/// of the user in this namespace (never 0), the upper 16 bits that of the user over all namespaces (0: none, for root and
/// [`UNKNOWN_USER`]). `key`: [`Share::key`]. `netns`: inode number. `user`: uid in the initial user namespace; from 65,536 on,
/// all uids of a block of 65,536 are one user.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "two places below 2^13")]
pub const fn owner(key: u64, netns: u32, user: u32) -> u32 {
    let user = group(user);
    let pair = mix(key ^ (((netns as u64) << 32) | user as u64));
    // Never index 0, which has the totals.
    let pair = 1 + (((pair >> 32) * (HALF - 1)) >> 32);
    let over_all = if user == 0 || user == UNKNOWN_USER {
        0
    } else {
        HALF + (((mix(key ^ ((0xffff_ffff << 32) | user as u64)) >> 32) * HALF) >> 32)
    };
    ((over_all << 16) | pair) as u32
}

/// The two indices that [`owner`] packed: of the user in the namespace, and of the user over all namespaces (0: none). Other bits
/// of the word ([`crate::Conn::APART`]) are ignored.
#[inline(always)]
pub const fn places(owner: u32) -> [u32; 2] {
    [owner & (SLOTS - 1), (owner >> 16) & (SLOTS - 1)]
}

/// How many counters the `BOUND_BY_ADDR` map has: two rows, one after the other, with half of them each.
pub const BOUND_COUNTERS: usize = 1 << 15;
const ROW: u64 = BOUND_COUNTERS as u64 / 2;

/// Indices of the two counters of an address in `BOUND_BY_ADDR`, one in each row. Other addresses can have the same counter in a
/// row, and the hash is keyed, so that no user can choose which: the lower counter is the number of ports bound at the address,
/// or a little more. (A count-min sketch: Cormode and Muthukrishnan, 2005.) `key`: [`Share::key`]. `netns`: inode number.
/// `address`: [`crate::Addr::words`].
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "below 2^15")]
pub const fn counters(key: u64, netns: u32, address: [u64; 2]) -> [usize; 2] {
    let hash = mix(mix(mix(key ^ netns as u64) ^ address[0]) ^ address[1]);
    [(hash & (ROW - 1)) as usize, (ROW + ((hash >> 32) & (ROW - 1))) as usize]
}

/// The uid as which this one is counted: itself below 65,536, else the first uid of its block of 65,536. A user can have a
/// range of that many subordinate uids (subuid(5)), which lies in at most two blocks: so the range is at most two more owners.
/// [`UNKNOWN_USER`] stays as it is.
#[inline(always)]
const fn group(user: u32) -> u32 {
    if user < 1 << 16 || user == UNKNOWN_USER { user } else { user & 0xffff_0000 }
}

/// The finalizer of splitmix64.
#[inline(always)]
const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    #[test]
    fn one_owner_gets_eight_ninths_and_a_newcomer_finds_room() {
        let max = 65_536;
        let mut all = 0;
        while has_room(all, all, max) {
            all += 1;
        }
        assert_eq!(all, u64::from(max) * 8 / 9 + 1);
        let mut newcomer = 0;
        while has_room(newcomer, all, max) {
            newcomer += 1;
            all += 1;
        }
        assert!(newcomer > 6_000, "a newcomer gets {newcomer}");
    }

    #[test]
    fn many_greedy_owners_get_as_much_each() {
        let mut held = [0_u64; 20];
        for turn in 0..1_000_000 {
            let all = held.iter().sum();
            let one = &mut held[turn % 20];
            *one += u64::from(has_room(*one, all, 4096));
        }
        assert!(held.iter().all(|one| (200..=206).contains(one)), "{held:?}");
    }

    #[test]
    fn a_full_table_and_one_that_is_counted_wrong_are_no_room_and_room() {
        assert!(!has_room(0, 64, 64));
        assert!(has_room(u64::MAX, u64::MAX, 64));
    }

    #[test]
    fn root_has_no_share_over_all_namespaces_and_users_have_one() {
        assert_eq!(places(owner(7, 5, 0))[1], 0);
        assert_eq!(places(owner(7, 5, UNKNOWN_USER))[1], 0);
        let [here, all] = places(owner(7, 5, 65_534));
        let [there, all_again] = places(owner(7, 6, 65_534));
        assert_ne!(here, there);
        assert_eq!(all, all_again);
        for user in [0, 1, 1000, 65_534, 100_000, UNKNOWN_USER] {
            for netns in 0..1000 {
                let [pair, all] = places(owner(0x1234_5678_9abc_def0, netns, user));
                assert!((1..4096).contains(&pair), "{pair}");
                assert!(all == 0 || (4096..SLOTS).contains(&all), "{all}");
                let one = owner(0x1234_5678_9abc_def0, netns, user);
                assert_eq!(one & crate::Conn::APART, 0);
                assert_eq!(places(one | crate::Conn::APART), [pair, all]);
            }
        }
    }

    #[test]
    fn many_addresses_hardly_count_for_another_one() {
        let mut counters = std::vec![0_u32; BOUND_COUNTERS];
        let places = |address| super::counters(7, 5, [address, address << 32]);
        for address in 0..58_000 {
            for place in places(address) {
                counters[place] += 1;
            }
        }
        let most = |addresses: core::ops::Range<u64>| {
            addresses.map(|it| places(it).map(|place| counters[place])).map(|[a, b]| a.min(b)).max()
        };
        assert!(most(1 << 20..(1 << 20) + 256) < Some(12), "{:?}", most(1 << 20..(1 << 20) + 256));
        for address in 0..58_000 {
            assert!(places(address).iter().all(|place| counters[*place] > 0));
        }
    }

    #[test]
    fn subordinate_uids_of_a_range_are_one_owner() {
        assert_eq!(owner(1, 2, 131_072), owner(1, 2, 131_072 + 65_535));
        assert_ne!(owner(1, 2, 1000), owner(1, 2, 1001));
    }
}
