//! [`Recorder`]: reads the events of the ring buffer and the ledger for several outputs, until a signal asks to stop.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tracer_common::{Cause, Event, Kind, TupleCount};

use super::{output::More, stream::Stream};
use crate::{
    error::Error,
    export::sink::Closed,
    host::{callers::Callers, holder, netns, process::Called},
    kernel::attach::Session,
    ledger::{
        decode::decode,
        trace::{Capacities, Tracer},
    },
    runtime::{clock, shutdown::StopSignals},
};

/// The most records that are read from the ring buffer before other work gets its turn.
const BATCH: usize = 4096;
/// The longest pause before the ring buffer is read again, if the last read found fewer than [`BATCH`] records but at least
/// one; a ring buffer that fills up ends the pause early.
const SHORT_WAIT: Duration = Duration::from_millis(10);
/// The longest pause before the ring buffer is read again, if the last read found no record; a ring buffer that fills up ends the
/// pause early.
const LONG_WAIT: Duration = Duration::from_millis(50);
/// How long the end waits for all outputs with threads of their own together.
const END_WAIT: Duration = Duration::from_secs(1);
/// How often the work is done that is not urgent: flushing the outputs, logging the messages of the BPF programs, losses, the
/// comparison with the kernel, bound ports, degradations, [`Work::tick`].
const TICK: Duration = Duration::from_secs(1);

/// Why a recording ends early.
pub(crate) enum Ended {
    /// The reader of the output is gone; with several outputs, of all of them.
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
pub(super) fn keep_first_error(
    result: Result<(), Ended>,
    first: &mut Option<Error>,
) -> Result<(), Closed> {
    match result {
        Ok(()) => Ok(()),
        Err(Ended::Closed) => Err(Closed),
        Err(Ended::Failed(error)) => {
            first.get_or_insert(error);
            Ok(())
        }
    }
}

/// What else is done while a recorder runs.
pub(crate) trait Work {
    /// Called when the first reading is made and each output has its first line.
    ///
    /// # Errors
    /// Any error ends the recording.
    fn begun(&mut self, _recorder: &mut Recorder) -> Result<(), Error> {
        Ok(())
    }

    /// Called once a second.
    ///
    /// # Errors
    /// Any error ends the recording.
    fn tick(&mut self, recorder: &mut Recorder) -> Result<(), Error>;

    /// Called when a SIGHUP has come, after the outputs were opened again.
    fn hung_up(&mut self) {}

    /// Called when the recording ends without a failure, before its last lines are made.
    fn ending(&mut self) {}

    /// Whether the recording goes on when the readers of all outputs are gone.
    fn outlasts_outputs(&self) -> bool {
        false
    }
}

/// What all outputs of a recorder use.
pub(crate) struct Shared {
    pub(crate) tracer: Tracer,
    pub(crate) callers: Callers,
    pub(crate) namespaces: netns::Names,
    /// Records of the ring buffer that cannot be decoded.
    pub(crate) undecodable: u64,
}

/// A running tracer whose events and readings go to outputs.
pub(crate) struct Recorder {
    pub(crate) shared: Shared,
    streams: Vec<Stream>,
}

/// Whether the event's line has the capacity of the tuple (how many ports it can hold): only the line of a connect() that
/// found no port has it.
fn wants_capacity(event: &Event) -> bool {
    event.kind == Kind::ConnectFailed as u8 && event.detail == Cause::PortsExhausted as u8
}

impl Recorder {
    /// A recorder that has written nothing yet.
    pub(crate) fn new(tracer: Tracer, callers: Callers, streams: Vec<Stream>) -> Self {
        let namespaces = netns::Names::default();
        Self { shared: Shared { tracer, callers, namespaces, undecodable: 0 }, streams }
    }

    /// The outputs, in the order of [`Self::new`].
    pub(crate) fn streams(&self) -> &[Stream] {
        &self.streams
    }

    /// Gives every later line of each output these members: see [`Output::set_fields`].
    ///
    /// [`Output::set_fields`]: super::output::Output::set_fields
    pub(crate) fn set_fields(&mut self, fields: &BTreeMap<String, String>) {
        for stream in &mut self.streams {
            stream.output.set_fields(fields);
        }
    }

    /// Records until a signal asks to stop, `duration` is over, or the readers of all outputs are gone.
    ///
    /// # Errors
    /// A BPF map cannot be read, or the ledger refuses a command; those of `work`; the readers of all outputs are gone, and
    /// `work` does not outlast them.
    pub(crate) fn run(
        &mut self,
        signals: &StopSignals,
        duration: Option<Duration>,
        work: &mut impl Work,
    ) -> Result<(), Ended> {
        let outlasts = work.outlasts_outputs();
        self.begin(outlasts)?;
        work.begun(self)?;
        let started = Instant::now();
        let mut ticked = started;
        while !signals.stop() && duration.is_none_or(|limit| started.elapsed() < limit) {
            let taken = self.take(BATCH, outlasts)?;
            let (reopen, tick) = (signals.reopen(), ticked.elapsed() >= TICK);
            self.each(outlasts, |stream, _| {
                stream.write_if_due()?;
                if reopen { Ok(stream.output.reopen()?) } else { Ok(()) }
            })?;
            if reopen {
                work.hung_up();
            }
            if tick {
                ticked = Instant::now();
                self.tick(outlasts)?;
                work.tick(self)?;
            }
            self.each(
                outlasts,
                |stream, shared| {
                    if stream.is_due() { stream.stats(shared) } else { Ok(()) }
                },
            )?;
            if taken < BATCH {
                let left = duration.map(|limit| limit.saturating_sub(started.elapsed()));
                let wait = if taken == 0 { LONG_WAIT } else { SHORT_WAIT };
                self.shared.tracer.session.events.wait(left.map_or(wait, |left| wait.min(left)));
            }
        }
        work.ending();
        self.end(outlasts)
    }

    /// Runs `job` for each output that has a reader. An output whose reader is gone then counts as ended.
    ///
    /// # Errors
    /// The first failure of `job`. The readers of all outputs are gone, unless `outlasts`.
    fn each(
        &mut self,
        outlasts: bool,
        mut job: impl FnMut(&mut Stream, &mut Shared) -> Result<(), Ended>,
    ) -> Result<(), Ended> {
        let several = self.streams.len() > 1;
        for stream in self.streams.iter_mut().filter(|stream| !stream.has_ended()) {
            match job(stream, &mut self.shared) {
                Err(Ended::Closed) => stream.end_early(outlasts || several),
                result => result?,
            }
        }
        let none_left = self.streams.iter().all(Stream::has_ended);
        if none_left && !outlasts { Err(Ended::Closed) } else { Ok(()) }
    }

    fn begin(&mut self, outlasts: bool) -> Result<(), Ended> {
        let uname = rustix::system::uname();
        let host = uname.nodename().to_string_lossy();
        self.name_namespaces(Instant::now());
        self.each(outlasts, |stream, shared| {
            let host = if stream.output.has_field("host.name") { "" } else { &*host };
            Ok(stream.begin(shared, host)?)
        })?;
        self.shared.tracer.read(true)?;
        let mono_ns = clock::monotonic_ns();
        let older = Arc::new(self.shared.tracer.take_older());
        for stream in &mut self.streams {
            stream.first_reading(&self.shared, mono_ns, Arc::clone(&older));
        }
        Ok(())
    }

    /// Gives the outputs the names of network namespaces, if they have been read again.
    fn name_namespaces(&mut self, now: Instant) {
        if self.shared.namespaces.refresh(now) {
            for stream in &mut self.streams {
                stream.output.name_namespaces(self.shared.namespaces.iter());
            }
        }
    }

    /// Closes all outputs after a failure: what waits is written, and nothing else. Waits for their threads at most a second.
    pub(crate) fn close(&mut self) {
        let until = Instant::now() + END_WAIT;
        for stream in &mut self.streams {
            // Nobody misses what an absent reader does not get.
            _ = stream.output.close(until);
        }
    }

    /// Turns at most `limit` waiting records into lines. Returns how many records were read, including those without a line.
    fn take(&mut self, limit: usize, outlasts: bool) -> Result<usize, Ended> {
        self.name_namespaces(Instant::now());
        let Self { shared, streams } = self;
        let several = streams.len() > 1;
        let Shared { tracer, callers, undecodable, .. } = shared;
        let (Session { events: ring, maps, .. }, capacities, worker, holders) = tracer.split();
        let now = Instant::now();
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
            for stream in streams.iter_mut().filter(|stream| !stream.has_ended()) {
                if stream.event(&event, more, callers, now).is_err() {
                    stream.end_early(outlasts || several);
                }
            }
        });
        self.each(outlasts, |_, _| Ok(()))?;
        Ok(taken)
    }

    fn tick(&mut self, outlasts: bool) -> Result<(), Ended> {
        self.each(outlasts, |stream, _| Ok(stream.output.flush()?))?;
        self.shared.tracer.session.flush_log();
        self.each(outlasts, |stream, shared| stream.losses(shared))?;
        self.shared.tracer.reconcile_if_due()?;
        // Counts the bound ports: they reduce the capacity that the lines of failed port searches show.
        self.shared.tracer.refresh_ports()?;
        self.each(outlasts, |stream, shared| Ok(stream.degradation(shared)?))
    }

    fn end(&mut self, outlasts: bool) -> Result<(), Ended> {
        // If one of the following lines cannot be made, the rest is still written; the first error is returned at the end.
        let mut first = None;
        // Detaching takes up to seconds, in which less and less is counted: a reading after it would have too low rates, and ports of
        // which only one end was seen.
        let read = self.each(outlasts, |stream, shared| {
            Ok(keep_first_error(stream.stats(shared), &mut first)?)
        });
        read?;
        // The last totals must cover the whole stream, so nothing may be traced after them.
        self.shared.tracer.session.detach();
        while self.take(BATCH, outlasts)? > 0 {
            self.each(outlasts, |stream, _| Ok(stream.output.write()?))?;
        }
        let until = Instant::now() + END_WAIT;
        self.each(outlasts, |stream, shared| {
            Ok(keep_first_error(stream.end(shared, until), &mut first)?)
        })?;
        first.map_or(Ok(()), |error| Err(error.into()))
    }
}
