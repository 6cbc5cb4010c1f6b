//! Numbers of capabilities (include/uapi/linux/capability.h), and commands that start with some of root's capabilities only, or
//! as root of a user namespace.
#![expect(unsafe_code, reason = "prctl(2) between fork() and exec()")]

use std::{io, os::unix::process::CommandExt, process::Command};

/// Number of CAP_DAC_READ_SEARCH.
pub const DAC_READ_SEARCH: u32 = 2;
/// Number of CAP_SETGID.
pub const SETGID: u32 = 6;
/// Number of CAP_SETUID.
pub const SETUID: u32 = 7;
/// Number of CAP_SETPCAP.
pub const SETPCAP: u32 = 8;
/// Number of CAP_NET_ADMIN.
pub const NET_ADMIN: u32 = 12;
/// Number of CAP_SYS_PTRACE.
pub const SYS_PTRACE: u32 = 19;
/// Number of CAP_SYS_ADMIN.
pub const SYS_ADMIN: u32 = 21;
/// Number of CAP_SYS_RESOURCE.
pub const SYS_RESOURCE: u32 = 24;
/// Number of CAP_SYSLOG.
pub const SYSLOG: u32 = 34;
/// Number of CAP_PERFMON.
pub const PERFMON: u32 = 38;
/// Number of CAP_BPF.
pub const BPF: u32 = 39;

/// The capabilities, by their numbers, without which tracer does not start.
pub const NEEDED: &[u32] = &[NET_ADMIN, PERFMON, BPF];

/// The capabilities that tracer's error may advise, each with its name for setcap(8) and its number: all that tracer uses, except
/// CAP_SYS_RESOURCE, which it needs up to Linux 5.10 only.
pub const ADVISED: &[(&str, u32)] = &[
    ("cap_dac_read_search", DAC_READ_SEARCH),
    ("cap_setgid", SETGID),
    ("cap_setuid", SETUID),
    ("cap_setpcap", SETPCAP),
    ("cap_net_admin", NET_ADMIN),
    ("cap_sys_ptrace", SYS_PTRACE),
    ("cap_sys_admin", SYS_ADMIN),
    ("cap_syslog", SYSLOG),
    ("cap_perfmon", PERFMON),
    ("cap_bpf", BPF),
];

/// The value (20 bytes) of the extended attribute `security.capability` that setcap(8) writes to make these capabilities
/// permitted and effective: `struct vfs_cap_data` of include/uapi/linux/capability.h, five little-endian `u32`. Bit N of
/// `permitted` is capability N.
pub fn of_file(permitted: u64) -> Vec<u8> {
    const REVISION_2_EFFECTIVE: u32 = 0x0200_0001;
    let low = u32::try_from(permitted & u64::from(u32::MAX)).unwrap_or_default();
    let high = u32::try_from(permitted >> 32).unwrap_or_default();
    [REVISION_2_EFFECTIVE, low, 0, high, 0].into_iter().flat_map(u32::to_le_bytes).collect()
}

/// The highest number that a capability can have: a set has 64 bits.
const LAST: u32 = 63;

/// Each number that a capability can have; kernels have fewer capabilities.
pub const ALL: std::ops::RangeInclusive<u32> = 0..=LAST;

/// Makes a command of root run as root of a new user namespace: it has every capability there, and none outside of it. Starting
/// it fails if the kernel refuses the namespace. Returns `command`.
pub fn in_user_namespace(command: &mut Command) -> &mut Command {
    let unshare = || {
        // SAFETY: takes a number only.
        if unsafe { libc::unshare(libc::CLONE_NEWUSER) } != 0 {
            return Err(io::Error::last_os_error());
        }
        std::fs::write("/proc/self/uid_map", "0 0 1")
    };
    // SAFETY: the closure makes system calls only; `fs::write` copies the short path to the stack, and allocates nothing.
    unsafe { command.pre_exec(unshare) }
}

/// Makes a command of root run as [`in_user_namespace`] does, and in a new network namespace that belongs to the new user
/// namespace; its `lo` is down. Starting it fails if the kernel refuses one of the two. Returns `command`.
pub fn in_user_and_network_namespace(command: &mut Command) -> &mut Command {
    let unshare = || {
        // SAFETY: takes a number only.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: the closure makes a system call only.
    unsafe { in_user_namespace(command).pre_exec(unshare) }
}

/// Makes a command of root run with these capabilities only, by their numbers; those that the kernel does not have are passed
/// over. Starting it fails without CAP_SETPCAP. Returns `command`.
pub fn only(command: &mut Command, kept: impl Into<Vec<u32>>) -> &mut Command {
    let kept = kept.into();
    let drop_others = move || {
        for capability in ALL.filter(|it| !kept.contains(it)) {
            // SAFETY: takes numbers only. At exec(), root gets what is left in the bounding set.
            let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
            let error = io::Error::last_os_error();
            // EINVAL: the kernel has no capability of this number.
            if result != 0 && error.raw_os_error() != Some(libc::EINVAL) {
                return Err(error);
            }
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only: it takes no lock and allocates no memory.
    unsafe { command.pre_exec(drop_others) }
}
