//! Reads how many descriptors processes have open and how many they may have, and the same of the host's open files. Any user may
//! read this of any process, except where /proc hides processes, or where a kernel does not report the number (before Linux 6.2):
//! there, counting them needs the right to trace the process.

#[cfg(test)]
mod tests;

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, statat},
    io::{Errno, read, retry_on_intr},
};

use crate::host::{process::hides_processes, sysctl};

/// Longer than /proc/PID/limits is: 16 lines of less than 90 bytes.
const LIMITS: usize = 4096;
/// The most descriptors of a process that are counted one by one.
const MOST_COUNTED: u64 = 1_000_000;
/// How many processes [`all`] reads at most, and for how long.
const MOST_PROCESSES: usize = 100_000;
const TIME: Duration = Duration::from_secs(1);

/// The limit of a process's descriptors (RLIMIT_NOFILE). `u64::MAX`: unlimited.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limit {
    /// No call is given a descriptor from this number on.
    pub soft: u64,
    /// The value up to which the process may raise `soft` without a privilege.
    pub hard: u64,
}

/// The descriptors of a process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Descriptors {
    pub pid: u32,
    /// How many are open; at most 1,000,000 on kernels before Linux 6.2, where they are counted one by one.
    pub open: u64,
    pub limit: Limit,
}

/// The open files of the host: a descriptor, and its copies, are one file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HostFiles {
    /// How many are open.
    pub open: u64,
    /// How many may be (fs.file-max); `u64::MAX` or near it: unlimited.
    pub limit: u64,
}

/// The descriptors of many processes.
#[derive(Clone, Debug, Default)]
pub struct All {
    /// Those that could be read, in no order.
    pub processes: Vec<Descriptors>,
    /// Processes that could not be read, because this one lacks the right to.
    pub refused: u32,
    /// Whether some were not read for another reason: there are more than 100,000, it took longer than 1 s, or reading one
    /// failed.
    pub cut_short: bool,
    /// Whether /proc hides processes of other users from this one (hidepid): then some are missing.
    pub hidden: bool,
}

/// The descriptors of all processes of this process's process namespace, 100,000 of them at most, in 1 s at most. A process that
/// ends meanwhile is left out.
///
/// # Errors
/// /proc cannot be read, or has no descriptors even of this process.
pub fn all() -> io::Result<All> {
    let names = fs::read_dir("/proc")?.flatten().map(|entry| entry.file_name());
    of(names.filter_map(|name| name.to_str()?.parse().ok()), MOST_PROCESSES, TIME)
}

/// The descriptors of these processes, 100,000 of them at most, in 1 s at most. A process that does not exist is left out.
///
/// # Errors
/// /proc cannot be read, or has no descriptors even of this process.
pub fn of_processes(pids: &[u32]) -> io::Result<All> {
    of(pids.iter().copied(), MOST_PROCESSES, TIME)
}

fn of(pids: impl Iterator<Item = u32>, most: usize, time: Duration) -> io::Result<All> {
    let until = Instant::now() + time;
    let how = How::find_out()?;
    let mut all = All { hidden: is_hidden(), ..All::default() };
    for (number, pid) in pids.enumerate() {
        if number >= most || until <= Instant::now() {
            all.cut_short = true;
            break;
        }
        match read_process(pid, how, until) {
            Ok(Some(process)) => all.processes.push(process),
            Ok(None) => {}
            Err(Errno::ACCESS | Errno::PERM) => all.refused = all.refused.saturating_add(1),
            Err(_) => all.cut_short = true,
        }
    }
    Ok(all)
}

/// How the number of open descriptors is found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum How {
    /// It is the size of the folder /proc/PID/fd.
    BySize,
    /// They are counted, which needs the right to trace the process.
    OneByOne,
}

impl How {
    fn find_out() -> io::Result<Self> {
        // The folder is a descriptor itself, so that there is at least one.
        let own = open_folder(CWD, "/proc/self/fd")?;
        let size = statat(&own, ".", AtFlags::empty())?.st_size;
        Ok(if size > 0 { Self::BySize } else { Self::OneByOne })
    }
}

/// The descriptors of a process; `None`: it has ended, or is hidden.
fn read_process(pid: u32, how: How, until: Instant) -> Result<Option<Descriptors>, Errno> {
    match read_existing(pid, how, until) {
        Err(Errno::NOENT | Errno::SRCH) => Ok(None),
        found => found,
    }
}

fn read_existing(pid: u32, how: How, until: Instant) -> Result<Option<Descriptors>, Errno> {
    // All is read through one descriptor: another process that is given the same id is not read.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(CWD, format!("/proc/{pid}"), flags, Mode::empty())?;
    let open = match how {
        How::BySize => u64::try_from(statat(&folder, "fd", AtFlags::empty())?.st_size).unwrap_or(0),
        How::OneByOne => count(&folder, until)?,
    };
    Ok(limit_of(&folder)?.map(|limit| Descriptors { pid, open, limit }))
}

fn open_folder(at: impl AsFd, path: &str) -> Result<OwnedFd, Errno> {
    openat(at, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Counts the entries of a process's folder of descriptors. `TIMEDOUT`: it takes too long.
fn count(process: &OwnedFd, until: Instant) -> Result<u64, Errno> {
    let mut count = 0_u64;
    for (number, entry) in Dir::new(open_folder(process, "fd")?)?.enumerate() {
        if number % 1024 == 1023 && until <= Instant::now() {
            return Err(Errno::TIMEDOUT);
        }
        // The folder has two more entries, `.` and `..`.
        count += u64::from(!entry?.file_name().to_bytes().starts_with(b"."));
        if count >= MOST_COUNTED {
            break;
        }
    }
    Ok(count)
}

/// The limit of a process; `None`: the kernel's text has none.
fn limit_of(process: &OwnedFd) -> Result<Option<Limit>, Errno> {
    let file = openat(process, "limits", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = [0; LIMITS];
    let mut length = 0;
    while let Some(rest) = text.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match retry_on_intr(|| read(&file, &mut *rest))? {
            0 => break,
            more => length += more,
        }
    }
    Ok(parse_limit(&String::from_utf8_lossy(text.get(..length).unwrap_or_default())))
}

/// Parses the line `Max open files            1024                 524288               files`.
fn parse_limit(text: &str) -> Option<Limit> {
    let number = |word: &str| match word {
        "unlimited" => Some(u64::MAX),
        _ => word.parse().ok(),
    };
    let values = text.lines().find_map(|line| line.strip_prefix("Max open files "))?;
    let mut words = values.split_ascii_whitespace();
    Some(Limit { soft: number(words.next()?)?, hard: number(words.next()?)? })
}

impl HostFiles {
    /// Reads how many files the host has open.
    ///
    /// # Errors
    /// The file cannot be read or understood; the text names it.
    pub fn read() -> io::Result<Self> {
        const PATH: &str = "/proc/sys/fs/file-nr";
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("cannot read {PATH}: {error}"));
        let text = sysctl::read(PATH).map_err(named)?;
        Self::parse(&text).ok_or_else(|| named(io::ErrorKind::InvalidData.into()))
    }

    /// Parses `646\t0\t2466165`; the second number is always 0.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let open = words.next()?.parse().ok()?;
        Some(Self { open, limit: words.nth(1)?.parse().ok()? })
    }
}

/// Whether /proc hides processes, and this process may not see the first one, which belongs to another user.
fn is_hidden() -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    hides_processes(&mounts) && statat(CWD, "/proc/1/fd", AtFlags::empty()).is_err()
}
