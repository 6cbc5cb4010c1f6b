//! Heartbeats: work that takes long counts its steps, so that whoever waits for it sees that it makes progress.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// How many steps a group of threads (see [`count_in`]) has done, and whether one of them detaches programs. Clones
/// share both.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beats {
    steps: Arc<AtomicU64>,
    detaching: Arc<AtomicBool>,
}

impl Beats {
    /// How many steps the threads have done so far.
    pub(crate) fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Whether programs are being detached, which cannot be interrupted: the kernel waits until no CPU runs a program
    /// any more (`synchronize_rcu_tasks`), for seconds on a busy machine. It would wait as long if the process ended.
    pub(crate) fn is_detaching(&self) -> bool {
        self.detaching.load(Ordering::Relaxed)
    }

    /// Counts a step: the work has made progress.
    pub(crate) fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }
}

thread_local! {
    static BEATS: RefCell<Beats> = RefCell::default();
}

/// Counts a step of the calling thread: its work has made progress. Without [`count_in`] before, nothing reads the
/// count.
pub(crate) fn beat() {
    BEATS.with_borrow(Beats::step);
}

/// As long as this exists, the calling thread detaches programs: see [`Beats::is_detaching`]. Its end counts a step, too. Of the
/// threads that count in the same [`Beats`], one may have one of these at a time (not checked).
pub(crate) struct Detaching(());

impl Detaching {
    /// Marks the calling thread as detaching, and counts a step of it.
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

/// Makes the calling thread count its steps in `beats` from now on; threads that it starts do not.
pub(crate) fn count_in(beats: Beats) {
    BEATS.set(beats);
}
