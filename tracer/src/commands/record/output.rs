//! [`Output`]: numbers lines, collects them, and writes them in chunks of up to 256 KiB.

use std::time::{Duration, Instant};

use tracer_common::Event;

use super::output_errors::OutputErrors;
use crate::{
    config::Rotation,
    error,
    export::{
        Context, LineWriter, Lines,
        line::Moment,
        record::{Decided, Degraded, Lost, NetnsSettings, Start, Stats, Stop},
        sink::{Account, Closed, ReopenError, Sink},
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

/// The two groups of lines, which are counted separately if the output drops them. Each chunk has lines of one group only, so
/// that dropped lines are counted for the right group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Group {
    /// Lines of socket events, and of the spreader's decisions.
    Events,
    Others,
}

/// How many lines the output did not take since the start, so that they were dropped.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Dropped {
    /// Lines of socket events, or of the spreader's decisions: the loss `output_full`.
    pub(crate) events: u64,
    /// All other lines: the loss `output_full_other`.
    pub(crate) others: u64,
}

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

impl Dropped {
    const fn lines(self) -> u64 {
        self.events + self.others
    }
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

/// Numbers lines, and writes them into the sink. All functions that write fail with [`Closed`] if the reader of the output is
/// gone. A line that cannot be formatted as JSON is left out and gets no number; that is logged.
pub(crate) struct Output {
    /// `None` once it is closed.
    sink: Option<Sink>,
    writer: LineWriter,
    buffer: Lines,
    /// Lines in `buffer`, all of them of one `group`.
    lines: u64,
    group: Group,
    /// The group of the newest chunk that was given to the sink. If the sink has written a line only in part, that line is of
    /// this group.
    partial_group: Group,
    seq: u64,
    dropped: Dropped,
    /// What the log says about lines that could not be written.
    errors: OutputErrors,
    /// Bytes that are collected before they are written.
    chunk: usize,
    signals: StopSignals,
    written_at: Instant,
    wall_offset_ns: u64,
    offset_at: Instant,
}

impl Output {
    /// An output that writes into `sink`, the first line numbered 0. `rotation`: with one, chunks are at most a sixteenth of its
    /// size, so that a file exceeds its limit by little. `signals`: learns when a write begins and ends, so that one that hangs
    /// can be given up.
    pub(crate) fn new(sink: Sink, rotation: Option<&Rotation>, signals: StopSignals) -> Self {
        // Small chunks, as a file can exceed its limit by one chunk.
        let limit = rotation.map_or(CHUNK as u64, |rotation| rotation.size / 16);
        let chunk = usize::try_from(limit).unwrap_or(CHUNK).clamp(LINE, CHUNK);
        Self {
            chunk,
            signals,
            sink: Some(sink),
            writer: LineWriter::default(),
            buffer: Lines::with_capacity(CHUNK + LINE),
            lines: 0,
            group: Group::Others,
            partial_group: Group::Others,
            seq: 0,
            dropped: Dropped::default(),
            errors: OutputErrors::default(),
            written_at: Instant::now(),
            wall_offset_ns: clock::wall_offset_ns(),
            offset_at: Instant::now(),
        }
    }

    /// How many lines the output dropped so far.
    pub(crate) fn dropped(&self) -> Dropped {
        self.dropped
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
    /// the output dropped until then. `Err`: the reader is gone.
    pub(crate) fn stop(&mut self, finish: impl FnOnce(Dropped) -> Stop) -> Result<(), Closed> {
        self.flush()?;
        let line = finish(self.dropped);
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
        if let Some(sink) = &mut self.sink
            && self.lines > 0
        {
            let partial = sink.owes_a_line();
            self.signals.writing(true);
            let account = sink.write_chunk(self.buffer.as_bytes(), self.lines);
            self.signals.writing(false);
            let account = account?;
            self.account(account, partial);
            self.buffer.clear();
            self.lines = 0;
        }
        self.written_at = Instant::now();
        if self.offset_at.elapsed() >= OFFSET_INTERVAL {
            self.wall_offset_ns = clock::wall_offset_ns();
            self.offset_at = Instant::now();
        }
        Ok(())
    }

    /// Writes all collected lines into the sink, and makes the sink write what it buffers (compression), and rotate the file if
    /// that is due. `Err`: the reader is gone.
    pub(crate) fn flush(&mut self) -> Result<(), Closed> {
        self.write()?;
        if let Some(sink) = &mut self.sink {
            let partial = sink.owes_a_line();
            self.signals.writing(true);
            let account = sink.flush();
            self.signals.writing(false);
            let account = account?;
            self.account(account, partial);
        }
        Ok(())
    }

    /// Writes all collected lines, and opens the output again (SIGHUP). If that fails, the old one is used further, and the log
    /// says so. `Err`: the reader is gone.
    pub(crate) fn reopen(&mut self) -> Result<(), Closed> {
        self.write()?;
        let Some(sink) = &mut self.sink else { return Ok(()) };
        let partial = sink.owes_a_line();
        match sink.reopen() {
            Ok(account) => self.account(account, partial),
            Err(ReopenError::Open(error)) => {
                tracing::warn!("{error}; going on with the file that was open before");
            }
            Err(ReopenError::Closed(closed)) => return Err(closed),
        }
        Ok(())
    }

    /// Writes all collected lines, and closes the output. Lines that cannot be written now are dropped and counted. A second call
    /// does nothing. `Err`: the reader is gone.
    pub(crate) fn close(&mut self) -> Result<(), Closed> {
        self.write()?;
        let Some(sink) = &mut self.sink else { return Ok(()) };
        let partial = sink.owes_a_line();
        self.signals.writing(true);
        let closed = sink.close();
        // Work after the last line (detaching a rule's programs) does not count as a write that hangs.
        self.signals.writing(false);
        let account = closed?;
        self.account(account, partial);
        self.sink = None;
        Ok(())
    }

    /// The error for the end of the program: how many lines could not be written, to which output, and why. `None`: all were
    /// written; or lines were dropped, but only because they could not be compressed.
    pub(crate) fn failure(&self) -> Option<String> {
        self.errors.failure(self.dropped.lines(), self.seq)
    }

    /// Counts what the sink has written and dropped. `partial`: whether a part of an earlier line was written before
    /// this; the sink first completes or drops that line.
    fn account(&mut self, account: Account, partial: bool) {
        let mut dropped = account.dropped;
        if partial && account.written == 0 && dropped > 0 {
            dropped -= 1;
            self.count_dropped(self.partial_group, 1);
        }
        self.count_dropped(self.group, dropped);
        self.partial_group = self.group;
        let refused =
            self.sink.as_ref().and_then(|sink| Some((sink.name(), error::reason(sink.refused()?))));
        if let Some(message) = self.errors.message(account, self.dropped.lines(), refused) {
            tracing::warn!("{message}");
        }
    }

    fn count_dropped(&mut self, group: Group, lines: u64) {
        match group {
            Group::Events => self.dropped.events += lines,
            Group::Others => self.dropped.others += lines,
        }
    }
}
