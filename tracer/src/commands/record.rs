//! `tracer record`: writes the events of the ring buffer, and readings of the ledger (tuples, addresses, totals), as lines.

pub(crate) mod output;
mod output_errors;
mod progress;
mod settings;
pub(crate) mod totals;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use output::{EventError, More, Output};
use progress::Progress;
use settings::ReportedSettings;
use tracer_common::{Cause, Event, Filter, Kind, TupleCount, TupleKey};

use crate::{
    config::RecordConfig,
    error::Error,
    export::{line::Moment, sink::Closed},
    format::tuple::{AddressStats, Tuple},
    host::{callers::Callers, holder, netns, process::Called},
    kernel::attach::Session,
    ledger::{
        decode::decode,
        stats::{Earlier, Row},
        trace::{Capacities, OlderEnds, Tracer, visible},
    },
    runtime::{clock, shutdown::StopSignals},
    view::forecasts::Forecasts,
};

/// The most records that are read from the ring buffer before other work gets its turn.
const BATCH: usize = 4096;
/// The longest pause before the ring buffer is read again, if the last read found fewer than [`BATCH`] records but at least
/// one; a ring buffer that fills up ends the pause early.
const SHORT_WAIT: Duration = Duration::from_millis(10);
/// The longest pause before the ring buffer is read again, if the last read found no record; a ring buffer that fills up ends the
/// pause early.
const LONG_WAIT: Duration = Duration::from_millis(50);
/// How long a line may wait in the buffer.
const WRITE_INTERVAL: Duration = Duration::from_millis(100);
/// How often `Recorder::tick` does the work that is not urgent: flushing the output, logging the messages of the BPF
/// programs, losses, the comparison with the kernel, bound ports, degradations, progress.
const TICK: Duration = Duration::from_secs(1);

/// Records until a signal asks to stop, the duration is over, or the reader of the output is gone. Lines that the output does
/// not take are dropped and counted; the recording continues.
///
/// # Errors
/// A BPF map cannot be read, or the ledger refuses a command. Else, at the end of the recording: the output did not take some
/// lines. It is no error that its reader is gone, or that lines could not be compressed.
pub fn run(
    tracer: Tracer,
    config: &RecordConfig,
    filter: Filter,
    output: crate::export::sink::Sink,
    callers: Callers,
    signals: &StopSignals,
) -> Result<(), Error> {
    let mut recorder = Recorder {
        output: Output::new(output, config.output.rotation.as_ref(), signals.clone()),
        progress: Progress::new(config),
        config,
        filter,
        callers,
        namespaces: netns::Names::default(),
        last: Earlier::default(),
        last_at: Instant::now(),
        forecasts: Forecasts::default(),
        older: OlderEnds::default(),
        last_addresses: HashMap::new(),
        reported: totals::ReportedLosses::default(),
        degraded: totals::Degradation::default(),
        settings: ReportedSettings::default(),
        undecodable: 0,
        events: 0,
        tracer,
    };
    match recorder.run(signals) {
        Ok(()) => recorder.output.failure().map_or(Ok(()), |it| Err(Error::Failure(it))),
        Err(Ended::Failed(error)) => Err(error),
        // It is no error that the reader of the output stops reading.
        Err(Ended::Closed) => Ok(()),
    }
}

/// Why a recording ends early.
enum Ended {
    /// The reader of the output is gone.
    Closed,
    /// The BPF maps cannot be read, or the ledger refuses a command.
    Failed(Error),
}

impl From<Closed> for Ended {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Puts a failure into `first`, unless an earlier one is there, and returns `Ok`, so that the caller can continue. Fails only
/// if the reader of the output is gone.
fn keep_first_error(result: Result<(), Ended>, first: &mut Option<Error>) -> Result<(), Closed> {
    match result {
        Ok(()) => Ok(()),
        Err(Ended::Closed) => Err(Closed),
        Err(Ended::Failed(error)) => {
            first.get_or_insert(error);
            Ok(())
        }
    }
}

/// Whether the event's line has the capacity of the tuple (how many ports it can hold): only the line of a connect() that
/// found no port has it.
fn wants_capacity(event: &Event) -> bool {
    event.kind == Kind::ConnectFailed as u8 && event.detail == Cause::PortsExhausted as u8
}

struct Recorder<'a> {
    tracer: Tracer,
    config: &'a RecordConfig,
    filter: Filter,
    output: Output,
    progress: Progress,
    callers: Callers,
    namespaces: netns::Names,
    /// The tuples' counters at the newest reading.
    last: Earlier,
    /// When the newest reading was.
    last_at: Instant,
    forecasts: Forecasts,
    /// When the TIME_WAITs end that began before tracer did, by tuple; empty after the first reading that is written.
    older: OlderEnds,
    /// By address, at the newest reading that was written: the counters of the ports that bind(address, 0) took, also at
    /// addresses that the filter hides.
    last_addresses: HashMap<TupleKey, TupleCount>,
    /// The losses that `lost` lines have reported.
    reported: totals::ReportedLosses,
    /// The degradations that the stream has reported.
    degraded: totals::Degradation,
    /// The settings of namespaces that the stream has reported.
    settings: ReportedSettings,
    /// Records of the ring buffer that have no line, because they cannot be decoded or are of an unknown kind or detail.
    undecodable: u64,
    /// Lines of socket events that were given to the output, including those that it dropped.
    events: u64,
}

impl Recorder<'_> {
    fn run(&mut self, signals: &StopSignals) -> Result<(), Ended> {
        self.begin()?;
        let started = Instant::now();
        let mut ticked = started;
        while !signals.stop() && self.config.duration.is_none_or(|limit| started.elapsed() < limit)
        {
            let taken = self.take(BATCH)?;
            if self.output.due(WRITE_INTERVAL) {
                self.output.write()?;
            }
            if signals.reopen() {
                self.output.reopen()?;
            }
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                self.tick()?;
            }
            if self.last_at.elapsed() >= self.config.interval {
                self.stats()?;
            }
            if taken < BATCH {
                let left =
                    self.config.duration.map(|limit| limit.saturating_sub(started.elapsed()));
                let wait = if taken == 0 { LONG_WAIT } else { SHORT_WAIT };
                self.tracer.session.events.wait(left.map_or(wait, |left| wait.min(left)));
            }
        }
        self.end()
    }

    fn begin(&mut self) -> Result<(), Ended> {
        let uname = rustix::system::uname();
        let host = uname.nodename().to_string_lossy();
        let line = totals::start(&self.tracer, self.config, &host);
        self.output.start(&line)?;
        self.degraded.note(line.degraded);
        // Written immediately: a reader may wait for the first line to know that all programs are attached.
        self.output.write()?;
        self.tracer.read(true)?;
        self.forecasts.begin(clock::monotonic_ns());
        self.older = self.tracer.take_older();
        let Self { tracer, forecasts, older, .. } = self;
        for (key, count) in tracer.tuples() {
            forecasts.read(key, (None, count), tracer.holds(key, count), older.get(key));
        }
        forecasts.end();
        self.tracer.keep_tuples(&mut self.last);
        Ok(())
    }

    /// Turns at most `limit` waiting records into lines. Returns how many records were read, including those without a line.
    fn take(&mut self, limit: usize) -> Result<usize, Closed> {
        let Self { tracer, output, callers, namespaces, undecodable, events, .. } = self;
        let (Session { events: ring, maps, .. }, capacities, worker, holders) = tracer.split();
        let now = Instant::now();
        if namespaces.refresh(now) {
            output.name_namespaces(namespaces.iter());
        }
        let mut result = Ok(());
        let capacity_of =
            |capacities: &mut Capacities, event: &Event, count: Option<TupleCount>| {
                let limits = capacities.learn(worker, event.tuple.netns, event.pid, event.tid)?;
                // The ledger is read now: ports can have been released since the event.
                Some(count?.capacity(limits.usable()))
            };
        let mut more = |event: &Event, called: Called| {
            let capacity = wants_capacity(event)
                .then(|| capacity_of(capacities, event, maps.tuple(&event.tuple)));
            let holder = holder::has_holder(event).then(|| {
                let place = capacities.place(event.tuple.netns);
                holders.of(event, place, worker, || maps.all_binds())
            });
            More { capacity: capacity.flatten(), holder: holder.flatten(), called }
        };
        let taken = ring.drain(limit, |record| {
            let Ok(event) = decode(record) else {
                *undecodable += 1;
                return;
            };
            let called = callers.of(&event);
            let more = more(&event, called);
            match output.event(&event, more, || callers.cgroups.get(event.cgroup, now)) {
                Ok(()) => *events += 1,
                Err(EventError::Unknown) => *undecodable += 1,
                Err(EventError::Closed(closed)) => result = Err(closed),
            }
        });
        result.map(|()| taken)
    }

    fn tick(&mut self) -> Result<(), Ended> {
        self.output.flush()?;
        self.tracer.session.flush_log();
        if self.config.events.lost {
            self.losses()?;
        }
        self.tracer.reconcile_if_due()?;
        // Counts the bound ports: they reduce the capacity that the lines of failed port searches show.
        self.tracer.refresh_ports()?;
        self.degradation()?;
        let totals = self.tracer.totals()?;
        self.progress.show(self.events, &totals, self.output.dropped().events);
        Ok(())
    }

    /// Writes one `lost` line for each reason whose count has grown since its last one.
    fn losses(&mut self) -> Result<(), Ended> {
        let totals = self.tracer.totals()?;
        let dropped = self.output.dropped();
        for (reason, count) in self.reported.new_losses(&totals, dropped, self.undecodable) {
            self.output.lost(reason, count)?;
        }
        Ok(())
    }

    /// Writes a `tracer.degraded` line if the degradations have changed since the last one (or since `tracer.start`).
    fn degradation(&mut self) -> Result<(), Closed> {
        let Some(change) = self.degraded.change(self.tracer.degraded()) else { return Ok(()) };
        self.degraded.note(change.now());
        self.output.degraded(&change.line())
    }

    /// Reads the tuples. If readings are recorded, writes one `tuple.stats` line for each tuple that passes the filter and
    /// holds ports, is new or has changed; then the `address.stats` lines and `tracer.stats`. In any case, it then writes a
    /// `tracer.degraded` line if the degradations have changed.
    fn stats(&mut self) -> Result<(), Ended> {
        let elapsed = self.last_at.elapsed();
        self.last_at = Instant::now();
        let read_at = self.output.moment();
        self.tracer.read(true)?;
        let mut result = Ok(());
        if self.config.events.stats {
            let tuples = self.tuple_stats(read_at, elapsed)?;
            result = self.end_reading(read_at, tuples);
        }
        self.tracer.keep_tuples(&mut self.last);
        self.degradation()?;
        result
    }

    /// Writes the `tuple.stats` and `address.stats` lines of a reading. Returns the number of `tuple.stats` lines.
    /// `elapsed`: time since the reading before.
    fn tuple_stats(&mut self, read_at: Moment, elapsed: Duration) -> Result<u64, Closed> {
        let now = Instant::now();
        let mut lines = 0;
        self.forecasts.begin(read_at.mono_ns);
        for (key, count) in self.tracer.tuples() {
            let before = self.last.get(key);
            let holds = self.tracer.holds(key, count);
            let forecast = self.forecasts.read(key, (before, count), holds, None);
            let idle = count.in_use() == 0 && before == Some(count);
            if idle || !visible(&self.filter, key, count, &mut self.callers, now) {
                continue;
            }
            let netns_name = self.namespaces.get(key.netns).cloned();
            if let Some(line) = self.settings.news(&self.tracer, key.netns, netns_name.as_deref()) {
                self.output.settings(read_at, &line)?;
            }
            // The counters of a new tuple started at 0 after the reading before.
            let zero = TupleCount::default();
            let before = Some((before.unwrap_or(&zero), elapsed));
            let row = Row::new(*key, count, before, self.tracer.limits(key.netns));
            let mut row = row.with(forecast);
            row.netns_name = netns_name;
            row.called = self.callers.last(count);
            let name = self.callers.cgroups.get(count.cgroup, now);
            let mut tuple = Tuple::recorded(&row, count, name);
            if self.older.get(key).is_some() {
                tuple.ends = self.forecasts.ending(key);
            }
            self.output.tuple_stats(read_at, &tuple)?;
            lines += 1;
        }
        self.address_stats(read_at, elapsed)?;
        self.forecasts.end();
        self.older = OlderEnds::default();
        Ok(lines)
    }

    /// Writes one `address.stats` line for each address at which bind(address, 0) is used and that passes the filter.
    fn address_stats(&mut self, read_at: Moment, elapsed: Duration) -> Result<(), Closed> {
        let now = Instant::now();
        let before = std::mem::take(&mut self.last_addresses);
        for (key, count, of) in self.tracer.bind_rows() {
            let was = before.get(&key).copied().unwrap_or(count);
            self.last_addresses.insert(key, count);
            let forecast = self.forecasts.read(&key, (Some(&was), &count), of.holds(), None);
            if !visible(&self.filter, &key, &count, &mut self.callers, now) {
                continue;
            }
            let row = Row::new(key, &count, Some((&was, elapsed)), Some(of.limits));
            let mut row = row.with(forecast);
            row.netns_name = self.namespaces.get(key.netns).cloned();
            self.output.address_stats(read_at, &AddressStats::from(&row))?;
        }
        Ok(())
    }

    fn end_reading(&mut self, read_at: Moment, tuples: u64) -> Result<(), Ended> {
        let totals = self.tracer.totals()?;
        let dropped = self.output.dropped();
        let drift = self.tracer.drift;
        let line = totals::stats(&totals, dropped, self.undecodable, drift, tuples);
        self.output.stats(read_at, &line)?;
        Ok(())
    }

    fn end(&mut self) -> Result<(), Ended> {
        // If one of the following lines cannot be made, the rest is still written; the first error is returned at the end.
        let mut first = None;
        // Detaching takes up to seconds, in which less and less is counted: a reading after it would have too low rates, and ports of
        // which only one end was seen.
        keep_first_error(self.stats(), &mut first)?;
        // The last totals must cover the whole stream, so nothing may be traced after them.
        self.tracer.session.detach();
        while self.take(BATCH)? > 0 {
            self.output.write()?;
        }
        if self.config.events.lost {
            keep_first_error(self.losses(), &mut first)?;
        }
        match self.tracer.totals() {
            Ok(totals) => {
                let Self { events, undecodable, tracer, .. } = self;
                let finish =
                    |dropped| totals::stop(&totals, *events, dropped, *undecodable, tracer.drift);
                self.output.stop(finish)?;
            }
            Err(error) => keep_first_error(Err(error.into()), &mut first)?,
        }
        self.output.close()?;
        self.progress.end();
        first.map_or(Ok(()), |error| Err(error.into()))
    }
}
