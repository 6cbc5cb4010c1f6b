//! Keeps what the judges need of the last 10 s, and the history does not keep of every tuple: port searches, connections in
//! CLOSE_WAIT, connections that ended, failed calls of bind().

use std::collections::{HashSet, VecDeque};

use tracer_common::{Cause, TupleKey, tuple::SEARCH_BUCKETS};

use crate::{
    doctor::{
        activity::Activity,
        finding::Process,
        from_ledger::{Counted, Held},
    },
    format::text::until_nul,
    ledger::uses::Closed,
    view::{
        reading::{Call, Failure},
        tuple_history::Judged,
    },
};

/// Time, in ms, after which the older half of what is kept of a tuple is dropped: what is left is of the last 5 to 10 s.
const RENEWED_MS: u32 = 5_000;
/// How long failed bind() calls count, ms.
const BINDS_MS: u32 = 10_000;
/// The most entries of [`Binds`], each for an address in a reading.
const BINDS: usize = 1_024;

/// The searches, the connections in CLOSE_WAIT and those that ended of a judged tuple.
#[derive(Clone, Debug)]
pub(super) struct Past {
    /// Port searches up to a time, by duration, and up to a later time.
    searches: [[u32; SEARCH_BUCKETS]; 2],
    /// Connections that ended up to these two times.
    closed: [Closed; 2],
    /// The fewest connections in CLOSE_WAIT between these times, and since the later one.
    close_wait: [u64; 2],
    /// The later time, on the readings' clock, ms; wraps.
    since_ms: u32,
}

impl Past {
    /// The past of a tuple that was not judged before. `now_ms`: the time of the reading on the readings' clock, ms; wraps.
    pub(super) fn new(tuple: &Judged, now_ms: u32) -> Self {
        let searches = [tuple.search; 2];
        let closed = [closed(tuple); 2];
        // Whether these connections were there before is not known.
        Self { searches, closed, close_wait: [0, close_wait(tuple)], since_ms: now_ms }
    }

    /// Whether it is of readings up to this time (on the readings' clock, ms; wraps), and not of later ones: a replay can go
    /// back.
    pub(super) const fn is_before(&self, now_ms: u32) -> bool {
        now_ms.wrapping_sub(self.since_ms) < u32::MAX / 2
    }

    /// Adds a reading. `now_ms`: its time on the readings' clock, ms; wraps.
    pub(super) fn add(&mut self, tuple: &Judged, now_ms: u32) {
        let [_, later] = self.searches;
        let fewer = later.iter().zip(tuple.search).any(|(before, now)| now < *before);
        let [_, earlier] = &self.closed;
        if fewer || closed(tuple).all() < earlier.all() {
            // The tuple was removed, and is there again: its counters began at 0.
            self.searches = [[0; SEARCH_BUCKETS]; 2];
            self.closed = [Closed::default(); 2];
        }
        let [_, least] = &mut self.close_wait;
        *least = close_wait(tuple).min(*least);
        if now_ms.wrapping_sub(self.since_ms) >= RENEWED_MS {
            let [_, later] = self.searches;
            self.searches = [later, tuple.search];
            let [_, later] = self.closed;
            self.closed = [later, closed(tuple)];
            let [_, least] = self.close_wait;
            self.close_wait = [least, close_wait(tuple)];
            self.since_ms = now_ms;
        }
    }

    /// Port searches of the last 5 to 10 s before the reading that has `tuple`, by duration; of fewer seconds if the tuple has
    /// not been judged for as long.
    pub(super) fn searches(&self, tuple: &Judged) -> [u32; SEARCH_BUCKETS] {
        let [before, _] = &self.searches;
        let mut recent = tuple.search;
        for (count, before) in recent.iter_mut().zip(before) {
            *count = count.saturating_sub(*before);
        }
        recent
    }

    /// Established connections that ended in the last 5 to 10 s, or since the tuple has been judged if that is less; all 0 if the
    /// readings do not say it. `tuple`: its newest reading.
    pub(super) fn closed(&self, tuple: &Judged) -> Closed {
        let [before, _] = &self.closed;
        closed(tuple).since(before)
    }

    /// The fewest connections (not always the same ones) that a reading of the last 5 to 10 s had in CLOSE_WAIT. 0 if the tuple
    /// has not been judged for 5 s, or a reading of that time does not say how many there were.
    pub(super) fn close_wait(&self) -> u64 {
        let [before, since] = self.close_wait;
        before.min(since)
    }
}

/// Connections that ended so far; none if the readings do not say it.
fn closed(tuple: &Judged) -> Closed {
    tuple.row.uses.map(|uses| uses.closed).unwrap_or_default()
}

fn close_wait(tuple: &Judged) -> u64 {
    tuple.row.states.map_or(0, |states| states.close_wait)
}

/// Calls of bind(address, 0) that failed in the last 10 s because no port was free, by address: the ledger does not count them.
#[derive(Clone, Debug, Default)]
pub(super) struct Binds {
    /// Oldest first, each with the time of its reading, ms.
    failed: VecDeque<(u32, TupleKey, u64, Process)>,
}

impl Binds {
    /// Adds those failures of a reading that are of bind() for lack of a free port, and drops those that are 10 s old, and the
    /// oldest of more than 1,024 entries. `now_ms`: the reading's time on the readings' clock, ms; wraps.
    pub(super) fn add(&mut self, failures: &[Failure], now_ms: u32) {
        let old = |at: u32| now_ms.wrapping_sub(at) >= BINDS_MS;
        while self.failed.front().is_some_and(|(at, ..)| old(*at)) {
            self.failed.pop_front();
        }
        let lack = |it: &&Failure| (it.call, it.cause) == (Call::Bind, Cause::BindExhausted);
        for failure in failures.iter().filter(lack) {
            let key = bind_key(failure);
            let name = String::from_utf8_lossy(until_nul(&failure.comm)).into_owned();
            let container = failure.container.as_ref().map(ToString::to_string);
            let process = Process { pid: failure.pid, name, container };
            let now = self.failed.iter_mut().rev().take_while(|(at, ..)| *at == now_ms);
            if let Some((_, _, count, last)) = now.into_iter().find(|(_, of, ..)| *of == key) {
                *count = count.saturating_add(failure.count);
                *last = process;
                continue;
            }
            if self.failed.len() == BINDS {
                self.failed.pop_front();
            }
            self.failed.push_back((now_ms, key, failure.count, process));
        }
    }

    /// The addresses at which a call failed in the 10 s before the newest reading, each once, in no order.
    pub(super) fn keys(&self) -> impl Iterator<Item = TupleKey> {
        let keys: HashSet<TupleKey> = self.failed.iter().map(|(_, key, ..)| *key).collect();
        keys.into_iter()
    }

    /// The failed calls at an address in the 10 s before the newest reading, and the process of the last one; `None`: there was
    /// none.
    pub(super) fn activity(&self, key: &TupleKey) -> Option<Activity> {
        let here = self.failed.iter().filter(|(_, of, ..)| of == key);
        let (mut count, mut caller) = (0_u64, None);
        for (.., failed, process) in here {
            count = count.saturating_add(*failed);
            caller = Some(process);
        }
        let mut failed = [0; Cause::COUNT];
        if let Some(of) = failed.get_mut(Cause::BindExhausted as usize) {
            *of = count;
        }
        let seconds = f64::from(BINDS_MS) / 1e3;
        let caller = caller.cloned();
        caller.map(|it| Activity { seconds, failed, caller: Some(it), ..Activity::default() })
    }

    /// The addresses that are not among the `judged` ones, each with its failures as [`Self::activity`] returns them, and no
    /// ports held; in no order.
    pub(super) fn without(&self, judged: &HashSet<TupleKey>) -> Vec<(TupleKey, Counted)> {
        let others = self.keys().filter(|key| !judged.contains(key));
        let counted = |key: TupleKey| {
            let activity = self.activity(&key);
            (key, Counted { key, held: Held::default(), activity })
        };
        others.map(counted).collect()
    }
}

/// The key of the address at which a bind() failed.
pub(super) fn bind_key(failure: &Failure) -> TupleKey {
    TupleKey::of_bind(failure.key.netns, failure.key.source)
}
