//! The first and the last line, the totals of readings, and which losses and degradations the stream has reported.

use std::collections::BTreeMap;

use serde_json::json;
use tracer_common::Cause;

use super::delivery::Dropped;
use crate::{
    config::RecordConfig,
    doctor::snapshot,
    export::{
        port_settings::PortSettings,
        record::{Degraded, Start, Stats, Stop},
    },
    host::{
        capacity::{PackedPorts, PortRange, Reuse, Usable},
        netns,
    },
    kernel::maps::Totals,
    ledger::trace::{Tracer, named_losses},
    runtime::usage,
};

/// The line `tracer.start`, with the settings of this process's network namespace; what cannot be read of these is left out.
/// `host`: the name of this host; empty: the line has none.
pub(super) fn start<'a>(tracer: &'a Tracer, config: &RecordConfig, host: &'a str) -> Start<'a> {
    let range = PortRange::read().ok();
    let reserved =
        range.as_ref().map(|range| Usable::new(range, PackedPorts::default()).reserved());
    let filter =
        (!config.filter.is_empty()).then(|| ("filter".into(), json!(config.filter.to_string())));
    Start {
        version: env!("CARGO_PKG_VERSION"),
        kernel: tracer.release.as_str().into(),
        backend: tracer.session.backend.name(),
        host: host.into(),
        range: range.map(|range| format!("{}-{}", range.low, range.high)),
        netns: netns::own().ok().map(|own| own.inum),
        ports: PortSettings::new(reserved, Some(Reuse::read())),
        hz: snapshot::hz(),
        degraded: tracer.degraded(),
        settings: [
            ("output".into(), json!(config.output.target.name())),
            ("event_mask".into(), json!(config.events.mask)),
            ("stats".into(), json!(config.events.stats)),
            ("stats_interval_s".into(), json!(config.interval.as_secs_f64())),
            ("seeded".into(), json!(tracer.seeded)),
        ]
        .into_iter()
        .chain(tracer.tables.settings())
        .chain(filter)
        .collect(),
    }
}

/// The losses that `lost` lines have reported so far, by reason; with the count that each had then.
#[derive(Default)]
pub(super) struct ReportedLosses(BTreeMap<&'static str, u64>);

/// What does not work as well as it could, as the stream has reported it last, one text each.
#[derive(Default)]
pub(crate) struct Degradation(Vec<String>);

/// A change of the degradations: all that there are now, those that are new, and those that have ended.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Change {
    now: Vec<String>,
    added: Vec<String>,
    ended: Vec<String>,
}

impl Degradation {
    /// Notes that the stream has reported these, and only these.
    pub(crate) fn note(&mut self, reasons: Vec<String>) {
        self.0 = reasons;
    }

    /// The change from what the stream has reported to `now`; `None`: the same texts, in whatever order.
    pub(crate) fn change(&self, now: Vec<String>) -> Option<Change> {
        let without = |these: &[String], those: &[String]| -> Vec<String> {
            these.iter().filter(|one| !those.contains(one)).cloned().collect()
        };
        let (added, ended) = (without(&now, &self.0), without(&self.0, &now));
        if added.is_empty() && ended.is_empty() {
            return None;
        }
        Some(Change { now, added, ended })
    }
}

impl Change {
    /// All degradations after the change.
    pub(crate) fn now(&self) -> Vec<String> {
        self.now.clone()
    }

    /// The line `tracer.degraded`.
    pub(crate) fn line(&self) -> Degraded<'_> {
        Degraded { degraded: &self.now, added: &self.added, ended: &self.ended }
    }
}

/// The count of every loss by name, including 0.
fn losses(
    totals: &Totals,
    dropped: Dropped,
    undecodable: u64,
) -> impl Iterator<Item = (&'static str, u64)> {
    named_losses(totals).chain([
        ("output_full", dropped.events),
        ("output_full_other", dropped.others),
        ("undecodable", undecodable),
    ])
}

impl ReportedLosses {
    /// What was lost since the last call: each reason whose count has grown, with by how much. `totals`: what the hooks lost;
    /// `dropped`: lines that the output dropped; `undecodable`: records that have no line, because they cannot be decoded; all
    /// since the start.
    pub(super) fn new_losses(
        &mut self,
        totals: &Totals,
        dropped: Dropped,
        undecodable: u64,
    ) -> Vec<(&'static str, u64)> {
        losses(totals, dropped, undecodable)
            .filter_map(|(reason, count)| {
                let before = self.0.insert(reason, count).unwrap_or(0);
                let more = count.saturating_sub(before);
                (more > 0).then_some((reason, more))
            })
            .collect()
    }
}

/// The line `tracer.stats` of a reading. `dropped`: lines that the output dropped; `undecodable`: records that have no line,
/// because they cannot be decoded; `drift`: entries and counters that were wrong and have been corrected; all since the start.
/// `tuples`: the number of the reading's `tuple.stats` lines.
pub(super) fn stats(
    totals: &Totals,
    dropped: Dropped,
    undecodable: u64,
    drift: u64,
    tuples: u64,
) -> Stats {
    Stats {
        tuples,
        seen: totals.seen,
        emitted: totals.emitted,
        failed: failed(totals),
        lost: losses(totals, dropped, undecodable).filter(|(_, count)| *count > 0).collect(),
        drift,
        cpu_ns: usage::cpu_ns(),
        rss_kib: usage::rss_kib(),
    }
}

fn failed(totals: &Totals) -> BTreeMap<&'static str, u64> {
    Cause::ALL.map(|cause| (cause.name(), totals.failed_for(cause))).into()
}

/// The line `tracer.stop`. `events`: lines of socket events that were given to the output, dropped ones included. `dropped`,
/// `undecodable` and `drift`: see [`stats`].
pub(super) fn stop(
    totals: &Totals,
    events: u64,
    dropped: Dropped,
    undecodable: u64,
    drift: u64,
) -> Stop {
    Stop {
        seen: totals.seen,
        emitted: totals.emitted,
        written: events.saturating_sub(dropped.events),
        failed: failed(totals),
        lost: losses(totals, dropped, undecodable).collect(),
        drift,
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::Loss;

    use super::*;

    #[test]
    fn a_loss_is_reported_once_with_how_much_it_has_grown() {
        let mut totals = Totals::default();
        let mut reported = ReportedLosses::default();
        assert_eq!(reported.new_losses(&totals, Dropped::default(), 0), []);
        totals.lost[Loss::EventRingFull as usize] = 3;
        let dropped = Dropped { events: 2, others: 0 };
        let new = reported.new_losses(&totals, dropped, 0);
        assert_eq!(new, [("event_ring_full", 3), ("output_full", 2)]);
        totals.lost[Loss::EventRingFull as usize] = 5;
        assert_eq!(reported.new_losses(&totals, dropped, 0), [("event_ring_full", 2)]);
    }

    #[test]
    fn degradations_are_written_when_they_change() {
        let list = |these: &[&str]| these.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
        let mut degradation = Degradation::default();
        degradation.note(list(&["a"]));
        assert_eq!(degradation.change(list(&["a"])), None);
        let change = Change { now: list(&["a", "b"]), added: list(&["b"]), ended: vec![] };
        assert_eq!(degradation.change(list(&["a", "b"])), Some(change));
        degradation.note(list(&["a", "b"]));
        assert_eq!(degradation.change(list(&["b", "a"])), None);
        let change = Change { now: list(&["b"]), added: vec![], ended: list(&["a"]) };
        assert_eq!(degradation.change(list(&["b"])), Some(change));
    }

    #[test]
    fn a_missed_hook_is_a_loss_that_is_not_in_the_sums() {
        let totals = Totals { seen: 5, emitted: 5, hook_missed: 2, ..Totals::default() };
        let new = ReportedLosses::default().new_losses(&totals, Dropped::default(), 0);
        assert_eq!(new, [("hook_missed", 2)]);
        let stop = stop(&totals, 5, Dropped::default(), 0, 0);
        assert_eq!(stop.lost["hook_missed"], 2);
        assert_eq!((stop.emitted, stop.written), (stop.seen, stop.seen));
    }

    #[test]
    fn a_reading_is_closed_with_the_losses_that_happened_and_all_causes() {
        let mut totals = Totals { seen: 5, emitted: 4, ..Totals::default() };
        totals.lost[Loss::EventRingFull as usize] = 1;
        totals.failed[Cause::Refused as usize] = 3;
        let stats = stats(&totals, Dropped { events: 0, others: 2 }, 0, 1, 7);
        assert_eq!(stats.lost, [("event_ring_full", 1), ("output_full_other", 2)].into());
        assert_eq!((stats.failed.len(), stats.failed["refused"]), (Cause::COUNT, 3));
        assert_eq!((stats.seen, stats.emitted, stats.drift, stats.tuples), (5, 4, 1, 7));
        assert!(stats.cpu_ns > 0 && stats.rss_kib > 0);
    }

    #[test]
    fn emitted_is_written_and_each_loss_after_the_ring() {
        let totals = Totals { seen: 12, emitted: 10, ..Totals::default() };
        let stop = stop(&totals, 9, Dropped { events: 4, others: 1 }, 1, 0);
        assert_eq!(
            stop.emitted,
            stop.written + stop.lost["output_full"] + stop.lost["undecodable"]
        );
    }
}
