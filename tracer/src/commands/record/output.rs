//! Lines on their way out: numbered, collected, written in large pieces.

use std::time::{Duration, Instant};

use tracer_common::Event;

use super::output_errors::OutputErrors;
use crate::{
    config::Rotation,
    error,
    export::{
        Context, LineWriter, Lines,
        line::Moment,
        record::{Decided, Degraded, Lost, Start, Stats, Stop},
        sink::{Account, Closed, Sink},
    },
    format::tuple::{AddressStats, Tuple},
    host::{cgroups::Name, holder::Holder, process::Called},
    ledger::decode::DecodeError,
    runtime::{clock, shutdown::StopSignals},
};

/// The most bytes that are collected before they are written.
const CHUNK: usize = 256 << 10;
/// A line is well below this.
const LINE: usize = 2 << 10;
/// How long the offset between the clocks is taken to hold.
const OFFSET_INTERVAL: Duration = Duration::from_secs(1);

/// What lines are counted as: each chunk holds lines of one group, so that a line that the output
/// could not take is counted as what it was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Group {
    Events,
    Others,
}

/// Lines that the output could not take.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Dropped {
    /// Of socket events: `output_full`.
    pub(crate) events: u64,
    /// Of the rest: `output_full_other`.
    pub(crate) others: u64,
}

/// What a line says beside its event.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct More {
    /// Ports that its tuple can hold.
    pub(crate) capacity: Option<u32>,
    /// Who holds the port that a bind() wanted.
    pub(crate) holder: Option<Holder>,
    /// The caller's names.
    pub(crate) called: Called,
}

impl Dropped {
    const fn lines(self) -> u64 {
        self.events + self.others
    }
}

/// Numbers lines and hands them to the sink.
pub(crate) struct Output {
    /// `None` once it is closed.
    sink: Option<Sink>,
    writer: LineWriter,
    buffer: Lines,
    /// Lines in `buffer`, all of them of one `group`.
    lines: u64,
    group: Group,
    /// The group of the line that the sink has written in part.
    partial_group: Group,
    seq: u64,
    dropped: Dropped,
    /// Lines that could not be written, and how many of them stderr has been told of.
    output_errors: OutputErrors,
    /// Bytes that are collected before they are written.
    chunk: usize,
    signals: StopSignals,
    written_at: Instant,
    wall_offset_ns: u64,
    offset_at: Instant,
}

impl Output {
    pub(crate) fn new(sink: Sink, rotation: Option<&Rotation>, signals: StopSignals) -> Self {
        // A file outgrows its limit by one chunk at most.
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
            output_errors: OutputErrors::default(),
            written_at: Instant::now(),
            wall_offset_ns: clock::wall_offset_ns(),
            offset_at: Instant::now(),
        }
    }

    /// Lines that the output could not take.
    pub(crate) fn dropped(&self) -> Dropped {
        self.dropped
    }

    /// So many lines were left out before this one.
    pub(crate) fn skip(&mut self, lines: u64) {
        self.seq += lines;
    }

    /// Whether it is time to [`Self::write`].
    pub(crate) fn due(&self, interval: Duration) -> bool {
        self.buffer.len() >= self.chunk || (self.lines > 0 && self.written_at.elapsed() >= interval)
    }

    fn counted(&mut self) {
        self.lines += 1;
        self.seq += 1;
    }

    /// The next line is of this group.
    fn switch(&mut self, group: Group) -> Result<(), Closed> {
        if self.group != group {
            self.flush()?;
            self.group = group;
        }
        Ok(())
    }

    /// Now. The number is that of the next line.
    pub(super) fn moment(&mut self) -> Moment {
        self.wall_offset_ns = clock::wall_offset_ns();
        self.offset_at = Instant::now();
        Moment {
            seq: self.seq,
            mono_ns: clock::monotonic_ns(),
            wall_offset_ns: self.wall_offset_ns,
        }
    }

    /// See [`LineWriter::name_namespaces`].
    pub(super) fn name_namespaces<'a>(&mut self, names: impl Iterator<Item = (u32, &'a str)>) {
        self.writer.name_namespaces(names);
    }

    /// Adds the line of an event. `more`: keys that the event itself does not have; `name` as in [`LineWriter::event`].
    pub(crate) fn event<'a>(
        &mut self,
        event: &Event,
        more: More,
        name: impl FnOnce() -> Option<&'a Name>,
    ) -> Result<Result<(), DecodeError>, Closed> {
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
        Ok(result)
    }

    /// Adds the line of a decision; at `mono_ns` it was taken.
    pub(crate) fn decided(&mut self, mono_ns: u64, line: &Decided<'_>) -> Result<(), Closed> {
        self.switch(Group::Events)?;
        let moment = Moment { seq: self.seq, mono_ns, wall_offset_ns: self.wall_offset_ns };
        let done = self.writer.decided(&mut self.buffer, moment, line);
        self.finish(done)
    }

    pub(crate) fn start(&mut self, line: &Start<'_>) -> Result<(), Closed> {
        self.add(|writer, buffer, moment| writer.start(buffer, moment, line))
    }

    pub(crate) fn degraded(&mut self, line: &Degraded<'_>) -> Result<(), Closed> {
        self.add(|writer, buffer, moment| writer.degraded(buffer, moment, line))
    }

    /// `finish` puts the line together, given what the output dropped until then.
    pub(crate) fn stop(&mut self, finish: impl FnOnce(Dropped) -> Stop) -> Result<(), Closed> {
        self.flush()?;
        let line = finish(self.dropped);
        self.add(|writer, buffer, moment| writer.stop(buffer, moment, &line))
    }

    pub(crate) fn lost(&mut self, reason: &str, count: u64) -> Result<(), Closed> {
        self.add(|writer, buffer, moment| writer.lost(buffer, moment, &Lost { reason, count }))
    }

    /// `read_at`: of the reading. Its lines carry the same one, so that they can be put together.
    pub(crate) fn tuple_stats(&mut self, read_at: Moment, tuple: &Tuple<'_>) -> Result<(), Closed> {
        self.add_at(read_at, |writer, buffer, moment| writer.tuple_stats(buffer, moment, tuple))
    }

    /// As [`Self::tuple_stats`].
    pub(crate) fn address_stats(
        &mut self,
        read_at: Moment,
        address: &AddressStats,
    ) -> Result<(), Closed> {
        self.add_at(read_at, |writer, buffer, moment| writer.address_stats(buffer, moment, address))
    }

    /// The end of a reading.
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

    /// Hands everything over.
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

    /// As [`Self::write`], and what the sink keeps back (compression).
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

    /// Opens the output anew (SIGHUP). Where that fails, the old one is written on, and the log says so.
    pub(crate) fn reopen(&mut self) -> Result<(), Closed> {
        self.write()?;
        let Some(sink) = &mut self.sink else { return Ok(()) };
        let partial = sink.owes_a_line();
        match sink.reopen() {
            Ok(account) => {
                let account = account?;
                self.account(account, partial);
            }
            Err(error) => tracing::warn!("{error}; going on with the file that was open before"),
        }
        Ok(())
    }

    pub(crate) fn close(&mut self) -> Result<(), Closed> {
        self.write()?;
        let Some(sink) = &mut self.sink else { return Ok(()) };
        let partial = sink.owes_a_line();
        self.signals.writing(true);
        let closed = sink.close();
        // What comes after the last line (a rule's programs are detached) may take its time.
        self.signals.writing(false);
        let account = closed?;
        self.account(account, partial);
        self.sink = None;
        Ok(())
    }

    /// What to say at the end, if lines could not be written: how many, where to, and why.
    pub(crate) fn failure(&self) -> Option<String> {
        self.output_errors.failure(self.dropped.lines(), self.seq)
    }

    /// `owed`: a line was written in part before. It comes first, and is either finished or given
    /// up.
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
        if let Some(message) = self.output_errors.message(account, self.dropped.lines(), refused) {
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
