//! The thread that keeps what has a deadline: the lease is renewed, and an address that the host loses is
//! taken out of the rule, whatever the agent's other work is waiting for (a comparison of all sockets, an
//! output that nobody reads, a slow file system).
//!
//! So it asks nobody but the kernel: its sockets were opened in the pool's network namespace, and the
//! maps are its own.

use std::{
    net::IpAddr,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    thread::CapabilitySet,
};
use tracer_common::{Addr, Rule};

use super::super::{
    addresses::{Host, Watch},
    ears::Ears,
    pool,
};
use crate::{
    error::Error,
    kernel::spread::programs::RuleMaps,
    ledger::trace,
    runtime::{clock, sandbox::User},
};

/// How often the lease is renewed, and how soon at the latest a change of addresses is seen.
pub const BEAT: Duration = Duration::from_millis(50);

/// Makes the rule from those of its addresses that this says are there.
pub(super) type Recipe = Box<dyn Fn(&dyn Fn(Addr) -> bool) -> Rule + Send>;

/// A handle to the thread, which ends when this is dropped.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// Addresses have changed, or something failed.
    news: Condvar,
}

struct State {
    maps: RuleMaps,
    /// `None`: there is no rule.
    recipe: Option<Recipe>,
    /// What the hooks go by.
    active: Option<Rule>,
    /// What the namespace had when it was last looked at.
    host: Host,
    /// Nobody was told of this host yet.
    changed: bool,
    /// The namespace is gone: nothing of it may be held.
    gone: bool,
    stop: bool,
    /// Why the thread ended by itself.
    failed: Option<Error>,
}

impl Keeper {
    /// Starts the thread, which enters its sandbox with the calling thread's privileges.
    ///
    /// `host`: read after `ears` were opened. `pool`: the addresses that are named one by one. `keep`: what
    /// reading maps takes.
    ///
    /// # Errors
    /// The lease cannot be written; no thread can be had.
    pub(super) fn start(
        mut maps: RuleMaps,
        lease: Option<Duration>,
        ears: Ears,
        host: Host,
        pool: Vec<IpAddr>,
        keep: CapabilitySet,
    ) -> Result<Self, Error> {
        maps.set_lease(until(lease))?;
        let state = State {
            maps,
            recipe: None,
            active: None,
            host,
            changed: false,
            gone: false,
            stop: false,
            failed: None,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), news: Condvar::new() });
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("keeper".into())
            .spawn(move || {
                let done = trace::enter_to_read(keep, User::nobody())
                    .and_then(|()| self::keep(&of_thread, lease, ears, &pool));
                if let Err(error) = done {
                    of_thread.state().failed = Some(error);
                    of_thread.news.notify_all();
                }
            })
            .map_err(|error| Error::Failure(format!("cannot start a thread: {error}")))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The hooks go by the rule of this recipe from now on, less the addresses that are gone meanwhile.
    /// Returns that rule.
    pub(super) fn set(&self, recipe: Recipe) -> Result<Rule, Error> {
        let mut state = self.shared.state();
        state.recipe = Some(recipe);
        state.apply()?;
        Ok(state.active.unwrap_or_default())
    }

    /// Leaves every connect() alone from now on.
    pub(super) fn clear(&self) -> Result<(), Error> {
        let mut state = self.shared.state();
        (state.recipe, state.active) = (None, None);
        state.maps.clear()
    }

    /// What the namespace has, if that has changed since this was asked last.
    ///
    /// # Errors
    /// Why the thread has ended.
    pub(super) fn news(&self) -> Result<Option<Host>, Error> {
        let mut state = self.shared.state();
        if let Some(error) = state.failed.take() {
            return Err(error);
        }
        Ok(std::mem::take(&mut state.changed).then(|| state.host.clone()))
    }

    /// Waits for news, no longer than this.
    pub(super) fn wait(&self, time: Duration) {
        let quiet = |state: &mut State| !state.changed && state.failed.is_none();
        // A lock is poisoned by a panic, which the thread's end tells of.
        drop(self.shared.news.wait_timeout_while(self.shared.state(), time, quiet));
    }

    /// Nothing leads to the namespace any more: what is held of it is let go.
    pub(super) fn forget_namespace(&self) {
        self.shared.state().gone = true;
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.state().stop = true;
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed.
            _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Hands the rule to the hooks, if it is another one than they have.
    fn apply(&mut self) -> Result<(), Error> {
        let Some(recipe) = &self.recipe else { return Ok(()) };
        let rule = recipe(&|address| pool::trouble(pool::address(address), &self.host).is_none());
        if self.active != Some(rule) {
            self.maps.set(&rule)?;
            self.active = Some(rule);
        }
        Ok(())
    }
}

fn keep(
    shared: &Shared,
    lease: Option<Duration>,
    ears: Ears,
    pool: &[IpAddr],
) -> Result<(), Error> {
    let mut ears = Some(ears);
    let mut unread = false;
    loop {
        wait(ears.as_ref().map(|ears| &ears.watch));
        {
            let mut state = shared.state();
            if state.stop {
                return Ok(());
            }
            if state.gone {
                ears = None;
            }
            state.maps.set_lease(until(lease))?;
        }
        let Some(Ears { watch, asker }) = &ears else { continue };
        unread |= watch.drain().unwrap_or_else(|error| {
            tracing::warn!("{error}");
            false
        });
        if !unread {
            continue;
        }
        match Host::read_by(Some(asker), pool.iter().copied()) {
            Ok(host) => {
                unread = false;
                let mut state = shared.state();
                state.host = host;
                state.changed = true;
                state.apply()?;
                shared.news.notify_all();
            }
            // Asked again at the next beat.
            Err(error) => tracing::debug!("cannot read the pool's addresses: {error}"),
        }
    }
}

fn until(lease: Option<Duration>) -> u64 {
    lease.map_or(u64::MAX, |lease| clock::monotonic_ns().saturating_add(clock::as_ns(lease)))
}

/// Until addresses change, or for one beat.
fn wait(watch: Option<&Watch>) {
    let timeout = Timespec::try_from(BEAT).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 50_000_000 });
    let mut watched: Vec<_> =
        watch.iter().map(|watch| PollFd::new(*watch, PollFlags::IN)).collect();
    if let Err(error) = poll(&mut watched, Some(&timeout))
        && error != rustix::io::Errno::INTR
    {
        thread::sleep(BEAT);
    }
}
