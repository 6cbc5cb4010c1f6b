//! FILTER: which sockets events are about. Decided here, so that a filter costs no event.

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

use crate::offsets::{TASK_COMM, TASK_LEADER};

/// One value, written by userspace before the programs are attached.
#[map]
static FILTER: Array<Filter> = Array::with_max_entries(1, 0);

/// The filter, or `None` where everything passes.
#[inline(always)]
fn active() -> Option<&'static Filter> {
    FILTER.get(0).filter(|filter| filter.active != 0)
}

/// Whether one of the first `count` values passes; no values: anything does.
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

/// Whether the current task is in a cgroup below this one.
#[inline(always)]
fn is_above_current(cgroup: &Cgroup) -> bool {
    // SAFETY: takes a number and only reads the current task.
    cgroup.id == unsafe { bpf_get_current_ancestor_cgroup_id(cgroup.level as i32) }
}

/// Whether the calling process, which has its leader's name, is one of those wanted by name: threads have names of
/// their own. A function of its own, for its part of the BPF stack.
#[inline(never)]
fn passes_leader() -> bool {
    if TASK_LEADER.load() == 0 {
        return false;
    }
    let Some(filter) = active() else { return false };
    // SAFETY: takes no argument; what it gives is only probe-read, which fails instead of faulting.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    // SAFETY: as above; the offsets are those of this kernel.
    let leader = unsafe {
        bpf_probe_read_kernel(task.wrapping_add(TASK_LEADER.load() as usize).cast::<*const u8>())
    };
    let Ok(leader) = leader else { return false };
    // Up to its end: behind that there can be the rest of an earlier name.
    let mut name = MaybeUninit::<[u64; 2]>::uninit();
    let words = name.as_mut_ptr().cast::<u64>();
    // SAFETY: both lie within `name`. Volatile: else this is memset(), which is a call, too.
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
    // By words: comparing bytes is a call, whose part of the BPF stack there is no room for below
    // `inet_sock_set_state`.
    read > 0
        && any(&filter.comms, filter.comm_count, |comm| {
            // SAFETY: 16 bytes of plain data, read wherever they lie.
            let [one, two] = unsafe { (&raw const *comm).cast::<[u64; 2]>().read_unaligned() };
            one == first && two == rest
        })
}

/// Whether the calling process passes. Only for process context.
///
/// `ANCESTORS`: a cgroup counts with everything below it. Only cgroup programs may ask for that on
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

/// Whether a socket whose caller is not known passes: only without a filter on callers.
#[inline(always)]
pub(crate) fn passes_unknown_caller(netns: u32) -> bool {
    let Some(filter) = active() else { return true };
    filter.pid_count == 0
        && filter.comm_count == 0
        && filter.cgroup_count == 0
        && any(&filter.netns, filter.netns_count, |inum| *inum == netns)
}

/// Whether the addresses and the destination port pass.
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
