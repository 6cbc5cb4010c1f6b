//! Runs the thread for work that has a deadline: it renews the lease, and removes an address from the rule when the
//! host loses it, whatever the agent waits for (a comparison of all sockets, an output that nobody reads, a slow
//! file system).
//!
//! So it depends on the kernel only: it has sockets in the pool's network namespace, and descriptors of the maps.

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
    netns_sockets::NetnsSockets,
    pool,
};
use crate::{
    error::Error,
    kernel::spread::programs::RuleMaps,
    ledger::trace,
    runtime::{clock, sandbox::User},
};

/// Longest pause between two renewals of the lease, and before a failed reading of changed addresses is repeated.
pub const LEASE_RENEWED: Duration = Duration::from_millis(50);

/// Makes the rule from the pool's usable addresses. The argument is a function that says of an address whether the host
/// has it now: the rule gets only such addresses.
pub(super) type RuleBuilder = Box<dyn Fn(&dyn Fn(Addr) -> bool) -> Rule + Send>;

/// A handle to the thread that renews the lease and removes addresses that the host loses. When the handle is dropped,
/// the thread ends.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// Signalled when addresses have changed, or the thread has failed.
    changes: Condvar,
}

struct State {
    maps: RuleMaps,
    /// Makes the rule anew when addresses change; `None`: there is no rule.
    builder: Option<RuleBuilder>,
    /// The rule that the hooks have; `None`: this thread has given them none yet, or removed it.
    active: Option<Rule>,
    /// The namespace's interfaces and addresses when they were last read.
    host: Host,
    /// Whether `host` has changed since [`Keeper::take_changes`] last returned it.
    changed: bool,
    /// Whether the thread is to close its sockets in the namespace: open, they would keep the namespace alive.
    gone: bool,
    stop: bool,
    /// Why the thread ended before it was asked to; `None`: it did not, or [`Keeper::take_changes`] has returned the reason.
    failed: Option<Error>,
}

impl Keeper {
    /// Starts the thread. It begins with the calling thread's privileges, and drops those that it does not need.
    ///
    /// `maps`: those of the rule. `lease`: how long the rule is valid without a renewal; `None`: without end. `host`: the
    /// namespace's interfaces and addresses, which must be read after `sockets` were opened, so that no change is missed. `pool`:
    /// the addresses that `--pool` lists. `keep`: the capabilities that reading maps takes.
    ///
    /// # Errors
    /// The lease cannot be written; the thread cannot be started. An error of the thread's sandbox is returned by
    /// [`Self::take_changes`].
    pub(super) fn start(
        mut maps: RuleMaps,
        lease: Option<Duration>,
        sockets: NetnsSockets,
        host: Host,
        pool: Vec<IpAddr>,
        keep: CapabilitySet,
    ) -> Result<Self, Error> {
        maps.set_lease(until(lease))?;
        let state = State {
            maps,
            builder: None,
            active: None,
            host,
            changed: false,
            gone: false,
            stop: false,
            failed: None,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changes: Condvar::new() });
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("keeper".into())
            .spawn(move || {
                let done = trace::enter_to_read(keep, User::nobody())
                    .and_then(|()| self::keep(&of_thread, lease, sockets, &pool));
                if let Err(error) = done {
                    of_thread.state().failed = Some(error);
                    of_thread.changes.notify_all();
                }
            })
            .map_err(|error| Error::Failure(format!("cannot start a thread: {error}")))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Gives the hooks the rule that `builder` makes of the addresses that the host has now, if it differs from theirs, and keeps
    /// `builder` for when the addresses change. Returns that rule.
    ///
    /// # Errors
    /// A map of the rule cannot be read or written, or waiting for running hooks fails.
    pub(super) fn set(&self, builder: RuleBuilder) -> Result<Rule, Error> {
        let mut state = self.shared.state();
        state.builder = Some(builder);
        state.apply()?;
        Ok(state.active.unwrap_or_default())
    }

    /// Removes the rule from the hooks: no connection is spread until [`Self::set`] is called again.
    ///
    /// # Errors
    /// The map cannot be written.
    pub(super) fn clear(&self) -> Result<(), Error> {
        let mut state = self.shared.state();
        (state.builder, state.active) = (None, None);
        state.maps.clear()
    }

    /// The namespace's interfaces and addresses, if they have changed since the last call; `None`: they have not, or
    /// the thread has ended.
    ///
    /// # Errors
    /// Why the thread has ended, once.
    pub(super) fn take_changes(&self) -> Result<Option<Host>, Error> {
        let mut state = self.shared.state();
        if let Some(error) = state.failed.take() {
            return Err(error);
        }
        Ok(std::mem::take(&mut state.changed).then(|| state.host.clone()))
    }

    /// Waits until there are changes or the thread has failed, but no longer than `time`; does not wait if there are some
    /// already.
    pub(super) fn wait(&self, time: Duration) {
        let quiet = |state: &mut State| !state.changed && state.failed.is_none();
        // Only a panic poisons the lock, and the panic has been printed.
        drop(self.shared.changes.wait_timeout_while(self.shared.state(), time, quiet));
    }

    /// Makes the thread close its sockets in the namespace, within [`LEASE_RENEWED`], so that the kernel can remove the
    /// namespace.
    pub(super) fn forget_namespace(&self) {
        self.shared.state().gone = true;
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.state().stop = true;
        if let Some(thread) = self.thread.take() {
            // If the thread panicked, the panic has been printed.
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
    /// Makes the rule again from the addresses that `host` has, and gives it to the hooks if it differs from theirs.
    /// Does nothing without a builder.
    fn apply(&mut self) -> Result<(), Error> {
        let Some(builder) = &self.builder else { return Ok(()) };
        let rule = builder(&|address| pool::trouble(pool::address(address), &self.host).is_none());
        if self.active != Some(rule) {
            self.maps.set(&rule)?;
            self.active = Some(rule);
        }
        Ok(())
    }
}

/// Renews the lease, and makes the rule again when addresses change, until the thread is asked to stop. An error if a map
/// of the rule cannot be written or waiting for running hooks fails.
fn keep(
    shared: &Shared,
    lease: Option<Duration>,
    sockets: NetnsSockets,
    pool: &[IpAddr],
) -> Result<(), Error> {
    let mut sockets = Some(sockets);
    let mut pending = false;
    loop {
        wait(sockets.as_ref().map(|sockets| &sockets.watch));
        {
            let mut state = shared.state();
            if state.stop {
                return Ok(());
            }
            if state.gone {
                sockets = None;
            }
            state.maps.set_lease(until(lease))?;
        }
        let Some(NetnsSockets { watch, query }) = &sockets else { continue };
        pending |= watch.drain().unwrap_or_else(|error| {
            tracing::warn!("{error}");
            false
        });
        if !pending {
            continue;
        }
        match Host::read_with(Some(query), pool.iter().copied()) {
            Ok(host) => {
                pending = false;
                let mut state = shared.state();
                state.host = host;
                state.changed = true;
                state.apply()?;
                shared.changes.notify_all();
            }
            // The addresses are read again after LEASE_RENEWED at the latest.
            Err(error) => tracing::debug!("cannot read the pool's addresses: {error}"),
        }
    }
}

/// Until when the lease is valid, by CLOCK_MONOTONIC, ns. Without a lease: `u64::MAX`, for ever.
fn until(lease: Option<Duration>) -> u64 {
    lease.map_or(u64::MAX, |lease| clock::monotonic_ns().saturating_add(clock::as_ns(lease)))
}

/// Waits until `watch` has a message or a signal arrives, at most for [`LEASE_RENEWED`].
fn wait(watch: Option<&Watch>) {
    let timeout =
        Timespec::try_from(LEASE_RENEWED).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 50_000_000 });
    let mut watched: Vec<_> =
        watch.iter().map(|watch| PollFd::new(*watch, PollFlags::IN)).collect();
    if let Err(error) = poll(&mut watched, Some(&timeout))
        && error != rustix::io::Errno::INTR
    {
        thread::sleep(LEASE_RENEWED);
    }
}
