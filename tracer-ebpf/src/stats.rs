//! STATS: counters of events seen and emitted, of the time that port searches took, of losses, and of failed calls by cause, per
//! CPU.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use tracer_common::{
    Cause, Loss, Stat,
    loss::{STATS_LEN, Stat::EventsSeen, failed_index},
};

use crate::atomic;

/// Per CPU, so that counting never contends. The additions are atomic all the same: a hook in interrupt
/// context can run between the load and the store of the hook that it interrupts.
#[map]
static STATS: PerCpuArray<u64> = PerCpuArray::with_max_entries(STATS_LEN, 0);

#[inline(always)]
fn add(index: u32, number: u64) {
    if let Some(counter) = STATS.get_ptr_mut(index) {
        // SAFETY: an array map's values are never freed while the program is loaded.
        unsafe { atomic::add(counter, number) };
    }
}

/// Adds 1 to this total on the current CPU.
#[inline(always)]
pub(crate) fn count(stat: Stat) {
    add(stat as u32, 1);
}

/// Adds the time that a port search took, ns.
#[inline(always)]
pub(crate) fn searched(ns: u64) {
    add(Stat::SearchNs as u32, ns);
}

/// Counts one loss of this kind.
#[inline(always)]
pub(crate) fn lost(loss: Loss) {
    add(loss.index(), 1);
}

/// Counts a connect(), bind() or listen() that failed, of any caller. The tuple table cannot count failures
/// of bind() and listen(), which have no destination.
#[inline(always)]
pub(crate) fn failed(cause: Cause) {
    add(failed_index(cause), 1);
}

/// Counts one event as seen and returns its number on this CPU, from 1; 0: the counter is missing.
///
/// If an interrupt comes between the addition and the load, two events can get the same number. The largest
/// number is still right, and it is the one that the reader computes its losses from.
#[inline(always)]
pub(crate) fn next_seq() -> u64 {
    match STATS.get_ptr_mut(EventsSeen as u32) {
        // SAFETY: as in `add`.
        Some(counter) => unsafe {
            atomic::add(counter, 1);
            counter.read_volatile()
        },
        None => 0,
    }
}
