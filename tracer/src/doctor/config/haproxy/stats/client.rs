//! Asks a HAProxy for its counters ([`ask`]), at a unix socket whose path another process chose.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags, openat2, statx},
    io::Errno,
    net::{
        AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send,
        socket_with,
    },
};

/// All that is ever sent: it changes nothing, and the lowest level of a socket may send it.
pub const COMMANDS: &[u8] = b"show stat;show info\n";

/// How long connecting, sending and reading take together at most.
const PATIENCE: Duration = Duration::from_millis(300);
/// The most bytes that are read of an answer; those after them are left.
const MOST_BYTES: usize = 4 << 20;

/// Sends [`COMMANDS`] to the unix socket at this path, and returns the answer: all of it, or the first 4 MiB; empty if the
/// connection was closed without one. `root`: the root folder of the process that named the path (/proc/PID/root of one that has
/// not changed it since), out of which no link leads.
///
/// # Errors
/// The path cannot be opened; it is no unix socket (`InvalidInput`); nothing listens there, or too many others wait; this process
/// may not use it; or the answer has not ended within 300 ms (`TimedOut`), however much of it came.
pub fn ask(root: impl AsFd, path: &Path) -> io::Result<Vec<u8>> {
    ask_within(root.as_fd(), path, PATIENCE)
}

fn ask_within(root: BorrowedFd<'_>, path: &Path, patience: Duration) -> io::Result<Vec<u8>> {
    let end = Instant::now() + patience;
    let stream = open(root, path)?;
    send_all(&stream, end)?;
    receive(&stream, end)
}

/// A connection to the socket at a path. Whoever controls the path can put anything there at any time, so it is opened once,
/// without use (O_PATH), and examined afterwards.
fn open(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let place = openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    // Without asking the file system, which need not answer.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(&place, "", flags, StatxFlags::TYPE)?;
    if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::Socket {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no socket"));
    }
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // A unix socket connects at once, or fails: with EAGAIN if too many others wait.
    connect(&stream, &SocketAddrUnix::new(format!("/proc/self/fd/{}", place.as_raw_fd()))?)?;
    Ok(stream)
}

fn send_all(stream: &OwnedFd, end: Instant) -> io::Result<()> {
    let mut rest = COMMANDS;
    while !rest.is_empty() {
        match send(stream, rest, SendFlags::NOSIGNAL) {
            Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
            Err(Errno::AGAIN) => wait(stream, PollFlags::OUT, end)?,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Reads until the other end closes the connection, which HAProxy does after one line of commands.
fn receive(stream: &OwnedFd, end: Instant) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    while answer.len() < MOST_BYTES {
        // Also where bytes keep coming, one at a time.
        wait(stream, PollFlags::IN, end)?;
        match rustix::io::read(stream, &mut buffer[..]) {
            Ok(0) => return Ok(answer),
            Ok(read) => answer.extend_from_slice(buffer.get(..read).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    answer.truncate(MOST_BYTES);
    Ok(answer)
}

/// Waits until the connection is ready.
///
/// # Errors
/// The time is over.
fn wait(stream: &OwnedFd, flags: PollFlags, end: Instant) -> io::Result<()> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let left =
        Timespec::try_from(left).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    match poll(&mut [PollFd::new(stream, flags)], Some(&left)) {
        Ok(0) => Err(io::ErrorKind::TimedOut.into()),
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests;
