//! How much of N x capacity is in use when the first connect() fails, by simulation. The clock is the number
//! of connects so far, and the random numbers are seeded.

extern crate std;

use std::{cmp::Reverse, collections::BinaryHeap, vec, vec::Vec};

use super::{super::*, Random, place, side, used};

const CAPACITY: u32 = 1000;
const POOLS: [usize; 6] = [1, 2, 4, 16, 64, 256];

/// How long a port is held, counted in connects of the whole pool: the connection, then TIME_WAIT.
type Lifetime = fn(number: u64, room: u64, random: &mut Random) -> u64;

struct Workload {
    name: &'static str,
    lifetime: Lifetime,
    /// Ports of the first address that other programs hold all the time.
    used_by_others: u32,
}

const WORKLOADS: [Workload; 4] = [
    Workload { name: "steady fill", lifetime: |_, _, _| u64::MAX, used_by_others: 0 },
    Workload { name: "churn with TIME_WAIT", lifetime: churn, used_by_others: 0 },
    Workload { name: "one address 30 % used", lifetime: churn, used_by_others: 300 },
    Workload { name: "long and short in turn", lifetime: alternating, used_by_others: 0 },
];

/// Half of the connections end: they last for up to a tenth of the time that it takes to fill the
/// pool, and TIME_WAIT then holds their ports for three tenths.
fn churn(_: u64, room: u64, random: &mut Random) -> u64 {
    let open = u64::from(random.below(1000)) * room / 10_000;
    if random.below(2) == 0 { u64::MAX } else { open + room * 3 / 10 }
}

/// A workload that defeats round-robin: every second connection stays, so of two addresses in turn, one
/// gets all connections that stay.
fn alternating(number: u64, room: u64, _: &mut Random) -> u64 {
    if number.is_multiple_of(2) { u64::MAX } else { room / 10 }
}

/// Ports in use, in 1/10,000 of all, when `pick` first returns an address without room, or none.
fn fill_at_first_failure(
    workload: &Workload,
    count: usize,
    mut pick: impl FnMut(&[u32], u64, &mut Random) -> Option<usize>,
) -> u64 {
    let mut random = Random(count as u64);
    let mut in_use = vec![0; count];
    in_use[0] = workload.used_by_others;
    let room = count as u64 * u64::from(CAPACITY);
    let mut ends: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
    for now in 0.. {
        while let Some(Reverse((_, index))) = ends.peek().filter(|end| end.0.0 <= now).copied() {
            in_use[index] -= 1;
            ends.pop();
        }
        match pick(&in_use, now, &mut random) {
            Some(index) if in_use[index] < CAPACITY => {
                in_use[index] += 1;
                let end = now.saturating_add((workload.lifetime)(now, room, &mut random));
                ends.push(Reverse((end, index)));
            }
            _ => break,
        }
    }
    in_use.iter().copied().map(u64::from).sum::<u64>() * 10_000 / room
}

#[test]
fn the_least_used_choice_fails_first_when_all_is_in_use() {
    for workload in &WORKLOADS {
        for count in POOLS {
            let side = side(count);
            let fill = fill_at_first_failure(workload, count, |in_use, _, random| {
                let usage = |address: &Addr| used(in_use[place(address)]);
                choose(&side, CAPACITY, random.next(), usage).map(|(index, _)| usize::from(index))
            });
            assert!(fill >= 9_990, "{}, {count} addresses: {fill} of 10,000", workload.name);
        }
    }
}

/// A pool in which the first `heavy` addresses have this weight, and the others 1.
fn weighted(count: usize, heavy: usize, weight: usize) -> FamilyPool {
    let mut side = side(count);
    let shares = (0..count).map(|index| if index < heavy { weight } else { 1 });
    // Each address has as many slots as the agent gives it.
    let all: usize = shares.clone().sum();
    let spare = POOL_MAX - count;
    let mut slots = Vec::new();
    for (index, share) in shares.enumerate() {
        side.weights[index] = share as u16;
        let slots_of_it = if all <= POOL_MAX { share } else { 1 + spare * (share - 1) / all };
        slots.extend(vec![index as u8; slots_of_it]);
    }
    side.slots[..slots.len()].copy_from_slice(&slots);
    side.slot_count = slots.len() as u32;
    side
}

/// An address with more weight is full first, and then the others are used up.
#[test]
fn weights_do_not_cost_capacity() {
    for workload in &WORKLOADS {
        for (count, heavy, weight) in [(4, 1, 5), (64, 40, 10), (256, 128, 2)] {
            let side = weighted(count, heavy, weight);
            let fill = fill_at_first_failure(workload, count, |in_use, _, random| {
                let usage = |address: &Addr| used(in_use[place(address)]);
                choose(&side, CAPACITY, random.next(), usage).map(|(index, _)| usize::from(index))
            });
            assert!(fill >= 9_990, "{}, {count} addresses: {fill} of 10,000", workload.name);
        }
    }
}

/// The workloads distinguish good choices from bad ones: with the choices of other tools, a connect() fails earlier.
#[test]
fn round_robin_and_random_choice_fail_while_there_is_room() {
    let round_robin = |workload, count| {
        fill_at_first_failure(workload, count, |_, now, _| {
            Some(usize::try_from(now).unwrap() % count)
        })
    };
    let at_random = |workload, count: usize| {
        fill_at_first_failure(workload, count, |_, _, random| {
            Some(random.below(count as u32) as usize)
        })
    };
    for count in [4, 16, 64] {
        let fill = round_robin(&WORKLOADS[3], count);
        assert!(fill < 7_000, "round-robin, {count} addresses: {fill} of 10,000");
        let fill = at_random(&WORKLOADS[1], count);
        assert!(fill < 9_800, "random, {count} addresses: {fill} of 10,000");
    }
}
