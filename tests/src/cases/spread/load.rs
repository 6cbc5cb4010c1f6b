//! A load: the application opens connections, one after another, until the test ends. Each must succeed, except those that the
//! test allows to fail ([`Load::forgive_one`]).

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{Host, POOL, source};
use crate::{
    harness::{maker::Maker, netns::NetNs, sock::Sock, tracer::wait_for},
    workloads::random::Random,
};

/// Seed of the random choices (the next server, how many connections are held), the same in every test.
const SEED: u64 = 20_261;
/// The most connections that are open at a time: far fewer than the pool's ports.
const HELD: u64 = 50;

/// Number of connections made from each source.
type Tally = BTreeMap<IpAddr, u64>;

/// A load that runs on its own thread.
pub(super) struct Load {
    shared: Arc<Shared>,
    thread: thread::JoinHandle<Result<()>>,
    app: Arc<Maker>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// How many connections may still fail.
    forgiven: AtomicU64,
    tally: Mutex<Tally>,
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load {
    /// Starts a load in the host's namespace: connections of a new process in the host's cgroup to three servers, at 10.1.0.1,
    /// ports 7101 to 7103. An error if a server or the process cannot be started.
    pub(super) fn start(host: &Host) -> Result<Self> {
        Self::start_in(host, &host.stage.netns)
    }

    /// Starts a load as [`Self::start`] does, but with its process and servers in another namespace, which must have 10.1.0.1.
    pub(super) fn start_in(host: &Host, netns: &NetNs) -> Result<Self> {
        let app = Arc::new(netns.run(|| Maker::spawn(&host.cgroup))?);
        let listeners = netns.run(|| -> Result<Vec<Sock>> {
            (7101..7104)
                .map(|port| {
                    let address = format!("10.1.0.1:{port}").parse()?;
                    let listener = Sock::tcp(address)?;
                    listener.bind(address)?;
                    listener.listen(64)?;
                    listener.set_nonblocking()?;
                    Ok(listener)
                })
                .collect()
        })?;
        let shared = Arc::new(Shared::default());
        let thread = thread::spawn({
            let (app, shared) = (Arc::clone(&app), Arc::clone(&shared));
            move || play(&app, &listeners, &shared)
        });
        Ok(Self { shared, thread, app })
    }

    /// Id of the process that makes the sockets.
    pub(super) fn process(&self) -> u32 {
        self.app.id()
    }

    /// Waits until the load has made `count` more connections, after the one that is under way. Returns how many come from each
    /// source, without sources of none; they can be a few more than `count`. An error if the load has ended, or if one of the two
    /// waits takes more than 20 s (longer in a guest).
    pub(super) fn more(&self, count: u64) -> Result<Tally> {
        // The call that is under way now may have begun before a change that the test made: it is not counted.
        let sum = || self.shared.tally().values().sum::<u64>();
        let wait = |until: u64| {
            wait_for("connections", Duration::from_secs(20), || {
                if self.thread.is_finished() {
                    bail!("the load has ended");
                }
                Ok((sum() >= until).then_some(()))
            })
        };
        wait(sum() + 1)?;
        let before = self.shared.tally().clone();
        wait(before.values().sum::<u64>() + count)?;
        let mut made = self.shared.tally().clone();
        for (source, count) in &before {
            made.entry(*source).and_modify(|made| *made -= count);
        }
        made.retain(|_, count| *count > 0);
        Ok(made)
    }

    /// Allows one more connection to fail, because an address is about to be removed: a connect() for which it was just chosen
    /// fails in the kernel's route look-up, as it would if the kernel had chosen the address.
    pub(super) fn forgive_one(&self) {
        self.shared.forgiven.fetch_add(1, Ordering::Relaxed);
    }

    /// How many of all connections so far have a source that is not in [`POOL`].
    pub(super) fn unspread(&self) -> u64 {
        let in_pool = |source: &IpAddr| POOL.contains(&&*source.to_string());
        let tally = self.shared.tally();
        tally.iter().filter(|(source, _)| !in_pool(source)).map(|(_, count)| count).sum()
    }

    /// Ends the load, and waits for its last call; an error if a connect() failed that [`Self::forgive_one`] had not allowed, or
    /// another of its calls failed.
    pub(super) fn end(self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs the test, then ends the load. If both failed, returns the error of the load.
    pub(super) fn around<T>(self, test: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let found = test(&self);
        self.end().context("the load")?;
        found
    }
}

fn play(app: &Maker, listeners: &[Sock], shared: &Shared) -> Result<()> {
    let mut random = Random(SEED);
    let mut held = VecDeque::new();
    let mut turn = 0_u64;
    while !shared.stop.load(Ordering::Relaxed) {
        let listener = &listeners[usize::try_from(random.below(3))?];
        let peer = listener.local()?;
        let sock = app.tcp(peer)?;
        // With this, a call without an answer fails within 7 s.
        sock.set_syn_count(2)?;
        let connected = sock.connect(peer).with_context(|| format!("connect {turn} failed"));
        if connected.is_err() && shared.forgiven.load(Ordering::Relaxed) > 0 {
            shared.forgiven.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        connected?;
        let from = source(&sock)?;
        // If the source was removed meanwhile, there is nothing to accept.
        let accepted = listener.accept().ok();
        sock.set_reset_on_close()?;
        *shared.tally().entry(from).or_default() += 1;
        held.push_back((sock, accepted));
        let keep = usize::try_from(random.below(HELD))?;
        if held.len() > keep {
            held.drain(keep..);
        }
        turn += 1;
    }
    Ok(())
}
