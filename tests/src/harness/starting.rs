//! No socket is closed while a program starts.
//!
//! Between fork() and exec(), a child holds copies of all descriptors of this process: FD_CLOEXEC acts at exec(). If the test
//! closes a socket meanwhile, the child's copy keeps it open until exec(). So if a test closes first the client's end of a
//! connection, then the server's, the kernel may close the server's end first: TIME_WAIT is then on the wrong side.
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
    sync::{PoisonError, RwLock},
    thread,
    time::Duration,
};

/// Held for writing while a program starts, and for reading while a socket is closed.
static STARTING: RwLock<()> = RwLock::new(());

/// Starts a program; returns after the child's exec(). The code of `CommandExt::pre_exec` must close no [`SocketFd`] (not
/// checked): it would wait forever for the lock that is held here.
///
/// # Errors
/// The program cannot be started.
pub fn start(command: &mut Command) -> io::Result<Child> {
    let _starting = STARTING.write().unwrap_or_else(PoisonError::into_inner);
    command.spawn()
}

/// Runs a program to its end, without input, and returns its exit status, which may be a failure, and what it wrote.
///
/// # Errors
/// The program cannot be started, or its output cannot be read.
pub fn output(command: &mut Command) -> io::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    start(command)?.wait_with_output()
}

/// Makes a command's child wait for this long before it runs the program.
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
        let _none_starts = STARTING.read().unwrap_or_else(PoisonError::into_inner);
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
