//! How long BPF programs run, which the kernel counts while somebody asks for it.

use std::{
    fs, io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use aya::sys::{Stats, enable_stats};

use super::missed::field;

/// Has the kernel count how long each BPF program of the host runs, as long as the descriptor is open (BPF_ENABLE_STATS, Linux
/// 5.8). It costs about 60 ns for each run of a program.
///
/// # Errors
/// As bpf(2): EPERM without CAP_SYS_ADMIN.
pub(crate) fn count() -> io::Result<OwnedFd> {
    enable_stats(Stats::RunTime).map_err(|error| error.io_error)
}

/// How long this program ran since it was loaded, in ns, without the time in which the kernel did not count; `None`: the kernel
/// does not say, or /proc cannot be read.
pub(super) fn of(program: BorrowedFd<'_>) -> Option<u64> {
    let path = format!("/proc/self/fdinfo/{}", program.as_raw_fd());
    field(&fs::read_to_string(path).ok()?, "run_time_ns:")
}
