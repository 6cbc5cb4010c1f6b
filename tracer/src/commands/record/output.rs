//! [`Output`]: numbers lines, collects them, and writes them in chunks of up to 256 KiB.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tracer_common::Event;

pub(crate) use super::delivery::Dropped;
use super::{
    delivery::{Delivery, Group},
    queue::{Queue, Took},
};
use crate::{
    config::Rotation,
    export::{
        Context, LineWriter, Lines,
        line::Moment,
        record::{Decided, Degraded, Lost, NetnsSettings, Start, Stats, Stop},
        sink::{Closed, Sink},
    },
    format::tuple::{AddressStats, Tuple},
    host::{cgroups::Name, holder::Holder, process::Called},
    runtime::{clock, shutdown::StopSignals},
};

/// The most bytes that are collected before they are written.
const CHUNK: usize = 256 << 10;
/// Bytes of the buffer that are kept free for the line that completes a chunk: more than a usual line has. If a line does not
/// fit, the buffer grows. Also the smallest size of a chunk.
const LINE: usize = 2 << 10;
/// How long the difference between the wall clock and CLOCK_MONOTONIC is used for lines of events before it is read again.
const OFFSET_INTERVAL: Duration = Duration::from_secs(1);

/// What the line of an event has in addition to the event.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct More {
    /// Ports that the event's tuple can hold; `None`: not known, or the event is not a connect() that found no port.
    pub(crate) capacity: Option<u32>,
    /// Who holds the port that a bind() asked for and did not get; `None`: not known, or the event is no such bind().
    pub(crate) holder: Option<Holder>,
    /// The names of the calling process.
    pub(crate) called: Called,
}

/// Why [`Output::event`] failed.
#[derive(Debug)]
pub(crate) enum EventError {
    /// The event is of an unknown kind or has an unknown detail, and no line was added.
    Unknown,
    /// The reader of the output is gone.
    Closed(Closed),
}

impl From<Closed> for EventError {
    fn from(closed: Closed) -> Self {
        Self::Closed(closed)
    }
}

/// Who writes the chunks.
enum To {
    /// The thread that makes the lines. It waits for the output.
    Here(Box<Delivery>),
    /// A thread of the output's own. Chunks that find no room in its queue are dropped.
    Queue(Queue),
}

/// Numbers lines, and writes them into the sink. All functions that write fail with [`Closed`] if the reader of the output is
/// gone. A line that cannot be formatted as JSON is left out and gets no number; that is logged.
pub(crate) struct Output {
    to: To,
    writer: LineWriter,
    buffer: Lines,
    /// Lines in `buffer`, all of them of one `group`.
    lines: u64,
    group: Group,
    seq: u64,
    /// Bytes of the lines that the sink or the queue was given.
    bytes: u64,
    /// Bytes that are collected before they are written.
    chunk: usize,
    written_at: Instant,
    wall_offset_ns: u64,
    offset_at: Instant,
}

impl Output {
    /// An output that writes into `sink`, the first line numbered 0. `rotation`: with one, chunks are at most a sixteenth of its
    /// size, so that a file exceeds its limit by little. `signals`: learns when a write begins and ends, so that one that hangs
    /// can be given up.
    pub(crate) fn new(sink: Sink, rotation: Option<&Rotation>, signals: StopSignals) -> Self {
        Self::to(To::Here(Box::new(Delivery::new(sink, signals))), rotation)
    }

    /// As [`Self::new`], for an output that a thread of its own writes.
    pub(crate) fn queued(queue: Queue, rotation: Option<&Rotation>) -> Self {
        Self::to(To::Queue(queue), rotation)
    }

    fn to(to: To, rotation: Option<&Rotation>) -> Self {
        // Small chunks, as a file can exceed its limit by one chunk.
        let limit = rotation.map_or(CHUNK as u64, |rotation| rotation.size / 16);
        let chunk = usize::try_from(limit).unwrap_or(CHUNK).clamp(LINE, CHUNK);
        Self {
            to,
            chunk,
            writer: LineWriter::default(),
            buffer: Lines::with_capacity(CHUNK + LINE),
            lines: 0,
            group: Group::Others,
            seq: 0,
            bytes: 0,
            written_at: Instant::now(),
            wall_offset_ns: clock::wall_offset_ns(),
            offset_at: Instant::now(),
        }
    }

    /// Sets the members that every later line has at its end: see [`LineWriter::set_fields`].
    pub(crate) fn set_fields(&mut self, fields: &BTreeMap<String, String>) {
        self.writer.set_fields(fields);
    }

    /// Whether [`Self::set_fields`] has set this key.
    pub(crate) fn has_field(&self, key: &str) -> bool {
        self.writer.has_field(key)
    }

    /// How many lines the output dropped so far.
    pub(crate) fn dropped(&self) -> Dropped {
        match &self.to {
            To::Here(delivery) => delivery.dropped(),
            To::Queue(queue) => queue.dropped(),
        }
    }

    /// How many lines were written so far; with a thread of the output's own, by what it says up to twice a second.
    pub(crate) fn written(&self) -> u64 {
        match &self.to {
            To::Here(delivery) => delivery.written(),
            To::Queue(queue) => queue.written(),
        }
    }

    /// Bytes of the lines that the sink or the queue took so far, before they were compressed.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Leaves out `lines` numbers (`seq`) before the next line: the gap shows how many lines are missing.
    pub(crate) fn skip(&mut self, lines: u64) {
        self.seq += lines;
    }

    /// Whether it is time to [`Self::write`]: a chunk is full, or there are lines and the last write was at least `interval`
    /// ago.
    pub(crate) fn due(&self, interval: Duration) -> bool {
        self.buffer.len() >= self.chunk || (self.lines > 0 && self.written_at.elapsed() >= interval)
    }

    /// Counts a line that was added.
    fn counted(&mut self) {
        self.lines += 1;
        self.seq += 1;
    }

    /// Makes `group` the group of the next line: if the collected lines are of the other group, it writes them first.
    fn switch(&mut self, group: Group) -> Result<(), Closed> {
        if self.group != group {
            self.flush()?;
            self.group = group;
        }
        Ok(())
    }

    /// The present time, and the number of the next line. Also refreshes the difference between the clocks.
    pub(super) fn moment(&mut self) -> Moment {
        self.wall_offset_ns = clock::wall_offset_ns();
        self.offset_at = Instant::now();
        Moment {
            seq: self.seq,
            mono_ns: clock::monotonic_ns(),
            wall_offset_ns: self.wall_offset_ns,
        }
    }

    /// Sets the names of network namespaces, by inode number, for all later lines of events. Replaces all earlier names.
    pub(super) fn name_namespaces<'a>(&mut self, names: impl Iterator<Item = (u32, &'a str)>) {
        self.writer.name_namespaces(names);
    }

    /// Adds the line of an event. `more`: what the line has in addition. `name` returns the name of the caller's cgroup (`None`:
    /// not known); it is called only if the caller's text is not cached. Writes the chunk if it is full.
    ///
    /// # Errors
    /// The event is unknown, or the reader of the output is gone; if both, [`EventError::Closed`].
    pub(crate) fn event<'a>(
        &mut self,
        event: &Event,
        more: More,
        name: impl FnOnce() -> Option<&'a Name>,
    ) -> Result<(), EventError> {
        self.switch(Group::Events)?;
        let More { capacity, holder, called } = more;
        let (seq, wall_offset_ns) = (self.seq, self.wall_offset_ns);
        let called = Some(called);
        let context = Context { seq, wall_offset_ns, capacity, holder, called };
        let result = self.writer.event(&mut self.buffer, event, &context, name);
        if result.is_ok() {
            self.counted();
        }
        if self.buffer.len() >= self.chunk {
            self.write()?;
        }
        result.map_err(|_| EventError::Unknown)
    }

    /// Adds the line of a decision of the spreader that was made at `mono_ns` (CLOCK_MONOTONIC, ns). `Err`: the reader is gone.
    pub(crate) fn decided(&mut self, mono_ns: u64, line: &Decided<'_>) -> Result<(), Closed> {
        self.switch(Group::Events)?;
        let moment = Moment { seq: self.seq, mono_ns, wall_offset_ns: self.wall_offset_ns };
        let done = self.writer.decided(&mut self.buffer, moment, line);
        self.finish(done)
    }

    /// Adds the line `tracer.start`. `Err`: the reader is gone.
    pub(crate) fn start(&mut self, line: &Start<'_>) -> Result<(), Closed> {
        self.add(|writer, buffer, moment| writer.start(buffer, moment, line))
    }

    /// Adds a line `tracer.degraded`. `Err`: the reader is gone.
    pub(crate) fn degraded(&mut self, line: &Degraded<'_>) -> Result<(), Closed> {
        self.add(|writer, buffer, moment| writer.degraded(buffer, moment, line))
    }

    /// Adds the settings of a namespace. The caller adds it before the lines of the reading at `read_at` that are about that
    /// namespace. `Err`: the reader is gone.
    pub(super) fn settings(
        &mut self,
        read_at: Moment,
        line: &NetnsSettings<'_>,
    ) -> Result<(), Closed> {
        self.add_at(read_at, |writer, buffer, moment| writer.settings(buffer, moment, line))
    }

    /// Writes all lines so far, then adds the line `tracer.stop`, which is the last one. `finish` makes it, given how many lines
    /// the output dropped until then. A thread of the output's own is waited for until `until`. `Err`: the reader is gone.
    pub(crate) fn stop(
        &mut self,
        until: Instant,
        finish: impl FnOnce(Dropped) -> Stop,
    ) -> Result<(), Closed> {
        self.flush()?;
        if let To::Queue(queue) = &mut self.to {
            // What the thread drops is in the line.
            queue.drain(until);
        }
        let line = finish(self.dropped());
        self.add(|writer, buffer, moment| writer.stop(buffer, moment, &line))
    }

    /// Adds a line `lost`: `count` more losses for this reason. `Err`: the reader is gone.
    pub(crate) fn lost(&mut self, reason: &str, count: u64) -> Result<(), Closed> {
        self.add(|writer, buffer, moment| writer.lost(buffer, moment, &Lost { reason, count }))
    }

    /// Adds a line `tuple.stats` of a reading. `read_at`: the time of the reading, the same in all of its lines. `Err`: the
    /// reader is gone.
    pub(crate) fn tuple_stats(&mut self, read_at: Moment, tuple: &Tuple<'_>) -> Result<(), Closed> {
        self.add_at(read_at, |writer, buffer, moment| writer.tuple_stats(buffer, moment, tuple))
    }

    /// Adds a line `address.stats` of a reading. `read_at`: the time of the reading, the same in all of its lines. `Err`: the
    /// reader is gone.
    pub(crate) fn address_stats(
        &mut self,
        read_at: Moment,
        address: &AddressStats,
    ) -> Result<(), Closed> {
        self.add_at(read_at, |writer, buffer, moment| writer.address_stats(buffer, moment, address))
    }

    /// Adds the line `tracer.stats`, the last one of a reading. `read_at`: the time of the reading, the same in all of its lines.
    /// `Err`: the reader is gone.
    pub(crate) fn stats(&mut self, read_at: Moment, line: &Stats) -> Result<(), Closed> {
        self.add_at(read_at, |writer, buffer, moment| writer.stats(buffer, moment, line))
    }

    fn add(
        &mut self,
        line: impl FnOnce(&mut LineWriter, &mut Lines, Moment) -> serde_json::Result<()>,
    ) -> Result<(), Closed> {
        let now = self.moment();
        self.add_at(now, line)
    }

    fn add_at(
        &mut self,
        at: Moment,
        line: impl FnOnce(&mut LineWriter, &mut Lines, Moment) -> serde_json::Result<()>,
    ) -> Result<(), Closed> {
        self.switch(Group::Others)?;
        let moment = Moment { seq: self.seq, ..at };
        let done = line(&mut self.writer, &mut self.buffer, moment);
        self.finish(done)
    }

    fn finish(&mut self, done: serde_json::Result<()>) -> Result<(), Closed> {
        match done {
            Ok(()) => self.counted(),
            Err(error) => tracing::error!("cannot write a line as JSON: {error}"),
        }
        if self.buffer.len() >= self.chunk { self.write() } else { Ok(()) }
    }

    /// Writes all collected lines into the sink; those that the sink cannot take are dropped and counted. Once the output is
    /// closed, the lines stay. `Err`: the reader is gone.
    pub(crate) fn write(&mut self) -> Result<(), Closed> {
        if self.lines > 0 {
            let taken = match &mut self.to {
                To::Here(delivery) => {
                    let taken = delivery.write(self.buffer.as_bytes(), self.lines, self.group)?;
                    if taken { Took::Yes } else { Took::Closed }
                }
                To::Queue(queue) => queue.write(self.buffer.as_bytes(), self.lines, self.group)?,
            };
            if taken == Took::Yes {
                self.bytes += self.buffer.len() as u64;
            }
            if taken != Took::Closed {
                self.buffer.clear();
                self.lines = 0;
            }
        }
        self.written_at = Instant::now();
        if self.offset_at.elapsed() >= OFFSET_INTERVAL {
            self.wall_offset_ns = clock::wall_offset_ns();
            self.offset_at = Instant::now();
        }
        Ok(())
    }

    /// Writes all collected lines into the sink, and makes the sink write what it buffers (compression), and rotate the file if
    /// that is due (a thread of the output's own does both by itself). `Err`: the reader is gone.
    pub(crate) fn flush(&mut self) -> Result<(), Closed> {
        self.write()?;
        match &mut self.to {
            To::Here(delivery) => delivery.flush(self.group),
            To::Queue(_) => Ok(()),
        }
    }

    /// Writes all collected lines, and opens the output again (SIGHUP). If that fails, the old one is used further, and the log
    /// says so. `Err`: the reader is gone.
    pub(crate) fn reopen(&mut self) -> Result<(), Closed> {
        self.write()?;
        match &mut self.to {
            To::Here(delivery) => delivery.reopen(self.group),
            To::Queue(queue) => {
                queue.reopen();
                Ok(())
            }
        }
    }

    /// Writes all collected lines, and closes the output. Lines that cannot be written now are dropped and counted; a thread of
    /// the output's own is waited for until `until`. A second call does nothing. `Err`: the reader is gone.
    pub(crate) fn close(&mut self, until: Instant) -> Result<(), Closed> {
        self.write()?;
        match &mut self.to {
            To::Here(delivery) => delivery.close(self.group),
            To::Queue(queue) => queue.close(until),
        }
    }

    /// The error for the end of the program: how many lines could not be written, to which output, and why. `None`: all were
    /// written; or lines were dropped, but only because they could not be compressed.
    pub(crate) fn failure(&self) -> Option<String> {
        match &self.to {
            To::Here(delivery) => delivery.failure(self.seq),
            To::Queue(_) => None,
        }
    }
}
