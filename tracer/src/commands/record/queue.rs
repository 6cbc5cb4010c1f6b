//! [`Queue`]: an output that a thread of its own writes. Whoever makes the lines never waits for the output.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::thread::CapabilitySet;

use super::delivery::{Delivery, Dropped, Group};
use crate::{
    error::Error,
    export::sink::{Closed, Sink},
    runtime::{
        beat::beat,
        sandbox::{self, Role, User},
        shutdown::StopSignals,
    },
};

/// How many bytes of lines wait for the output at most, unless a single chunk has more.
const MOST: usize = 16 << 20;
/// How often the sink is made to write what it buffers.
const FLUSH: Duration = Duration::from_millis(500);
/// Time between two heartbeats while an end is waited for: without them, the work would count as hanging after 0.5 s.
const STEP: Duration = Duration::from_millis(5);
/// How long an end is waited for if the time for all outputs is over: others may have used it up.
const LEAST_WAIT: Duration = Duration::from_millis(100);

/// A handle to the thread that writes one output. When the handle is dropped, the thread ends after it has written the chunks
/// that wait; dropping does not wait for that.
pub(crate) struct Queue {
    /// `None`: it is closed.
    jobs: Option<Sender<Job>>,
    /// Lines of chunks that found no room in the queue.
    left_out: Dropped,
    /// Whether the newest chunk found no room.
    full: bool,
    shared: Arc<Shared>,
    /// Where the lines go, for messages.
    name: String,
}

/// Whether a chunk was taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Took {
    Yes,
    /// It found no room, and its lines were dropped and counted.
    Full,
    /// The output is closed, and nothing was done.
    Closed,
}

enum Job {
    /// Whole lines of one group.
    Chunk { bytes: Box<[u8]>, lines: u64, group: Group },
    /// The sink is to write what it buffers.
    Flush,
    /// The output is to be opened again.
    Reopen,
}

#[derive(Default)]
struct Shared {
    counts: Mutex<Counts>,
    /// Jobs that are not done yet, and the bytes of their chunks.
    jobs: AtomicUsize,
    bytes: AtomicUsize,
    /// Whether the thread has ended.
    ended: AtomicBool,
    /// Whether the reader of the output is gone.
    closed: AtomicBool,
}

/// What became of lines that the sink was given.
#[derive(Clone, Copy, Default)]
struct Counts {
    written: u64,
    dropped: Dropped,
}

impl Queue {
    /// Starts the thread and puts it into its sandbox: it opens files as the owner of their folder. To be called while the
    /// calling thread can still change its user.
    ///
    /// # Errors
    /// The thread cannot be started, or the kernel refuses a step of its sandbox (no_new_privs, user, capabilities, seccomp
    /// filter).
    pub(crate) fn start(sink: Sink) -> Result<Self, Error> {
        let failed = |error| Error::Failure(format!("cannot start a thread: {error}"));
        let (jobs, queue) = mpsc::channel();
        let (enters, entered) = mpsc::channel();
        let shared = Arc::<Shared>::default();
        let of_thread = Arc::clone(&shared);
        let name = sink.name();
        let run = move || {
            _ = enters.send(enter(sink.user()));
            let delivery = Delivery::new(sink, StopSignals::default());
            if write(delivery, &queue, &of_thread).is_err() {
                of_thread.closed.store(true, Relaxed);
            }
            of_thread.ended.store(true, Release);
        };
        thread::Builder::new().name("output".into()).spawn(run).map_err(failed)?;
        let gone = |_| Error::Failure("the thread of the output has ended; this is a bug".into());
        entered.recv().map_err(gone)??;
        Ok(Self { jobs: Some(jobs), left_out: Dropped::default(), full: false, shared, name })
    }

    /// How many lines were dropped so far: those that found no room in the queue, and those that the sink dropped.
    pub(super) fn dropped(&self) -> Dropped {
        let Counts { dropped: sink, .. } = self.shared.counts();
        Dropped {
            events: self.left_out.events + sink.events,
            others: self.left_out.others + sink.others,
        }
    }

    /// How many lines were written so far.
    pub(super) fn written(&self) -> u64 {
        self.shared.counts().written
    }

    /// Queues a chunk of `lines` whole lines of this group, or drops and counts them if 16 MiB wait. `Err`: the reader is gone.
    pub(super) fn write(&mut self, chunk: &[u8], lines: u64, group: Group) -> Result<Took, Closed> {
        if self.jobs.is_none() {
            return Ok(Took::Closed);
        }
        if self.shared.closed.load(Relaxed) {
            return Err(Closed);
        }
        let waiting = self.shared.bytes.load(Acquire);
        let full = waiting > 0 && waiting.saturating_add(chunk.len()) > MOST;
        self.log(full);
        if full {
            self.left_out.add(group, lines);
            return Ok(Took::Full);
        }
        self.shared.bytes.fetch_add(chunk.len(), Release);
        self.send(Job::Chunk { bytes: chunk.into(), lines, group });
        // A last reading can have many chunks.
        beat();
        Ok(Took::Yes)
    }

    /// Logs that the output begins to be too slow, or is not any more.
    fn log(&mut self, full: bool) {
        let name = &self.name;
        match (self.full, full) {
            (false, true) => {
                tracing::warn!("{name} takes lines too slowly; lines are dropped and counted");
            }
            (true, false) => tracing::warn!("{name} takes lines again"),
            _ => {}
        }
        self.full = full;
    }

    /// Has the output opened again, after the chunks that wait.
    pub(super) fn reopen(&self) {
        self.send(Job::Reopen);
    }

    /// Gives the thread a job. If it has ended, the next chunk says so.
    fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            self.shared.jobs.fetch_add(1, Release);
            if jobs.send(job).is_err() {
                self.shared.closed.store(true, Relaxed);
            }
        }
    }

    /// Waits until all that waits is written, at most until `until`.
    pub(super) fn drain(&self, until: Instant) {
        self.send(Job::Flush);
        wait(until, || self.shared.jobs.load(Acquire) == 0 || self.shared.ended.load(Acquire));
    }

    /// Lets the thread write what waits, close the output and end. Waits for that until `until`. A second call does nothing.
    ///
    /// # Errors
    /// The reader is gone.
    pub(super) fn close(&mut self, until: Instant) -> Result<(), Closed> {
        if self.jobs.take().is_some() && !wait(until, || self.shared.ended.load(Acquire)) {
            let name = &self.name;
            tracing::warn!("{name} takes no lines; what waits for it is lost");
        }
        if self.shared.closed.load(Relaxed) { Err(Closed) } else { Ok(()) }
    }
}

/// Waits for `is_done`, until `until`, but at least [`LEAST_WAIT`] (100 ms). False: it is not done by then.
fn wait(until: Instant, is_done: impl Fn() -> bool) -> bool {
    let until = until.max(Instant::now() + LEAST_WAIT);
    while !is_done() {
        if Instant::now() >= until {
            return false;
        }
        beat();
        thread::sleep(STEP);
    }
    true
}

/// Takes from the calling thread all that writing as this user does not need.
fn enter(user: User) -> Result<(), Error> {
    sandbox::enter(Role::Serves, user, CapabilitySet::empty()).map_err(|error| {
        Error::Failure(format!("cannot give up the privileges of an output's thread: {error}"))
    })
}

/// Does jobs until the queue is closed. An error: the reader is gone.
fn write(mut to: Delivery, queue: &Receiver<Job>, shared: &Shared) -> Result<(), Closed> {
    let mut flushed = Instant::now();
    let mut newest = Group::Others;
    loop {
        let job = match queue.recv_timeout(FLUSH.saturating_sub(flushed.elapsed())) {
            Ok(job) => Some(job),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let mut bytes_done = 0;
        match &job {
            Some(Job::Chunk { bytes, lines, group }) => {
                newest = *group;
                to.write(bytes, *lines, newest)?;
                bytes_done = bytes.len();
            }
            Some(Job::Reopen) => to.reopen(newest)?,
            Some(Job::Flush) => to.flush(newest)?,
            None => {}
        }
        if flushed.elapsed() >= FLUSH {
            to.flush(newest)?;
            flushed = Instant::now();
        }
        shared.set_counts(&to);
        shared.bytes.fetch_sub(bytes_done, Release);
        shared.jobs.fetch_sub(usize::from(job.is_some()), Release);
    }
    to.close(newest)?;
    shared.set_counts(&to);
    Ok(())
}

impl Shared {
    fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_counts(&self, of: &Delivery) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) =
            Counts { written: of.written(), dropped: of.dropped() };
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, pipe},
        os::fd::OwnedFd,
    };

    use super::*;

    #[test]
    fn nobody_waits_for_an_output_and_what_finds_no_room_is_counted() {
        let (mut reader, writer) = pipe().unwrap();
        let mut queue = Queue::start(Sink::over(File::from(OwnedFd::from(writer)))).unwrap();
        let mut chunk = vec![b'x'; 1 << 20];
        chunk[(1 << 20) - 1] = b'\n';
        // 16 find room: the pipe has 64 KiB, so that not even the first one is written.
        let took: Vec<_> =
            (0..20).map(|_| queue.write(&chunk, 1, Group::Events).unwrap()).collect();
        assert_eq!(took.iter().filter(|took| **took == Took::Yes).count(), 16);
        assert_eq!(queue.dropped(), Dropped { events: 4, others: 0 });
        let read = thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all.len())
        });
        let until = Instant::now() + Duration::from_mins(1);
        queue.drain(until);
        assert_eq!((queue.written(), queue.dropped().events), (16, 4));
        assert_eq!(queue.write(&chunk, 1, Group::Others).unwrap(), Took::Yes);
        queue.close(until).unwrap();
        assert_eq!((queue.written(), read.join().unwrap().unwrap()), (17, 17 << 20));
        assert_eq!(queue.write(&chunk, 1, Group::Others).unwrap(), Took::Closed);
    }

    #[test]
    fn an_output_whose_reader_is_gone_says_so() {
        let (reader, writer) = pipe().unwrap();
        let mut queue = Queue::start(Sink::over(File::from(OwnedFd::from(writer)))).unwrap();
        drop(reader);
        assert_eq!(queue.write(b"line\n", 1, Group::Events).unwrap(), Took::Yes);
        queue.drain(Instant::now() + Duration::from_mins(1));
        assert_eq!(queue.write(b"line\n", 1, Group::Events).unwrap_err(), Closed);
        assert_eq!(queue.close(Instant::now()).unwrap_err(), Closed);
    }
}
