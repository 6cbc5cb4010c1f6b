//! Runs the thread that writes the stream: the agent queues lines and never waits for a reader.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError, TrySendError},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::thread::CapabilitySet;

use crate::{
    commands::record::{delivery::Dropped, output::Output},
    error::Error,
    export::{Sink, record::Stop, sink::Closed},
    ledger::trace,
    runtime::shutdown::StopSignals,
};

/// How many lines wait for the output at most; each has a few hundred bytes.
const QUEUE: usize = 8192;
/// Shortest time between two flushes of the output's buffer: a line waits there for at most twice this time, unless the
/// output blocks.
const FLUSH: Duration = Duration::from_millis(50);
/// Longest time that dropping a [`Writer`] waits for its thread.
const DROP_WAIT: Duration = Duration::from_secs(1);

/// Writes one line into the output's buffer.
type Line = Box<dyn FnOnce(&mut Output) -> Result<(), Closed> + Send>;
/// Makes the last line, given how many lines were dropped.
type Last = Box<dyn FnOnce(Dropped) -> Stop + Send>;

/// A handle to the thread that writes the stream. When the handle is dropped, the thread ends after it has written the
/// lines that wait; dropping waits for that, 1 s at most.
pub(super) struct Writer {
    /// Queue of the thread; `None`: the thread is to end.
    lines: Option<mpsc::SyncSender<Line>>,
    /// Lets the thread begin to write; `None`: the stream has begun, or the thread is to end.
    begin: Option<mpsc::Sender<StopSignals>>,
    shared: Arc<Shared>,
    /// Closed when the thread ends; nothing is sent on it.
    ended: mpsc::Receiver<()>,
}

#[derive(Default)]
struct Shared {
    /// Lines of decisions that found no room in the queue.
    left_out: AtomicU64,
    /// Lines that the output dropped.
    dropped: Counters,
    /// Whether the output is to be opened again.
    reopen: AtomicBool,
    /// Makes the last line; `None`: the stream has not ended yet, or ends without one.
    last: Mutex<Option<Last>>,
}

#[derive(Default)]
struct Counters {
    events: AtomicU64,
    others: AtomicU64,
}

impl Counters {
    fn get(&self) -> Dropped {
        Dropped { events: self.events.load(Relaxed), others: self.others.load(Relaxed) }
    }

    fn set(&self, dropped: Dropped) {
        self.events.store(dropped.events, Relaxed);
        self.others.store(dropped.others, Relaxed);
    }
}

/// What became of a line that was to be queued.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Handover {
    Queued,
    /// The line was dropped: the queue is full.
    QueueFull,
    /// The line was dropped: the reader is gone, or the stream has ended.
    Closed,
}

impl Writer {
    /// Starts the thread and puts it into its sandbox: it opens files as the owner of their folder.
    ///
    /// # Errors
    /// The thread cannot be started, or the kernel refuses a step of its sandbox (no_new_privs, user, capabilities, seccomp
    /// filter).
    pub(super) fn start(sink: Sink) -> Result<Self, Error> {
        let failed = |error| Error::Failure(format!("cannot start a thread: {error}"));
        let (lines, queue) = mpsc::sync_channel(QUEUE);
        let (begin, opens) = mpsc::channel();
        let (ends, ended) = mpsc::channel::<()>();
        let (enters, entered) = mpsc::channel();
        let shared = Arc::<Shared>::default();
        let of_thread = Arc::clone(&shared);
        let run = move || {
            _ = enters.send(trace::enter_to_read(CapabilitySet::empty(), sink.user()));
            if let Ok(signals) = opens.recv() {
                // The only error is that the reader is gone: nobody misses the rest.
                _ = write(Output::new(sink, None, signals), &queue, &of_thread);
            }
            drop(ends);
        };
        thread::Builder::new().name("output".into()).spawn(run).map_err(failed)?;
        let gone = |_| Error::Failure("the thread of the output has ended; this is a bug".into());
        entered.recv().map_err(gone)??;
        Ok(Self { lines: Some(lines), begin: Some(begin), shared, ended })
    }

    /// Lets the thread write; before this, lines only wait. Later calls do nothing. `signals`: learns when a write begins and
    /// ends.
    pub(super) fn begin(&mut self, signals: &StopSignals) {
        if let Some(begin) = self.begin.take() {
            // If the thread has ended, adding the next line returns `Closed`.
            _ = begin.send(signals.clone());
        }
    }

    /// Queues a line, if there is room: at most 8,192 wait. `line` writes it, later, in the thread.
    pub(super) fn add(
        &self,
        line: impl FnOnce(&mut Output) -> Result<(), Closed> + Send + 'static,
    ) -> Handover {
        let Some(lines) = &self.lines else { return Handover::Closed };
        match lines.try_send(Box::new(line)) {
            Ok(()) => Handover::Queued,
            Err(TrySendError::Disconnected(_)) => Handover::Closed,
            Err(TrySendError::Full(_)) => Handover::QueueFull,
        }
    }

    /// Counts the line of a decision that found no room.
    pub(super) fn leave_out(&self) {
        self.shared.left_out.fetch_add(1, Relaxed);
    }

    /// How many lines were dropped so far: decisions that found no room in the queue ([`Self::leave_out`]), and lines that the
    /// output dropped.
    pub(super) fn dropped(&self) -> Dropped {
        self.shared.and_left_out(self.shared.dropped.get())
    }

    /// Has the output opened again (SIGHUP), before the next line, or within [`FLUSH`] (50 ms).
    pub(super) fn reopen(&self) {
        self.shared.reopen.store(true, Relaxed);
    }

    /// Ends the stream: `last` makes the last line, which follows those that wait. Does not wait until it is written. Lines that
    /// are added later are refused ([`Handover::Closed`]).
    pub(super) fn end(&mut self, last: Last) {
        *self.shared.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
        self.lines = None;
    }

    /// Waits until everything is written: as long as the reader takes, or until signals end the program.
    pub(super) fn wait(&mut self) {
        (self.lines, self.begin) = (None, None);
        _ = self.ended.recv();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // After an error the program does not wait long for a reader that may never read.
        (self.lines, self.begin) = (None, None);
        _ = self.ended.recv_timeout(DROP_WAIT);
    }
}

impl Shared {
    fn and_left_out(&self, dropped: Dropped) -> Dropped {
        Dropped { events: dropped.events + self.left_out.load(Relaxed), ..dropped }
    }
}

/// Writes lines until the queue is closed, then the last line. An error: the reader is gone.
fn write(mut output: Output, queue: &mpsc::Receiver<Line>, shared: &Shared) -> Result<(), Closed> {
    let mut flushed = Instant::now();
    // Whether the buffer has lines. An empty buffer is not flushed: that would count as progress of the output.
    let mut waiting = false;
    let mut skipped = 0;
    loop {
        let line = queue.recv_timeout(FLUSH);
        // Lines that found no room are a gap in `seq`.
        let left_out = shared.left_out.load(Relaxed);
        output.skip(left_out - skipped);
        skipped = left_out;
        if shared.reopen.swap(false, Relaxed) {
            output.reopen()?;
        }
        match line {
            Ok(line) => {
                line(&mut output)?;
                waiting = true;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if waiting && flushed.elapsed() >= FLUSH {
            output.flush()?;
            waiting = false;
            flushed = Instant::now();
        }
        shared.dropped.set(output.dropped());
    }
    let last = shared.last.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(last) = last {
        output.stop(Instant::now(), |dropped| last(shared.and_left_out(dropped)))?;
    }
    output.close(Instant::now())?;
    if let Some(failure) = output.failure() {
        tracing::warn!("{failure}");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
