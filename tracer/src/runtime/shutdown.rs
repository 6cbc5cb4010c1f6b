//! Signals, as flags that the working thread looks at.

mod early;
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
use early::{Undone, give_back};
pub use early::{asked, begin, die, undo_with};
use patience::{LOOK, Output, Patience, cpu_ns};

/// Between the steps of a start.
///
/// # Errors
/// [`Error::Interrupted`]: a signal asked to end.
pub fn go_on() -> Result<(), Error> {
    asked().map_or(Ok(()), |signal| Err(Error::Interrupted { signal }))
}

/// What was asked of us.
#[derive(Clone, Debug, Default)]
pub struct StopSignals {
    stop: Arc<AtomicBool>,
    beats: Beats,
    reopen: Arc<AtomicBool>,
    hang_up_ends: Arc<AtomicBool>,
    /// CLOCK_MONOTONIC of when the write that the work is inside of began, ns; 0: none.
    writing: Arc<AtomicU64>,
}

impl StopSignals {
    /// To end (SIGINT, SIGTERM).
    pub fn stop(&self) -> bool {
        self.step();
        self.stop.load(Relaxed)
    }

    /// From now on SIGHUP asks to end, as SIGTERM does: what is shown on a terminal ends with it.
    pub fn end_with_terminal(&self) {
        self.hang_up_ends.store(true, Relaxed);
    }

    /// Notes that the work begins or ends a write, which can take for ever.
    pub fn writing(&self, begins: bool) {
        self.writing.store(if begins { clock::monotonic_ns() } else { 0 }, Relaxed);
        self.step();
    }

    /// The work goes on, whichever of its threads says so.
    fn step(&self) {
        self.beats.step();
    }

    /// When the write began that goes on; 0: none does.
    fn writing_since(&self) -> u64 {
        self.writing.load(Relaxed)
    }

    /// To open the output anew (SIGHUP): true once for each time.
    pub fn reopen(&self) -> bool {
        self.reopen.swap(false, Relaxed)
    }
}

/// How long the last words may wait for their reader.
const LAST_WORDS: Duration = Duration::from_millis(50);
/// Runs `work` on a thread of its own until it ends or a signal asks it to.
///
/// # Errors
/// Those of `work`; an output that does not take what is left.
pub fn run<T: Send + 'static>(
    work: impl FnOnce(StopSignals) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let failed =
        |error: std::io::Error| Error::Failure(format!("cannot wait for signals: {error}"));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        let mut signals = Signals::new().map_err(failed)?;
        let before = early::take_over();
        let asked = StopSignals::default();
        asked.stop.store(before.is_some(), Relaxed);
        let (done, mut ended) = oneshot::channel();
        let for_work = asked.clone();
        let thread = std::thread::Builder::new()
            .name("tracer-work".into())
            .spawn(move || {
                beat::count_in(for_work.beats.clone());
                // Nobody waits any more where the patience below ran out.
                _ = done.send(work(for_work));
            })
            .map_err(failed)?;
        while before.is_none() {
            tokio::select! {
                result = &mut ended => return result.unwrap_or_else(|_| Err(panicked())),
                _ = signals.hang_up.recv() => {
                    if asked.hang_up_ends.load(Relaxed) {
                        early::ask(libc::SIGHUP);
                        break;
                    }
                    asked.reopen.store(true, Relaxed);
                }
                _ = signals.interrupt.recv() => {
                    early::ask(libc::SIGINT);
                    break;
                }
                _ = signals.terminate.recv() => {
                    early::ask(libc::SIGTERM);
                    break;
                }
            }
        }
        asked.stop.store(true, Relaxed);
        let (mut patience, mut output) = (Patience::default(), Output::default());
        loop {
            match tokio::time::timeout(LOOK, &mut ended).await {
                Ok(result) => return result.unwrap_or_else(|_| Err(panicked())),
                Err(_) if output.is_stuck(asked.writing_since()) => {
                    return Err(given_up("the output is blocked"));
                }
                Err(_) if !patience.lasts(&asked.beats, cpu_ns(&thread)) => {
                    let why = "told to end, but waiting for something that does not come";
                    return Err(given_up(why));
                }
                Err(_) => {}
            }
        }
    })
}

/// The work is not waited for any more.
fn given_up(why: &str) -> Error {
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

/// Writes the last words of the program to stderr. A stderr that takes nothing holds nobody up who was asked to end,
/// and a signal ends the program as by default from here on.
pub fn last_words(text: &[u8]) {
    give_back();
    let mut stderr = [PollFd::from_borrowed_fd(rustix::stdio::stderr(), PollFlags::OUT)];
    let limit = asked().and(Timespec::try_from(LAST_WORDS).ok());
    if poll(&mut stderr, limit.as_ref()).is_ok_and(|ready| ready > 0) {
        // Where stderr is closed too, the exit code has to do.
        _ = std::io::stderr().write_all(text);
    }
}

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
