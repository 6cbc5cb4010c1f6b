//! Signals, as flags that the working thread looks at.

mod early;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

use crate::{clock, error::Error};
pub use early::{asked, begin, die, undo_with};

/// Between the steps of a start.
///
/// # Errors
/// [`Error::Interrupted`]: a signal asked to end.
pub fn go_on() -> Result<(), Error> {
    asked().map_or(Ok(()), |signal| Err(Error::Interrupted { signal }))
}

/// What was asked of us.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    stop: Arc<AtomicBool>,
    /// The work has seen that it is to end.
    seen: Arc<AtomicBool>,
    reopen: Arc<AtomicBool>,
    hang_up_ends: Arc<AtomicBool>,
    /// CLOCK_MONOTONIC of when the write that the work is inside of began, ns; 0: none.
    writing: Arc<AtomicU64>,
}

impl Asked {
    /// To end (SIGINT, SIGTERM).
    pub fn stop(&self) -> bool {
        let stop = self.stop.load(Relaxed);
        if stop {
            self.seen.store(true, Relaxed);
        }
        stop
    }

    /// From now on SIGHUP asks to end, as SIGTERM does: what is shown on a terminal ends with it.
    pub fn end_with_terminal(&self) {
        self.hang_up_ends.store(true, Relaxed);
    }

    /// Notes that the work begins or ends a write, which can take for ever.
    pub fn writing(&self, begins: bool) {
        self.writing.store(if begins { clock::monotonic_ns() } else { 0 }, Relaxed);
    }

    fn is_stuck(&self) -> bool {
        let since = self.writing.load(Relaxed);
        since != 0 && clock::monotonic_ns().saturating_sub(since) > clock::as_ns(PATIENCE)
    }

    /// To open the output anew (SIGHUP): true once for each time.
    pub fn reopen(&self) -> bool {
        self.reopen.swap(false, Relaxed)
    }
}

/// How long the work may take to see that it is to end, and how long a write may take from then on: after
/// that, it waits for something that does not come, or the output is stuck.
const PATIENCE: Duration = Duration::from_millis(800);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Runs `work` on a thread of its own until it ends or a signal asks it to.
///
/// # Errors
/// Those of `work`; an output that does not take what is left.
pub fn run<T: Send + 'static>(
    work: impl FnOnce(Asked) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let failed =
        |error: std::io::Error| Error::Failure(format!("cannot wait for signals: {error}"));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        let mut signals = Signals::new().map_err(failed)?;
        let before = early::take_over();
        let asked = Asked::default();
        asked.stop.store(before.is_some(), Relaxed);
        let (done, mut ended) = oneshot::channel();
        let for_work = asked.clone();
        std::thread::Builder::new()
            .name("tracer-work".into())
            .spawn(move || {
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
        let since = Instant::now();
        loop {
            match tokio::time::timeout(LOOK, &mut ended).await {
                Ok(result) => return result.unwrap_or_else(|_| Err(panicked())),
                Err(_) if !asked.seen.load(Relaxed) && since.elapsed() > PATIENCE => {
                    early::undo();
                    return Err(Error::Failure(
                        "it was asked to end, but waits for something that does not come: what \
                         was not written yet is lost"
                            .into(),
                    ));
                }
                Err(_) if asked.is_stuck() => {
                    return Err(Error::Failure(
                        "the output takes no more: what was not written yet is lost".into(),
                    ));
                }
                Err(_) => {}
            }
        }
    })
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
