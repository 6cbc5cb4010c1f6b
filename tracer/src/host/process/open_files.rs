//! What all processes have open, as the kernel lists it at once: a hundred times faster than a link in /proc for each file.

use std::{fmt::Debug, io, ops::ControlFlow, time::Instant};

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
    /// Passes on the sockets and namespaces that the processes of this host have open, by process id, the lowest first; each
    /// process's by descriptor. Ends early if `each` breaks. Returns false if not all could be listed before `until`.
    ///
    /// # Errors
    /// This thread may not list them.
    fn list(
        &self,
        until: Instant,
        each: &mut dyn FnMut(OpenFile) -> ControlFlow<()>,
    ) -> io::Result<bool>;
}

/// A list that was made up.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct TestFiles {
    pub(crate) files: Vec<OpenFile>,
    /// Whether the time is up before the end.
    pub(crate) late: bool,
}

#[cfg(test)]
impl ListsFiles for TestFiles {
    fn list(
        &self,
        _: Instant,
        each: &mut dyn FnMut(OpenFile) -> ControlFlow<()>,
    ) -> io::Result<bool> {
        let ended = self.files.iter().try_for_each(|file| each(*file)).is_break();
        Ok(ended || !self.late)
    }
}
