//! What all processes have open, as the kernel lists it at once: in a tenth of the time that a link in /proc for each file takes.

use std::{fmt::Debug, io, time::Instant};

/// A socket or a namespace that a process has open.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OpenFile {
    /// The process, as /proc names it.
    pub pid: u32,
    /// Number of the descriptor. A thread can have descriptors of its own, which /proc/PID/fd does not show.
    pub fd: u32,
    /// Inode number, as the link in /proc/PID/fd shows it.
    pub inode: u32,
    /// What it is.
    pub kind: FileKind,
}

/// What a process has open.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FileKind {
    /// A socket of any family.
    Socket,
    /// A namespace of any type (fs/nsfs.c).
    Namespace,
}

/// The kernel's list of open files.
pub trait ListsFiles: Debug + Send + Sync {
    /// The sockets and namespaces that the processes of this host have open, by thread id, the lowest first, and by descriptor.
    /// `None`: they cannot be listed before `until`, or one of the lists of the last minute came late or failed; the time is then not
    /// used up.
    ///
    /// # Errors
    /// This thread may not list them, or the list is not one of the processes that /proc shows.
    fn list(&self, until: Instant) -> io::Result<Option<Vec<OpenFile>>>;
}

/// A list that was made up; without files, it is late.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct TestFiles(pub(crate) Vec<OpenFile>);

#[cfg(test)]
impl ListsFiles for TestFiles {
    fn list(&self, _: Instant) -> io::Result<Option<Vec<OpenFile>>> {
        Ok((!self.0.is_empty()).then(|| self.0.clone()))
    }
}
