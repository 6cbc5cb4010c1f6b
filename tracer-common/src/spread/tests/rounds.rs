//! [`choose_by`] with callbacks makes the same choice as [`choose`] with loops.

extern crate std;

use std::vec::Vec;

use super::*;

struct Loop;

impl Rounds for Loop {
    fn run(count: u32, mut step: impl FnMut(u32) -> bool) {
        _ = (0..count).all(&mut step);
    }
}

/// The usages of a pool in which few addresses have room: of `one_in` addresses about one has free ports, one up to four
/// reusable TIME_WAITs, one is left out, and the rest is full.
fn usages(count: usize, one_in: u32, random: &mut Random) -> Vec<Usage> {
    let usage = |_| match random.below(one_in) {
        0 => used(random.below(1001)),
        1 => of_halves(500, 500, random.below(3), random.below(3)),
        2 => used(NO_ROOM),
        _ => used(1000),
    };
    (0..count).map(usage).collect()
}

#[test]
fn a_choice_by_callbacks_is_the_one_by_loops() {
    let mut random = Random(11);
    let (mut chosen, mut none) = (0, 0);
    for count in [1, 2, 3, 31, 32, 33, 34, 100, 255, 256] {
        let side = side(count);
        for round in 0..2_000 {
            let usages = usages(count, [4, 40, 400][round % 3], &mut random);
            let seed = random.next();
            let by_loops = choose(&side, 1000, seed, |address| usages[place(address)]);
            let by_callbacks =
                choose_by::<Loop>(&side, 1000, seed, |address| usages[place(address)]);
            assert_eq!(by_callbacks, by_loops, "{count} addresses, {seed:#x}: {usages:?}");
            *if by_loops.is_some() { &mut chosen } else { &mut none } += 1;
        }
    }
    assert!(chosen > 1_000 && none > 1_000, "{chosen} {none}");
}
