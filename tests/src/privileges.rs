//! Commands that have some of root's capabilities, and no others.
#![expect(unsafe_code, reason = "prctl(2) between fork() and exec()")]

use std::{io, os::unix::process::CommandExt, process::Command};

/// Numbers of include/uapi/linux/capability.h.
pub const NET_ADMIN: u32 = 12;
pub const SYS_PTRACE: u32 = 19;
pub const SYS_ADMIN: u32 = 21;
pub const SYS_RESOURCE: u32 = 24;
pub const PERFMON: u32 = 38;
pub const BPF: u32 = 39;

/// What tracer cannot do without.
pub const NEEDED: &[u32] = &[NET_ADMIN, PERFMON, BPF];

/// The highest number that the kernel could have.
const LAST: u32 = 63;

/// A command of root that gets these capabilities when it is started.
pub fn only<'a>(command: &'a mut Command, kept: &'static [u32]) -> &'a mut Command {
    let drop_others = move || {
        for capability in (0..=LAST).filter(|it| !kept.contains(it)) {
            // SAFETY: takes numbers only. Root gets at exec() what is left in the bounding set.
            let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
            let error = io::Error::last_os_error();
            // EINVAL: the kernel has no capability of this number.
            if result != 0 && error.raw_os_error() != Some(libc::EINVAL) {
                return Err(error);
            }
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls and nothing else: no lock, no memory.
    unsafe { command.pre_exec(drop_others) }
}
