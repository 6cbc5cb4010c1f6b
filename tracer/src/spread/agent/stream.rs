//! Writes the agent's lines other than decisions: the first and last line of its stream, losses, degradations. Also makes the
//! parts of its state for `tracer status` that come from counters and health checks.

use std::{collections::BTreeMap, time::Instant};

use serde_json::json;
use tracer_common::{
    Cause,
    spread::{Decision, rule_flag},
};

use super::Agent;
use crate::{
    commands::record::{output::Dropped, totals::Degradation},
    config::Target,
    error::Error,
    export::{
        port_settings::PortSettings,
        record::{Start, Stop},
    },
    kernel::maps::Totals,
    ledger::trace::named_losses,
    runtime::{clock, shutdown::StopSignals},
    spread::{
        health::REFUSED,
        pool,
        state::{LeftOutTowards, Quarantined, State},
    },
};

/// What the maps had counted when the stream began (a rule can be older than its agent), what lines of the stream have
/// reported since, and what earlier agents of the rule counted.
#[derive(Default)]
pub(super) struct StreamCounters {
    /// The kernel side's totals when the stream began.
    totals: Totals,
    /// How many decisions had found no room in the ring buffer when the stream began.
    lost_decisions: u64,
    /// How much was lost, by reason, as far as `lost` lines have reported it.
    reported: BTreeMap<&'static str, u64>,
    /// The degradations that lines of the stream have named.
    degraded: Degradation,
    /// Runs of hooks that the kernel skipped and counted while earlier agents of the rule ran.
    hook_missed: u64,
    /// Corrections of the ledger by earlier agents of the rule, after comparisons with the kernel's sockets.
    drift: u64,
}

impl StreamCounters {
    /// Counters that start at zero, except `hook_missed` and `drift`, which come from the state that the rule's last
    /// agent published.
    pub(super) fn new(earlier: &State) -> Self {
        Self { hook_missed: earlier.hook_missed, drift: earlier.drift, ..Self::default() }
    }
}

impl Agent {
    /// What was set up, as a text for people: one line about the rule, then one for each note on the pool.
    pub fn summary(&self) -> String {
        let spreader = self.tracer.session.spreader.as_ref();
        let fast = match spreader.and_then(|spreader| spreader.no_fast_ports.as_deref()) {
            Some(why) => format!("; without fast ports ({why})"),
            None if self.config.flags & rule_flag::FAST_PORTS == 0 => {
                "; the kernel chooses the ports".into()
            }
            None => String::new(),
        };
        let detached = if self.config.detach {
            format!("; detached, undo: tracer spread --release --rule {}", self.config.rule)
        } else {
            String::new()
        };
        let notes: String = self
            .published
            .notes
            .lines()
            .iter()
            .fold(String::new(), |all, (word, text)| all + "\n" + word + ": " + text);
        format!(
            "rule {}: spreads over {} of {} addresses, {} ports each towards a destination{fast}{detached}{notes}",
            self.config.rule,
            self.rule.v4.count + self.rule.v6.count,
            pool::members(&self.config.pool, &self.view.host).len(),
            self.rule.capacity,
        )
    }

    /// Begins the stream: notes the counts from which its losses and failures are counted, and writes its first line. Does
    /// nothing with `--detach`.
    ///
    /// # Errors
    /// A BPF map cannot be read.
    pub(super) fn begin(&mut self, signals: &StopSignals) -> Result<(), Error> {
        if self.config.detach {
            return Ok(());
        }
        self.stream_counters.totals = self.tracer.totals()?;
        self.stream_counters.lost_decisions = self.lost_decisions()?;
        let output = match &self.config.output.target {
            Target::Stdout => "-".to_owned(),
            Target::File(path) => path.to_string_lossy().into_owned(),
        };
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let range = format!("{}-{}", self.view.range.low, self.view.range.high);
        let line = Start {
            host: host.into(),
            range: Some(range),
            netns: None,
            ports: PortSettings::default(),
            hz: None,
            version: env!("CARGO_PKG_VERSION"),
            kernel: self.tracer.release.clone().into(),
            backend: self.tracer.session.backend.name(),
            degraded: self.degraded(),
            settings: [
                ("output".into(), json!(output)),
                ("rule".into(), json!(self.config.rule)),
                ("sample".into(), json!(self.config.sample)),
                ("seeded".into(), json!(self.tracer.seeded)),
            ]
            .into_iter()
            .chain(self.tracer.tables.settings())
            .collect(),
        };
        self.stream_counters.degraded.note(line.degraded.clone());
        self.decision_log.begin(signals, move |output| output.start(&line));
        Ok(())
    }

    /// Decisions since the rule began that found no room in the ring buffer.
    ///
    /// # Errors
    /// The BPF map cannot be read.
    fn lost_decisions(&mut self) -> Result<u64, Error> {
        let decided = self.spreader()?.maps.decision_counts()?;
        Ok(decided.get(Decision::NotTold as usize).copied().unwrap_or(0))
    }

    /// Queues a `lost` line for each reason for which the stream lacks more lines than at the last such line. A line
    /// that finds no room is tried again by the next call.
    ///
    /// # Errors
    /// A BPF map cannot be read.
    pub(super) fn losses(&mut self) -> Result<(), Error> {
        let lost_decisions =
            self.lost_decisions()?.saturating_sub(self.stream_counters.lost_decisions);
        let (dropped, undecodable) = self.decision_log.dropped();
        for (reason, count) in of_lines(lost_decisions, dropped, undecodable) {
            let before = self.stream_counters.reported.get(reason).copied().unwrap_or(0);
            if count > before && self.decision_log.lost(reason, count - before) {
                self.stream_counters.reported.insert(reason, count);
            }
        }
        Ok(())
    }

    /// Queues a line `tracer.degraded` if the degradations have changed since the last such line. One that finds no room is tried
    /// again by the next call.
    pub(super) fn degradation(&mut self) {
        let Some(change) = self.stream_counters.degraded.change(self.degraded()) else { return };
        let now = change.now();
        if self.decision_log.degraded(change) {
            self.stream_counters.degraded.note(now);
        }
    }

    /// Queues the decisions that wait, changed degradations, the losses and the last line (`tracer.stop`), which ends the stream.
    /// Does not wait until they are written.
    ///
    /// # Errors
    /// A BPF map cannot be read.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        self.drain_decisions();
        self.degradation();
        self.losses()?;
        let lost_decisions =
            self.lost_decisions()?.saturating_sub(self.stream_counters.lost_decisions);
        let totals = since(self.tracer.totals()?, &self.stream_counters.totals);
        let drift = self.tracer.drift;
        self.decision_log.end(move |lines, dropped, undecodable| Stop {
            seen: lines + undecodable + lost_decisions,
            emitted: lines + undecodable,
            written: lines.saturating_sub(dropped.events),
            failed: Cause::ALL.map(|cause| (cause.name(), totals.failed_for(cause))).into(),
            lost: named_losses(&totals)
                .chain(of_lines(lost_decisions, dropped, undecodable))
                .collect(),
            drift,
        });
        Ok(())
    }

    /// A state with only these fields, all others have their defaults: `quarantined` (without addresses that cannot be used for
    /// another reason), `left_out_towards` (sorted by destination, port, address), `hook_missed` and `drift` (of all agents of
    /// the rule, up to now).
    pub(super) fn troubles(&self) -> State {
        let now = Instant::now();
        let members = pool::members(&self.config.pool, &self.view.host);
        let quarantined = members.iter().filter(|member| member.trouble.is_none());
        let quarantined = quarantined.filter_map(|member| {
            let address = pool::to_addr(member.address);
            Some(Quarantined {
                address: member.address,
                reason: REFUSED.to_owned(),
                until_mono_ns: clock::monotonic_at(self.health.refused.until(&address, now)?),
            })
        });
        let mut towards: Vec<LeftOutTowards> = self
            .left_out
            .iter()
            .map(|(key, why)| LeftOutTowards {
                address: pool::address(key.source),
                destination: pool::address(key.destination),
                port: key.destination_port,
                reason: why.name().to_owned(),
                until_mono_ns: self.health.failing.until(key, now).map(clock::monotonic_at),
            })
            .collect();
        towards.sort_unstable_by_key(|it| (it.destination, it.port, it.address));
        State {
            quarantined: quarantined.collect(),
            left_out_towards: towards,
            hook_missed: self.stream_counters.hook_missed
                + self.tracer.session.missed_hooks().counted,
            drift: self.stream_counters.drift + self.tracer.drift,
            ..State::default()
        }
    }
}

/// How many lines the stream lacks, by reason. `output_full_other` counts lines other than decisions, the other reasons
/// count decisions.
fn of_lines(lost_decisions: u64, dropped: Dropped, undecodable: u64) -> [(&'static str, u64); 4] {
    [
        (Decision::NotTold.name(), lost_decisions),
        ("output_full", dropped.events),
        ("output_full_other", dropped.others),
        ("undecodable", undecodable),
    ]
}

/// `totals` with its losses and failures less those that had been counted `before`.
fn since(mut totals: Totals, before: &Totals) -> Totals {
    let pairs = totals.lost.iter_mut().zip(before.lost);
    for (now, before) in pairs.chain(totals.failed.iter_mut().zip(before.failed)) {
        *now = now.saturating_sub(before);
    }
    totals
}
