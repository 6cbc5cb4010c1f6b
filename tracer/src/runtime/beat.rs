//! Signs of life: work that takes long tells whoever waits for it that it goes on.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// What the work of a thread says of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beats {
    steps: Arc<AtomicU64>,
    detaching: Arc<AtomicBool>,
}

impl Beats {
    /// Steps that are done.
    pub(crate) fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Whether programs are being detached, which nothing can break off: the kernel waits until no CPU runs a
    /// program any more (`synchronize_rcu_tasks`), for seconds on a busy machine, and would when the process ends.
    pub(crate) fn is_detaching(&self) -> bool {
        self.detaching.load(Ordering::Relaxed)
    }

    pub(crate) fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }
}

thread_local! {
    static BEATS: RefCell<Beats> = RefCell::default();
}

/// One step is done.
pub(crate) fn beat() {
    BEATS.with_borrow(Beats::step);
}

/// As long as this lives, the calling thread detaches programs: see [`Beats::is_detaching`].
pub(crate) struct Detaching(());

impl Detaching {
    pub(crate) fn begin() -> Self {
        set_detaching(true);
        Self(())
    }
}

impl Drop for Detaching {
    fn drop(&mut self) {
        set_detaching(false);
    }
}

fn set_detaching(begins: bool) {
    BEATS.with_borrow(|beats| beats.detaching.store(begins, Ordering::Relaxed));
    beat();
}

/// The calling thread speaks through this from now on.
pub(crate) fn count_in(beats: Beats) {
    BEATS.set(beats);
}
