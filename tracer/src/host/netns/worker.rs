//! The threads that visit other network namespaces.
//!
//! setns(2) moves one thread, and capabilities belong to a thread too. So these threads keep the
//! privileges when the rest of the process gives them up, and do what has to be done inside
//! other namespaces.
//!
//! One of them works. The others stand by: a visit that does not end (a kernel that waits for something, a bug)
//! costs that namespace, not the tracer.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Discovery, Netns, discover, inum, way};
use crate::runtime::{
    beat::{self, Beats},
    shutdown,
};

/// Threads that can be stuck at once before nothing is visited any more, and one.
const THREADS: usize = 3;
/// How long a visit may go on without a sign of life.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same once a signal asked the program to end, and how often that is looked at.
const WHEN_ENDING: Duration = Duration::from_millis(300);
const LOOK: Duration = Duration::from_millis(50);

type Job = Box<dyn FnOnce(&Home) -> Stay + Send>;

/// Whether the thread is still where it belongs.
enum Stay {
    Home,
    Lost,
}

/// The threads' own namespace, which lives as long as the process anyway.
struct Home {
    file: File,
    inum: u32,
}

/// One of the threads; it ends when this is dropped, but for a visit that never does.
#[derive(Clone)]
struct Thread {
    jobs: mpsc::Sender<Job>,
    /// Counts its steps.
    beats: Beats,
    /// Jobs that were sent to it and are not done.
    pending: Arc<AtomicUsize>,
}

/// A handle to the threads.
pub struct Worker {
    threads: Mutex<Threads>,
    patience: Duration,
    /// A visit was given up because the program is to end: there is no time for another one.
    ending: AtomicBool,
}

struct Threads {
    /// The first one works.
    ready: Vec<Thread>,
    /// Those that nobody waits for any more, and what they were sent to visit.
    stuck: Vec<(Thread, Option<Netns>)>,
}

/// What has become of a job: one of these.
mod stage {
    pub(super) const WAITS: u8 = 0;
    pub(super) const BEGUN: u8 = 1;
    /// Nobody wants it any more.
    pub(super) const GIVEN_UP: u8 = 2;
}

impl Worker {
    /// Starts the threads, with the capabilities that the calling thread has now.
    pub fn spawn() -> io::Result<Self> {
        let ready = (0..THREADS).map(|_| Thread::spawn()).collect::<io::Result<_>>()?;
        Ok(Self {
            threads: Mutex::new(Threads { ready, stuck: Vec::new() }),
            patience: PATIENCE,
            ending: AtomicBool::new(false),
        })
    }

    /// Runs `visit` inside the namespace and waits for it, as long as it gives signs of life
    /// (`crate::runtime::beat`) every two seconds. Whatever `visit` opens there must be closed when it returns, or it
    /// keeps the namespace alive.
    ///
    /// Errors are of kind `NotFound` if the namespace has vanished (or everything that its ways
    /// go through: [`Worker::discover`] may find others), `PermissionDenied` if it cannot be
    /// entered, `TimedOut` if this visit or an earlier one to the same namespace does not end,
    /// `BrokenPipe` if no thread is left.
    pub fn run_in<T: Send + 'static>(
        &self,
        netns: &Netns,
        visit: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let to = netns.clone();
        self.ask(Some(netns), move |home| home.visit(&to, visit))
    }

    /// [`discover()`] with the privileges of these threads.
    pub fn discover(&self) -> io::Result<Discovery> {
        self.run(discover)?
    }

    /// Runs `job` on a thread, in its own namespace, for its privileges.
    pub fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        self.ask(None, move |_| (catch(job), Stay::Home))
    }

    /// Runs `job` on every thread, those that stand by too: for what belongs to threads.
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
            self.ask_thread(&thread, None, move |_| (catch(job), Stay::Home))
                .unwrap_or_else(|_| Err(gone()))??;
        }
        Ok(())
    }

    /// Namespaces that a visit has not come back from.
    pub fn stuck(&self) -> Vec<Netns> {
        let mut threads = self.threads();
        threads.recover();
        threads.stuck.iter().filter_map(|(_, netns)| netns.clone()).collect()
    }

    fn threads(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask<T: Send + 'static>(
        &self,
        netns: Option<&Netns>,
        job: impl FnOnce(&Home) -> (io::Result<T>, Stay) + Send + 'static,
    ) -> io::Result<T> {
        let mut job = job;
        loop {
            beat::beat();
            if self.ending.load(Ordering::Relaxed) {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the program is to end"));
            }
            let thread = {
                let mut threads = self.threads();
                threads.recover();
                if let Some(netns) = netns.filter(|netns| threads.is_stuck_in(netns.inum)) {
                    return Err(timed_out(netns, "an earlier look into it has not ended"));
                }
                threads.ready.first().cloned().ok_or_else(gone)?
            };
            match self.ask_thread(&thread, netns, job) {
                Ok(result) => return result,
                // It has ended before it took the job.
                Err(back) => {
                    self.threads().ready.retain(|one| !one.is(&thread));
                    job = back;
                }
            }
        }
    }

    /// `Err`: the thread has ended, and this is the job again.
    fn ask_thread<T, J>(
        &self,
        thread: &Thread,
        netns: Option<&Netns>,
        job: J,
    ) -> Result<io::Result<T>, J>
    where
        T: Send + 'static,
        J: FnOnce(&Home) -> (io::Result<T>, Stay) + Send + 'static,
    {
        let (answer, wait) = mpsc::sync_channel(1);
        let stage = Arc::new(AtomicU8::new(stage::WAITS));
        // In a place of its own, for it to be taken back.
        let job = Arc::new(Mutex::new(Some(job)));
        let boxed: Job = Box::new({
            let (stage, job) = (Arc::clone(&stage), Arc::clone(&job));
            move |home| {
                let begins = stage.compare_exchange(
                    stage::WAITS,
                    stage::BEGUN,
                    Ordering::AcqRel,
                    Ordering::Acquire,
                );
                let job = job.lock().unwrap_or_else(PoisonError::into_inner).take();
                let Some(job) = job.filter(|_| begins.is_ok()) else { return Stay::Home };
                let (result, stay) = job(home);
                // Nobody may be waiting any more.
                drop(answer.send(result));
                stay
            }
        });
        let mut beats = thread.beats.steps();
        // Before it has taken the job, too, a thread that stands still is not one that has come home.
        thread.pending.fetch_add(1, Ordering::AcqRel);
        if thread.jobs.send(boxed).is_err() {
            let job = job.lock().unwrap_or_else(PoisonError::into_inner).take();
            return job.map_or_else(|| Ok(Err(gone())), Err);
        }
        loop {
            match receive(&wait, self.patience, &thread.beats) {
                Ok(result) => return Ok(result),
                Err(RecvTimeoutError::Disconnected) => return Ok(Err(gone())),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = thread.beats.steps();
            if shutdown::asked().is_some() {
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
        let why = format!("a look into it gave no sign of life for {:?}", self.patience);
        Ok(Err(match netns {
            Some(netns) => timed_out(netns, &why),
            None => io::Error::new(io::ErrorKind::TimedOut, "the namespace thread does not answer"),
        }))
    }
}

/// Waits for an answer, for so long; for a moment only once a signal asked the program to end. The
/// worker's steps count as steps of the calling thread, too.
fn receive<T>(
    wait: &mpsc::Receiver<T>,
    patience: Duration,
    beats: &Beats,
) -> Result<T, RecvTimeoutError> {
    let until = Instant::now() + patience;
    let mut heard = beats.steps();
    loop {
        let now = beats.steps();
        if std::mem::replace(&mut heard, now) != now {
            beat::beat();
        }
        let ending = shutdown::asked().is_some();
        let left = until.saturating_duration_since(Instant::now());
        match wait.recv_timeout(left.min(if ending { WHEN_ENDING } else { LOOK })) {
            Err(RecvTimeoutError::Timeout) if !ending && Instant::now() < until => {}
            other => return other,
        }
    }
}

impl Threads {
    fn is_stuck_in(&self, inum: u32) -> bool {
        self.stuck.iter().any(|(_, netns)| netns.as_ref().is_some_and(|it| it.inum == inum))
    }

    fn abandon(&mut self, thread: &Thread, netns: Option<&Netns>) {
        if let Some(place) = self.ready.iter().position(|one| one.is(thread)) {
            let thread = self.ready.remove(place);
            self.stuck.push((thread, netns.cloned()));
        } else if let Some(stuck) = self.stuck.iter_mut().find(|(one, _)| one.is(thread)) {
            // Whoever waited in the queue behind has given up first.
            stuck.1 = stuck.1.take().or_else(|| netns.cloned());
        }
    }

    /// Takes those back that have come home after all.
    fn recover(&mut self) {
        let home = |thread: &Thread| thread.pending.load(Ordering::Acquire) == 0;
        let back = self.stuck.extract_if(.., |(thread, _)| home(thread));
        self.ready.extend(back.map(|(thread, _)| thread));
    }
}

impl Thread {
    fn spawn() -> io::Result<Self> {
        let file = File::open("/proc/thread-self/ns/net")?;
        let home = Home { inum: inum(&file.metadata()?)?, file };
        let (jobs, queue) = mpsc::channel::<Job>();
        let thread = Self { jobs, beats: Beats::default(), pending: Arc::default() };
        let (beats, pending) = (thread.beats.clone(), Arc::clone(&thread.pending));
        thread::Builder::new().name("netns".into()).spawn(move || {
            beat::speak_through(beats);
            for job in queue {
                beat::beat();
                let stay = job(&home);
                beat::beat();
                pending.fetch_sub(1, Ordering::AcqRel);
                if matches!(stay, Stay::Lost) {
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

impl Home {
    fn visit<T>(&self, netns: &Netns, visit: impl FnOnce() -> T) -> (io::Result<T>, Stay) {
        if netns.inum == self.inum {
            return (catch(visit), Stay::Home);
        }
        if let Err(error) = enter(netns) {
            return (Err(error), Stay::Home);
        }
        let result = catch(visit);
        match set(&self.file) {
            Ok(()) => (result, Stay::Home),
            Err(error) => (Err(explain(error, netns, "cannot come back from")), Stay::Lost),
        }
    }
}

/// By the first way that leads there. The error is of a way that could not be gone rather than of
/// one that has vanished.
fn enter(netns: &Netns) -> io::Result<()> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "no way leads to it");
    for path in &netns.ways {
        let entered = open(path, netns.inum).and_then(set);
        let Err(error) = entered else { return Ok(()) };
        if failed.kind() == io::ErrorKind::NotFound {
            failed = error;
        }
    }
    Err(explain(failed, netns, "cannot enter"))
}

fn open(path: &Path, inum: u32) -> io::Result<OwnedFd> {
    let place = way::look(path)?.filter(|place| place.inum == inum);
    let gone = || io::Error::new(io::ErrorKind::NotFound, "it has vanished");
    Ok(place.ok_or_else(gone)?.fd)
}

fn set(file: impl AsFd) -> io::Result<()> {
    Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
}

fn explain(error: io::Error, netns: &Netns, doing: &str) -> io::Error {
    let message = format!("{doing} network namespace {netns}: {error}");
    // ESRCH: the process went between opening and reading its folder.
    let vanished = error.raw_os_error() == Some(libc::ESRCH);
    let kind = if vanished { io::ErrorKind::NotFound } else { error.kind() };
    io::Error::new(kind, message)
}

fn timed_out(netns: &Netns, why: &str) -> io::Error {
    let message = format!("network namespace {netns} is left out: {why}");
    io::Error::new(io::ErrorKind::TimedOut, message)
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the namespace threads have ended, or are all stuck")
}

/// A panic must not leave the thread in a foreign namespace.
fn catch<T>(job: impl FnOnce() -> T) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(job))
        .map_err(|_| io::Error::other("a panic on the namespace thread"))
}

#[cfg(test)]
impl Worker {
    pub(super) fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }
}
