//! Lists what all processes have open, by an iterator over open files (`bpf_iter_task_file`, Linux 5.8).

mod program;

use std::{
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixDatagram,
    },
    process,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rustix::{
    fs::fstat,
    process::{Resource, Rlimit, setrlimit},
};

use super::{
    btf::{Btf, BtfError},
    sys,
};
use crate::host::{
    limited::within_thread,
    process::{FileKind, ListsFiles, OpenFile},
};
use program::{NAMESPACE, Offsets, RECORD, SOCKET, program};

/// The function by which the kernel describes the iterator.
const ITERATOR: &str = "bpf_iter_task_file";
/// Name of the thread that reads a list: it has the rights of those that enter namespaces, which ask for most lists.
const THREAD: &str = "netns";
/// How much is read at once; the kernel gives 32 KiB at most (kernel/bpf/bpf_iter.c, `bpf_seq_read`).
const AT_ONCE: usize = 32 * 1024;
/// A longer list is not kept: each file takes 16 bytes.
const MOST: usize = 2_000_000;
/// For how long no list is asked for after one that failed or came late.
const REST: Duration = Duration::from_mins(1);

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// BTF cannot be read, or lacks a field.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// The kernel has no such iterator.
    #[error("the kernel does not list open files (CONFIG_BPF_SYSCALL and Linux 5.8)")]
    NoIterator,
    /// No socket can be made, by which the list is checked.
    #[error("cannot make a socket: {0}")]
    NoSocket(#[source] io::Error),
    /// The kernel refuses the program, or this thread may not load it.
    #[error("the kernel refuses the program that lists open files: {0}")]
    Refused(#[source] io::Error),
}

/// [`OpenFiles::load`], to share between threads; `None`: it fails, so that /proc has to be read, which takes longer.
pub fn shared(btf: &Btf) -> Option<Arc<dyn ListsFiles>> {
    match OpenFiles::load(btf) {
        Ok(files) => {
            tracing::debug!("open files are listed by the kernel");
            Some(Arc::new(files))
        }
        Err(error) => {
            tracing::debug!("open files are read from /proc: {error}");
            None
        }
    }
}

/// The kernel's list of open files. The kernel keeps the program until this is dropped.
#[derive(Debug)]
pub struct OpenFiles {
    link: OwnedFd,
    own: Own,
    /// Whether a thread makes a list. It can take longer than anybody waits for it.
    is_listing: Arc<AtomicBool>,
    /// Until when /proc is read, because the newest list failed or came late.
    rests_until: Mutex<Option<Instant>>,
}

/// Calls again without a limit of locked memory if a call is refused: up to Linux 5.10, programs count against RLIMIT_MEMLOCK, together
/// with the tables of all other tracers of the user. (aya does the same.)
pub(super) fn unlimited<T>(call: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match call() {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            let limit = Rlimit { current: None, maximum: None };
            setrlimit(Resource::Memlock, limit).map_err(|_| error)?;
            call()
        }
        result => result,
    }
}

/// A socket of this process, as a list must have it.
#[derive(Debug)]
struct Own {
    file: OpenFile,
    /// Keeps it open.
    _socket: UnixDatagram,
}

impl Own {
    fn open() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        let inode = fstat(&socket)?.st_ino;
        let file = OpenFile {
            pid: process::id(),
            fd: socket.as_raw_fd().cast_unsigned(),
            inode: u32::try_from(inode).map_err(io::Error::other)?,
            kind: FileKind::Socket,
        };
        Ok(Self { file, _socket: socket })
    }
}

impl OpenFiles {
    /// Loads the program. `btf`: the kernel's. Takes CAP_BPF and CAP_PERFMON; to list the files later takes none from Linux 5.19
    /// on, and CAP_BPF or CAP_SYS_ADMIN before.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn load(btf: &Btf) -> Result<Self, Error> {
        let function = btf.function_id(ITERATOR).ok_or(Error::NoIterator)?;
        let program = program(Offsets::find(btf)?);
        let own = Own::open().map_err(Error::NoSocket)?;
        let link = unlimited(|| sys::link_iterator(&program, function)).map_err(Error::Refused)?;
        Ok(Self { link, own, is_listing: Arc::default(), rests_until: Mutex::default() })
    }

    /// Whether /proc is to be read: a list failed or came late, or one that came late is still being made.
    fn rests(&self) -> bool {
        let until = *self.rests_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until) || self.is_listing.load(Relaxed)
    }

    fn rest(&self) {
        let mut until = self.rests_until.lock().unwrap_or_else(PoisonError::into_inner);
        *until = Instant::now().checked_add(REST);
    }

    /// The whole list; `None`: it does not come before `until`.
    fn whole(&self, until: Instant) -> io::Result<Option<Vec<OpenFile>>> {
        let output = sys::open_iterator(self.link.as_fd())?;
        let listing = Listing::begin(&self.is_listing);
        let left = until.saturating_duration_since(Instant::now());
        // One read can take long: the kernel looks at each place for a descriptor of each process before it looks at the time, and
        // others decide how many there are.
        let read = move || {
            let _listing = listing;
            read(output, until)
        };
        let read = within_thread(THREAD, left, read);
        let Some(files) = read.transpose()?.flatten() else { return Ok(None) };
        if files.contains(&self.own.file) {
            return Ok(Some(files));
        }
        // In a process namespace of its own, for example, the kernel's ids are not those of /proc.
        Err(io::Error::other("the kernel's list does not have this process as /proc shows it"))
    }
}

/// Says, until it is dropped, that a list is being made.
struct Listing(Arc<AtomicBool>);

impl Listing {
    fn begin(is_listing: &Arc<AtomicBool>) -> Self {
        is_listing.store(true, Relaxed);
        Self(Arc::clone(is_listing))
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.0.store(false, Relaxed);
    }
}

/// Reads what the program writes. `None`: it does not end before `until`, or has more than [`MOST`] files.
fn read(mut output: File, until: Instant) -> io::Result<Option<Vec<OpenFile>>> {
    let mut files = Vec::new();
    let mut buffer = vec![0; AT_ONCE];
    let mut part = 0;
    while Instant::now() < until && files.len() < MOST {
        let Some(rest) = buffer.get_mut(part..) else { return Ok(None) };
        let length = match output.read(rest) {
            Ok(0) => return Ok(Some(files)),
            Ok(length) => part + length,
            // A million files were none of those that the program writes.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let whole = length - length % RECORD;
        let records = buffer.get(..whole).unwrap_or_default().chunks_exact(RECORD);
        files.extend(records.filter_map(parse));
        buffer.copy_within(whole..length, 0);
        part = length - whole;
    }
    Ok(None)
}

impl ListsFiles for OpenFiles {
    fn list(&self, until: Instant) -> io::Result<Option<Vec<OpenFile>>> {
        if self.rests() {
            return Ok(None);
        }
        let list = self.whole(until);
        match &list {
            Ok(Some(files)) => {
                tracing::debug!("{} open sockets and namespaces are listed", files.len());
            }
            Ok(None) => {
                tracing::debug!("the list of open files is late");
                self.rest();
            }
            Err(error) => {
                tracing::debug!("cannot list open files: {error}");
                self.rest();
            }
        }
        list
    }
}

/// One record of the program; `None`: it is none.
fn parse(record: &[u8]) -> Option<OpenFile> {
    let number = |index: usize| {
        let bytes = record.get(index * 4..)?.first_chunk::<4>()?;
        Some(u32::from_ne_bytes(*bytes))
    };
    let kind = match number(3)? {
        SOCKET => FileKind::Socket,
        NAMESPACE => FileKind::Namespace,
        _ => return None,
    };
    Some(OpenFile { pid: number(0)?, fd: number(1)?, inode: number(2)?, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_four_numbers() {
        let record = |numbers: [u32; 4]| numbers.map(u32::to_ne_bytes).concat();
        let file = OpenFile { pid: 7, fd: 3, inode: 99, kind: FileKind::Namespace };
        assert_eq!(parse(&record([7, 3, 99, 2])), Some(file));
        assert_eq!(parse(&record([7, 3, 99, 1])).map(|it| it.kind), Some(FileKind::Socket));
        assert_eq!(parse(&record([7, 3, 99, 3])), None);
        assert_eq!(parse(&[0; 15]), None);
    }
}
