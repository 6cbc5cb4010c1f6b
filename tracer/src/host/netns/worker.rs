//! The threads that enter other network namespaces.
//!
//! setns(2) moves one thread, and capabilities belong to a thread, too. So these threads keep their privileges when
//! the rest of the process gives them up, and do what must be done in other namespaces.
//!
//! One of them works, the others are in reserve: a visit that does not end (because the kernel waits for something,
//! or because of a bug) blocks that namespace, not the tracer.

mod enter;

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use super::{Discovery, Netns, discover};
use crate::{
    host::process::ListsFiles,
    runtime::{
        beat::{self, Beats},
        shutdown,
    },
};
use enter::{Left, OwnNetns, catch};

/// How many threads there are. When all are stuck, no namespace can be entered any more.
const THREADS: usize = 3;
/// How long a visit may take without a heartbeat.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a visit may take once a signal asked the program to stop.
const WHEN_ENDING: Duration = Duration::from_millis(300);
/// How often a thread that waits for a visit checks for such a signal.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

type Job = Box<dyn FnOnce(&OwnNetns) -> Left + Send>;

/// A handle to one of the threads. The thread ends when all clones of its handle are dropped (never, if a visit does not end),
/// or earlier if it cannot return to its own namespace.
#[derive(Clone)]
struct Thread {
    jobs: mpsc::Sender<Job>,
    /// Counts its heartbeats.
    beats: Beats,
    /// How many jobs were sent to it and are not done.
    pending: Arc<AtomicUsize>,
}

/// What became of a job that was sent to a thread.
enum Sent<T, J> {
    /// It has ended with this result, or is not waited for any more.
    Ended(io::Result<T>),
    /// The thread had ended before it took the job, which is returned.
    NotTaken(J),
}

/// The three threads that enter other network namespaces. They end when this is dropped, except those whose visit does not end.
pub struct Worker {
    threads: Mutex<Threads>,
    patience: Duration,
    /// Whether a visit was given up because the program was asked to stop. From then on, no other one is begun.
    ending: AtomicBool,
    files: OnceLock<Arc<dyn ListsFiles>>,
}

struct Threads {
    /// The threads that can work; the first one does.
    ready: Vec<Thread>,
    /// Threads that are not waited for any more, and the namespace that each has begun to visit; `None`: it is in its own.
    stuck: Vec<(Thread, Option<Netns>)>,
}

/// Stages of a job.
mod stage {
    /// The thread has not begun it.
    pub(super) const WAITS: u8 = 0;
    /// The thread has begun it.
    pub(super) const BEGUN: u8 = 1;
    /// The result is not waited for any more.
    pub(super) const GIVEN_UP: u8 = 2;
}

impl Worker {
    /// Starts the threads, with the capabilities that the calling thread has now.
    ///
    /// # Errors
    /// A thread cannot be started, or /proc cannot be read.
    pub fn spawn() -> io::Result<Self> {
        let ready = (0..THREADS).map(|_| Thread::spawn()).collect::<io::Result<_>>()?;
        Ok(Self {
            threads: Mutex::new(Threads { ready, stuck: Vec::new() }),
            patience: PATIENCE,
            ending: AtomicBool::new(false),
            files: OnceLock::new(),
        })
    }

    /// Runs `visit` in the namespace, and returns its result. Waits for it as long as it has a heartbeat
    /// (`crate::runtime::beat`) every two seconds, and no longer than 300 ms once a signal asked the program to stop.
    /// Whatever `visit` opens there must be closed when it returns, or it keeps the namespace alive.
    ///
    /// # Errors
    /// That of `visit`. `NotFound`: the namespace is gone, or its paths lead elsewhere ([`Worker::discover`] may find others).
    /// `PermissionDenied`: it may not be entered. `TimedOut`: this visit or an earlier one to the same namespace does
    /// not end, or the program was asked to stop. `BrokenPipe`: no thread is left.
    pub fn run_in<T: Send + 'static>(
        &self,
        netns: &Netns,
        visit: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let target = netns.clone();
        self.submit(Some(netns), move |own| own.visit(&target, visit))
    }

    /// Has searches use the kernel's list of open files from now on; without effect if they have one already.
    pub fn use_list(&self, files: Arc<dyn ListsFiles>) {
        _ = self.files.set(files);
    }

    /// The list of [`Self::use_list`]; `None`: there is none.
    pub fn list(&self) -> Option<Arc<dyn ListsFiles>> {
        self.files.get().cloned()
    }

    /// Searches for network namespaces ([`discover()`]) with the privileges of these threads.
    ///
    /// # Errors
    /// This process's own namespace cannot be read. `TimedOut`: the search does not end, or the program was asked to stop.
    /// `BrokenPipe`: no thread is left.
    pub fn discover(&self) -> io::Result<Discovery> {
        let files = self.list();
        self.run(move || discover(files.as_deref()))
    }

    /// Whether these threads can enter other namespaces, and return. Each namespace can refuse them still. False also if no
    /// thread answers, or the program was asked to stop.
    pub fn enters(&self) -> bool {
        self.submit(None, |own| (Ok(own.can_be_entered()), Left::InOwn)).unwrap_or(false)
    }

    /// Runs `job` on one of the threads, with that thread's privileges and in that thread's own namespace; returns its result.
    ///
    /// # Errors
    /// That of `job`. `TimedOut`: it does not end, or the program was asked to stop. `BrokenPipe`: no thread is left.
    pub fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        self.submit(None, move |_| (catch(job), Left::InOwn))
    }

    /// Runs `job` on every thread, also on those in reserve: for attributes that belong to threads.
    ///
    /// # Errors
    /// That of the first job that fails, or (`BrokenPipe`) a thread has ended or (`TimedOut`) does not answer: the threads after
    /// that one do not run it.
    pub fn run_on_all(
        &self,
        job: impl Fn() -> io::Result<()> + Clone + Send + 'static,
    ) -> io::Result<()> {
        let all = {
            let threads = self.threads();
            let stuck = threads.stuck.iter().map(|(thread, _)| thread);
            threads.ready.iter().chain(stuck).cloned().collect::<Vec<_>>()
        };
        for thread in all {
            let job = job.clone();
            match self.submit_to(&thread, None, move |_| (catch(job), Left::InOwn)) {
                Sent::Ended(result) => result?,
                Sent::NotTaken(_) => return Err(gone()),
            }
        }
        Ok(())
    }

    /// The namespaces in which a visit has not ended that is not waited for any more; empty: none.
    pub fn stuck(&self) -> Vec<Netns> {
        let mut threads = self.threads();
        threads.recover();
        threads.stuck.iter().filter_map(|(_, netns)| netns.clone()).collect()
    }

    fn threads(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the first thread that is ready run a job, and waits for the result. `netns`: where the job goes; `None`: it
    /// stays in the thread's own namespace.
    fn submit<T: Send + 'static>(
        &self,
        netns: Option<&Netns>,
        job: impl FnOnce(&OwnNetns) -> (io::Result<T>, Left) + Send + 'static,
    ) -> io::Result<T> {
        let mut job = job;
        loop {
            beat::beat();
            if self.ending.load(Ordering::Relaxed) {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the program was asked to stop",
                ));
            }
            let thread = {
                let mut threads = self.threads();
                threads.recover();
                if let Some(netns) = netns.filter(|netns| threads.is_stuck_in(netns.inum)) {
                    return Err(timed_out(netns, "an earlier visit to it has not ended"));
                }
                threads.ready.first().cloned().ok_or_else(gone)?
            };
            match self.submit_to(&thread, netns, job) {
                Sent::Ended(result) => return result,
                Sent::NotTaken(job_back) => {
                    self.threads().ready.retain(|one| !one.is(&thread));
                    job = job_back;
                }
            }
        }
    }

    /// Has this thread run a job, and waits for the result.
    fn submit_to<T, J>(&self, thread: &Thread, netns: Option<&Netns>, job: J) -> Sent<T, J>
    where
        T: Send + 'static,
        J: FnOnce(&OwnNetns) -> (io::Result<T>, Left) + Send + 'static,
    {
        let (answer, wait) = mpsc::sync_channel(1);
        let stage = Arc::new(AtomicU8::new(stage::WAITS));
        // The job is shared, so that it can be returned.
        let job = Arc::new(Mutex::new(Some(job)));
        let boxed: Job = Box::new({
            let (stage, job) = (Arc::clone(&stage), Arc::clone(&job));
            move |own| {
                let begins = stage.compare_exchange(
                    stage::WAITS,
                    stage::BEGUN,
                    Ordering::AcqRel,
                    Ordering::Acquire,
                );
                let job = job.lock().unwrap_or_else(PoisonError::into_inner).take();
                let Some(job) = job.filter(|_| begins.is_ok()) else { return Left::InOwn };
                let (result, left) = job(own);
                // The result may not be waited for any more.
                drop(answer.send(result));
                left
            }
        });
        let mut beats = thread.beats.steps();
        // Counted before it is sent: a thread that is stuck before it takes the job must not count as free.
        thread.pending.fetch_add(1, Ordering::AcqRel);
        if thread.jobs.send(boxed).is_err() {
            let job = job.lock().unwrap_or_else(PoisonError::into_inner).take();
            return job.map_or_else(|| Sent::Ended(Err(gone())), Sent::NotTaken);
        }
        loop {
            match receive(&wait, self.patience, &thread.beats) {
                Ok(result) => return Sent::Ended(result),
                Err(RecvTimeoutError::Disconnected) => return Sent::Ended(Err(gone())),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = thread.beats.steps();
            if shutdown::stop_signal().is_some() {
                self.ending.store(true, Ordering::Relaxed);
                break;
            }
            if now == beats {
                break;
            }
            beats = now;
        }
        let begun = stage.swap(stage::GIVEN_UP, Ordering::AcqRel) == stage::BEGUN;
        self.threads().abandon(thread, netns.filter(|_| begun));
        let why = format!("a visit to it did nothing for {:?}", self.patience);
        Sent::Ended(Err(match netns {
            Some(netns) => timed_out(netns, &why),
            None => io::Error::new(
                io::ErrorKind::TimedOut,
                "the thread that enters namespaces does not answer",
            ),
        }))
    }
}

/// Waits for a result for `patience`, or for at most [`WHEN_ENDING`] once a signal asked the program to stop. A heartbeat
/// of the worker is one of the calling thread, too.
fn receive<T>(
    wait: &mpsc::Receiver<T>,
    patience: Duration,
    beats: &Beats,
) -> Result<T, RecvTimeoutError> {
    let until = Instant::now() + patience;
    let mut last = beats.steps();
    loop {
        let now = beats.steps();
        if std::mem::replace(&mut last, now) != now {
            beat::beat();
        }
        let ending = shutdown::stop_signal().is_some();
        let left = until.saturating_duration_since(Instant::now());
        match wait.recv_timeout(left.min(if ending { WHEN_ENDING } else { POLL_INTERVAL })) {
            Err(RecvTimeoutError::Timeout) if !ending && Instant::now() < until => {}
            other => return other,
        }
    }
}

impl Threads {
    fn is_stuck_in(&self, inum: u32) -> bool {
        self.stuck.iter().any(|(_, netns)| netns.as_ref().is_some_and(|it| it.inum == inum))
    }

    /// Marks a thread as stuck in this namespace; `None`: in its own.
    fn abandon(&mut self, thread: &Thread, netns: Option<&Netns>) {
        if let Some(place) = self.ready.iter().position(|one| one.is(thread)) {
            let thread = self.ready.remove(place);
            self.stuck.push((thread, netns.cloned()));
        } else if let Some(stuck) = self.stuck.iter_mut().find(|(one, _)| one.is(thread)) {
            // A job that waited behind the stuck one was given up first, and had not entered its namespace.
            stuck.1 = stuck.1.take().or_else(|| netns.cloned());
        }
    }

    /// Takes back threads whose jobs have ended after all.
    fn recover(&mut self) {
        let is_free = |thread: &Thread| thread.pending.load(Ordering::Acquire) == 0;
        let back = self.stuck.extract_if(.., |(thread, _)| is_free(thread));
        self.ready.extend(back.map(|(thread, _)| thread));
    }
}

impl Thread {
    fn spawn() -> io::Result<Self> {
        let own = OwnNetns::open()?;
        let (jobs, queue) = mpsc::channel::<Job>();
        let thread = Self { jobs, beats: Beats::default(), pending: Arc::default() };
        let (beats, pending) = (thread.beats.clone(), Arc::clone(&thread.pending));
        thread::Builder::new().name("netns".into()).spawn(move || {
            beat::count_in(beats);
            for job in queue {
                beat::beat();
                let left = job(&own);
                beat::beat();
                pending.fetch_sub(1, Ordering::AcqRel);
                if matches!(left, Left::InOther) {
                    return;
                }
            }
        })?;
        Ok(thread)
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.pending, &other.pending)
    }
}

fn timed_out(netns: &Netns, why: &str) -> io::Error {
    let message = format!("network namespace {netns} is left out: {why}");
    io::Error::new(io::ErrorKind::TimedOut, message)
}

fn gone() -> io::Error {
    io::Error::new(
        io::ErrorKind::BrokenPipe,
        "all threads that enter namespaces have ended or are stuck",
    )
}

#[cfg(test)]
impl Worker {
    pub(super) fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }
}
