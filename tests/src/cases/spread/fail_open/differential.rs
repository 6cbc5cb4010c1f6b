//! The same calls with and without us, while everything goes wrong: each one ends the same way.
//!
//! `TRACER_TEST_CONNECTS` is how many calls there are in each of the two runs (20,000 by default), and
//! `TRACER_TEST_SEED` repeats them.

use std::{
    env, fs,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::{io::Errno, process::Signal};

use super::KEEP;
use crate::{
    cases::spread::{Host, POOL},
    netns::NetNs,
    sock::Sock,
    tracer::spread::Spread,
    workloads::random::Random,
};

const SEED: u64 = 20_261_124;
/// Sockets that are open at most.
const HELD: u64 = 60;
/// Of the pool's addresses, not to be spread from.
const CHOSEN: &str = "10.1.0.2:0";
/// Nobody listens there.
const CLOSED: &str = "10.1.0.1:7999";
/// There is no route to it.
const FAR: &str = "192.0.2.1:80";

/// A number out of a variable.
fn number(variable: &str, default: u64) -> Result<u64> {
    match env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable} is not a number")),
        Err(_) => Ok(default),
    }
}

pub(super) fn differential() -> Result<()> {
    let calls = number("TRACER_TEST_CONNECTS", 20_000)?;
    let seed = number("TRACER_TEST_SEED", SEED)?;
    let host = Host::new()?;
    let app = Calls::new(&host, seed)?;
    let without = app.play(calls, &AtomicU64::new(0))?;
    let (progress, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let (with, trouble) = thread::scope(|scope| {
        let load = scope.spawn(|| {
            let with = app.play(calls, &progress);
            over.store(true, Ordering::Relaxed);
            with
        });
        let trouble = Trouble { host: &host, progress: &progress, over: &over }.make();
        let with = load.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (with, trouble)
    });
    let removed = trouble.context("the trouble maker")?;
    let differences: Vec<_> = without
        .iter()
        .zip(with?)
        .enumerate()
        .filter(|(_, (without, with))| *without != with)
        .map(|(turn, (without, with))| {
            format!("call {turn}: {without:?} without us, {with:?} with us")
        })
        .collect();
    // A connect() whose source address is removed between the choice and the look-up of a route fails,
    // as it would if the kernel had chosen that address.
    ensure!(
        differences.len() as u64 <= removed,
        "{removed} addresses were removed; {}",
        differences.join("\n")
    );
    host.rule.release()?;
    host.rule.check_nothing_left()
}

/// An application that makes calls of every kind, in an order that its seed decides.
struct Calls<'a> {
    host: &'a Host,
    servers: Vec<Sock>,
    seed: u64,
}

impl<'a> Calls<'a> {
    fn new(host: &'a Host, seed: u64) -> Result<Self> {
        let listener = |port| -> Result<Sock> {
            let address: SocketAddr = format!("10.1.0.1:{port}").parse()?;
            let listener = Sock::tcp(address)?;
            listener.bind(address)?;
            listener.listen(64)?;
            listener.set_nonblocking()?;
            Ok(listener)
        };
        let netns: &NetNs = &host.stage.netns;
        let servers = netns.run(|| (7101..7104).map(listener).collect::<Result<_>>())?;
        Ok(Self { host, servers, seed })
    }

    /// How each call ended; `None` is success.
    fn play(&self, calls: u64, progress: &AtomicU64) -> Result<Vec<Option<Errno>>> {
        let mut random = Random(self.seed);
        let mut held: Vec<(Sock, Vec<Sock>)> = Vec::new();
        let mut ends = Vec::new();
        while (ends.len() as u64) < calls {
            let listener = &self.servers[usize::try_from(random.below(3))?];
            let kind = random.below(16);
            let sock = self.call(kind, listener.local()?, &mut ends)?;
            // Whatever waits there: a queue that fills up would end calls by time.
            let accepted = std::iter::from_fn(|| listener.accept().ok()).collect();
            sock.set_reset_on_close()?;
            held.push((sock, accepted));
            let keep = usize::try_from(random.below(HELD))?;
            if held.len() > keep {
                held.drain(..held.len() - keep);
            }
            progress.store(ends.len() as u64, Ordering::Relaxed);
        }
        Ok(ends)
    }

    fn call(&self, kind: u64, peer: SocketAddr, ends: &mut Vec<Option<Errno>>) -> Result<Sock> {
        let sock = self.host.app.tcp(peer)?;
        // Silence shall be an error too.
        sock.set_syn_count(2)?;
        let mut end = |result: rustix::io::Result<()>| ends.push(result.err());
        match kind {
            0 => {
                end(sock.connect(CLOSED.parse()?));
                // The same descriptor again, after a refusal.
                end(sock.connect(peer));
            }
            1 => {
                sock.set_nonblocking()?;
                end(sock.connect(peer));
                end(sock.wait_connected(Duration::from_secs(5)));
            }
            2 => {
                sock.set_bind_address_no_port()?;
                end(sock.bind(CHOSEN.parse()?));
                end(sock.connect(peer));
            }
            3 => {
                end(sock.bind(CHOSEN.parse()?));
                end(sock.connect(peer));
            }
            4 => {
                end(sock.connect(peer));
                end(sock.connect(peer));
            }
            5 => end(sock.connect(FAR.parse()?)),
            6 => {
                end(sock.connect(peer));
                end(sock.disconnect());
                end(sock.connect(peer));
            }
            _ => end(sock.connect(peer)),
        }
        Ok(sock)
    }
}

/// Whoever kills, stops, restarts and removes, in turns until the calls are over.
struct Trouble<'a> {
    host: &'a Host,
    progress: &'a AtomicU64,
    over: &'a AtomicBool,
}

impl Trouble<'_> {
    /// How many addresses were removed.
    fn make(&self) -> Result<u64> {
        let mut removed = 0;
        while !self.over.load(Ordering::Relaxed) {
            let agent = self.agent(&[])?;
            agent.process.signal(Signal::STOP)?;
            self.calls(200);
            agent.process.signal(Signal::CONT)?;
            agent.kill()?;
            self.calls(50);
            // Taken over, with a ring that nobody reads full at once.
            let agent = self.agent(&["--decisions", "all", "--ring-size", "4K"])?;
            agent.process.signal(Signal::STOP)?;
            self.calls(500);
            agent.process.signal(Signal::CONT)?;
            agent.stop()?;
            let agent = self.agent(&["--max-conns", "16", "--max-tuples", "16"])?;
            removed += self.addresses(&POOL[..1])?;
            removed += self.addresses(&POOL)?;
            agent.stop()?;
            self.calls(50);
            fs::remove_dir_all(self.host.rule.pins())?;
            self.calls(50);
            self.agent(&["--ports", "kernel"])?.stop()?;
            self.host.rule.release()?;
        }
        Ok(removed)
    }

    fn agent(&self, more: &[&str]) -> Result<Spread> {
        let spread = self.host.spread(&POOL, &[KEEP, more].concat())?;
        self.calls(50);
        Ok(spread)
    }

    /// Takes these away and brings them back.
    fn addresses(&self, addresses: &[&str]) -> Result<u64> {
        for what in ["del", "add"] {
            for address in addresses {
                self.host.stage.netns.ip(&format!("addr {what} {address}/32 dev lo"))?;
            }
            self.calls(100);
        }
        Ok(addresses.len() as u64)
    }

    /// Waits for so many more calls, or for their end.
    fn calls(&self, count: u64) {
        let until = self.progress.load(Ordering::Relaxed) + count;
        while self.progress.load(Ordering::Relaxed) < until && !self.over.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
        }
    }
}
