//! Tests of single choices, searches and candidates; `simulation` makes many choices.
#![expect(clippy::cast_possible_truncation, reason = "indices of a pool, below 256")]

use super::*;
use crate::Halves;

mod rounds;
mod simulation;

/// SplitMix64 (Steele, Lea, Flood, 2014): the same numbers on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 32) as u32
    }

    /// A number below `end`.
    fn below(&mut self, end: u32) -> u32 {
        ((u64::from(self.next()) * u64::from(end)) >> 32) as u32
    }
}

/// A pool of addresses from 10.0.0.0 up, with one slot for each.
fn side(count: usize) -> FamilyPool {
    let mut side = FamilyPool::default();
    for index in 0..count {
        side.slots[index] = index as u8;
        side.weights[index] = 1;
        side.addresses[index] = Addr::v4([10, 0, 0, index as u8]);
    }
    (side.count, side.slot_count) = (count as u32, count as u32);
    side
}

/// The index of an address in [`side`].
fn place(address: &Addr) -> usize {
    usize::from(address.0[15])
}

fn used(in_use: u32) -> Usage {
    Usage { held: Halves(u64::from(in_use) << 32), ..Usage::default() }
}

#[test]
fn a_pool_without_addresses_has_no_choice() {
    assert_eq!(choose(&FamilyPool::default(), 1000, 7, |_| used(0)), None);
}

#[test]
fn the_only_address_is_taken_until_it_is_full() {
    let one = side(1);
    for (in_use, expected) in [(0, true), (968, true), (969, true), (999, true), (1000, false)] {
        let chosen = choose(&one, 1000, 0xffff_ffff, |_| used(in_use));
        assert_eq!(chosen, expected.then_some((0, used(in_use))), "{in_use}");
    }
    assert_eq!(choose(&one, 0, 0, |_| used(0)), None);
}

#[test]
fn of_two_addresses_the_emptier_is_taken_whatever_is_drawn() {
    let two = side(2);
    let mut random = Random(1);
    for _ in 0..1000 {
        let chosen = choose(&two, 1000, random.next(), |address| used([500, 499][place(address)]));
        assert_eq!(chosen, Some((1, used(499))));
    }
}

#[test]
fn use_is_compared_in_proportion_to_weight() {
    let mut two = side(2);
    two.weights[..2].copy_from_slice(&[3, 1]);
    for (in_use, expected) in [([299, 100], 0), ([301, 100], 1), ([0, 0], 0)] {
        // The first address drawn is 0, which a tie keeps.
        let chosen = choose(&two, 1000, 0, |address| used(in_use[place(address)]));
        assert_eq!(chosen.map(|(index, _)| index), Some(expected), "{in_use:?}");
    }
}

#[test]
fn every_slot_is_drawn_and_nothing_beyond() {
    let full = side(256);
    for (count, slots) in [(1, 1), (3, 3), (256, 256)] {
        let side = FamilyPool { count, slot_count: slots, ..full };
        let mut seen = [false; POOL_MAX];
        for random in 0..=0xffff {
            seen[usize::from(draw(&side, random))] = true;
        }
        assert_eq!(seen.iter().filter(|seen| **seen).count() as u32, count);
        assert!(seen.iter().take(count as usize).all(|seen| *seen));
    }
}

#[test]
fn the_one_address_with_room_is_found_among_full_ones() {
    let mut random = Random(2);
    for count in [2, 32, 33, 64, 255, 256] {
        let all = side(count);
        for free in 0..count {
            let usage = |address: &Addr| used(if place(address) == free { 999 } else { 1000 });
            let chosen = choose(&all, 1000, random.next(), usage);
            assert_eq!(chosen, Some((free as u8, used(999))));
        }
        assert_eq!(choose(&all, 1000, 3, |_| used(1000)), None);
    }
}

#[test]
fn until_nearly_full_two_questions_are_enough_for_any_pool() {
    for count in [2, 4, 16, 64, 256] {
        let side = side(count);
        let mut counts = [0; POOL_MAX];
        let mut random = Random(3);
        for _ in 0..count * 950 {
            let mut questions = 0;
            let chosen = choose(&side, 1000, random.next(), |address| {
                questions += 1;
                used(counts[place(address)])
            });
            counts[usize::from(chosen.unwrap().0)] += 1;
            assert_eq!(questions, 2, "{count}");
        }
    }
}

/// An address on trial ([`Usage::ON_TRIAL`]) is chosen only if no other has more than one port left.
#[test]
fn an_address_on_trial_is_taken_after_all_others() {
    let mut random = Random(4);
    let on_trial = |in_use| Usage { waiting: Halves(Usage::ON_TRIAL), ..used(in_use) };
    for count in [2, 4, 32] {
        let side = side(count);
        for proven in 0..count {
            for (in_use, expected) in [(0, true), (500, true), (998, true), (1000, false)] {
                let usage = |address: &Addr| {
                    if place(address) == proven { used(in_use) } else { on_trial(4) }
                };
                let (index, found) = choose(&side, 1000, random.next(), usage).unwrap();
                assert_eq!(usize::from(index) == proven, expected, "{count} {in_use}");
                assert_eq!(found, usage(&side.addresses[usize::from(index)]));
            }
        }
    }
}

#[test]
fn where_all_are_on_trial_the_emptier_is_taken() {
    let two = side(2);
    let mut random = Random(5);
    for _ in 0..1000 {
        let usage = |address: &Addr| Usage {
            waiting: Halves(Usage::ON_TRIAL),
            ..used([500, 499][place(address)])
        };
        assert_eq!(choose(&two, 1000, random.next(), usage).map(|it| it.0), Some(1));
    }
}

#[test]
fn an_address_that_is_left_out_has_no_room() {
    let two = side(2);
    let mut random = Random(6);
    for in_use in [0, 999] {
        let usage = |address: &Addr| used([in_use, NO_ROOM][place(address)]);
        assert_eq!(choose(&two, 1000, random.next(), usage), Some((0, used(in_use))));
    }
    assert_eq!(choose(&two, 65_536, random.next(), |_| used(NO_ROOM)), None);
}

fn rule(low: u16, half: u32, step: u32, offset: u32) -> Rule {
    Rule { other_low: low + 1, half, step, offset, ..Rule::default() }
}

fn coprime(one: u32, other: u32) -> bool {
    if other == 0 { one == 1 } else { coprime(other, one % other) }
}

#[test]
fn candidates_are_every_port_of_the_other_half_once() {
    for (low, half) in [(32_768, 1), (1024, 2), (9999, 97), (40_000, 500), (32_768, 1024)] {
        for step in (1..=half).filter(|step| coprime(*step, half)) {
            let rule = rule(low, half, step, half / 3);
            let mut seen = [false; 1024];
            for number in 0..half {
                let port = candidate(&rule, number).unwrap();
                assert_eq!((port - low) % 2, 1, "{port}");
                let seen = &mut seen[usize::from((port - low) / 2)];
                assert!(!*seen, "{port} twice with {rule:?}");
                *seen = true;
            }
            assert!(seen.iter().take(half as usize).all(|seen| *seen));
        }
    }
}

#[test]
fn candidates_stay_in_the_range_for_any_number() {
    let rule = rule(32_768, 14_116, 9_973, 14_115);
    for number in [0, 1, 14_115, 14_116, 1 << 20, u32::MAX] {
        assert!((32_769..=60_999).contains(&candidate(&rule, number).unwrap()));
    }
    let widest = rule_of_all_ports();
    for number in [0, 32_767, u32::MAX] {
        assert_eq!(candidate(&widest, number).unwrap() % 2, 1);
    }
    assert_eq!(candidate(&Rule::default(), 0), None);
}

fn rule_of_all_ports() -> Rule {
    rule(0, 32_768, 32_767, 32_767)
}

const ROOM: Room = Room { other_is_odd: true, own: 0, other: 0, fast: 0, unknown: 0 };

/// What a tuple holds of each parity (`own`: the first, `other`: the second), and how many of these in TIME_WAIT.
fn of_halves(own: u32, other: u32, waiting: u32, waiting_other: u32) -> Usage {
    let halves = |own: u32, other: u32| Halves(u64::from(own) << 32 | u64::from(other));
    Usage { held: halves(own, other), waiting: halves(waiting, waiting_other) }
}

#[test]
fn ports_are_ours_from_nine_tenths_of_the_kernels_half_on_and_the_last_ones_are_searched_for() {
    // 10,000 ports of the first parity, and 10,000 of the second, 2,000 of which are bound.
    let room = Room { own: 10_000, other: 8_000, ..ROOM };
    let search = |own, other| search(&of_halves(own, other, 0, 0), &room, 10_000, true);
    for (own, other, expected) in [
        (0, 0, 0),
        (8_999, 0, 0),
        (9_000, 0, 64),
        (9_000, 6_499, 64),
        (9_000, 6_500, 0),
        (9_001, 6_500, 64),
        (9_800, 7_499, 64),
        (9_800, 7_500, 8),
        (9_800, 7_699, 8),
        (9_800, 7_700, 0),
        (9_983, 7_975, 0),
        (9_984, 7_999, 8),
        (9_984, 8_000, 0),
        (9_997, 7_999, 8),
        (9_997, 8_000, 0),
        (8_999, 8_000, 0),
    ] {
        let expected = Search { tries: expected, others: expected, last: false };
        assert_eq!(search(own, other), expected, "{own} {other}");
    }
    for (own, other) in [(9_998, 0), (9_999, 8_000), (10_000, 7_999), (10_000, 8_000)] {
        let expected = Search { tries: 20_000, others: 10_000, last: true };
        assert_eq!(search(own, other), expected, "{own} {other}");
    }
    assert_eq!(super::search(&Usage::default(), &Room::default(), 0, true), Search::default());
}

#[test]
fn without_ports_of_our_own_the_kernel_is_asked_until_none_is_sure() {
    let room = Room { own: 100, other: 80, fast: 10, ..ROOM };
    let search = |own, other| search(&of_halves(own, other, 0, 0), &room, 100, false);
    let none = Search::default();
    let all = Search { tries: 200, others: 100, last: true };
    for (own, other, expected) in [
        (100, 0, none),
        (100, 67, none),
        // The spreader bound ten ports of the second parity, at any address: the kernel finds none of the ten.
        (100, 68, all),
        (97, 80, none),
        (98, 80, all),
    ] {
        assert_eq!(search(own, other), expected, "{own} {other}");
    }
}

#[test]
fn where_time_waits_are_taken_over_ports_are_ours_only_beside_open_connections() {
    let room = Room { own: 100, other: 100, ..ROOM };
    let plain = |usage, fast| search(&usage, &room, 100, fast);
    // TIME_WAITs fill the first parity, and the second is free.
    for fast in [false, true] {
        assert_eq!(plain(of_halves(100, 0, 100, 0), fast), Search::default());
        assert_eq!(plain(of_halves(100, 97, 11, 97), fast), Search::default());
        // No free port is sure: candidates must be tried.
        let look = Search { tries: 64, others: 0, last: true };
        assert_eq!(plain(of_halves(100, 98, 100, 98), fast), look);
        assert_eq!(plain(of_halves(100, 100, 11, 100), fast), look);
    }
    // Open connections fill nine tenths of the first parity.
    let second = |others, last| Search { tries: others + if last { 64 } else { 0 }, others, last };
    assert_eq!(plain(of_halves(100, 0, 10, 0), true), second(64, false));
    assert_eq!(plain(of_halves(100, 94, 10, 50), true), second(8, false));
    assert_eq!(plain(of_halves(100, 98, 10, 50), true), second(8, true));
    assert_eq!(plain(of_halves(100, 100, 10, 50), true), second(0, true));
    assert_eq!(plain(of_halves(100, 0, 10, 0), false), Search::default());
}

#[test]
fn time_waits_that_are_taken_over_are_room() {
    let two = side(2);
    let waiting = |count| of_halves(1000, 0, count, 0);
    for (first, second, expected) in [
        (waiting(0), waiting(0), None),
        (waiting(0), waiting(1), Some(1)),
        (waiting(1), waiting(0), Some(0)),
        (waiting(1000), waiting(0), Some(0)),
        (waiting(500), waiting(501), Some(1)),
        // A free port is better than a TIME_WAIT that may be too young.
        (used(900), waiting(500), Some(0)),
        (used(900), waiting(1000), Some(0)),
        (used(NO_ROOM), waiting(1), Some(1)),
        (used(NO_ROOM), used(NO_ROOM), None),
    ] {
        for random in [0, 0xffff] {
            let usage = |address: &Addr| [first, second][place(address)];
            let chosen = choose(&two, 1000, random, usage).map(|(index, _)| index);
            assert_eq!(chosen, expected, "{first:?} {second:?}");
        }
    }
}

#[test]
fn room_is_less_what_was_bound_since_the_rule_was_made() {
    let rule = Rule { capacity: 180, other_capacity: 80, ..rule(40_000, 100, 1, 0) };
    assert_eq!(Room::new(&rule, 0, 7), Room { own: 100, other: 80, fast: 7, ..ROOM });
    // A port that was bound since can be of either parity.
    assert_eq!(Room::new(&rule, 8, 7), Room { own: 92, other: 72, fast: 7, unknown: 8, ..ROOM });
    assert_eq!(Room::new(&rule, 90, 0), Room { own: 10, other: 0, unknown: 90, ..ROOM });
    let odd = Rule { other_low: 40_002, ..rule };
    assert_eq!(Room::new(&odd, 0, 0), Room { other_is_odd: false, own: 100, other: 80, ..ROOM });
    assert!(rule.has_port(40_000) && rule.has_port(40_199));
    assert!(!rule.has_port(39_999) && !rule.has_port(40_200));
}

#[test]
fn an_end_that_is_counted_before_its_begin_leaves_room() {
    let less = Usage { held: Halves(Halves::one(1).wrapping_neg()), ..Usage::default() };
    assert_eq!(choose(&side(1), 1000, 0, |_| less).map(|(index, _)| index), Some(0));
}

#[test]
fn both_halves_run_out_together_and_the_other_one_first() {
    let room = Room { own: 10_000, other: 10_000, ..ROOM };
    let search = |usage: &Usage| search(usage, &room, 10_000, true);
    let (mut own, mut others) = (0, 0);
    let (mut others_of_the_last_percent, mut turns) = (0, 0);
    loop {
        let found = search(&of_halves(own, others, 0, 0));
        if found.last {
            break;
        }
        let other = found.tries > 0;
        if other {
            others += 1;
        } else {
            own += 1;
        }
        if (19_700..19_900).contains(&(own + others)) {
            others_of_the_last_percent += u32::from(other);
        }
        turns += 1;
    }
    assert_eq!((turns, own, others), (19_998, 9_998, 10_000));
    assert!((115..=125).contains(&others_of_the_last_percent), "{others_of_the_last_percent}");
}

#[test]
fn every_decision_has_its_own_value_and_name() {
    for (index, decision) in Decision::ALL.into_iter().enumerate() {
        assert_eq!(decision as usize, index);
        assert_eq!(Decision::from_wire(index as u32), Some(decision));
        let named = Decision::ALL.iter().filter(|other| other.name() == decision.name());
        assert_eq!(named.count(), 1);
    }
    assert_eq!(Decision::from_wire(Decision::COUNT as u32), None);
}

#[test]
fn of_several_destinations_the_last_one_that_has_an_address_decides() {
    let mask = |bytes: usize| {
        let mut mask = [0; 16];
        mask[..12 + bytes].fill(0xff);
        Addr(mask)
    };
    let ports = Ports { low: 1, high: u16::MAX };
    let one = |network, bytes, exempt| Destination {
        prefix: Prefix { network: Addr::v4(network), mask: mask(bytes) },
        ports,
        exempt,
    };
    let all = Destination { ports, ..Destination::default() };
    let list = [all, one([10, 1, 0, 0], 2, 1), one([10, 1, 7, 0], 3, 0)];
    let spread = |list: &[Destination], to| Destination::is_spread(list, &Addr::v4(to), 80);
    assert!(spread(&list, [10, 2, 0, 1]) && spread(&list, [10, 1, 7, 1]));
    assert!(!spread(&list, [10, 1, 0, 1]) && !spread(&list[1..], [10, 2, 0, 1]));
    assert!(spread(&[], [10, 1, 0, 1]));
}
