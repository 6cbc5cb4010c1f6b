//! What the agent says beside the decisions: the first and the last line of its stream, what was lost, and
//! for the status what only it knows.

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
    export::record::{Start, Stop},
    kernel::maps::Totals,
    ledger::trace::named_losses,
    runtime::{clock, shutdown::StopSignals},
    spread::{
        health::REFUSED,
        pool,
        state::{LeftOutTowards, Quarantined, State},
    },
};

/// What had been counted when the stream began, and what was told since: a rule is older than its agent.
#[derive(Default)]
pub(super) struct Counted {
    totals: Totals,
    not_told: u64,
    /// Losses that lines were written about.
    told: BTreeMap<&'static str, u64>,
    /// What the stream says does not work as well as it could.
    degraded: Degradation,
    /// What the agents before this one found.
    hook_missed: u64,
    drift: u64,
}

impl Counted {
    /// `earlier`: what the agent before this one said.
    pub(super) fn new(earlier: &State) -> Self {
        Self { hook_missed: earlier.hook_missed, drift: earlier.drift, ..Self::default() }
    }
}

impl Agent {
    /// What was set up, for people.
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
            .said
            .notes
            .lines()
            .iter()
            .fold(String::new(), |all, (word, text)| all + "\n" + word + ": " + text);
        format!(
            "rule {}: spreads over {} of {} addresses, {} ports each towards a destination{fast}{detached}{notes}",
            self.config.rule,
            self.rule.v4.count + self.rule.v6.count,
            pool::members(&self.config.pool, &self.inside.host).len(),
            self.rule.capacity,
        )
    }

    /// Writes the first line.
    pub(super) fn begin(&mut self, asked: &StopSignals) -> Result<(), Error> {
        if self.config.detach {
            return Ok(());
        }
        self.counted.totals = self.tracer.totals()?;
        self.counted.not_told = self.not_told()?;
        let output = match &self.config.output.target {
            Target::Stdout => "-".to_owned(),
            Target::File(path) => path.to_string_lossy().into_owned(),
        };
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let range = format!("{}-{}", self.inside.range.low, self.inside.range.high);
        let line = Start {
            host: host.into(),
            range: Some(range),
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
        self.counted.degraded.said(line.degraded.clone());
        self.decision_log.begin(asked, move |output| output.start(&line));
        Ok(())
    }

    fn not_told(&mut self) -> Result<u64, Error> {
        let decided = self.spreader()?.maps.decision_counts()?;
        Ok(decided.get(Decision::NotTold as usize).copied().unwrap_or(0))
    }

    /// One line for each reason for which lines are missing that was not told yet.
    pub(super) fn losses(&mut self) -> Result<(), Error> {
        let not_told = self.not_told()?.saturating_sub(self.counted.not_told);
        let (dropped, undecodable) = self.decision_log.dropped();
        for (reason, count) in of_lines(not_told, dropped, undecodable) {
            let before = self.counted.told.get(reason).copied().unwrap_or(0);
            if count > before && self.decision_log.lost(reason, count - before) {
                self.counted.told.insert(reason, count);
            }
        }
        Ok(())
    }

    /// A line if what does not work as well as it could has changed.
    pub(super) fn degradation(&mut self) {
        let Some(change) = self.counted.degraded.change(self.degraded()) else { return };
        let now = change.now();
        if self.decision_log.degraded(change) {
            self.counted.degraded.said(now);
        }
    }

    /// Writes what is left, and the last line.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        self.hear();
        self.degradation();
        self.losses()?;
        let not_told = self.not_told()?.saturating_sub(self.counted.not_told);
        let totals = since(self.tracer.totals()?, &self.counted.totals);
        let drift = self.tracer.drift;
        self.decision_log.end(move |lines, dropped, undecodable| Stop {
            seen: lines + undecodable + not_told,
            emitted: lines + undecodable,
            written: lines.saturating_sub(dropped.events),
            failed: Cause::ALL.map(|cause| (cause.name(), totals.failed_for(cause))).into(),
            lost: named_losses(&totals).chain(of_lines(not_told, dropped, undecodable)).collect(),
            drift,
        });
        Ok(())
    }

    /// The parts of the status that change by themselves.
    pub(super) fn troubles(&self) -> State {
        let now = Instant::now();
        let members = pool::members(&self.config.pool, &self.inside.host);
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
            hook_missed: self.counted.hook_missed + self.tracer.session.missed_hooks().counted,
            drift: self.counted.drift + self.tracer.drift,
            ..State::default()
        }
    }
}

/// Why lines can be missing, and how many are.
fn of_lines(not_told: u64, dropped: Dropped, undecodable: u64) -> [(&'static str, u64); 4] {
    [
        (Decision::NotTold.name(), not_told),
        ("output_full", dropped.events),
        ("output_full_other", dropped.others),
        ("undecodable", undecodable),
    ]
}

/// What came on top.
fn since(mut totals: Totals, before: &Totals) -> Totals {
    let pairs = totals.lost.iter_mut().zip(before.lost);
    for (now, before) in pairs.chain(totals.failed.iter_mut().zip(before.failed)) {
        *now = now.saturating_sub(before);
    }
    totals
}
