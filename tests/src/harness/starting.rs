//! No socket is closed while a program starts.
//!
//! Between fork() and the end of exec(), a child holds copies of all descriptors of this process: FD_CLOEXEC acts at exec(). If
//! the test closes a socket meanwhile, the child's copy keeps it open until exec(). So if a test closes first the client's end of
//! a connection, then the server's, the kernel may close the server's end first: TIME_WAIT is then on the wrong side.
#![expect(
    unsafe_code,
    reason = "a descriptor is dropped while a lock is held; a child waits between fork() and exec()"
)]

use std::{
    io,
    mem::ManuallyDrop,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, Output, Stdio},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, fcntl_dupfd_cloexec},
    pipe::{PipeFlags, pipe_with},
    process::{Resource, getrlimit},
};

/// The limit of open files of the tests' program.
const MOST_FILES: u64 = 16_384;

/// How long the start of a program may take. No start lasts as long, even on a busy machine; a thread with a descriptor table of
/// its own (`CLONE_FILES`) would copy the write end of the pipe that [`start`] waits for, and keep it.
const LONGEST_START: Duration = Duration::from_mins(1);

/// What programs and sockets do now.
#[derive(Default)]
struct Turns {
    /// Whether a program starts.
    starts: bool,
    /// How many sockets are being closed, or wait for the end of a start.
    closing: usize,
}

/// Programs that start exclude sockets that are closed. A socket waits for one start at most, however many programs wait to
/// start: a lock that prefers writers would stop all sockets while other tests start programs all the time.
static TURNS: Mutex<Turns> = Mutex::new(Turns { starts: false, closing: 0 });
static CHANGED: Condvar = Condvar::new();

fn turns() -> MutexGuard<'static, Turns> {
    TURNS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `is_mine`.
fn wait_until(is_mine: impl Fn(&Turns) -> bool) -> MutexGuard<'static, Turns> {
    let wait = CHANGED.wait_while(turns(), |turns| !is_mine(turns));
    wait.unwrap_or_else(PoisonError::into_inner)
}

/// While this exists, a program starts.
struct Starts;

impl Starts {
    fn begin() -> Self {
        wait_until(|turns| !turns.starts && turns.closing == 0).starts = true;
        Self
    }
}

impl Drop for Starts {
    fn drop(&mut self) {
        turns().starts = false;
        CHANGED.notify_all();
    }
}

/// While this exists, a socket is closed.
struct Closes;

impl Closes {
    fn begin() -> Self {
        turns().closing += 1;
        drop(wait_until(|turns| !turns.starts));
        Self
    }
}

impl Drop for Closes {
    fn drop(&mut self) {
        let mut turns = turns();
        turns.closing -= 1;
        if turns.closing == 0 {
            CHANGED.notify_all();
        }
    }
}

/// Starts a program; returns when its process has closed its copies of this process's descriptors. The code of
/// `CommandExt::pre_exec` must close no [`SocketFd`] (not checked): it would wait forever for the end of the start.
///
/// # Errors
/// The program cannot be started; the limit of open files is reached; another process still has a copy of the last descriptor
/// after a minute: the program is then killed.
pub fn start(command: &mut Command) -> io::Result<Child> {
    let _starts = Starts::begin();
    let (end, copied) = last_descriptor()?;
    // This returns in the middle of exec(): the kernel wakes a parent that waits for vfork() before it closes descriptors.
    let child = command.spawn();
    drop(copied);
    // The pipe ends when the child has closed its copy of the last descriptor, and so those with lower numbers.
    let limit = Timespec::try_from(LONGEST_START).map_err(|_| Errno::INVAL)?;
    let ended = poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&limit))?;
    match child {
        Ok(mut child) if ended == 0 => {
            child.kill()?;
            child.wait()?;
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "{command:?} has not closed its copies of descriptors after {LONGEST_START:?}"
                ),
            ))
        }
        child => child,
    }
}

/// A pipe: its read end, and a write end whose number is above those of all sockets. exec() closes descriptors in the order of
/// their numbers (fs/file.c, `do_close_on_exec`).
fn last_descriptor() -> io::Result<(OwnedFd, OwnedFd)> {
    const SPARE: u64 = 16;
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(MOST_FILES).min(MOST_FILES);
    let lowest = RawFd::try_from(limit.saturating_sub(SPARE)).unwrap_or(RawFd::MAX);
    Ok((read, fcntl_dupfd_cloexec(&write, lowest)?))
}

/// Runs a program to its end, without input, and returns its exit status, which may be a failure, and what it wrote.
///
/// # Errors
/// The program cannot be started, or its output cannot be read.
pub fn output(command: &mut Command) -> io::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    start(command)?.wait_with_output()
}

/// Makes a command's child wait for this long, less than a minute, before it runs the program; [`start`] waits as long. Returns
/// `command`.
pub fn late(command: &mut Command, time: Duration) -> &mut Command {
    let wait = move || {
        thread::sleep(time);
        Ok(())
    };
    // SAFETY: the closure makes a system call only: it takes no lock and allocates no memory.
    unsafe { command.pre_exec(wait) }
}

/// The descriptor of a socket. A drop while a program starts waits for the end of that start, then closes the descriptor.
#[derive(Debug)]
pub struct SocketFd(ManuallyDrop<OwnedFd>);

impl From<OwnedFd> for SocketFd {
    fn from(fd: OwnedFd) -> Self {
        Self(ManuallyDrop::new(fd))
    }
}

impl From<SocketFd> for OwnedFd {
    fn from(socket: SocketFd) -> Self {
        let mut socket = ManuallyDrop::new(socket);
        // SAFETY: `socket` is not used again, and is not dropped.
        unsafe { ManuallyDrop::take(&mut socket.0) }
    }
}

impl Drop for SocketFd {
    fn drop(&mut self) {
        let _closes = Closes::begin();
        // SAFETY: this is dropped once, and not used after that.
        unsafe { ManuallyDrop::drop(&mut self.0) }
    }
}

impl AsFd for SocketFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for SocketFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
