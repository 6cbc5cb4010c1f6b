//! Decides how long the program waits for work that was asked to stop.

use std::{os::unix::thread::JoinHandleExt, thread::JoinHandle, time::Duration};

use crate::runtime::beat::Beats;

/// How long one step of the work, and one write, may take once the program should stop. After that, the work counts
/// as waiting for something that does not come, and the output as stuck.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often the work and its output are checked once the program should stop.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How many checks without a step use up the patience. Checks are counted instead of time: if the machine has no time
/// for this thread, it has none for the work either.
const MAX_CHECKS: u32 = 25;
const _: () = assert!(MAX_CHECKS as u128 == PATIENCE.as_millis() / POLL_INTERVAL.as_millis());
/// How many checks without a step use up the patience while the work computes, or programs are being detached (see
/// [`Beats::is_detaching`]): 10 s. Then the work does not wait for something that may never come, but on a busy machine, or
/// with a large ledger, a step can take seconds.
const MAX_CHECKS_BUSY: u32 = 20 * MAX_CHECKS;
/// The work counts as computing if it got at least this much CPU time since the last check, ns.
const COMPUTES: u64 = 500_000;

/// Decides whether the work is still waited for.
#[derive(Debug, Default)]
pub(super) struct Patience {
    steps: u64,
    cpu_ns: u64,
    /// Checks since the last step.
    checks: u32,
    /// How many checks in a row, up to the newest, found no step and no computing: the work waits for something.
    waits: u32,
}

impl Patience {
    /// Makes a check. `cpu_ns`: CPU time of the work's thread so far, ns. Returns false if the work made no step, and
    /// waited, for half a second, or made no step for 10 s, whatever it did. To be called every [`POLL_INTERVAL`].
    pub(super) fn lasts(&mut self, beats: &Beats, cpu_ns: u64) -> bool {
        let steps = beats.steps();
        let computed = cpu_ns.saturating_sub(self.cpu_ns) >= COMPUTES;
        let has_stepped = steps != self.steps;
        self.checks = if has_stepped { 0 } else { self.checks + 1 };
        // On a busy machine, the work gets the CPU from time to time: it computes if it got it since the last check.
        let waits = !has_stepped && !computed && !beats.is_detaching();
        self.waits = if waits { self.waits + 1 } else { 0 };
        (self.steps, self.cpu_ns) = (steps, cpu_ns);
        self.waits < MAX_CHECKS && self.checks < MAX_CHECKS_BUSY
    }
}

/// Decides whether a write is stuck.
#[derive(Debug, Default)]
pub(super) struct Output {
    /// When the write of the last check began (CLOCK_MONOTONIC, ns); 0: there was none.
    since: u64,
    /// Checks of the same write, after the first one.
    checks: u32,
}

impl Output {
    /// Makes a check of a write that began at `since` (CLOCK_MONOTONIC, ns); 0: there is none. Returns whether the same
    /// write has lasted for half a second of checks. Time before its first check does not count: the reader may have come
    /// back since.
    pub(super) fn is_stuck(&mut self, since: u64) -> bool {
        let is_same = since != 0 && since == self.since;
        self.checks = if is_same { self.checks + 1 } else { 0 };
        self.since = since;
        self.checks >= MAX_CHECKS
    }
}

/// CPU time of a thread, ns; 0: it cannot be read.
pub(super) fn cpu_ns<T>(thread: &JoinHandle<T>) -> u64 {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    #[expect(unsafe_code, reason = "pthread_getcpuclockid(3) and clock_gettime(2)")]
    // SAFETY: a thread with a handle was neither joined nor detached, so its pthread_t is valid even if the thread
    // has ended. Both calls write only to `clock` and `time`, which live until they return.
    let read = unsafe {
        libc::pthread_getcpuclockid(thread.as_pthread_t(), &raw mut clock) == 0
            && libc::clock_gettime(clock, &raw mut time) == 0
    };
    let parts = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    match parts {
        (Ok(seconds), Ok(nanoseconds)) if read => seconds * 1_000_000_000 + nanoseconds,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::{hint::black_box, thread, time::Instant};

    use super::*;
    use crate::runtime::beat::Detaching;

    /// The number of the check at which the patience runs out; 10,001: it lasts for 10,000 checks.
    fn checks(patience: &mut Patience, beats: &Beats, mut cpu_ns: impl FnMut(u64) -> u64) -> u64 {
        (1..=10_000).find(|check| !patience.lasts(beats, cpu_ns(*check))).unwrap_or(10_001)
    }

    #[test]
    fn work_that_waits_is_given_up_after_half_a_second() {
        assert_eq!(checks(&mut Patience::default(), &Beats::default(), |_| 7_000), 25);
    }

    #[test]
    fn work_that_computes_is_given_ten_seconds() {
        let beats = Beats::default();
        let patience = &mut Patience::default();
        assert_eq!(checks(patience, &beats, |check| check * 1_000_000), 500);
        beats.step();
        // The work gets the CPU only at every 20th check.
        assert!((1..=400).all(|check| patience.lasts(&beats, (500 + check / 20) * 1_000_000)));
        // From then on the work waits.
        assert_eq!(checks(patience, &beats, |_| 520_000_000), 25);
    }

    #[test]
    fn a_step_begins_the_patience_anew() {
        let beats = Beats::default();
        let patience = &mut Patience::default();
        for _ in 0..1_000 {
            beats.step();
            assert!(patience.lasts(&beats, 0));
        }
        assert_eq!(checks(patience, &beats, |_| 0), 25);
    }

    #[test]
    fn a_write_has_half_a_second_from_the_first_check_on() {
        let mut output = Output::default();
        let mut stuck = |since| (0..25).any(|_| output.is_stuck(since));
        assert!(!stuck(7));
        // Another write, and then none.
        assert!(!stuck(8) && !stuck(0) && !stuck(0));
        assert!(!stuck(9) && stuck(9));
    }

    #[test]
    fn programs_that_are_detached_are_waited_for() {
        let beats = Beats::default();
        crate::runtime::beat::count_in(beats.clone());
        let patience = &mut Patience::default();
        let detaching = Detaching::begin();
        assert!((0..499).all(|_| patience.lasts(&beats, 0)));
        drop(detaching);
    }

    #[test]
    fn the_time_is_that_of_the_thread() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let waits = thread::spawn(move || receiver.recv());
        let end = Instant::now() + Duration::from_millis(50);
        let computes = thread::spawn(move || {
            while Instant::now() < end {
                black_box(0);
            }
            thread::park();
        });
        let waited = Instant::now() + Duration::from_secs(20);
        while cpu_ns(&computes) < 1_000_000 {
            assert!(Instant::now() < waited, "no CPU time in 20 s");
            thread::sleep(Duration::from_millis(1));
        }
        assert!(cpu_ns(&waits) < 100_000_000);
        computes.thread().unpark();
        drop(sender);
        assert!(computes.join().is_ok() && waits.join().is_ok());
    }
}
