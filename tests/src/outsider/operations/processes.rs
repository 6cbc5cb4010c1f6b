//! Other processes, and namespaces.
#![expect(unsafe_code, reason = "ptrace(2)")]

use std::{
    io::Read,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use rustix::{
    fs::{Mode, OFlags, open},
    process::{Pid, Signal, kill_process},
};

use super::{Belongings, Table, argument};

pub(super) const OPERATIONS: Table =
    &[("signal", signal), ("ptrace", ptrace), ("namespaces", namespaces), ("sleepers", sleepers)];

/// `signal PID NUMBER`: 9 is SIGKILL, 15 SIGTERM.
fn signal(_: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    let pid = Pid::from_raw(argument(words, 0)?).context("no such process")?;
    let signal = Signal::from_named_raw(argument(words, 1)?).context("no such signal")?;
    kill_process(pid, signal)?;
    Ok(Vec::new())
}

/// `ptrace PID`: attaches to a process as debuggers do.
fn ptrace(_: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    let pid: libc::pid_t = argument(words, 0)?;
    // SAFETY: PTRACE_SEIZE takes a number and reads no memory of the caller's.
    let result = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) };
    if result != 0 {
        return Err(std::io::Error::last_os_error()).context("ptrace");
    }
    Ok(Vec::new())
}

/// `namespaces COUNT`: so many network namespaces, each held by a descriptor and by no process.
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

/// `sleepers COUNT NAME`: so many processes with this `comm` that do nothing, until `close` or the end.
fn sleepers(belongings: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    let (count, name): (u32, String) = (argument(words, 0)?, argument(words, 1)?);
    for _ in 0..count {
        let mut child = Command::new("sh")
            .args(["-c", "printf %s \"$0\" >/proc/$$/comm; read line", &name])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot run sh")?;
        // It ends when this is closed.
        belongings.fds.push(child.stdin.take().context("no stdin")?.into());
    }
    Ok(Vec::new())
}
