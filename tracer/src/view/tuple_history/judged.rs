//! Which tuples are judged as `tracer doctor` does: the worst of them, because to judge all of a hundred thousand would take too
//! long.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use tracer_common::{TupleKey, tuple::SEARCH_BUCKETS};

use super::{super::history::Since, Track, TupleHistory};
use crate::ledger::stats::Row;

/// The most tuples of the tracer's own namespace, and the most of all others together, that are judged. Users who make namespaces
/// of their own cannot displace the tuples of the first.
pub const MOST: usize = 256;

/// Share of the ports in use from which on connect() is slow, in parts of a million.
const SLOW: u32 = 450_000;
/// Fewer connections without an answer are no sign of trouble.
const FEW: u64 = 5;

/// A tuple that is judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    pub row: Row,
    /// What happened in the last ten seconds, or in as many as are known; `None`: no earlier values are known.
    pub since: Option<Since>,
    /// Port searches so far, by duration: the index is that of [`tracer_common::tuple::search_bucket`].
    pub search: [u32; SEARCH_BUCKETS],
    /// Path of the cgroup of the process that connected last; `None`: not known.
    pub cgroup: Option<Arc<str>>,
}

/// How likely a tuple is in trouble: the larger, the more.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Rank {
    exhausted: bool,
    slow: bool,
    unanswered: bool,
    /// Share of its ports in use, in parts of a million.
    share: u32,
    in_use: u64,
}

fn rank(track: &Track) -> Rank {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    let share = (track.share().unwrap_or(0.0) * 1e6) as u32;
    Rank {
        exhausted: track.is_exhausted(),
        slow: share >= SLOW,
        unanswered: track.unanswered() >= FEW,
        share,
        in_use: track.in_use().into(),
    }
}

/// The largest of what is added, at most [`MOST`].
#[derive(Default)]
struct Largest(BinaryHeap<Reverse<(Rank, usize)>>);

impl Largest {
    fn add(&mut self, rank: Rank, place: usize) {
        if self.0.len() < MOST {
            self.0.push(Reverse((rank, place)));
        } else if let Some(mut least) = self.0.peek_mut()
            && least.0.0 < rank
        {
            *least = Reverse((rank, place));
        }
    }
}

impl TupleHistory {
    /// The tuples that are judged, in no order: of the namespace `own` (`None`: not known) those that are most likely in trouble,
    /// at most [`MOST`]; of all others as many; and `also` (`None`: no other tuple). The number: how many tuples there are.
    pub fn judged(&self, own: Option<u32>, also: Option<TupleKey>) -> (Vec<Judged>, usize) {
        let (mut here, mut elsewhere, mut all) = (Largest::default(), Largest::default(), 0);
        let mut more = None;
        for (place, track) in self.tracks.iter().enumerate() {
            if also == Some(track.key) {
                more = Some(place);
            }
            if track.is_alive(self.now_ms) {
                all += 1;
                let chosen = if Some(track.key.netns) == own { &mut here } else { &mut elsewhere };
                chosen.add(rank(track), place);
            }
        }
        let mut places: Vec<usize> =
            here.0.into_iter().chain(elsewhere.0).map(|Reverse((_, place))| place).collect();
        places.extend(more.filter(|place| !places.contains(place)));
        let known_s = self.host.known_s();
        let tracks = places.into_iter().filter_map(|place| self.tracks.get(place));
        (tracks.map(|track| track.judged(self.now_ms, known_s)).collect(), all)
    }
}
