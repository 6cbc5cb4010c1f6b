//! FILTER: which sockets have events. Applied in the kernel, so that what is filtered out costs no event.

use core::mem::MaybeUninit;

use aya_ebpf::{
    helpers::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_task, bpf_probe_read_kernel,
        generated::bpf_probe_read_kernel_str,
    },
    macros::map,
    maps::Array,
};
use tracer_common::{
    Filter, TupleKey, Who,
    filter::{Cgroup, FILTER_VALUES},
};

use crate::offsets::{FILTERED, TASK_COMM, TASK_LEADER};

/// One value. Userspace writes it before the programs are attached.
#[map]
static FILTER: Array<Filter> = Array::with_max_entries(1, 0);

/// The filter; `None`: there is none, and everything passes. The verifier knows that when it loads the program, and removes all
/// comparisons.
#[inline(always)]
fn active() -> Option<&'static Filter> {
    if FILTERED.load() == 0 {
        return None;
    }
    FILTER.get(0).filter(|filter| filter.active != 0)
}

/// Whether `passes` holds for one of the first `count` values (at most [`FILTER_VALUES`]); true if `count` is 0.
#[inline(always)]
fn any<T>(values: &[T; FILTER_VALUES], count: u8, passes: impl Fn(&T) -> bool) -> bool {
    if count == 0 {
        return true;
    }
    let mut found = false;
    let mut index = 0;
    // A fixed number of rounds, so that the verifier need not follow `count`.
    while index < FILTER_VALUES {
        if index < count as usize && passes(&values[index]) {
            found = true;
        }
        index += 1;
    }
    found
}

/// Whether the current task is in this cgroup or below it.
#[inline(always)]
fn is_above_current(cgroup: &Cgroup) -> bool {
    // SAFETY: takes a number and only reads the current task.
    cgroup.id == unsafe { bpf_get_current_ancestor_cgroup_id(cgroup.level as i32) }
}

/// Whether the name of the calling process is one of the filter's. Each thread has a comm of its own; the name of the process is
/// that of its leader. False also if that cannot be read. Not inlined, so that its stack is not part of the caller's.
#[inline(never)]
fn passes_leader() -> bool {
    if TASK_LEADER.load() == 0 {
        return false;
    }
    let Some(filter) = active() else { return false };
    // SAFETY: takes no argument; the pointer is only probe-read, which fails instead of faulting.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    // SAFETY: as above; the offsets are those of this kernel.
    let leader = unsafe {
        bpf_probe_read_kernel(task.wrapping_add(TASK_LEADER.load() as usize).cast::<*const u8>())
    };
    let Ok(leader) = leader else { return false };
    // Read as a string: the bytes after its NUL can be the rest of an earlier name.
    let mut name = MaybeUninit::<[u64; 2]>::uninit();
    let words = name.as_mut_ptr().cast::<u64>();
    // SAFETY: both lie within `name`. Volatile: else LLVM makes a call of memset() of it.
    unsafe {
        words.write_volatile(0);
        words.add(1).write_volatile(0);
    }
    // SAFETY: as above, and `name` has room for 16 bytes.
    let read = unsafe {
        let from = leader.wrapping_add(TASK_COMM.load() as usize);
        bpf_probe_read_kernel_str(words.cast(), 16, from.cast())
    };
    // SAFETY: written above.
    let [first, rest] = unsafe { name.assume_init() };
    // In words: comparing bytes is a call, and `inet_sock_set_state` leaves no room on the BPF stack for
    // one more.
    read > 0
        && any(&filter.comms, filter.comm_count, |comm| {
            // SAFETY: 16 bytes of plain data, read without regard to their alignment.
            let [one, two] = unsafe { (&raw const *comm).cast::<[u64; 2]>().read_unaligned() };
            one == first && two == rest
        })
}

/// Whether the calling process (pid, comm and cgroup) and the socket's network namespace `netns` (inode number) pass. True
/// without a filter. Only for process context.
///
/// `ANCESTORS`: cgroups below a cgroup of the filter pass, too. Only cgroup programs can test that on
/// every kernel (`bpf_get_current_ancestor_cgroup_id` came to tracing programs after v5.10).
#[inline(always)]
pub(crate) fn passes_caller<const ANCESTORS: bool>(who: &Who, netns: u32) -> bool {
    let Some(filter) = active() else { return true };
    any(&filter.pids, filter.pid_count, |pid| *pid == who.pid)
        && any(&filter.netns, filter.netns_count, |inum| *inum == netns)
        && (any(&filter.comms, filter.comm_count, |comm| comm == &who.comm) || passes_leader())
        && any(&filter.cgroups, filter.cgroup_count, |cgroup| {
            cgroup.id == who.cgroup || ANCESTORS && is_above_current(cgroup)
        })
}

/// Whether a socket with an unknown caller in this network namespace (inode number) passes: never if the filter names a pid, comm
/// or cgroup. True without a filter.
#[inline(always)]
pub(crate) fn passes_unknown_caller(netns: u32) -> bool {
    let Some(filter) = active() else { return true };
    filter.pid_count == 0
        && filter.comm_count == 0
        && filter.cgroup_count == 0
        && any(&filter.netns, filter.netns_count, |inum| *inum == netns)
}

/// Whether the addresses, their family and the destination port pass. True without a filter.
#[inline(always)]
pub(crate) fn passes_tuple(tuple: &TupleKey) -> bool {
    let Some(filter) = active() else { return true };
    let family = if tuple.destination.to_v4().is_some() { 4 } else { 6 };
    (filter.family == 0 || filter.family == family)
        && any(&filter.destination_ports, filter.destination_port_count, |ports| {
            ports.low <= tuple.destination_port && tuple.destination_port <= ports.high
        })
        && any(&filter.sources, filter.source_count, |prefix| prefix.contains(&tuple.source))
        && any(&filter.destinations, filter.destination_count, |prefix| {
            prefix.contains(&tuple.destination)
        })
}
