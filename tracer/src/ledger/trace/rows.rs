//! Which rows pass the filter of the command line, and what was lost, by name.

use std::time::Instant;

use tracer_common::{Filter, Loss, TupleCount, TupleKey, Who};

use crate::{
    config::RowFilter,
    host::callers::{self, Callers},
    kernel::maps::Totals,
};

/// Losses on the kernel side by name: those that the BPF programs counted, and the hooks that never
/// reached them.
pub fn named_losses(totals: &Totals) -> impl Iterator<Item = (&'static str, u64)> {
    let counted = Loss::ALL.into_iter().zip(totals.lost).map(|(loss, count)| (loss.name(), count));
    counted.chain([("hook_missed", totals.hook_missed)])
}

/// Whether a row of the tuple table passes a filter: by its key, and by who connected there last.
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

/// The same of a port that somebody took, who called at a time (CLOCK_MONOTONIC, ns).
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

/// `name`: of the process, where a filter asks for it.
fn passes(
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
