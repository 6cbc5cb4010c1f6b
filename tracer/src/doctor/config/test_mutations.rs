//! Reads thousands of damaged configurations, to see that a reader neither panics nor hangs.

use crate::host::test_mutations::{Random, Run};

/// Reads damaged texts of a corpus.
///
/// # Panics
/// Reading one does, or takes too long.
pub(super) fn run<T>(reader: &'static str, corpus: &[&[u8]], read: impl Fn(&[u8]) -> T) {
    let mut run = Run::of(reader);
    let mut random = Random(12);
    for _ in 0..Run::inputs() {
        run.parse(&damaged(corpus, &mut random), &read);
    }
    run.end();
}

/// Bytes that have a meaning for readers of configurations and tables.
const SPECIAL: &[u8] = b"\n\r\t \\\"'#${}[]()*?!:,-@/.%=0\0\x80\xff";

fn damaged(corpus: &[&[u8]], random: &mut Random) -> Vec<u8> {
    let mut text = random.of(corpus).to_vec();
    for _ in 0..=random.below(8) {
        let (one, other) = (random.below(text.len() + 1), random.below(text.len() + 1));
        let (begin, end) = (one.min(other), one.max(other).min(one.min(other) + 200));
        match random.below(7) {
            0 => text.truncate(begin),
            1 => drop(text.drain(begin..end)),
            2 => text.insert(begin, SPECIAL[random.below(SPECIAL.len())]),
            3 => {
                let other = random.of(corpus);
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
