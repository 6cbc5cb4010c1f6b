//! Signs of life: work that takes long tells whoever waits for it that it goes on.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

thread_local! {
    static BEATS: RefCell<Option<Arc<AtomicU64>>> = const { RefCell::new(None) };
}

/// One step is done.
pub(crate) fn beat() {
    BEATS.with_borrow(|beats| {
        if let Some(beats) = beats {
            beats.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// The steps of the calling thread are counted here from now on.
pub(crate) fn count(beats: Arc<AtomicU64>) {
    BEATS.set(Some(beats));
}
