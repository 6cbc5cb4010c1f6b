//! Decides which rows and ports pass the filter of the command line, and gives losses their names.

use std::time::Instant;

use tracer_common::{Filter, Loss, TupleCount, TupleKey, Who};

use crate::{
    config::RowFilter,
    host::callers::{self, Callers},
    kernel::maps::Totals,
};

/// Name and number of each of the kernel side's losses, also of those that are 0: those that the BPF programs counted
/// ([`Loss::name`]), and last `hook_missed`, the hooks that the kernel skipped.
pub fn named_losses(totals: &Totals) -> impl Iterator<Item = (&'static str, u64)> {
    let counted = Loss::ALL.into_iter().zip(totals.lost).map(|(loss, count)| (loss.name(), count));
    counted.chain([("hook_missed", totals.hook_missed)])
}

/// Whether the row of tuple `key` with the counters `count` passes the filter: by its key, and by the process that connected
/// last. True without a filter. `now` limits how often the names of cgroups are read: see [`crate::host::cgroups::Names::get`].
pub fn visible(
    filter: &Filter,
    key: &TupleKey,
    count: &TupleCount,
    callers: &mut Callers,
    now: Instant,
) -> bool {
    let name = (filter.comm_count != 0).then(|| callers.last(count).name);
    passes(filter, key, (&callers::last(count), name), callers, now)
}

/// Whether a port of tuple or address `key` passes the filter: by that key, and by the process `who` that took it at `at_ns`
/// (CLOCK_MONOTONIC, ns). True without a filter. `now` limits how often the names of cgroups are read, as for [`visible`].
pub fn visible_to(
    filter: &Filter,
    key: &TupleKey,
    (who, at_ns): (&Who, u64),
    callers: &mut Callers,
    now: Instant,
) -> bool {
    let name = (filter.comm_count != 0).then(|| callers.processes.called(who, at_ns).name);
    passes(filter, key, (who, name), callers, now)
}

/// Whether key and process pass the filter. `name`: the process's name; `None` if the filter has no names. `now` limits how often
/// the names of cgroups are read, as for [`visible`].
pub(crate) fn passes(
    filter: &Filter,
    key: &TupleKey,
    (who, name): (&Who, Option<[u8; 16]>),
    callers: &mut Callers,
    now: Instant,
) -> bool {
    if filter.active == 0 {
        return true;
    }
    let wanted = filter.cgroups.iter().take(usize::from(filter.cgroup_count));
    let names = &mut callers.cgroups;
    let within: Vec<u64> =
        wanted.map(|one| one.id).filter(|above| names.is_within(who.cgroup, *above, now)).collect();
    let rows = RowFilter(filter);
    rows.matches(key) && rows.matches_owner(who, name, &within)
}
