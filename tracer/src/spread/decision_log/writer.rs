//! The thread that writes the stream: the agent hands lines over and never waits for a reader.

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
    commands::record::output::{Dropped, Output},
    error::Error,
    export::{Sink, record::Stop, sink::Closed},
    ledger::trace,
    runtime::shutdown::StopSignals,
};

/// Lines that wait for the output at most, some hundred bytes each.
const QUEUE: usize = 8192;
/// How long a line may wait until it is written, where the output takes it.
const FLUSH: Duration = Duration::from_millis(50);
/// How long the writer may take to end where nobody asked the program to.
const REST: Duration = Duration::from_secs(1);

/// Adds a line.
type Line = Box<dyn FnOnce(&mut Output) -> Result<(), Closed> + Send>;
/// Makes the last line, given what was left out.
type Last = Box<dyn FnOnce(Dropped) -> Stop + Send>;

/// A handle to the thread. It ends when this is dropped, after it has written what waits.
pub(super) struct Writer {
    /// `None`: it is to end.
    lines: Option<mpsc::SyncSender<Line>>,
    /// `None`: the stream has begun.
    begin: Option<mpsc::Sender<StopSignals>>,
    shared: Arc<Shared>,
    /// Nothing is sent; it is closed when the thread ends.
    ended: mpsc::Receiver<()>,
}

#[derive(Default)]
struct Shared {
    /// Lines of decisions that found no room in the queue.
    left_out: AtomicU64,
    /// Lines that the output did not take.
    dropped: Counters,
    reopen: AtomicBool,
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

/// What has become of a line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Handed {
    Over,
    /// There is no room.
    LeftOut,
    /// The reader is gone, and has what it wanted.
    Closed,
}

impl Writer {
    /// Starts the thread and puts it into its sandbox: it opens files as the owner of their folder.
    ///
    /// # Errors
    /// No thread can be had; a step of the sandbox that the kernel refuses.
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
            if let Ok(asked) = opens.recv() {
                // A reader that is gone has what it wanted.
                _ = write(Output::new(sink, None, asked), &queue, &of_thread);
            }
            drop(ends);
        };
        thread::Builder::new().name("output".into()).spawn(run).map_err(failed)?;
        let gone = |_| Error::Failure("the thread of the output has ended; this is a bug".into());
        entered.recv().map_err(gone)??;
        Ok(Self { lines: Some(lines), begin: Some(begin), shared, ended })
    }

    /// Nothing is written before this.
    pub(super) fn begin(&mut self, asked: &StopSignals) {
        if let Some(begin) = self.begin.take() {
            // One that has ended is noticed at the next line.
            _ = begin.send(asked.clone());
        }
    }

    /// Hands a line over, if there is room.
    pub(super) fn add(
        &self,
        line: impl FnOnce(&mut Output) -> Result<(), Closed> + Send + 'static,
    ) -> Handed {
        let Some(lines) = &self.lines else { return Handed::Closed };
        match lines.try_send(Box::new(line)) {
            Ok(()) => Handed::Over,
            Err(TrySendError::Disconnected(_)) => Handed::Closed,
            Err(TrySendError::Full(_)) => Handed::LeftOut,
        }
    }

    /// Counts the line of a decision that found no room.
    pub(super) fn leave_out(&self) {
        self.shared.left_out.fetch_add(1, Relaxed);
    }

    /// Lines that found no room, or that the output did not take.
    pub(super) fn dropped(&self) -> Dropped {
        self.shared.and_left_out(self.shared.dropped.get())
    }

    /// Opens the output anew (SIGHUP), before the next line.
    pub(super) fn reopen(&self) {
        self.shared.reopen.store(true, Relaxed);
    }

    /// Ends the stream by this line, behind those that wait; does not wait for it.
    pub(super) fn end(&mut self, last: Last) {
        *self.shared.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
        self.lines = None;
    }

    /// Waits until everything is written: as long as a reader takes its time, or until the program is ended for it.
    pub(super) fn wait(&mut self) {
        (self.lines, self.begin) = (None, None);
        _ = self.ended.recv();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // After an error nobody waits for a reader that may never come.
        (self.lines, self.begin) = (None, None);
        _ = self.ended.recv_timeout(REST);
    }
}

impl Shared {
    fn and_left_out(&self, dropped: Dropped) -> Dropped {
        Dropped { events: dropped.events + self.left_out.load(Relaxed), ..dropped }
    }
}

fn write(mut output: Output, queue: &mpsc::Receiver<Line>, shared: &Shared) -> Result<(), Closed> {
    let mut flushed = Instant::now();
    // A write of nothing would pass for progress.
    let mut waiting = false;
    let mut skipped = 0;
    loop {
        let line = queue.recv_timeout(FLUSH);
        // What is missing is a gap in the numbers of the lines.
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
        output.stop(|dropped| last(shared.and_left_out(dropped)))?;
    }
    output.close()?;
    if let Some(failure) = output.failure() {
        tracing::warn!("{failure}");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
