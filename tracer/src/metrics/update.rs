//! Makes a snapshot of a reading, and keeps what that needs of earlier ones.

use std::{sync::Arc, time::Instant};

use tracer_common::{Cause, tuple::SEARCH_BUCKETS};

use super::{
    members::{Members, Rank},
    reading::{Reading, TupleReading},
    snapshot::{AllTuples, OutputCounts, Shown, Snapshot, netns_labels, tuple_labels},
    totals::{Totals, losses},
};
use crate::{
    ledger::stats::{percentile_99, saturation},
    runtime::clock,
};

/// What the metrics need of earlier readings: which tuples are shown, and the totals.
#[derive(Debug)]
pub struct Metrics {
    members: Members,
    thresholds: Vec<f64>,
    totals: Totals,
}

impl Metrics {
    /// Metrics that show the `top` fullest tuples, and for ten minutes those that were among them: at most twice as many.
    /// `thresholds`: the saturations for which `tracer_tuples_above` says how many tuples have at least that much.
    pub fn new(top: usize, thresholds: &[f64]) -> Self {
        let thresholds = thresholds.to_vec();
        Self { members: Members::new(top), thresholds, totals: Totals::default() }
    }

    /// From the next reading on, shows so many tuples, and counts those above these thresholds: as for [`Self::new`].
    pub fn change(&mut self, top: usize, thresholds: &[f64]) {
        self.members.show(top);
        self.thresholds = thresholds.to_vec();
    }

    /// What the metrics say of this reading. `now`: when it was.
    pub fn update(&mut self, reading: &Reading<'_>, now: Instant) -> Arc<Snapshot> {
        let rank = |tuple: &TupleReading<'_>| {
            Rank::new(tuple.key, tuple.saturation(), tuple.count.in_use())
        };
        self.members.update(reading.tuples.iter().map(rank), now);
        let netns = netns_labels(reading);
        let above = self.thresholds.iter().map(|threshold| (*threshold, 0)).collect();
        let mut all = AllTuples { above, ..AllTuples::default() };
        let (mut others, mut shown) = ((0_u64, 0_u64), Vec::new());
        self.totals.begin();
        for tuple in &reading.tuples {
            let recent = self.totals.add(tuple.key, tuple.count);
            all.add(tuple);
            match netns.get(&tuple.key.netns) {
                Some(netns) if self.members.has(&tuple.key) => {
                    shown.push((tuple.key, tuple.shown(netns, &recent)));
                }
                _ => {
                    others.0 = others.0.saturating_add(tuple.count.in_use());
                    others.1 = others.1.saturating_add(tuple.count.time_wait());
                }
            }
        }
        shown.sort_unstable_by_key(|(key, _)| *key);
        let mut namespaces: Vec<_> = reading
            .namespaces
            .iter()
            .filter(|namespace| shown.iter().any(|(key, _)| key.netns == namespace.inum))
            .filter_map(|one| Some((netns.get(&one.inum)?.clone(), one.range, one.bound)))
            .collect();
        namespaces.sort_unstable();
        namespaces.dedup_by(|one, other| one.0 == other.0);
        let outputs = reading.outputs.iter().map(|output| OutputCounts {
            name: output.name.to_owned(),
            lines: output.lines,
            dropped: output.dropped,
            bytes: output.bytes,
        });
        let programs = reading.programs.iter();
        Arc::new(Snapshot {
            at_ns: reading.at_ns,
            took_s: reading.took.as_secs_f64(),
            backend: reading.backend.to_owned(),
            kernel: reading.kernel.to_owned(),
            degraded: reading.degraded as u64,
            config: reading.config,
            all,
            sums: self.totals.end(),
            search_ns: reading.totals.search_ns,
            failed: reading.totals.failed,
            losses: losses(&reading.losses),
            drift: reading.drift,
            seen: reading.totals.seen,
            emitted: reading.totals.emitted,
            shown: shown.into_iter().map(|(_, shown)| shown).collect(),
            others,
            namespaces,
            outputs: outputs.collect(),
            maps: reading.maps.clone(),
            programs: programs.map(|one| (one.name.to_owned(), one.run.as_secs_f64())).collect(),
            http_refused: reading.http_refused,
            process: reading.process,
            texts: Default::default(),
        })
    }
}

impl TupleReading<'_> {
    /// `None`: its capacity is not known, or it can hold no port and nobody wants one.
    fn saturation(&self) -> Option<f64> {
        let wanted = self.count.in_use() > 0 || self.count.failures() > 0;
        saturation(self.count.in_use(), self.capacity)
            .filter(|_| wanted || self.capacity != Some(0))
    }

    /// The tuple as it is shown. `netns`: the label of its namespace; `recent`: its port searches since the reading before.
    fn shown(&self, netns: &str, recent: &[u32; SEARCH_BUCKETS]) -> Shown {
        let p99 = percentile_99(recent).or_else(|| percentile_99(&self.count.search));
        Shown {
            labels: tuple_labels(netns, &self.key),
            in_use: self.count.in_use(),
            time_wait: self.count.time_wait(),
            capacity: self.capacity,
            saturation: self.saturation(),
            eta_s: self.eta_s.filter(|eta| eta.is_finite()),
            search_p99_s: p99.map(|p99| clock::seconds(p99.ns)),
            opened: self.count.opened,
            exhausted: self.count.failed.get(Cause::PortsExhausted as usize).copied().unwrap_or(0),
        }
    }
}

impl AllTuples {
    fn add(&mut self, tuple: &TupleReading<'_>) {
        self.holding += u64::from(tuple.count.in_use() > 0);
        self.in_use = self.in_use.saturating_add(tuple.count.in_use());
        self.time_wait = self.time_wait.saturating_add(tuple.count.time_wait());
        let Some(saturation) = tuple.saturation() else { return };
        self.fullest = self.fullest.max(saturation);
        for (threshold, above) in &mut self.above {
            *above += u64::from(saturation >= *threshold);
        }
    }
}

#[cfg(test)]
mod tests;
