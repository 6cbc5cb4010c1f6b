//! On two CPUs at the same time, bind() notes a port in TOUCHED while the port's entry is removed.

use std::{
    env,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::harness::{
    behind::{Map, Program},
    tracer::watch::Watch,
};

/// Numbers of operations of the BPF program `ledger_command`: the first of the words that it gets.
const ADD_BOUND: u32 = 3;
const REMOVE_BOUND: u32 = 4;
const REMOVE_TOUCHED: u32 = 14;

/// No network namespace has this inode number, so that tracer does not compare these ports with the kernel's sockets.
const NETNS: u64 = 0xfff0_0001;
const PORT: u64 = 4000;
const KEY: u64 = NETNS << 16 | PORT;

/// How the two threads take turns. In each turn the remover reads the entry; then both act at the same time: the noter has the
/// port noted again, and the remover removes the entry that it read.
#[derive(Debug, Default)]
struct Turns {
    /// The newest turn in which the remover has read the entry; 0 before the first one.
    begun: AtomicU64,
    /// The newest turn in which the noter has bound the port; 0 before the first one.
    noted: AtomicU64,
    stop: AtomicBool,
}

impl Turns {
    /// Waits until the counter has reached `turn`, and returns true; returns false if the test is over before.
    fn wait(&self, counter: &AtomicU64, turn: u64) -> bool {
        while counter.load(Ordering::SeqCst) < turn {
            if self.stop.load(Ordering::SeqCst) {
                return false;
            }
            std::hint::spin_loop();
        }
        true
    }
}

fn bound(op: u32, cookie: u64) -> [u64; 12] {
    let mut words = [0; 12];
    (words[0], words[1], words[2]) = (u64::from(op), cookie, PORT);
    words[7] = NETNS;
    words
}

/// The noter: in each turn, binds the port, and releases it.
fn note(program: &Program, turns: &Turns) -> Result<()> {
    for turn in 1.. {
        if !turns.wait(&turns.begun, turn) {
            break;
        }
        let added = program.run(&bound(ADD_BOUND, turn))?;
        turns.noted.store(turn, Ordering::SeqCst);
        ensure!(added == 1 && program.run(&bound(REMOVE_BOUND, turn))? == 1, "turn {turn}");
    }
    Ok(())
}

/// How many times the entry was removed before the port was noted again, and how many times the entry stayed because the port
/// had been noted again before.
#[derive(Clone, Copy, Debug, Default)]
struct Removals {
    removed: u64,
    stayed: u64,
}

/// The remover: in each turn, tries to remove the entry that it read. Afterwards there must be an entry, because the port was
/// noted in that turn.
fn remove(program: &Program, touched: &Map, turns: &Turns) -> Result<Removals> {
    let (mut removals, mut random) = (Removals::default(), 1_u64);
    for turn in 1.. {
        let mut words = [0; 12];
        (words[0], words[1]) = (u64::from(REMOVE_TOUCHED), KEY);
        if let Some(entry) = touched.get(&KEY.to_ne_bytes())? {
            // The command names the entry by its time, and by how many times it was used: the upper half of the entry's second
            // word, whose lower half is the owner. In the first turn there is no entry, and both words stay 0: nothing is
            // removed.
            words[11] = u64::from_ne_bytes(entry[..8].try_into()?);
            words[10] = u64::from_ne_bytes(entry[8..].try_into()?) & !u64::from(u32::MAX);
        }
        turns.begun.store(turn, Ordering::SeqCst);
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        for _ in 0..random >> (53 + (random >> 40) % 11) {
            std::hint::spin_loop();
        }
        let removed = program.run(&words)? == 1;
        if !turns.wait(&turns.noted, turn) {
            break;
        }
        let entry = touched.get(&KEY.to_ne_bytes())?;
        ensure!(entry.is_some(), "turn {turn}: the port was noted, and is not ({removals:?})");
        *if removed { &mut removals.removed } else { &mut removals.stayed } += 1;
    }
    Ok(removals)
}

/// Runs for `TRACER_TEST_FORGET_SECONDS` seconds (by default 3): in each turn the noted port has an entry, and at the end SHARES
/// counts as many entries as TOUCHED has. In some turn the entry must have been removed, and in some it must have stayed.
#[expect(clippy::print_stdout, reason = "how much was tried is a result")]
pub(super) fn race(backend: &str) -> Result<()> {
    let seconds = env::var("TRACER_TEST_FORGET_SECONDS").ok().and_then(|it| it.parse().ok());
    let length = Duration::from_secs(seconds.unwrap_or(3));
    let watch = Watch::start(backend, &[])?;
    let program = Program::of(watch.id(), "ledger_command")?;
    let (touched, shares) = (Map::of(watch.id(), "TOUCHED")?, Map::of(watch.id(), "SHARES")?);
    let turns = Turns::default();
    let removals = thread::scope(|scope| {
        let noter = scope.spawn(|| note(&program, &turns));
        let remover = scope.spawn(|| remove(&program, &touched, &turns));
        let begin = Instant::now();
        while begin.elapsed() < length && !noter.is_finished() && !remover.is_finished() {
            thread::sleep(Duration::from_millis(20));
        }
        turns.stop.store(true, Ordering::SeqCst);
        noter.join().unwrap_or_else(|it| std::panic::resume_unwind(it))?;
        remover.join().unwrap_or_else(|it| std::panic::resume_unwind(it))
    })?;
    println!("{removals:?}");
    ensure!(removals.removed > 0 && removals.stayed > 0, "never at once: {removals:?}");
    let totals = shares.get(&0_u32.to_ne_bytes())?.context("no totals")?;
    let held = u64::from_ne_bytes(totals[24..32].try_into()?);
    let entries = touched.keys()?.len() as u64;
    ensure!(held == entries, "{held} entries are counted of {entries}");
    watch.stop()
}
