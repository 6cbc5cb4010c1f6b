//! For tests: damages real inputs at random, and runs a parser on each of them.

use std::{env, time::Duration};

use rustix::time::{ClockId, clock_gettime};

/// The CPU time that a parser may take for one input; more if nothing is optimized.
const LONGEST: Duration = Duration::from_millis(if cfg!(debug_assertions) { 200 } else { 10 });
/// The most bytes of a damaged input.
const LARGEST: usize = 64 * 1024;

/// Runs `parse` on damaged inputs, made of those in `corpus`: as many as TRACER_TEST_MUTATIONS says, 2,000 without it. The
/// same in every run. Fails if `parse` panics, or takes more than 10 ms of CPU time (200 ms if nothing is optimized).
pub(crate) fn run(corpus: &[&[u8]], parse: impl Fn(&[u8])) {
    let count = env::var("TRACER_TEST_MUTATIONS").ok().and_then(|it| it.parse().ok());
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut input = Vec::new();
    for number in 0..count.unwrap_or(2_000_u64) {
        if number % 16 == 0 {
            input = random.of(corpus).to_vec();
        }
        damage(&mut input, corpus, &mut random);
        let time = cpu_time(|| parse(&input));
        assert!(time <= LONGEST, "input {number} takes {time:?}: {input:?}");
    }
}

/// The CPU time that this takes on the calling thread: other programs on the CPU do not count.
pub(crate) fn cpu_time(run: impl FnOnce()) -> Duration {
    let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let begin = now();
    run();
    now().saturating_sub(begin)
}

/// Flips, cuts, repeats, or joins.
fn damage(input: &mut Vec<u8>, corpus: &[&[u8]], random: &mut Random) {
    let (from, to) = (random.below(input.len() + 1), random.below(input.len() + 1));
    let part = from.min(to)..from.max(to);
    match random.below(6) {
        0 => input.truncate(from),
        1 => drop(input.drain(part)),
        2 => {
            let again = input[part].to_vec();
            input.splice(from..from, again);
        }
        3 => input.extend_from_slice(random.of(corpus)),
        4 => {
            let bytes = [0, b'\n', b' ', b':', b'-', b',', b'9', 0xff];
            input.insert(from, bytes[random.below(bytes.len())]);
        }
        _ => {
            for _ in 0..=random.below(8) {
                let at = random.below(input.len().max(1));
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
        }
    }
    input.truncate(LARGEST);
}

/// Random numbers that are the same in every run (xorshift64*, Vigna 2016).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number less than `limit`, which is not 0.
    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    fn of<'a>(&mut self, corpus: &[&'a [u8]]) -> &'a [u8] {
        corpus[self.below(corpus.len())]
    }
}
