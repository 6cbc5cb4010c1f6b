//! The thread that visits other network namespaces.
//!
//! setns(2) moves one thread, and capabilities belong to a thread too. So one thread keeps the
//! privileges when the rest of the process gives them up, and does what has to be done inside
//! other namespaces.

use std::{
    fs::File,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc,
    thread,
};

use rustix::{
    fd::AsFd,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::{Netns, discover, inum};

type Job = Box<dyn FnOnce(&Home) -> Stay + Send>;

/// Whether the thread is still where it belongs.
enum Stay {
    Home,
    Lost,
}

/// The thread's own namespace, which lives as long as the process anyway.
struct Home {
    file: File,
    inum: u32,
}

/// A handle to the thread; it ends when the handle is dropped.
pub struct Worker {
    jobs: mpsc::Sender<Job>,
}

impl Worker {
    /// Starts the thread, with the capabilities that the calling thread has now.
    pub fn spawn() -> io::Result<Self> {
        let file = File::open("/proc/thread-self/ns/net")?;
        let home = Home { inum: inum(&file.metadata()?)?, file };
        let (jobs, queue) = mpsc::channel::<Job>();
        thread::Builder::new().name("netns".into()).spawn(move || {
            for job in queue {
                if matches!(job(&home), Stay::Lost) {
                    return;
                }
            }
        })?;
        Ok(Self { jobs })
    }

    /// Runs `visit` inside the namespace and waits for it. Whatever `visit` opens there must be
    /// closed when it returns, or it keeps the namespace alive.
    ///
    /// Errors are of kind `NotFound` if the namespace has vanished (or the process that its path
    /// goes through: [`Worker::discover`] may find it again), `PermissionDenied` if it cannot be
    /// entered, `BrokenPipe` if the thread could not come back from an earlier visit.
    pub fn run_in<T: Send + 'static>(
        &self,
        netns: &Netns,
        visit: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let netns = netns.clone();
        self.ask(move |home| home.visit(&netns, visit))
    }

    /// [`discover`] with the privileges of this thread.
    pub fn discover(&self) -> io::Result<Vec<Netns>> {
        self.run(discover)?
    }

    /// Runs `job` on the thread, in its own namespace, for its privileges.
    pub fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        self.ask(move |_| (catch(job), Stay::Home))
    }

    fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Home) -> (io::Result<T>, Stay) + Send + 'static,
    ) -> io::Result<T> {
        let (answer, wait) = mpsc::sync_channel(1);
        let job: Job = Box::new(move |home| {
            let (result, stay) = job(home);
            // Nobody waits any more only if the asking thread has died.
            drop(answer.send(result));
            stay
        });
        let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the namespace thread has ended");
        self.jobs.send(job).map_err(|_| gone())?;
        wait.recv().map_err(|_| gone())?
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

fn enter(netns: &Netns) -> io::Result<()> {
    let file = File::open(&netns.path).map_err(|error| explain(error, netns, "cannot open"))?;
    if inum(&file.metadata()?)? != netns.inum {
        let gone = io::Error::new(io::ErrorKind::NotFound, "it has vanished");
        return Err(explain(gone, netns, "cannot enter"));
    }
    set(&file).map_err(|error| explain(error, netns, "cannot enter"))
}

fn set(file: &File) -> io::Result<()> {
    Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
}

fn explain(error: io::Error, netns: &Netns, doing: &str) -> io::Error {
    let Netns { inum, path, .. } = netns;
    let message = format!("{doing} network namespace {inum} ({}): {error}", path.display());
    // ESRCH: the process went between opening and reading its folder.
    let vanished = error.raw_os_error() == Some(libc::ESRCH);
    let kind = if vanished { io::ErrorKind::NotFound } else { error.kind() };
    io::Error::new(kind, message)
}

/// A panic must not leave the thread in a foreign namespace.
fn catch<T>(job: impl FnOnce() -> T) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(job))
        .map_err(|_| io::Error::other("a panic on the namespace thread"))
}
