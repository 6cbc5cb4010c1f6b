//! Stops single threads of another process, by ptrace(2).
#![expect(unsafe_code, reason = "ptrace(2)")]

use std::{ffi::c_void, fs, io, process::ExitStatus, ptr, time::Duration};

use anyhow::{Context, Result, bail};

use crate::harness::{process::Process, tracer::wait_for};

/// Longest time for a thread to stop (longer in a guest): a system call that it is in has to be interrupted, or end, first.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Threads of another process that are stopped, as by a debugger; they continue when this is dropped. It must be dropped by the
/// thread that made it (not checked): ptrace(2) lets no other thread detach them, and they would stay stopped until that thread
/// ends.
pub struct Held(Vec<libc::pid_t>);

impl Held {
    /// Stops all threads of a process that have this name.
    ///
    /// # Errors
    /// The process or a thread of this name does not exist, or a thread cannot be traced, or does not stop within 20 s (longer in
    /// a guest: [`Place::limit`](super::probe::Place::limit)).
    pub fn threads(process: u32, name: &str) -> Result<Self> {
        let mut held = Self(Vec::new());
        for thread in fs::read_dir(format!("/proc/{process}/task"))? {
            let thread = thread?;
            let comm = match fs::read_to_string(thread.path().join("comm")) {
                // The thread has ended since the list was read.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {
                    continue;
                }
                comm => comm?,
            };
            if comm.trim_end() == name {
                let id = thread.file_name().to_string_lossy().parse()?;
                held.hold(id).with_context(|| format!("cannot stop thread {id}"))?;
            }
        }
        if held.0.is_empty() {
            bail!("no thread of {process} is called {name}");
        }
        Ok(held)
    }

    /// Waits for the end of `process`, to which these threads belong, and returns its exit status (of the program under test:
    /// falsified if `TRACER_TEST_LIE` asks for that). A traced thread stays a zombie until its tracer (this process) has waited
    /// for it, and the process does not end before: so this waits for the threads, too.
    ///
    /// # Errors
    /// The process has not ended within `limit` (see [`Place::limit`](super::probe::Place::limit)).
    pub fn wait(&self, process: &mut Process, limit: Duration) -> Result<ExitStatus> {
        let ended = wait_for("the process to end", limit, || {
            // The main thread's id is the process's: `try_wait` below waits for that one.
            let first = process.id();
            for id in self.0.iter().filter(|id| u32::try_from(**id) != Ok(first)) {
                // SAFETY: the status pointer may be null.
                unsafe { libc::waitpid(*id, ptr::null_mut(), libc::__WALL | libc::WNOHANG) };
            }
            Ok(process.child.try_wait()?.map(|_| ()))
        });
        ended?;
        process.wait(limit)
    }

    fn hold(&mut self, id: libc::pid_t) -> Result<()> {
        trace(libc::PTRACE_SEIZE, id)?;
        self.0.push(id);
        trace(libc::PTRACE_INTERRUPT, id)?;
        wait_for("a thread to stop", STOP_LIMIT, || {
            // SAFETY: the status pointer may be null.
            let waited =
                unsafe { libc::waitpid(id, ptr::null_mut(), libc::__WALL | libc::WNOHANG) };
            match waited {
                0 => Ok(None),
                -1 => Err(io::Error::last_os_error().into()),
                _ => Ok(Some(())),
            }
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for id in &self.0 {
            // Detaching fails for a thread that has ended, which needs none.
            trace(libc::PTRACE_DETACH, *id).ok();
        }
    }
}

fn trace(request: libc::c_uint, id: libc::pid_t) -> io::Result<()> {
    let none = ptr::null_mut::<c_void>();
    // SAFETY: none of these requests writes to memory of this process.
    let result = unsafe { libc::ptrace(request, id, none, none) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
