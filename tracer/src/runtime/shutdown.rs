//! Turns signals into flags that the working thread reads, decides how long to wait until that thread stops, and writes
//! the program's last text.

mod early;
mod last_resort;
mod patience;

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

use crate::{
    error::Error,
    runtime::{
        beat::{self, Beats},
        clock,
    },
};
use early::{Undone, restore_default_signals};
pub use early::{begin, die, stop_signal, undo_with};
pub use last_resort::fail_with;
use patience::{Output, POLL_INTERVAL, Patience, cpu_ns};

/// Fails if a signal asked the program to stop. To be called between the steps of a start.
///
/// # Errors
/// [`Error::Interrupted`], with the signal.
pub fn check_stop() -> Result<(), Error> {
    stop_signal().map_or(Ok(()), |signal| Err(Error::Interrupted { signal }))
}

/// What signals ask of the work, and whether the work makes progress; clones share both. The default: nothing is asked.
#[derive(Clone, Debug, Default)]
pub struct StopSignals {
    stop: Arc<AtomicBool>,
    beats: Beats,
    reopen: Arc<AtomicBool>,
    hang_up_ends: Arc<AtomicBool>,
    /// CLOCK_MONOTONIC of when the current write of the work began, ns; 0: it does not write.
    writing: Arc<AtomicU64>,
}

impl StopSignals {
    /// Whether a signal asked the work to stop: SIGINT, SIGTERM, or (with a screen, or if it came during the start) SIGHUP.
    /// Counts a step of the work.
    pub fn stop(&self) -> bool {
        self.step();
        self.stop.load(Relaxed)
    }

    /// From now on SIGHUP stops the work, as SIGTERM does: for a screen, which ends with its terminal.
    pub fn end_with_terminal(&self) {
        self.hang_up_ends.store(true, Relaxed);
    }

    /// Notes that the work begins (`begins`) or ends a write, which can block for ever. Counts a step of the work.
    pub fn writing(&self, begins: bool) {
        self.writing.store(if begins { clock::monotonic_ns() } else { 0 }, Relaxed);
        self.step();
    }

    /// Counts a step of the work: it has made progress. Any thread of the work may call this.
    fn step(&self) {
        self.beats.step();
    }

    /// When the current write began (CLOCK_MONOTONIC, ns); 0: there is none.
    fn writing_since(&self) -> u64 {
        self.writing.load(Relaxed)
    }

    /// Whether the output should be opened again, because a SIGHUP has come since the last call.
    pub fn reopen(&self) -> bool {
        self.reopen.swap(false, Relaxed)
    }
}

/// After a signal, how long the final report waits at most until stderr takes it.
const REPORT_LIMIT: Duration = Duration::from_millis(50);

/// Runs `work` in a new thread until it ends, and returns its result. SIGINT and SIGTERM (after
/// [`StopSignals::end_with_terminal`], SIGHUP, too) ask the work to stop, and so does a signal that came during the start. If the
/// work then writes the same piece for 0.5 s, waits for 0.5 s without a step, or makes no step for 10 s, this undoes what the
/// start made (see [`undo_with`]) and returns an error while the thread still runs; from then on, the process ends within 0.6 s
/// by itself. Before [`StopSignals::end_with_terminal`], SIGHUP asks the work to open its output again.
///
/// # Errors
/// Those of `work`; `work` panicked; after a signal, the output is blocked or the work does not stop; the signals or the
/// thread cannot be set up.
pub fn run<T: Send + 'static>(
    work: impl FnOnce(StopSignals) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let failed =
        |error: std::io::Error| Error::Failure(format!("cannot set up signal handling: {error}"));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        let mut signals = Signals::new().map_err(failed)?;
        let before = early::take_over();
        let requests = StopSignals::default();
        requests.stop.store(before.is_some(), Relaxed);
        let (done, mut ended) = oneshot::channel();
        let for_work = requests.clone();
        let thread = std::thread::Builder::new()
            .name("tracer-work".into())
            .spawn(move || {
                beat::count_in(for_work.beats.clone());
                // The result is not waited for any more if the patience below has run out.
                _ = done.send(work(for_work));
            })
            .map_err(failed)?;
        while before.is_none() {
            tokio::select! {
                result = &mut ended => return result.unwrap_or_else(|_| Err(panicked())),
                _ = signals.hang_up.recv() => {
                    if requests.hang_up_ends.load(Relaxed) {
                        early::request_stop(libc::SIGHUP);
                        break;
                    }
                    requests.reopen.store(true, Relaxed);
                }
                _ = signals.interrupt.recv() => {
                    early::request_stop(libc::SIGINT);
                    break;
                }
                _ = signals.terminate.recv() => {
                    early::request_stop(libc::SIGTERM);
                    break;
                }
            }
        }
        requests.stop.store(true, Relaxed);
        let (mut patience, mut output) = (Patience::default(), Output::default());
        loop {
            match tokio::time::timeout(POLL_INTERVAL, &mut ended).await {
                Ok(result) => return result.unwrap_or_else(|_| Err(panicked())),
                Err(_) if output.is_stuck(requests.writing_since()) => {
                    return Err(given_up("the output is blocked"));
                }
                Err(_) if !patience.lasts(&requests.beats, cpu_ns(&thread)) => {
                    let why = "tracer was asked to stop, but its work waits for something and does not end";
                    return Err(given_up(why));
                }
                Err(_) => {}
            }
        }
    })
}

/// Undoes what the start made (see [`undo_with`]), and returns the error for work that is not waited for any more. From then
/// on, the program ends within a second, even if it hangs.
fn given_up(why: &str) -> Error {
    early::end_soon();
    let rest = match early::undo() {
        Undone::Nothing => "",
        Undone::All => "; the rule has ended",
        Undone::Unknown => {
            "; whether the rule has ended is not known: check with `tracer status`, and end it with \
             `tracer spread --release`"
        }
    };
    Error::Failure(format!("{why}: unwritten lines are lost{rest}"))
}

/// Gives signals their default actions (unless a signal asked the program to stop), and writes the program's last text to
/// stderr. If a signal asked the program to stop, this waits at most 50 ms for a stderr that is blocked, and then drops the
/// text; else it waits as long as stderr is blocked. A closed stderr is no error.
pub fn final_report(text: &[u8]) {
    restore_default_signals();
    let mut stderr = [PollFd::from_borrowed_fd(rustix::stdio::stderr(), PollFlags::OUT)];
    let limit = stop_signal().and(Timespec::try_from(REPORT_LIMIT).ok());
    if poll(&mut stderr, limit.as_ref()).is_ok_and(|ready| ready > 0) {
        // If stderr is closed, only the exit code is left.
        _ = std::io::stderr().write_all(text);
    }
}

/// The error if the work panicked.
fn panicked() -> Error {
    Error::Failure("the working thread ended without a result; this is a bug".into())
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }
}
