//! Enters a network namespace with the calling thread, and returns to the thread's own.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::super::{Netns, inum, path};

/// In which namespace a job left its thread.
pub(super) enum Left {
    InOwn,
    InOther,
}

/// The threads' own namespace. Keeping it open costs nothing: it exists anyway as long as the process, which is in it.
pub(super) struct OwnNetns {
    file: File,
    inum: u32,
}

impl OwnNetns {
    /// Opens the namespace of the calling thread.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub(super) fn open() -> io::Result<Self> {
        let file = File::open("/proc/thread-self/ns/net")?;
        Ok(Self { inum: inum(&file.metadata()?)?, file })
    }

    /// Whether a thread that has left it can return. In a user namespace, a thread has CAP_SYS_ADMIN in the network namespaces
    /// that belong to it, which its own one may not be one of.
    pub(super) fn can_be_entered(&self) -> bool {
        set(&self.file).is_ok()
    }

    /// Runs `visit` in a namespace, and returns from there. The error of entering or of returning takes the place of the
    /// result of `visit`.
    pub(super) fn visit<T>(
        &self,
        netns: &Netns,
        visit: impl FnOnce() -> io::Result<T>,
    ) -> (io::Result<T>, Left) {
        if netns.inum == self.inum {
            return (catch(visit), Left::InOwn);
        }
        if let Err(error) = enter(netns) {
            return (Err(error), Left::InOwn);
        }
        let result = catch(visit);
        match set(&self.file) {
            Ok(()) => (result, Left::InOwn),
            Err(error) => (Err(explain(error, netns, "cannot return from")), Left::InOther),
        }
    }
}

/// Enters a namespace through the first path that leads to it. If none does, the error of a path that exists is
/// returned rather than that of one that is gone.
fn enter(netns: &Netns) -> io::Result<()> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "no path leads to it");
    for path in &netns.paths {
        let entered = open(path, netns.inum).and_then(set);
        let Err(error) = entered else { return Ok(()) };
        if failed.kind() == io::ErrorKind::NotFound {
            failed = error;
        }
    }
    Err(explain(failed, netns, "cannot enter"))
}

fn open(path: &Path, inum: u32) -> io::Result<OwnedFd> {
    let found = path::open(path)?.filter(|found| found.inum == inum);
    let gone = || io::Error::new(io::ErrorKind::NotFound, "it is gone");
    Ok(found.ok_or_else(gone)?.fd)
}

fn set(file: impl AsFd) -> io::Result<()> {
    Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
}

fn explain(error: io::Error, netns: &Netns, doing: &str) -> io::Error {
    let message = format!("{doing} network namespace {netns}: {error}");
    // ESRCH: the process ended between opening and reading its folder.
    let is_gone = error.raw_os_error() == Some(libc::ESRCH);
    let kind = if is_gone { io::ErrorKind::NotFound } else { error.kind() };
    io::Error::new(kind, message)
}

/// Runs a job; a panic becomes an error, and does not leave the thread in another namespace.
pub(super) fn catch<T>(job: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(job))
        .unwrap_or_else(|_| Err(io::Error::other("a panic in a thread that enters namespaces")))
}
