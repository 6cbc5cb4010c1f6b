//! Reads who the current task is: its process, thread, cgroup, comm and uid.

use aya_ebpf::{
    TASK_COMM_LEN,
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_pid_tgid,
        bpf_get_current_uid_gid,
    },
};
use tracer_common::Who;

/// The current task as a caller; `comm` is all 0 if the kernel does not give it. Only valid in process context.
#[inline(always)]
pub(crate) fn current() -> Who {
    let pid_tgid = bpf_get_current_pid_tgid();
    let comm: [u8; TASK_COMM_LEN] = bpf_get_current_comm().unwrap_or_default();
    Who {
        // SAFETY: takes no argument and only reads the current task.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        pid: (pid_tgid >> 32) as u32,
        tid: pid_tgid as u32,
        comm,
    }
}

/// The current task's uid in the initial user namespace. Only valid in process context.
#[inline(always)]
pub(crate) fn user() -> u32 {
    bpf_get_current_uid_gid() as u32
}
