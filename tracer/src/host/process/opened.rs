//! Reads one process that stays the same one: its folder in /proc is opened once, and everything is read through that. Once the
//! process has ended, nothing is found there, even if another process has the same id then.

use std::{
    fs::File,
    io::{self, Read as _},
    ops::ControlFlow,
    os::fd::OwnedFd,
    time::Instant,
};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstatfs, openat, statat};

use super::links;

/// `f_type` of statfs(2) for proc, from `include/uapi/linux/magic.h`.
const PROC: u32 = 0x9fa0;
/// The most bytes of /proc/PID/status that are read. It has some 2 KiB, and more with very many groups.
const STATUS: u64 = 1 << 20;

/// A process whose folder in /proc is open.
#[derive(Debug)]
pub struct Opened {
    /// Its id in this process's process namespace; another process can have it once this one has ended.
    pub pid: u32,
    folder: OwnedFd,
}

/// Why a process cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No process has this id here, or it has ended.
    #[error("there is no process {0}: it has ended, or its id here is another one")]
    NotFound(u32),
    /// The id is that of a thread, which is not the leader of `process`.
    #[error("{thread} is a thread of process {process}: give the id of the process")]
    Thread { thread: u32, process: u32 },
    /// Its folder or its status cannot be read: it is hidden, or /proc is not mounted.
    #[error("cannot look at process {pid}: {source}")]
    Unreadable { pid: u32, source: io::Error },
}

impl Opened {
    /// Opens the folder of a process, and checks after that what was opened: that it is in a /proc, and that of a process that
    /// has not ended, not of a thread.
    ///
    /// # Errors
    /// There is no such process, it is a thread, or it is hidden.
    pub fn open(pid: u32) -> Result<Self, OpenError> {
        let unreadable = |source| OpenError::Unreadable { pid, source };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(CWD, format!("/proc/{pid}"), flags, Mode::empty());
        let folder = folder.map_err(|errno| of_process(pid, errno.into()))?;
        let kind = fstatfs(&folder).map_err(|errno| unreadable(errno.into()))?.f_type;
        if u32::try_from(kind & 0xffff_ffff) != Ok(PROC) {
            return Err(unreadable(io::Error::other("/proc is not mounted")));
        }
        let opened = Self { pid, folder };
        let status = opened.status().map_err(|error| of_process(pid, error))?;
        match status {
            Status { ended: true, .. } => Err(OpenError::NotFound(pid)),
            Status { process, .. } if process != pid => {
                Err(OpenError::Thread { thread: pid, process })
            }
            Status { .. } => Ok(opened),
        }
    }

    /// Whether it has not ended; false also for a process that has ended and that its parent has not waited for (a zombie), which
    /// has no files any more, and if its status cannot be read.
    pub fn runs(&self) -> bool {
        self.status().is_ok_and(|status| !status.ended)
    }

    /// Inode number of its network namespace.
    ///
    /// # Errors
    /// It has ended, or is one of another user's and this thread lacks CAP_SYS_PTRACE.
    pub fn netns(&self) -> io::Result<u32> {
        let inode = statat(&self.folder, "ns/net", AtFlags::empty())?.st_ino;
        u32::try_from(inode).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// Calls `each` with the inode of each socket that it has open, once for each descriptor. Returns false if not all of its
    /// descriptors could be read before `until`.
    ///
    /// # Errors
    /// It has ended, or is one of another user's and this thread lacks CAP_SYS_PTRACE or CAP_DAC_READ_SEARCH.
    pub fn sockets(&self, until: Instant, mut each: impl FnMut(u32)) -> io::Result<bool> {
        let files = openat(&self.folder, "fd", links::FOLDER, Mode::empty())?;
        let late = links::each_in(&files, 0, |number, _, link| {
            if number % 256 == 0 && until < Instant::now() {
                return ControlFlow::Break(());
            }
            if let Some(inode) = links::socket_inode(link) {
                each(inode);
            }
            ControlFlow::Continue(())
        });
        Ok(late?.is_none())
    }

    fn status(&self) -> io::Result<Status> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = File::from(openat(&self.folder, "status", flags, Mode::empty())?);
        let mut text = Vec::new();
        file.take(STATUS).read_to_end(&mut text)?;
        parse(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// The error of a step of opening a process: one that ends meanwhile is not there.
fn of_process(pid: u32, source: io::Error) -> OpenError {
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ESRCH) => OpenError::NotFound(pid),
        _ => OpenError::Unreadable { pid, source },
    }
}

/// What /proc/PID/status says.
struct Status {
    /// Id of the process that it belongs to (`Tgid`).
    process: u32,
    /// Whether it has ended (state Z or X).
    ended: bool,
}

/// Reads the lines `State:` and `Tgid:`. `None`: one of them is missing. The name of the process, in the first line, has no
/// newline.
fn parse(text: &[u8]) -> Option<Status> {
    let field = |name: &[u8]| {
        let line = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(name))?;
        str::from_utf8(line).ok().map(str::trim)
    };
    let process = field(b"Tgid:")?.parse().ok()?;
    Some(Status { process, ended: field(b"State:")?.starts_with(['Z', 'X', 'x']) })
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        fs,
        net::TcpListener,
        os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
        process::{self, Command},
        time::Duration,
    };

    use super::*;

    #[test]
    fn a_process_has_its_namespace_and_its_sockets() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap().ino();
        let own = Opened::open(process::id()).unwrap();
        assert!(own.runs());
        let netns = fs::metadata("/proc/self/ns/net").unwrap().ino();
        assert_eq!(u64::from(own.netns().unwrap()), netns);
        let mut found = BTreeSet::new();
        let until = Instant::now() + Duration::from_mins(1);
        assert!(own.sockets(until, |inode| _ = found.insert(u64::from(inode))).unwrap());
        assert!(found.contains(&inode));
        let late = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        assert!(!own.sockets(late, |_| ()).unwrap());
    }

    #[test]
    fn a_process_that_has_ended_is_not_there_also_while_nobody_has_waited_for_it() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let opened = Opened::open(child.id()).unwrap();
        assert!(opened.runs());
        child.kill().unwrap();
        let gone = || matches!(Opened::open(child.id()), Err(OpenError::NotFound(_)));
        let begun = Instant::now();
        while !gone() && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(gone() && !opened.runs(), "a zombie");
        child.wait().unwrap();
        assert!(!opened.runs());
        assert!(opened.netns().is_err());
        assert!(opened.sockets(Instant::now(), |_| ()).is_err());
        let error = Opened::open(child.id()).unwrap_err().to_string();
        assert!(error.starts_with("there is no process "), "{error}");
    }

    #[test]
    fn a_thread_is_no_process() {
        std::thread::spawn(|| {
            let thread = u32::try_from(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            let error = Opened::open(thread).unwrap_err();
            let is_thread =
                matches!(error, OpenError::Thread { process, .. } if process == process::id());
            assert!(is_thread, "{error}");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_name_cannot_pretend_to_be_another_line() {
        let status = parse(b"Name:\ta\\nTgid:\t1\nState:\tS (sleeping)\nTgid:\t7\n").unwrap();
        assert_eq!((status.process, status.ended), (7, false));
        assert!(parse(b"State:\tZ (zombie)\nTgid:\t7\n").unwrap().ended);
        assert!(parse(b"Name:\ta\n").is_none());
    }
}
