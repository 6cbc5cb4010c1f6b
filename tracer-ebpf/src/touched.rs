//! TOUCHED: when bind() or listen() last took each port. Kernels up to 6.17 give such a port to no connect() until no
//! socket has it, not even a connection that got it before (`inet_csk_update_fastreuse`, `__inet_hash_connect`).

use aya_ebpf::{macros::map, maps::LruHashMap};
use tracer_common::{Loss, port_of};

use crate::{offsets::BLOCKED_UNTIL_FREE, stats};

/// CLOCK_MONOTONIC, ns, by [`port_of`]. What was used longest ago goes first: a connection that has such a port keeps it
/// from connect() all the same, and nobody knows.
#[map]
static TOUCHED: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1, 0);

/// bind() or listen() took the port.
#[inline(always)]
pub(crate) fn note(netns: u32, port: u16, at_ns: &u64) {
    if BLOCKED_UNTIL_FREE.load() != 0 && TOUCHED.insert(port_of(netns, port), at_ns, 0).is_err() {
        stats::lost(Loss::MapBusy);
    }
}
