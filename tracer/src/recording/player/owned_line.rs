//! Copies a line, so that it can be kept: it does not borrow from the buffer into which the file is read.

use std::sync::Arc;

use tracer_common::{TupleCount, TupleKey};

use super::{
    super::{
        line::{Settings, Start, Totals, Tuple},
        reader::Entry,
    },
    names::Names,
};
use crate::{
    host::{
        capacity::{Limits, TakenOver},
        process::Called,
    },
    ledger::stats::P99,
    view::{
        forecast::TIME_WAIT_S,
        reading::{self, TupleSample},
        tuple_forecast::Older,
        tuple_history::milliseconds,
    },
};

/// A line of a recording, of the kinds that the player uses: see [`Entry`].
#[derive(Debug)]
pub(super) enum OwnedLine {
    Start(Start),
    Tuple(Box<OwnedTuple>),
    Stats(Totals),
    Stop(Totals),
    Failure(reading::Failure),
    /// The reason, and how many were lost.
    Lost(String, u64),
    /// All that does not work as well as it could from this line on, one text each.
    Degraded(Vec<String>),
    Settings(Settings),
}

/// A tuple of a reading, with the values of a [`Tuple`]. A name is `None` if it is empty, or [`Names`] has no room for
/// it.
#[derive(Debug)]
pub(super) struct OwnedTuple {
    key: TupleKey,
    count: TupleCount,
    has_states: bool,
    has_uses: bool,
    capacity: Option<u32>,
    limits: Option<Limits>,
    reusable: Option<u64>,
    ends: Option<[u16; TIME_WAIT_S]>,
    search_p99: Option<P99>,
    called: Called,
    cgroup: Option<Arc<str>>,
    container: Option<Arc<str>>,
    netns_name: Option<Arc<str>>,
}

impl OwnedLine {
    /// The line with its own copies of what it borrows. Its names of cgroups, containers and namespaces are kept in `names`.
    pub(super) fn of(entry: Entry<'_>, names: &mut Names) -> Self {
        match entry {
            Entry::Start(start) => Self::Start(start),
            Entry::Tuple(tuple) => Self::Tuple(Box::new(OwnedTuple::of(tuple, names))),
            Entry::Stats(totals) => Self::Stats(totals),
            Entry::Stop(totals) => Self::Stop(totals),
            Entry::Failure(failure) => {
                let container = names.get(&failure.container);
                Self::Failure(reading::Failure { container, ..failure.what })
            }
            Entry::Degraded(degraded) => Self::Degraded(degraded.now),
            Entry::Settings(settings) => Self::Settings(settings),
            Entry::Lost(lost) => Self::Lost(lost.reason.into_owned(), lost.count),
        }
    }
}

impl OwnedTuple {
    fn of(tuple: &Tuple<'_>, names: &mut Names) -> Self {
        Self {
            key: tuple.key,
            count: tuple.count,
            has_states: tuple.has_states,
            has_uses: tuple.has_uses,
            capacity: tuple.capacity,
            limits: tuple.limits,
            reusable: tuple.reusable,
            ends: tuple.ends,
            search_p99: tuple.search_p99,
            called: tuple.called,
            cgroup: names.get(&tuple.cgroup),
            container: names.get(&tuple.container),
            netns_name: names.get(&tuple.netns_name),
        }
    }

    /// Calls `each` once, with the tuple. `mono_ns`: the time of its reading, by CLOCK_MONOTONIC, ns.
    pub(super) fn give(self, mono_ns: u64, each: &mut dyn FnMut(&TupleSample<'_>)) {
        let at_ms = milliseconds(mono_ns);
        each(&TupleSample {
            key: self.key,
            count: &self.count,
            has_states: self.has_states,
            has_uses: self.has_uses,
            capacity: self.capacity,
            limits: self.limits,
            reuse: self.reusable.map(TakenOver::recorded),
            older: self.ends.as_ref().map(|left| Older { left, at_ms }),
            search_p99: self.search_p99,
            called: self.called,
            cgroup: self.cgroup,
            container: self.container,
            netns_name: self.netns_name,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tracer_common::TupleCount;

    use crate::recording::{
        Player,
        test_recorder::{Recorder, S, key},
    };

    #[test]
    fn the_ends_of_older_time_waits_are_played() {
        let folder = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::default();
        recorder.start(0, true);
        let count = TupleCount { opened: 5, time_wait_begun: 5, ..TupleCount::default() };
        recorder.tuple_with_ends(12 * S, key(1), &count, None, &[0, 3, 0, 2]);
        recorder.stats(12 * S, 0);
        let path = folder.path().join("f");
        fs::write(&path, recorder.bytes()).unwrap();
        let mut player = Player::open(&[path]).unwrap();
        let mut seen = None;
        player
            .next(&mut |sample| seen = sample.older.map(|older| (older.left.to_vec(), older.at_ms)))
            .unwrap();
        let (left, at_ms) = seen.unwrap();
        assert_eq!((&left[..5], at_ms), (&[0, 3, 0, 2, 0][..], 12_000));
    }
}
