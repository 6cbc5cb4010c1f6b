//! Configurations with random changes: nothing panics, nothing takes long.

use std::{path::PathBuf, time::Duration};

use rustix::time::{ClockId, clock_gettime};

use super::*;
use crate::runtime::clock;

/// Random numbers (splitmix64), the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below this one; 0 if that is 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end.max(1)).unwrap()).unwrap()
    }
}

/// Pieces with which a reader can go wrong.
const PIECES: [&str; 24] = [
    "{",
    "}",
    ";",
    "\"",
    "'",
    "\\",
    "#",
    "\n",
    "\0",
    "$",
    "${",
    "\u{fffd}",
    "_by_lua_block {",
    "[[",
    "]]",
    "--",
    "include *;",
    "include conf.d/[a-z]*.conf;",
    "proxy_pass http://$x;",
    "keepalive 99999999999;",
    "server [::1;",
    "proxy_set_header Connection $x;",
    "map $http_upgrade $x {",
    "include api.conf;",
];

/// Changes some bytes: flips, cuts, repeats, and pieces of others.
fn mutate(random: &mut Random, text: &mut Vec<u8>) {
    for _ in 0..=random.below(4) {
        let at = random.below(text.len() + 1);
        let end = (at + random.below(40)).min(text.len());
        match random.below(6) {
            0 if at < text.len() => text[at] = random.next().to_le_bytes()[0],
            1 => drop(text.drain(at..end)),
            2 => text.truncate(at),
            3 => {
                let copy = text[at..end].to_vec();
                text.splice(at..at, copy);
            }
            4 => {
                let (_, other) = CORPUS[random.below(CORPUS.len())];
                let from = random.below(other.len());
                let to = (from + random.below(80)).min(other.len());
                text.splice(at..end, other.as_bytes()[from..to].iter().copied());
            }
            _ => {
                let piece = PIECES[random.below(PIECES.len())];
                text.splice(at..at, piece.bytes());
            }
        }
    }
}

/// The most CPU time for one; more if nothing is optimized.
const LIMIT: Duration = Duration::from_millis(if cfg!(debug_assertions) { 200 } else { 10 });

/// The CPU time of this thread.
fn cpu_time() -> Duration {
    Duration::from_nanos(clock::ns(clock_gettime(ClockId::ThreadCPUTime)))
}

#[test]
fn changed_configurations_neither_panic_nor_take_long() {
    let count = std::env::var("TRACER_TEST_MUTATIONS").ok().and_then(|it| it.parse().ok());
    let count: u32 = count.unwrap_or(2000);
    let mut random = Random(7);
    let destinations: Vec<SocketAddr> = ["10.0.1.7:8080", "127.0.0.1:9000", "[2001:db8::1]:8080"]
        .map(|it| it.parse().unwrap())
        .into();
    let mut files = Memory::of(CORPUS);
    let mut slowest = Duration::ZERO;
    let mut understood = 0;
    for turn in 0..count {
        let (path, original) = CORPUS[random.below(CORPUS.len())];
        let path = PathBuf::from(path);
        let mut text = original.as_bytes().to_vec();
        mutate(&mut random, &mut text);
        let old = files.0.insert(path.clone(), text).unwrap();
        let main =
            if path.starts_with("/n/conf.d") { Path::new("/n/included.conf") } else { &path };
        let began = cpu_time();
        let facts = facts(&files, main, "");
        for (destination, version) in destinations.iter().zip([OLD, NEW, None]) {
            understood += u32::from(!routes(&facts, version, *destination).routes.is_empty());
        }
        slowest = slowest.max(cpu_time().saturating_sub(began));
        files.0.insert(path, old);
        assert!(facts.unread.len() <= 64, "{turn}");
    }
    // Many still say something, else this would test nothing.
    assert!(understood > count / 10, "{understood} of {count}");
    assert!(slowest < LIMIT, "{slowest:?}");
}
