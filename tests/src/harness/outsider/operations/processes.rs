//! Operations on other processes, and on namespaces.
#![expect(unsafe_code, reason = "ptrace(2), unshare(2), ioctl(2)")]

use std::{
    io::{self, Read},
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    panic::resume_unwind,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result};
use rustix::{
    fs::{Mode, OFlags, open},
    process::{Pid, Signal, kill_process},
    thread::{UnshareFlags, unshare_unsafe},
};

use super::{Belongings, Table, argument};
use crate::harness::sock::Sock;

/// The operations of this file, by name.
pub(super) const OPERATIONS: Table = &[
    ("signal", signal),
    ("ptrace", ptrace),
    ("namespaces", namespaces),
    ("busy-namespaces", busy_namespaces),
    ("sleepers", sleepers),
];

/// `signal PID NUMBER`: sends a signal (9 is SIGKILL, 15 is SIGTERM).
fn signal(_: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    let pid = Pid::from_raw(argument(words, 0)?).context("no such process")?;
    let signal = Signal::from_named_raw(argument(words, 1)?).context("no such signal")?;
    kill_process(pid, signal)?;
    Ok(Vec::new())
}

/// `ptrace PID`: attaches to a process as a debugger does (PTRACE_SEIZE).
fn ptrace(_: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    let pid: libc::pid_t = argument(words, 0)?;
    // SAFETY: PTRACE_SEIZE takes a number and reads no memory of the caller's.
    let result = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) };
    if result != 0 {
        return Err(io::Error::last_os_error()).context("ptrace");
    }
    Ok(Vec::new())
}

/// `namespaces COUNT`: makes COUNT network namespaces, each kept by a descriptor, with no process in it.
fn namespaces(belongings: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    for _ in 0..argument::<u32>(words, 0)? {
        let mut child = Command::new("unshare")
            .args(["--user", "--net", "sh", "-c", "echo; read line"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run unshare")?;
        let made = child.stdout.take().context("no stdout")?.read_exact(&mut [0]);
        let path = format!("/proc/{}/ns/net", child.id());
        let opened = open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        drop(child.stdin.take());
        child.wait()?;
        made.context("unshare made no namespace")?;
        belongings.fds.push(opened.with_context(|| path)?);
    }
    Ok(Vec::new())
}

/// `busy-namespaces COUNT`: makes COUNT network namespaces with one connection each, and keeps descriptors of them. Needs
/// `Spaces::User` or `Spaces::UserAndNet`.
fn busy_namespaces(belongings: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    let count = argument(words, 0)?;
    // On another thread, so that the calling thread stays in its namespace.
    let made = thread::spawn(move || (0..count).map(|_: u32| busy_namespace()).collect());
    let made: Result<Vec<_>> = made.join().unwrap_or_else(|panic| resume_unwind(panic));
    belongings.fds.extend(made?.into_iter().flatten());
    Ok(Vec::new())
}

fn busy_namespace() -> Result<[OwnedFd; 3]> {
    let peer = SocketAddr::from(([127, 0, 0, 1], 7000));
    // SAFETY: CLONE_NEWNET does not unshare the descriptor table.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("cannot make a network namespace")?;
    let listener = Sock::tcp(peer)?;
    // SAFETY: all of its bytes may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, byte) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = libc::c_char::try_from(byte)?;
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP)?;
    // SAFETY: the request is a whole `ifreq`, which lives until the call returns.
    let result = unsafe {
        libc::ioctl(listener.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
    };
    if result != 0 {
        return Err(io::Error::last_os_error()).context("cannot set lo up");
    }
    listener.bind(peer)?;
    listener.listen(1)?;
    let connected = Sock::connected(peer)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace = open("/proc/thread-self/ns/net", flags, Mode::empty())?;
    Ok([namespace, listener.into(), connected.into()])
}

/// `sleepers COUNT NAME`: starts COUNT processes with this `comm`, which do nothing until `close` or the outsider's end.
fn sleepers(belongings: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    let (count, name): (u32, String) = (argument(words, 0)?, argument(words, 1)?);
    for _ in 0..count {
        let mut child = Command::new("sh")
            .args(["-c", "printf %s \"$0\" >/proc/$$/comm; read line", &name])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot run sh")?;
        // The child ends when its stdin is closed.
        belongings.fds.push(child.stdin.take().context("no stdin")?.into());
    }
    Ok(Vec::new())
}
