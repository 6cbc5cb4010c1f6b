//! FILTER: which sockets events are about. Decided here, so that a filter costs no event.

use aya_ebpf::{helpers::bpf_get_current_ancestor_cgroup_id, macros::map, maps::Array};
use tracer_common::{
    Filter, TupleKey, Who,
    filter::{Cgroup, FILTER_VALUES},
};

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

/// Whether the calling process passes. Only for process context.
///
/// `ANCESTORS`: a cgroup counts with everything below it. Only cgroup programs may ask for that on
/// every kernel (`bpf_get_current_ancestor_cgroup_id` came to tracing programs after v5.10).
#[inline(always)]
pub(crate) fn passes_caller<const ANCESTORS: bool>(who: &Who, netns: u32) -> bool {
    let Some(filter) = active() else { return true };
    any(&filter.pids, filter.pid_count, |pid| *pid == who.pid)
        && any(&filter.netns, filter.netns_count, |inum| *inum == netns)
        && any(&filter.comms, filter.comm_count, |comm| comm == &who.comm)
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
