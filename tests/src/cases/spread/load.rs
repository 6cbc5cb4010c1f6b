//! Connections of the application, one after another until the test ends. Each must succeed.

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

/// The same for every test: which server is next, and how long a connection is held.
const SEED: u64 = 20_261;
/// Connections that are open at most; few of the pool's ports.
const HELD: u64 = 50;

/// Connections made from each source.
type Tally = BTreeMap<IpAddr, u64>;

/// A load that goes on by itself.
pub(super) struct Load {
    shared: Arc<Shared>,
    thread: thread::JoinHandle<Result<()>>,
    app: Arc<Maker>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Connections that may still fail.
    forgiven: AtomicU64,
    tally: Mutex<Tally>,
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load {
    pub(super) fn start(host: &Host) -> Result<Self> {
        Self::start_in(host, &host.stage.netns)
    }

    /// The same from another namespace, whose server is there too.
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

    /// The process that makes the sockets.
    pub(super) fn process(&self) -> u32 {
        self.app.id()
    }

    /// Waits for so many more connections, and says from which sources these came.
    pub(super) fn go_on(&self, count: u64) -> Result<Tally> {
        // The one that is under way belongs to what was before.
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

    /// An address is about to be removed: the connect() that has it at that moment, if there is one, fails
    /// in the kernel's look-up of a route, as it would if the kernel had chosen the address.
    pub(super) fn forgive_one(&self) {
        self.shared.forgiven.fetch_add(1, Ordering::Relaxed);
    }

    /// All connections so far whose source is not of the pool.
    pub(super) fn unspread(&self) -> u64 {
        let is_of_pool = |source: &IpAddr| POOL.contains(&&*source.to_string());
        let tally = self.shared.tally();
        tally.iter().filter(|(source, _)| !is_of_pool(source)).map(|(_, count)| count).sum()
    }

    /// Ends it: no connect() may have failed.
    pub(super) fn end(self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// What the test found, or the failure of the load, which explains it.
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
        // Silence shall be an error too.
        sock.set_syn_count(2)?;
        let connected = sock.connect(peer).with_context(|| format!("connect {turn} failed"));
        if connected.is_err() && shared.forgiven.load(Ordering::Relaxed) > 0 {
            shared.forgiven.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        connected?;
        let from = source(&sock)?;
        // A connection whose source vanishes in the middle is not there to be accepted.
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
