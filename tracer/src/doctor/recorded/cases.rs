//! [`Cases`]: keeps each tuple that ran out of ports, or was about to, as it was at its worst. What helps a tuple is found out
//! only when [`Cases::advice_for`] asks: a recording can have thousands of them, and few are shown.

use std::{collections::BTreeMap, sync::Arc};

use foldhash::HashMap;
use tracer_common::TupleKey;

use super::{
    Keep,
    track::float,
    worst::{self, Rank},
};
use crate::doctor::{
    activity::Activity,
    finding::{Advice, Finding, Id, Place, Severity},
    from_ledger,
    judge::{self, Around, Seen},
    tuples::{Ends, Settings, Tuple, Tuples},
    verdict,
};

/// The tuples that ran out of ports or were about to, or whose connections mostly had no answer, each at its worst.
#[derive(Debug)]
pub struct Cases {
    all: HashMap<TupleKey, Kept>,
    /// How many tuples are kept at most.
    most: usize,
    /// How often a tuple found no room.
    left_out: u64,
}

/// A tuple when it lacked ports most, and when most of its connections had no answer; `None`: it never did, or they always had one.
#[derive(Debug, Default)]
struct Kept {
    exhausted: Option<Box<Case>>,
    black_hole: Option<Box<Case>>,
}

/// A tuple in a window, with all that its judges need.
#[derive(Debug)]
struct Case {
    rank: Rank,
    there: Arc<There>,
    tuple: Tuple,
    activity: Option<Activity>,
}

/// Its network namespace in that window.
#[derive(Debug)]
struct There {
    place: Place,
    settings: Settings,
    /// Ports that a tuple which holds none can be given.
    usable: u32,
    /// How long a TIME_WAIT lasts at most, in seconds.
    time_wait_s: f64,
}

impl Cases {
    /// No tuple yet. `most`: how many are kept at most.
    pub(super) fn new(most: usize) -> Self {
        Self { all: HashMap::default(), most, left_out: 0 }
    }

    /// How often a tuple found no room: once in each window in which it was to be added.
    pub(super) const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Adds the tuples of a namespace. `failed`: calls that found no port, of a single tuple without counters; `None`: the counters
    /// say it.
    fn add(&mut self, seen: &Seen, failed: Option<u64>) {
        let mut there = None;
        for (ends, tuple) in &seen.now.by_ends {
            let [exhausted, black_hole] = ranks(seen, (ends, tuple), failed);
            if exhausted.is_none() && black_hole.is_none() {
                continue;
            }
            let key = key(seen.place.inum, ends);
            if self.all.len() >= self.most && !self.all.contains_key(&key) {
                self.left_out = self.left_out.saturating_add(1);
                continue;
            }
            let kept = self.all.entry(key).or_default();
            let new = [(exhausted, &mut kept.exhausted), (black_hole, &mut kept.black_hole)];
            for (rank, kept) in new {
                let Some(rank) = rank else { continue };
                if kept.as_ref().is_none_or(|it| worst::is_worse(rank, it.rank)) {
                    let there = there.get_or_insert_with(|| Arc::new(There::of(seen))).clone();
                    let activity = seen.activity.get(ends).cloned();
                    *kept = Some(Box::new(Case { rank, there, tuple: tuple.clone(), activity }));
                }
            }
        }
    }

    /// The first advice for a tuple, and the id of the finding that gives it: `ports_exhausted` or its cause. `None`: the tuple
    /// did not run out of ports, and was not about to, or there was no room for it, or nothing is advised.
    pub fn advice_for(&self, key: &TupleKey) -> Option<(Id, Advice)> {
        let Kept { exhausted, black_hole } = self.all.get(key)?;
        let ends = from_ledger::ends(key);
        let exhausted = exhausted.as_ref()?.finding(Id::PortsExhausted, ends)?;
        let finding = match exhausted.consequence_of {
            None => exhausted,
            Some(cause) => black_hole.as_ref()?.finding(cause, ends)?,
        };
        Some((finding.id, finding.advice.into_iter().next()?))
    }
}

impl Keep for Cases {
    fn window(&mut self, seen: &Seen, _: bool, _: impl Fn(&Finding) -> u64) {
        self.add(seen, None);
    }

    fn without_readings(&mut self, seen: &Seen, failed: u64, _: u64) {
        self.add(seen, Some(failed));
    }
}

impl Case {
    /// The finding of this id about the tuple, as it was then; `None`: there is none.
    fn finding(&self, id: Id, ends: Ends) -> Option<Finding> {
        let There { place, settings, usable, time_wait_s } = &*self.there;
        let by_ends = BTreeMap::from([(ends, self.tuple.clone())]);
        let activity = self.activity.clone().map(|it| (ends, it));
        let seen = Seen {
            place: place.clone(),
            settings: settings.clone(),
            now: Tuples { by_ends, usable: *usable, ..Tuples::default() },
            before: None,
            time_wait_s: *time_wait_s,
            activity: activity.into_iter().collect(),
            bound: Vec::new(),
            details: None,
            growth: None,
        };
        let findings = verdict::sort(judge::of_tuples(&seen, &Around::default()));
        findings.into_iter().find(|it| it.id == id)
    }
}

impl There {
    fn of(seen: &Seen) -> Self {
        Self {
            place: seen.place.clone(),
            settings: seen.settings.clone(),
            usable: seen.now.usable,
            time_wait_s: seen.time_wait_s,
        }
    }
}

/// How bad `ports_exhausted` and `black_hole` are for a tuple, as [`Rank`]s of these findings; `None`: there is no such finding.
fn ranks(seen: &Seen, (ends, tuple): (&Ends, &Tuple), failed: Option<u64>) -> [Option<Rank>; 2] {
    let [exhausted, black_hole] = judge::severities(seen, ends, tuple);
    let failed = failed.or_else(|| Some(seen.activity.get(ends)?.exhausted())).unwrap_or(0);
    let rank = |numbers: [f64; 2]| move |severity: Severity| (severity, numbers);
    [
        exhausted.map(rank([float(failed), judge::saturation(tuple)])),
        black_hole.map(rank([tuple.syn_sent.into(), tuple.in_use().into()])),
    ]
}

fn key(netns: u32, ends: &Ends) -> TupleKey {
    TupleKey {
        source: ends.source,
        destination: ends.destination,
        netns,
        destination_port: ends.port,
        zero: 0,
    }
}
