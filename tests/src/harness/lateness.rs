//! Measures how late this machine wakes up a sleeping thread: a delay that is not the fault of the program under test.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// A thread that sleeps over and over, and measures how much too long each sleep was.
pub struct Lateness {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Lateness {
    pub fn measure() -> Self {
        const NAP: Duration = Duration::from_millis(2);
        let over = Arc::<AtomicBool>::default();
        let is_over = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let mut latest = Duration::ZERO;
            while !is_over.load(Ordering::Relaxed) {
                let began = Instant::now();
                thread::sleep(NAP);
                latest = latest.max(began.elapsed().saturating_sub(NAP));
            }
            latest
        });
        Self { over, thread }
    }

    /// Ends the measurement, and returns three times the longest delay. The only test that uses it removes an address, and waits
    /// until `tracer status` says so: for that, three threads are woken up one after the other.
    pub fn end(self) -> Duration {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default() * 3
    }
}
