//! Reads another process: its files, as its own root folder shows them, its command line, its program, when it began, and its
//! parent.
//!
//! The process decides what its paths lead to. So a path is resolved inside of its root folder (openat2(2), RESOLVE_IN_ROOT), it
//! is examined without opening the file (O_PATH), and only a regular file is opened then, through the descriptor that was
//! examined.

mod open;
mod scan;
mod stat;

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    time::SystemTime,
};

use rustix::{
    fd::{AsFd as _, BorrowedFd, OwnedFd},
    fs::{CWD, Dir, Mode, OFlags, openat},
};

pub use scan::{Wanted, find};
pub use stat::{began, parent_of};

use super::files::{Contents, Files};

/// How many bytes of a command line are read.
const COMMAND_LINE: usize = 64 << 10;
/// How many bytes of /proc/PID/stat are read.
const STAT: usize = 4 << 10;

/// A process and its root folder.
#[derive(Debug)]
pub struct Inside {
    /// Its folder in /proc: it stays that of this process. Once that has ended, nothing is found in it, even if another process
    /// has the same id then.
    of_proc: OwnedFd,
    root: OwnedFd,
}

impl Inside {
    /// Opens the root folder of a process.
    ///
    /// # Errors
    /// There is no such process, or its root folder cannot be opened: of other users' processes, that needs CAP_SYS_PTRACE.
    pub fn of(pid: u32) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let of_proc = openat(CWD, format!("/proc/{pid}"), flags, Mode::empty())?;
        let root = openat(&of_proc, "root", flags, Mode::empty())?;
        Ok(Self { of_proc, root })
    }

    /// Its root folder, as an O_PATH descriptor: other files can be opened from it, but it cannot be listed.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// When the process began, by the wall clock, to 10 ms.
    ///
    /// # Errors
    /// It has ended, or is hidden.
    pub fn began(&self) -> io::Result<SystemTime> {
        stat::began_of(&self.read("stat", STAT)?)
    }

    /// The id of its parent, which started it or took it over when that ended; 0: it has none.
    ///
    /// # Errors
    /// It has ended, or is hidden.
    pub fn parent(&self) -> io::Result<u32> {
        parent_of(&self.read("stat", STAT)?)
    }

    /// Its command line, as it is in its memory: words with a NUL after each, or a text that the process has written there. The
    /// first 64 KiB at most. Empty: it is a kernel thread or a zombie.
    ///
    /// # Errors
    /// It has ended, or cannot be read.
    pub fn command_line(&self) -> io::Result<Vec<u8>> {
        self.read("cmdline", COMMAND_LINE)
    }

    /// The file of its program (/proc/PID/exe), open for reading.
    ///
    /// # Errors
    /// It has ended, or the program cannot be opened.
    pub fn program(&self) -> io::Result<File> {
        let end = openat(&self.of_proc, "exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        open::regular(end)
    }

    /// The first `most` bytes of a file in its folder of /proc.
    fn read(&self, name: &str, most: usize) -> io::Result<Vec<u8>> {
        let file = openat(&self.of_proc, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        up_to(&mut File::from(file), most)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        open::regular(open::inside(&self.root, path, OFlags::empty())?)
    }
}

/// Reads until the end, or this many bytes.
fn up_to(file: &mut File, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(u64::try_from(most).unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a part of a file: no more bytes than it had when it was opened, so that one that grows ends.
fn part(mut file: File, most: usize, from_end: bool) -> io::Result<Contents> {
    let metadata = file.metadata()?;
    let size = metadata.len();
    let most = size.min(u64::try_from(most).unwrap_or(u64::MAX));
    if from_end {
        file.seek(SeekFrom::Start(size - most))?;
    }
    let bytes = up_to(&mut file, usize::try_from(most).unwrap_or(usize::MAX))?;
    Ok(Contents { bytes, whole: most == size, modified: metadata.modified()? })
}

impl Files for Inside {
    fn head(&self, path: &Path, most: usize) -> io::Result<Contents> {
        part(self.open(path)?, most, false)
    }

    fn tail(&self, path: &Path, most: usize) -> io::Result<Contents> {
        part(self.open(path)?, most, true)
    }

    fn names(&self, folder: &Path, most: usize) -> io::Result<(Vec<String>, bool)> {
        let end = open::inside(&self.root, folder, OFlags::DIRECTORY)?;
        let folder = open::folder(&end)?;
        let mut names = Vec::new();
        let mut more = false;
        for entry in Dir::read_from(&folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name == "." || name == ".." {
                continue;
            }
            if names.len() == most {
                more = true;
                break;
            }
            names.push(name);
        }
        names.sort_unstable();
        Ok((names, more))
    }
}

#[cfg(test)]
mod tests;
