use proptest::prelude::*;
use tracer_common::{
    Addr,
    filter::{Ports, Prefix},
    spread::{DESTINATIONS_MAX, candidate, rule_flag},
};

use super::*;

fn v4(last: u16, weight: u16) -> PoolAddress {
    let [high, low] = last.to_be_bytes();
    PoolAddress { address: Addr::v4([10, 0, high, low]), weight }
}

fn v6(last: u8, weight: u16) -> PoolAddress {
    let mut address = [0xfd; 16];
    address[15] = last;
    PoolAddress { address: Addr(address), weight }
}

fn inputs<'a>(addresses: &'a [PoolAddress], destinations: &'a [Destination]) -> Inputs<'a> {
    Inputs {
        netns_cookie: 0,
        netns: 4_026_531_840,
        flags: rule_flag::REBIND | rule_flag::FAST_PORTS,
        capacity: 28_230,
        other_capacity: 14_115,
        unsure: false,
        bound: BoundCounts::default(),
        reuse: Reuse::default(),
        low: 32_768,
        high: 60_999,
        random: 0x1234_5678_9abc_def0,
        sample: 100,
        addresses,
        destinations,
    }
}

/// How many slots each address has.
fn slots(family_pool: &FamilyPool) -> Vec<usize> {
    let used = &family_pool.slots[..family_pool.slot_count as usize];
    let of = |index: u32| used.iter().filter(|slot| u32::from(**slot) == index).count();
    (0..family_pool.count).map(of).collect()
}

#[test]
fn a_rule_has_a_pool_for_each_family_and_the_inputs() {
    let addresses = [v4(5, 1), v4(6, 3), v6(7, 2)];
    let destination = Destination {
        prefix: Prefix { network: Addr([1; 16]), mask: Addr([255; 16]) },
        ports: Ports { low: 80, high: 90 },
        exempt: 0,
    };
    let rule = build(&inputs(&addresses, &[destination]));
    assert_eq!(
        (rule.netns, rule.flags, rule.capacity, rule.sample),
        (4_026_531_840, 3, 28_230, 100)
    );
    assert_eq!((rule.other_low, rule.half), (32_769, 14_116));
    assert_eq!((rule.destination_count, rule.destinations[0]), (1, destination));
    assert_eq!((rule.v4.count, slots(&rule.v4)), (2, vec![1, 3]));
    assert_eq!((rule.v6.count, slots(&rule.v6)), (1, vec![1]));
    assert_eq!(rule.v4.addresses[..2], [addresses[0].address, addresses[1].address]);
    assert_eq!(rule.v4.weights[..3], [1, 3, 0]);
    assert_eq!(rule.v6.addresses[0], addresses[2].address);
}

#[test]
fn no_addresses_make_a_rule_that_spreads_nothing() {
    let rule = build(&inputs(&[], &[]));
    assert_eq!(
        (rule.v4, rule.v6, rule.destination_count),
        (FamilyPool::default(), FamilyPool::default(), 0)
    );
}

#[test]
fn addresses_and_destinations_beyond_the_limits_are_left_out() {
    let addresses: Vec<_> = (0..300).map(|number| v4(number, 1)).collect();
    let rule = build(&inputs(&addresses, &[Destination::default(); 20]));
    assert_eq!((rule.v4.count, rule.v4.slot_count), (256, 256));
    assert_eq!(rule.destination_count as usize, DESTINATIONS_MAX);
    assert_eq!(slots(&rule.v4), [1; 256]);
}

#[test]
fn slots_are_shared_by_weight() {
    let of = |weights: &[u16]| {
        slots(&family_pool(&weights.iter().map(|weight| v4(1, *weight)).collect::<Vec<_>>()))
    };
    assert_eq!(of(&[1, 1, 1]), [1, 1, 1]);
    assert_eq!(of(&[7, 7]), [1, 1]);
    assert_eq!(of(&[100, 50, 25]), [4, 2, 1]);
    assert_eq!(of(&[100, 99, 98]), [86, 85, 85]);
    let mut many = vec![1; 200];
    many.push(100);
    let shares = of(&many);
    assert_eq!((shares[0], shares[199], shares[200]), (1, 1, 56));
}

#[test]
fn the_second_parity_is_what_connect_tries_last() {
    for (low, high, expected) in [
        (32_768, 60_999, (32_769, 14_116)),
        (1024, 65_535, (1025, 32_256)),
        // The last port of an odd number of ports does not count.
        (40_000, 40_002, (40_001, 1)),
        (40_001, 40_004, (40_002, 2)),
        (40_000, 40_000, (40_001, 0)),
        (65_535, 65_535, (65_535, 0)),
        (0, 65_535, (1, 32_768)),
    ] {
        let rule = build(&Inputs { low, high, ..inputs(&[], &[]) });
        assert_eq!((rule.other_low, rule.half), expected, "{low}-{high}");
    }
}

proptest! {
    #[test]
    fn candidates_are_every_port_of_the_second_parity_for_any_random_number(
        low in 1024_u16..60_000, ports in 1_u16..3000, random: u64,
    ) {
        let rule = build(&Inputs { low, high: low + ports, random, ..inputs(&[], &[]) });
        let mut found: Vec<_> = (0..rule.half).filter_map(|number| candidate(&rule, number)).collect();
        found.sort_unstable();
        let end = u32::from(low) + 2 * rule.half;
        let expected: Vec<_> = (low + 1..).step_by(2).take_while(|p| u32::from(*p) < end).collect();
        prop_assert_eq!(found, expected);
        prop_assert!(rule.half < 8 || rule.step >= rule.half / 4);
    }

    #[test]
    fn every_address_has_a_slot_and_every_slot_an_address(
        weights in proptest::collection::vec(1_u16..=100, 1..=256)
    ) {
        let addresses: Vec<_> = weights.iter().map(|weight| v4(0, *weight)).collect();
        let family_pool = family_pool(&addresses);
        let slots = slots(&family_pool);
        prop_assert_eq!(slots.len(), weights.len());
        prop_assert!(slots.iter().all(|count| *count > 0));
        prop_assert_eq!(slots.iter().sum::<usize>(), family_pool.slot_count as usize);
        for (one, other) in slots.iter().zip(&weights).zip(slots.iter().zip(&weights).skip(1)) {
            prop_assert!(one.1 < other.1 || one.0 + 1 >= *other.0, "heavier has no fewer");
        }
    }
}
