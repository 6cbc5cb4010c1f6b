//! Reads thousands of damaged inputs, to see that a reader neither panics nor hangs.

use std::{env, hint, time::Duration};

use crate::host::test_mutations::cpu_time;

/// How many inputs are read; the environment variable TRACER_TEST_MUTATIONS says another number.
const USUAL: u64 = 2_000;
/// The CPU time that reading one may take; more if nothing is optimized. A CPU that the host takes away seems to run, so it counts
/// only if it does so again.
const LONGEST: Duration = Duration::from_millis(if cfg!(debug_assertions) { 200 } else { 10 });

/// Random numbers that are the same in every run (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below another; 0 if that is 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap().max(1)).unwrap()
    }
}

/// Reads damaged texts of a corpus.
///
/// # Panics
/// Reading one does, or takes too long.
pub(super) fn run<T>(corpus: &[&[u8]], read: impl Fn(&[u8]) -> T) {
    let count = env::var("TRACER_TEST_MUTATIONS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(USUAL);
    let mut random = Random(12);
    let mut longest = Duration::ZERO;
    for _ in 0..count {
        let input = damaged(corpus, &mut random);
        let took = (0..5).map(|_| time(&read, &input)).find(|took| *took <= LONGEST);
        let shown = || String::from_utf8_lossy(&input).into_owned();
        longest = longest.max(took.unwrap_or_else(|| panic!("too slow: {}", shown())));
    }
    assert!(longest <= LONGEST);
}

fn time<T>(read: impl Fn(&[u8]) -> T, input: &[u8]) -> Duration {
    cpu_time(|| drop(hint::black_box(read(hint::black_box(input)))))
}

/// Bytes that have a meaning for readers of configurations and tables.
const SPECIAL: &[u8] = b"\n\r\t \\\"'#${}[]()*?!:,-@/.%=0\0\x80\xff";

fn damaged(corpus: &[&[u8]], random: &mut Random) -> Vec<u8> {
    let mut text = corpus[random.below(corpus.len())].to_vec();
    for _ in 0..=random.below(8) {
        let (one, other) = (random.below(text.len() + 1), random.below(text.len() + 1));
        let (begin, end) = (one.min(other), one.max(other).min(one.min(other) + 200));
        match random.below(7) {
            0 => text.truncate(begin),
            1 => drop(text.drain(begin..end)),
            2 => text.insert(begin, SPECIAL[random.below(SPECIAL.len())]),
            3 => {
                let other = corpus[random.below(corpus.len())];
                let cut = random.below(other.len() + 1);
                text.splice(begin..end, other[cut..].iter().copied());
            }
            4 => {
                let part = text[begin..end].to_vec();
                let times = random.below(20);
                text.splice(begin..begin, part.repeat(times));
            }
            5 if !text.is_empty() => {
                let at = random.below(text.len());
                text[at] ^= 1 << random.below(8);
            }
            _ if !text.is_empty() => {
                let at = random.below(text.len());
                text[at] = SPECIAL[random.below(SPECIAL.len())];
            }
            _ => {}
        }
    }
    text
}
