//! How long work that is asked to end is waited for.

use std::{os::unix::thread::JoinHandleExt, thread::JoinHandle, time::Duration};

use crate::runtime::beat::Beats;

/// How long one step of the work, and one write, may take once the program is to end: after that, the work waits
/// for something that does not come, or the output is stuck.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often that is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(20);
/// Looks without a step after which the patience is over. They are counted, and not the time: where the machine
/// has no time for this thread, it has none for the work either.
const LOOKS: u32 = 25;
const _: () = assert!(LOOKS as u128 == PATIENCE.as_millis() / LOOK.as_millis());
/// The same while the work computes, or a program is being detached (see [`Beats::is_detaching`]): it does not wait
/// for anything, but on a busy machine, or with a large ledger, it can take seconds.
const LOOKS_BUSY: u32 = 20 * LOOKS;
/// Work that got so much of a CPU since the look before computes, ns.
const COMPUTES: u64 = 500_000;

/// Whether the work goes on.
#[derive(Debug, Default)]
pub(super) struct Patience {
    steps: u64,
    cpu_ns: u64,
    /// Looks since the last step.
    looks: u32,
    /// Of these: in a row before which it did not compute either.
    waits: u32,
}

impl Patience {
    /// One more look. `cpu_ns`: CPU time of the work's thread. False: there was no step for too long.
    pub(super) fn lasts(&mut self, beats: &Beats, cpu_ns: u64) -> bool {
        let steps = beats.steps();
        let computed = cpu_ns.saturating_sub(self.cpu_ns) >= COMPUTES;
        let goes_on = steps != self.steps;
        self.looks = if goes_on { 0 } else { self.looks + 1 };
        // With others, it gets the CPU in turns: between two of them it does not wait.
        let waits = !goes_on && !computed && !beats.is_detaching();
        self.waits = if waits { self.waits + 1 } else { 0 };
        (self.steps, self.cpu_ns) = (steps, cpu_ns);
        self.waits < LOOKS && self.looks < LOOKS_BUSY
    }
}

/// Whether one write goes on.
#[derive(Debug, Default)]
pub(super) struct Output {
    since: u64,
    /// Looks at the same write, after the first one.
    looks: u32,
}

impl Output {
    /// One more look, at a write that began at `since`; 0: there is none. True: it lasts for too long. However long it took
    /// before the program was asked to end, its reader may have come back since.
    pub(super) fn is_stuck(&mut self, since: u64) -> bool {
        let goes_on = since != 0 && since == self.since;
        self.looks = if goes_on { self.looks + 1 } else { 0 };
        self.since = since;
        self.looks >= LOOKS
    }
}

/// CPU time of a thread, ns; 0: it cannot be read.
pub(super) fn cpu_ns<T>(thread: &JoinHandle<T>) -> u64 {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    #[expect(unsafe_code, reason = "pthread_getcpuclockid(3) and clock_gettime(2)")]
    // SAFETY: a thread whose handle is there was neither joined nor detached, so its pthread_t is valid even if it has
    // ended; both calls write only to what they are given, which lives until they return.
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

    /// Looks until the patience is over, at most 10,000.
    fn looks(patience: &mut Patience, beats: &Beats, mut cpu_ns: impl FnMut(u64) -> u64) -> u64 {
        (1..=10_000).find(|look| !patience.lasts(beats, cpu_ns(*look))).unwrap_or(10_001)
    }

    #[test]
    fn work_that_waits_is_given_up_after_half_a_second() {
        assert_eq!(looks(&mut Patience::default(), &Beats::default(), |_| 7_000), 25);
    }

    #[test]
    fn work_that_computes_is_given_ten_seconds() {
        let beats = Beats::default();
        let patience = &mut Patience::default();
        assert_eq!(looks(patience, &beats, |look| look * 1_000_000), 500);
        beats.step();
        // Others have the CPU meanwhile.
        assert!((1..=400).all(|look| patience.lasts(&beats, (500 + look / 20) * 1_000_000)));
        // From then on it waits.
        assert_eq!(looks(patience, &beats, |_| 520_000_000), 25);
    }

    #[test]
    fn a_step_begins_the_patience_anew() {
        let beats = Beats::default();
        let patience = &mut Patience::default();
        for _ in 0..1_000 {
            beats.step();
            assert!(patience.lasts(&beats, 0));
        }
        assert_eq!(looks(patience, &beats, |_| 0), 25);
    }

    #[test]
    fn a_write_has_half_a_second_from_the_first_look_on() {
        let mut output = Output::default();
        let mut stuck = |since| (0..25).any(|_| output.is_stuck(since));
        assert!(!stuck(7));
        // Another write, and none.
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
