//! On several CPUs at the same time, one thread removes tuples from TUPLES while other threads open and release ports of these
//! tuples.

use std::{
    collections::BTreeMap,
    env,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Result, ensure};
use rustix::thread::{MembarrierCommand, membarrier};

use crate::harness::{
    behind::{HELD, Map, Program, one},
    tracer::watch::Watch,
};

/// Numbers of operations of the BPF program `ledger_command`: the first of the words that it gets.
const ADD_CONN: u32 = 1;
const REMOVE_CONN: u32 = 2;
const REMOVE_TUPLE: u32 = 5;
const DOOM_TUPLE: u32 = 9;

/// No network namespace has this inode number, so that tracer does not compare these ports with the kernel's sockets.
const NETNS: u32 = 0xfff0_0000;
const TUPLES: u16 = 64;

/// How the threads take turns. While the tuples are doomed (the first step of a removal) no opener uses them; then all openers
/// use them while they are removed (the second step).
#[derive(Debug, Default)]
struct Turns {
    /// How many removals have begun, or are about to. An opener waits for the number of a removal, and then opens a port of the
    /// tuple that is being removed.
    tuple: AtomicU64,
    /// Number of openers that have no port open and wait for the next turn.
    idle: AtomicU64,
    /// Number of openers that have opened all their ports of this turn, and hold them.
    holding: AtomicU64,
    /// Number of turns whose counters were checked.
    checked: AtomicU64,
    stop: AtomicBool,
}

impl Turns {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Waits until the condition is true, and returns true; returns false if the test is over before.
    fn wait(&self, condition: impl Fn() -> bool) -> bool {
        while !condition() {
            if self.is_over() {
                return false;
            }
            std::hint::spin_loop();
        }
        true
    }
}

fn command(op: u32, cookie: u64, port: u16, tuple: u16) -> [u64; 12] {
    let mut words = [0; 12];
    words[0] = u64::from(op);
    words[1] = cookie;
    words[2] = u64::from(port);
    // Words 3 and 5 are the addresses. Word 7 has the namespace in its lower 32 bits, and the destination port above: a number
    // that identifies the tuple here.
    (words[3], words[5]) = (1, 2);
    words[7] = u64::from(NETNS) | u64::from(tuple) << 32;
    // The tuple is doomed or removed only if it has not changed since this time: `u64::MAX` allows it whenever the tuple has no
    // ports.
    words[11] = u64::MAX;
    words
}

/// How many ports were opened, and how many the ledger refused because their tuple was being removed.
#[derive(Clone, Copy, Debug, Default)]
struct Opened {
    ports: u64,
    refused: u64,
}

/// An opener, of which `by` is the number: in each turn, opens a port of each tuple, and releases these ports after the counters
/// were checked. At the end of the test, its last ports stay open.
fn open_and_release(program: &Program, by: u64, turns: &Turns) -> Result<Opened> {
    let mut opened = Opened::default();
    let mut held = Vec::new();
    for turn in 0.. {
        turns.idle.fetch_add(1, Ordering::SeqCst);
        for tuple in 1..=TUPLES {
            let number = turn * u64::from(TUPLES) + u64::from(tuple);
            if !turns.wait(|| turns.tuple.load(Ordering::SeqCst) >= number) {
                break;
            }
            let (cookie, port) = (by << 32 | number, u16::try_from(number % 60_000)? + 1024);
            if program.run(&command(ADD_CONN, cookie, port, tuple))? == 1 {
                opened.ports += 1;
                held.push((cookie, port, tuple));
            } else {
                opened.refused += 1;
            }
        }
        turns.holding.fetch_add(1, Ordering::SeqCst);
        if !turns.wait(|| turns.checked.load(Ordering::SeqCst) > turn) {
            break;
        }
        for (cookie, port, tuple) in held.drain(..) {
            let changed = program.run(&command(REMOVE_CONN, cookie, port, tuple))?;
            ensure!(changed == 1, "the entry of port {port} has gone");
        }
    }
    Ok(opened)
}

/// In each turn, dooms every tuple, waits until every hook that ran then has ended, removes each tuple while the openers use it,
/// and checks the counters. Returns how many tuples it removed.
fn forget(program: &Program, process: u32, openers: u64, turns: &Turns) -> Result<u64> {
    let (mut count, mut random) = (0, 1_u64);
    let counts = Counts::of(process)?;
    while turns.wait(|| turns.idle.load(Ordering::SeqCst) == openers) {
        for tuple in 1..=TUPLES {
            program.run(&command(DOOM_TUPLE, 0, 0, tuple))?;
        }
        membarrier(MembarrierCommand::Global)?;
        turns.idle.store(0, Ordering::SeqCst);
        for tuple in 1..=TUPLES {
            turns.tuple.fetch_add(1, Ordering::SeqCst);
            // A random delay, mostly short, between none and longer than an opener's call takes.
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            for _ in 0..random >> (53 + (random >> 40) % 11) {
                std::hint::spin_loop();
            }
            count += u64::from(program.run(&command(REMOVE_TUPLE, 0, 0, tuple))?);
        }
        if !turns.wait(|| turns.holding.load(Ordering::SeqCst) == openers) {
            break;
        }
        counts.check()?;
        turns.holding.store(0, Ordering::SeqCst);
        turns.checked.fetch_add(1, Ordering::SeqCst);
    }
    Ok(count)
}

/// The tables TUPLES and CONNS of the tracer.
struct Counts {
    tuples: Map,
    conns: Map,
}

impl Counts {
    fn of(process: u32) -> Result<Self> {
        Ok(Self { tuples: Map::of(process, "TUPLES")?, conns: Map::of(process, "CONNS")? })
    }

    /// The counters of each tuple of this test (ports in use, and `held`) must be the sums of its entries in CONNS; an error if
    /// one is not.
    fn check(&self) -> Result<()> {
        let number = |value: &[u8], at: usize| -> Result<u64> {
            Ok(u64::from_ne_bytes(value[at..at + 8].try_into()?))
        };
        let (mut counted, mut held) = (BTreeMap::new(), BTreeMap::<u16, (u64, u64)>::new());
        for key in self.tuples.keys()? {
            let (netns, tuple) = place(&key)?;
            let Some(value) = self.tuples.get(&key)? else { continue };
            let in_use = number(&value, 0)?.wrapping_sub(number(&value, 8)?);
            let ports = (in_use, number(&value, HELD)?);
            if netns == NETNS && ports != (0, 0) {
                counted.insert(tuple, ports);
            }
        }
        for key in self.conns.keys()? {
            let Some(value) = self.conns.get(&key)? else { continue };
            let (netns, tuple) = place(&value)?;
            if netns == NETNS {
                let ports = held.entry(tuple).or_default();
                *ports = (ports.0 + 1, ports.1 + one(&key));
            }
        }
        ensure!(counted == held, "the tuples have {counted:?}, CONNS has {held:?}");
        Ok(())
    }
}

/// Namespace and destination port of a `TupleKey`, with which a value of CONNS begins, too.
fn place(key: &[u8]) -> Result<(u32, u16)> {
    let netns = u32::from_ne_bytes(key[32..36].try_into()?);
    Ok((netns, u16::from_ne_bytes(key[36..38].try_into()?)))
}

/// Runs for `TRACER_TEST_FORGET_SECONDS` seconds (by default 3, in the soak test 60): no count is lost, and none is added to
/// another tuple. More than 64 tuples must have been removed, fewer than 1 % of the ports refused, and there must be no drift.
#[expect(clippy::print_stdout, reason = "how much was tried is a result")]
pub(super) fn race(backend: &str) -> Result<()> {
    let seconds = env::var("TRACER_TEST_FORGET_SECONDS").ok().and_then(|it| it.parse().ok());
    let length = Duration::from_secs(seconds.unwrap_or(3));
    let mut watch = Watch::start(backend, &[])?;
    let program = Program::of(watch.id(), "ledger_command")?;
    let (turns, process) = (Turns::default(), watch.id());
    let openers = u64::try_from(thread::available_parallelism()?.get())?.saturating_sub(1).max(1);
    let (opened, forgotten) = thread::scope(|scope| -> Result<(Opened, u64)> {
        let (program, turns) = (&program, &turns);
        let threads: Vec<_> = (1..=openers)
            .map(|opener| scope.spawn(move || open_and_release(program, opener, turns)))
            .collect();
        let forgetter = scope.spawn(move || forget(program, process, openers, turns));
        let begin = Instant::now();
        let is_running = || !forgetter.is_finished() && threads.iter().all(|it| !it.is_finished());
        while begin.elapsed() < length && is_running() {
            thread::sleep(Duration::from_millis(20));
        }
        turns.stop.store(true, Ordering::SeqCst);
        let mut opened = Opened::default();
        for opener in threads {
            let by_one = opener.join().unwrap_or_else(|it| std::panic::resume_unwind(it))?;
            opened.ports += by_one.ports;
            opened.refused += by_one.refused;
        }
        let forgotten = forgetter.join().unwrap_or_else(|it| std::panic::resume_unwind(it))?;
        Ok((opened, forgotten))
    })?;
    // The ports that were open at the end are still in the ledger.
    Counts::of(watch.id())?.check()?;
    println!("{opened:?}, tuples forgotten {forgotten} times");
    let used = opened.ports;
    ensure!(forgotten > 64 && forgotten < used, "{forgotten} of {used} were forgotten");
    // A port is refused only if an interrupt delays the removal of its tuple, which is rare.
    ensure!(opened.refused * 100 < used, "{opened:?}");
    let reading = watch.after(SystemTime::now(), Duration::from_secs(10))?;
    reading.assert_no_drift()?;
    watch.stop()
}
