//! [`Stream`]: one output of a recorder, with its own selection of lines and its own readings.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tracer_common::{Event, Filter, Kind, TupleCount, TupleKey, Who};

use super::{
    delivery::Dropped,
    output::{EventError, More, Output},
    recorder::{Ended, Shared, keep_first_error},
    settings::ReportedSettings,
    totals::{self, Degradation, ReportedLosses},
};
use crate::{
    config::RecordConfig,
    export::{line::Moment, sink::Closed},
    format::tuple::{AddressStats, Tuple},
    host::{callers::Callers, process::Called},
    ledger::{
        stats::{Earlier, Row},
        trace::{OlderEnds, passes, visible},
    },
    view::forecasts::Forecasts,
};

/// How long a line may wait in the buffer.
const WRITE_INTERVAL: Duration = Duration::from_millis(100);
/// The bits of all kinds of events.
const ALL_KINDS: u32 = {
    let (mut bits, mut number) = (0, 0);
    while number < Kind::ALL.len() {
        bits |= Kind::ALL[number].bit();
        number += 1;
    }
    bits
};

/// One output, and what is written there.
pub(crate) struct Stream {
    pub(super) output: Output,
    config: RecordConfig,
    filter: Filter,
    /// Whether the kernel side leaves out the events that `filter` does not let through.
    filtered: bool,
    /// Whether the reader of the output is gone.
    ended: bool,
    /// The tuples' counters at the newest reading.
    last: Earlier,
    /// When the newest reading was.
    last_at: Instant,
    forecasts: Forecasts,
    /// When the TIME_WAITs end that began before tracer did, by tuple; empty after the first reading that is written.
    older: Arc<OlderEnds>,
    /// By address, at the newest reading that was written: the counters of the ports that bind(address, 0) took, also at
    /// addresses that the filter hides.
    last_addresses: HashMap<TupleKey, TupleCount>,
    /// The losses that `lost` lines have reported.
    reported: ReportedLosses,
    /// The degradations that the stream has reported.
    degraded: Degradation,
    /// The settings of namespaces that the stream has reported.
    settings: ReportedSettings,
    /// Records of the ring buffer that have no line, because they are of an unknown kind or detail.
    unknown: u64,
    /// Lines of socket events that were given to the output, including those that it dropped.
    pub(super) events: u64,
}

/// What an output has taken so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Taken {
    /// Lines that were written.
    pub(crate) written: u64,
    pub(crate) dropped: Dropped,
    /// Bytes of the lines that it took, before they were compressed.
    pub(crate) bytes: u64,
}

impl Stream {
    /// A stream that writes what `config` asks for to `output`. `filter`: the filter of `config`, as the kernel side has it.
    /// `filtered`: whether the kernel side writes only the events that it lets through, so that they are not checked again.
    pub(crate) fn new(
        output: Output,
        config: RecordConfig,
        filter: &Filter,
        filtered: bool,
    ) -> Self {
        Self {
            output,
            config,
            filter: *filter,
            filtered: filtered || filter.active == 0,
            ended: false,
            last: Earlier::default(),
            last_at: Instant::now(),
            forecasts: Forecasts::default(),
            older: Arc::default(),
            last_addresses: HashMap::new(),
            reported: ReportedLosses::default(),
            degraded: Degradation::default(),
            settings: ReportedSettings::default(),
            unknown: 0,
            events: 0,
        }
    }

    /// Records of the ring buffer that this stream has no line for, because they are of an unknown kind or detail.
    pub(crate) fn unknown(&self) -> u64 {
        self.unknown
    }

    /// What the output has taken so far.
    pub(crate) fn taken(&self) -> Taken {
        Taken {
            written: self.output.written(),
            dropped: self.output.dropped(),
            bytes: self.output.bytes(),
        }
    }

    /// Whether the reader of the output is gone.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// The error for the end of the program: see [`Output::failure`].
    pub(super) fn failure(&self) -> Option<String> {
        self.output.failure()
    }

    /// Nothing more is written: the reader of the output is gone. With `log`, the log says so.
    pub(super) fn end_early(&mut self, log: bool) {
        if log && !self.ended {
            let name = self.config.output.target.name();
            tracing::warn!(
                "the reader of the output {name} is gone: nothing more is written there"
            );
        }
        self.ended = true;
    }

    /// Whether a reading is due.
    pub(super) fn is_due(&self) -> bool {
        self.last_at.elapsed() >= self.config.interval
    }

    /// Writes the first line. `host`: the name of this host; empty: the line has none.
    pub(super) fn begin(&mut self, shared: &Shared, host: &str) -> Result<(), Closed> {
        let line = totals::start(&shared.tracer, &self.config, host);
        self.output.start(&line)?;
        self.degraded.note(line.degraded);
        // Written immediately: a reader may wait for the first line to know that all programs are attached.
        self.output.write()
    }

    /// Keeps the newest reading, made at `mono_ns` (CLOCK_MONOTONIC, ns), as the one that the first written reading is compared
    /// with.
    pub(super) fn first_reading(&mut self, shared: &Shared, mono_ns: u64, older: Arc<OlderEnds>) {
        self.last_at = Instant::now();
        if !self.config.events.stats {
            return;
        }
        self.older = older;
        let Self { forecasts, older, .. } = self;
        let tracer = &shared.tracer;
        forecasts.begin(mono_ns);
        for (key, count) in tracer.tuples() {
            forecasts.read(key, (None, count), tracer.holds(key, count), older.get(key));
        }
        forecasts.end();
        self.last = Earlier::of(tracer.tuples());
    }

    /// Writes the line of an event, if this stream wants it. `more`: what the line has in addition.
    pub(super) fn event(
        &mut self,
        event: &Event,
        more: More,
        callers: &mut Callers,
        now: Instant,
    ) -> Result<(), Closed> {
        if !self.wants(event, more.called, callers, now) {
            return Ok(());
        }
        match self.output.event(event, more, || callers.cgroups.get(event.cgroup, now)) {
            Ok(()) => self.events += 1,
            Err(EventError::Unknown) => self.unknown += 1,
            Err(EventError::Closed(closed)) => return Err(closed),
        }
        Ok(())
    }

    /// Whether an event is one of the kinds that this stream writes, and passes its filter. An unknown kind is wanted: it is
    /// counted as a loss.
    fn wants(&self, event: &Event, called: Called, callers: &mut Callers, now: Instant) -> bool {
        let bit = 1_u32.checked_shl(u32::from(event.kind)).unwrap_or(0);
        let is_other = ALL_KINDS & bit != 0 && self.config.events.mask & bit == 0;
        if is_other || self.filtered {
            return !is_other;
        }
        let Event { cgroup, pid, tid, comm, .. } = *event;
        let who = Who { cgroup, pid, tid, comm };
        passes(&self.filter, &event.tuple, (&who, Some(called.name)), callers, now)
    }

    /// Writes the lines that wait, if they have waited for long enough.
    pub(super) fn write_if_due(&mut self) -> Result<(), Closed> {
        if self.output.due(WRITE_INTERVAL) { self.output.write() } else { Ok(()) }
    }

    /// Writes one `lost` line for each reason whose count has grown since its last one, if the stream has `lost` lines.
    pub(super) fn losses(&mut self, shared: &Shared) -> Result<(), Ended> {
        if !self.config.events.lost {
            return Ok(());
        }
        let totals = shared.tracer.totals()?;
        let dropped = self.output.dropped();
        for (reason, count) in self.reported.new_losses(&totals, dropped, self.undecodable(shared))
        {
            self.output.lost(reason, count)?;
        }
        Ok(())
    }

    /// Records of the ring buffer that have no line, because they cannot be decoded or are of an unknown kind or detail.
    fn undecodable(&self, shared: &Shared) -> u64 {
        shared.undecodable + self.unknown
    }

    /// Writes a `tracer.degraded` line if the degradations have changed since the last one (or since `tracer.start`).
    pub(super) fn degradation(&mut self, shared: &Shared) -> Result<(), Closed> {
        let Some(change) = self.degraded.change(shared.tracer.degraded()) else { return Ok(()) };
        self.degraded.note(change.now());
        self.output.degraded(&change.line())
    }

    /// Reads the tuples. If readings are recorded, writes one `tuple.stats` line for each tuple that passes the filter and
    /// holds ports, is new or has changed; then the `address.stats` lines and `tracer.stats`. In any case, it then writes a
    /// `tracer.degraded` line if the degradations have changed.
    pub(super) fn stats(&mut self, shared: &mut Shared) -> Result<(), Ended> {
        let elapsed = self.last_at.elapsed();
        self.last_at = Instant::now();
        let read_at = self.output.moment();
        // Without lines of a reading, too: port ranges are read again, and namespaces that cannot be read become degradations.
        shared.tracer.read(true)?;
        if !self.config.events.stats {
            return Ok(self.degradation(shared)?);
        }
        let tuples = self.tuple_stats(shared, read_at, elapsed)?;
        let result = self.end_reading(shared, read_at, tuples);
        shared.tracer.keep_tuples(&mut self.last);
        self.degradation(shared)?;
        result
    }

    /// Writes the `tuple.stats` and `address.stats` lines of a reading. Returns the number of `tuple.stats` lines.
    /// `elapsed`: time since the reading before.
    fn tuple_stats(
        &mut self,
        shared: &mut Shared,
        read_at: Moment,
        elapsed: Duration,
    ) -> Result<u64, Closed> {
        let now = Instant::now();
        let mut lines = 0;
        self.forecasts.begin(read_at.mono_ns);
        let Shared { tracer, callers, namespaces, .. } = &mut *shared;
        for (key, count) in tracer.tuples() {
            let before = self.last.get(key);
            let holds = tracer.holds(key, count);
            let forecast = self.forecasts.read(key, (before, count), holds, None);
            let idle = count.in_use() == 0 && before == Some(count);
            if idle || !visible(&self.filter, key, count, callers, now) {
                continue;
            }
            let netns_name = namespaces.get(key.netns).cloned();
            if let Some(line) = self.settings.news(tracer, key.netns, netns_name.as_deref()) {
                self.output.settings(read_at, &line)?;
            }
            // The counters of a new tuple started at 0 after the reading before.
            let zero = TupleCount::default();
            let before = Some((before.unwrap_or(&zero), elapsed));
            let row = Row::new(*key, count, before, tracer.limits(key.netns));
            let mut row = row.with(forecast);
            row.netns_name = netns_name;
            row.called = callers.last(count);
            let name = callers.cgroups.get(count.cgroup, now);
            let mut tuple = Tuple::recorded(&row, count, name);
            if self.older.get(key).is_some() {
                tuple.ends = self.forecasts.ending(key);
            }
            self.output.tuple_stats(read_at, &tuple)?;
            lines += 1;
        }
        self.address_stats(shared, read_at, elapsed)?;
        self.forecasts.end();
        self.older = Arc::default();
        Ok(lines)
    }

    /// Writes one `address.stats` line for each address at which bind(address, 0) is used and that passes the filter.
    fn address_stats(
        &mut self,
        shared: &mut Shared,
        read_at: Moment,
        elapsed: Duration,
    ) -> Result<(), Closed> {
        let now = Instant::now();
        let before = std::mem::take(&mut self.last_addresses);
        let Shared { tracer, callers, namespaces, .. } = shared;
        for (key, count, of) in tracer.bind_rows() {
            let was = before.get(&key).copied().unwrap_or(count);
            self.last_addresses.insert(key, count);
            let forecast = self.forecasts.read(&key, (Some(&was), &count), of.holds(), None);
            if !visible(&self.filter, &key, &count, callers, now) {
                continue;
            }
            let row = Row::new(key, &count, Some((&was, elapsed)), Some(of.limits));
            let mut row = row.with(forecast);
            row.netns_name = namespaces.get(key.netns).cloned();
            self.output.address_stats(read_at, &AddressStats::from(&row))?;
        }
        Ok(())
    }

    fn end_reading(&mut self, shared: &Shared, read_at: Moment, tuples: u64) -> Result<(), Ended> {
        let totals = shared.tracer.totals()?;
        let (dropped, drift) = (self.output.dropped(), shared.tracer.drift);
        let line = totals::stats(&totals, dropped, self.undecodable(shared), drift, tuples);
        self.output.stats(read_at, &line)?;
        Ok(())
    }

    /// Writes the last losses and the last line, and closes the output. If one of these lines cannot be made, the rest is still
    /// written. A thread of the output's own is waited for until `until`.
    ///
    /// # Errors
    /// The reader is gone; else the first reason why a line could not be made.
    pub(super) fn end(&mut self, shared: &Shared, until: Instant) -> Result<(), Ended> {
        let mut first = None;
        keep_first_error(self.losses(shared), &mut first)?;
        match shared.tracer.totals() {
            Ok(totals) => {
                let (events, drift) = (self.events, shared.tracer.drift);
                let undecodable = self.undecodable(shared);
                let finish = |dropped| totals::stop(&totals, events, dropped, undecodable, drift);
                self.output.stop(until, finish)?;
            }
            Err(error) => keep_first_error(Err(error.into()), &mut first)?,
        }
        self.output.close(until)?;
        first.map_or(Ok(()), |error| Err(error.into()))
    }
}
