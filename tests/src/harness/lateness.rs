//! Measures how late this machine wakes up a sleeping thread: a delay that is not the fault of the program under test.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// A thread that sleeps for 2 ms over and over, and keeps by how much the longest of these sleeps exceeded 2 ms.
pub struct Lateness {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Lateness {
    /// Starts the thread, which runs until [`Self::end`].
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

    /// Ends the measurement, and returns three times the longest delay: how much longer than its limit an action may take here
    /// in which three threads are woken up one after the other. (In the only test that measures this, an address is removed, and
    /// `tracer status` must show that.)
    pub fn end(self) -> Duration {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default() * 3
    }
}
