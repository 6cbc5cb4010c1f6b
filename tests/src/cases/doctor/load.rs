//! Loads of connections at exact rates, whose calls are counted.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::io::Errno;

use super::edge::Edge;
use crate::harness::{netns::NetNs, sock::Sock};

/// How long loads go on whose ports stay in TIME_WAIT: one lasts 60 s and up to a step of the kernel's timer (2.05 s with 250
/// ticks a second, 5.12 s with 100), and until two steps have passed, the ports of a whole TIME_WAIT are not in use at the same
/// time.
pub(super) const TIME_WAITS: Duration = Duration::from_secs(70);

/// A connection of a load that is open.
struct Open {
    since: Instant,
    /// When it is to be closed.
    until: Instant,
    here: Sock,
    there: Sock,
}

/// Calls to one upstream at one rate.
pub(super) struct Load {
    per_second: f64,
    peer: SocketAddr,
    listener: Sock,
    /// Whether calls that a busy machine delays are made up for: the rate is then never lower for long, else never higher.
    makes_up: bool,
    /// How long each connection is open.
    open_for: Duration,
    /// Whether the upstream closes first, or this host.
    closed_there: bool,
    /// The open connections, the oldest first.
    open: VecDeque<Open>,
    next: Instant,
    opened: u64,
    failed: u64,
    /// How many connections were closed, and for how long these were open in all.
    closed: (u32, Duration),
}

impl Load {
    /// A load of this many calls per second to a new upstream at this port, which `edge` must not have yet; each connection is
    /// closed at once by this host. `makes_up`: whether calls that a busy machine delays are made up for: the rate is then never
    /// lower for long, else never higher. An error if the upstream cannot listen.
    pub(super) fn new(edge: &Edge, port: u16, per_second: f64, makes_up: bool) -> Result<Self> {
        let (peer, listener) = edge.another(port)?;
        Ok(Self {
            per_second,
            peer,
            listener,
            makes_up,
            open_for: Duration::ZERO,
            closed_there: false,
            open: VecDeque::new(),
            next: Instant::now(),
            opened: 0,
            failed: 0,
            closed: (0, Duration::ZERO),
        })
    }

    /// The load, whose connections are open for this time before they are closed.
    pub(super) fn open_for(self, time: Duration) -> Self {
        Self { open_for: time, ..self }
    }

    /// The load, whose connections the upstream closes first, so that no port of this host stays in TIME_WAIT.
    pub(super) fn closed_there(self) -> Self {
        Self { closed_there: true, ..self }
    }

    /// The address of its upstream.
    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether at least one call failed for lack of a port.
    pub(super) fn fails(&self) -> bool {
        self.failed > 0
    }

    /// How long its connections were open on average, those that are closed; on a busy machine, that is longer than was wanted. An
    /// error if none is closed.
    pub(super) fn was_open(&self) -> Result<Duration> {
        let (count, time) = self.closed;
        time.checked_div(count).context("no connection of the load was closed")
    }

    /// Its rate and what it did, as text.
    pub(super) fn result(&self) -> String {
        format!("{:.2}/s: {} opened, {} failed", self.per_second, self.opened, self.failed)
    }

    /// When it has something to do: to close its oldest connection, or to open one.
    fn due(&self) -> Instant {
        self.open.front().map_or(self.next, |open| open.until.min(self.next))
    }

    /// Does what is due first. A new connection is made on a socket of `make`.
    fn act(&mut self, make: impl Fn(SocketAddr) -> Result<Sock>) -> Result<()> {
        match self.open.pop_front_if(|open| open.until <= self.next) {
            Some(open) => self.close(open),
            None => self.call(make)?,
        }
        Ok(())
    }

    fn call(&mut self, make: impl Fn(SocketAddr) -> Result<Sock>) -> Result<()> {
        let here = make(self.peer)?;
        match here.connect(self.peer) {
            Ok(()) => {
                self.opened += 1;
                self.opened(here)?;
            }
            Err(Errno::ADDRNOTAVAIL) => self.failed += 1,
            Err(errno) => return Err(errno).context("connect()"),
        }
        let from = if self.makes_up { self.next } else { self.next.max(Instant::now()) };
        self.next = from + Duration::from_secs_f64(1.0 / self.per_second);
        Ok(())
    }

    /// Keeps a new connection until it is to be closed.
    fn opened(&mut self, here: Sock) -> Result<()> {
        if self.open_for.is_zero() && !self.closed_there {
            // Even if the upstream's end is not accepted yet.
            drop(here);
            drop(self.listener.accept()?);
            return Ok(());
        }
        let since = Instant::now();
        let until = since + self.open_for;
        self.open.push_back(Open { since, until, here, there: self.listener.accept()? });
        Ok(())
    }

    fn close(&mut self, Open { since, here, there, .. }: Open) {
        let (count, time) = &mut self.closed;
        *count += 1;
        *time += since.elapsed();
        if self.closed_there {
            drop(there);
            drop(here);
        } else {
            drop(here);
            drop(there);
        }
    }
}

/// Makes the calls of all loads in this namespace when they are due, for this time, each on a socket of `make`. An error if one
/// fails for another reason than the lack of a port.
pub(super) fn run(
    here: &NetNs,
    loads: &mut [Load],
    time: Duration,
    make: impl Fn(SocketAddr) -> Result<Sock> + Sync,
) -> Result<()> {
    let end = Instant::now() + time;
    run_until(here, loads, |due| due > end, make)
}

/// Makes the calls of all loads in this namespace while `work` runs, and returns the result of `work`. An error if `work` fails, or
/// a call for another reason than the lack of a port.
pub(super) fn run_during<T: Send>(
    here: &NetNs,
    loads: &mut [Load],
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        let running = scope.spawn(|| run_until(here, loads, |_| ends.load(Relaxed), plain));
        let result = work();
        ends.store(true, Relaxed);
        running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        result
    })
}

/// A TCP socket for a connection to this address.
pub(super) fn plain(peer: SocketAddr) -> Result<Sock> {
    Ok(Sock::tcp(peer)?)
}

/// `is_over`: whether the loads end, before what is due at this time.
fn run_until(
    here: &NetNs,
    loads: &mut [Load],
    is_over: impl Fn(Instant) -> bool + Sync,
    make: impl Fn(SocketAddr) -> Result<Sock> + Sync,
) -> Result<()> {
    // Loads begin when they run, not when they were made: a call is not to be made up for that nobody wanted.
    for load in &mut *loads {
        load.next = Instant::now();
    }
    here.run(|| {
        loop {
            let next = loads.iter_mut().min_by_key(|load| load.due());
            let load = next.context("there is no load")?;
            if is_over(load.due()) {
                return Ok(());
            }
            thread::sleep(load.due().saturating_duration_since(Instant::now()));
            load.act(&make)?;
        }
    })
}
