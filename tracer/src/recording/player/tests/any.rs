//! Any readings of a recording.

use proptest::prelude::*;
use tracer_common::{Cause, Ends, TupleCount, ends::LIFETIMES, tuple::SEARCH_BUCKETS};

prop_compose! {
    fn any_count()(
        opened in 0_u64..5000, released in 0_u64..5000, begun in 0_u64..3000, ended in 0_u64..3000,
        failed in any::<[u8; Cause::COUNT]>(), errno in 0_u32..3, pid in 0_u32..3,
        comm in "[a-zé]{0,8}", search in any::<[u8; SEARCH_BUCKETS]>(), ends in any::<[u8; 4]>(),
    ) -> TupleCount {
        TupleCount {
            opened,
            released: released.min(opened),
            time_wait_begun: begun,
            time_wait_ended: ended.min(begun),
            failed: failed.map(u64::from),
            last_errno: errno,
            pid,
            comm: std::array::from_fn(|at| comm.as_bytes().get(at).copied().unwrap_or(0)),
            search: search.map(|count| u32::from(count / 64)),
            ends: Ends {
                closed_here: (ends[0] / 64).into(),
                segments: ends[1].into(),
                lifetimes: [(ends[2] / 64).into(); LIFETIMES],
                ..Ends::NONE
            },
            syns_again: ends[3].into(),
            ..TupleCount::default()
        }
    }
}

pub(super) type Samples = Vec<(u8, TupleCount, Option<bool>)>;

pub(super) fn any_reading() -> impl Strategy<Value = (u64, Samples, u8)> {
    let sample = (0_u8..6, any_count(), any::<Option<bool>>());
    (1_u64..20_000_000_000, prop::collection::vec(sample, 0..6), any::<u8>())
}
