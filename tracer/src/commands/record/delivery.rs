//! [`Delivery`]: gives chunks of lines to a sink, and counts the lines that the sink drops.

use super::output_errors::OutputErrors;
use crate::{
    error,
    export::sink::{Account, Closed, ReopenError, Sink},
    runtime::shutdown::StopSignals,
};

/// The two groups of lines, which are counted separately if the output drops them. Each chunk has lines of one group only, so
/// that dropped lines are counted for the right group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Group {
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

impl Dropped {
    /// Both groups together.
    pub(crate) const fn lines(self) -> u64 {
        self.events + self.others
    }

    /// Counts `lines` more of this group.
    pub(super) fn add(&mut self, group: Group, lines: u64) {
        match group {
            Group::Events => self.events += lines,
            Group::Others => self.others += lines,
        }
    }
}

/// An open sink, and what became of the lines that it was given. All functions that write fail with [`Closed`] if the reader of
/// the output is gone. `group`: of the chunk, or of the newest one.
pub(super) struct Delivery {
    /// `None` once it is closed.
    sink: Option<Sink>,
    /// The group of the newest chunk that was given to the sink. If the sink has written a line only in part, that line is of
    /// this group.
    partial_group: Group,
    dropped: Dropped,
    /// Lines that the sink wrote.
    written: u64,
    /// What the log says about lines that could not be written.
    errors: OutputErrors,
    signals: StopSignals,
}

impl Delivery {
    /// A delivery into `sink`. `signals`: learns when a write begins and ends, so that one that hangs can be given up.
    pub(super) fn new(sink: Sink, signals: StopSignals) -> Self {
        Self {
            sink: Some(sink),
            partial_group: Group::Others,
            dropped: Dropped::default(),
            written: 0,
            errors: OutputErrors::default(),
            signals,
        }
    }

    /// How many lines were dropped so far.
    pub(super) fn dropped(&self) -> Dropped {
        self.dropped
    }

    /// How many lines were written so far.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Gives the sink a chunk of `lines` whole lines; those that it cannot take are dropped and counted. False: it is closed, and
    /// nothing was done.
    pub(super) fn write(&mut self, chunk: &[u8], lines: u64, group: Group) -> Result<bool, Closed> {
        Ok(self.run(group, |sink| sink.write_chunk(chunk, lines))?.is_some())
    }

    /// Makes the sink write what it buffers (compression), and rotate the file if that is due.
    pub(super) fn flush(&mut self, group: Group) -> Result<(), Closed> {
        self.run(group, Sink::flush).map(drop)
    }

    /// Opens the output again. If that fails, the old one is used further, and the log says so.
    pub(super) fn reopen(&mut self, group: Group) -> Result<(), Closed> {
        let Some(sink) = &mut self.sink else { return Ok(()) };
        let partial = sink.owes_a_line();
        match sink.reopen() {
            Ok(account) => self.account(account, partial, group),
            Err(ReopenError::Open(error)) => {
                tracing::warn!("{error}; going on with the file that was open before");
            }
            Err(ReopenError::Closed(closed)) => return Err(closed),
        }
        Ok(())
    }

    /// Closes the output. Lines that cannot be written now are dropped and counted. A second call does nothing.
    pub(super) fn close(&mut self, group: Group) -> Result<(), Closed> {
        if self.run(group, Sink::close)?.is_some() {
            self.sink = None;
        }
        Ok(())
    }

    /// The error for the end of the program: how many lines of `lines` could not be written, to which output, and why. `None`:
    /// all were written; or lines were dropped, but only because they could not be compressed.
    pub(super) fn failure(&self, lines: u64) -> Option<String> {
        self.errors.failure(self.dropped.lines(), lines)
    }

    /// Has the sink write, and counts what it wrote and dropped. `None`: it is closed.
    fn run(
        &mut self,
        group: Group,
        write: impl FnOnce(&mut Sink) -> Result<Account, Closed>,
    ) -> Result<Option<()>, Closed> {
        let Some(sink) = &mut self.sink else { return Ok(None) };
        let partial = sink.owes_a_line();
        self.signals.writing(true);
        let account = write(sink);
        // Work after the last line (detaching a rule's programs) does not count as a write that hangs.
        self.signals.writing(false);
        self.account(account?, partial, group);
        Ok(Some(()))
    }

    /// Counts what the sink has written and dropped. `partial`: whether a part of an earlier line was written before
    /// this; the sink first completes or drops that line.
    fn account(&mut self, account: Account, partial: bool, group: Group) {
        self.written += account.written;
        let mut dropped = account.dropped;
        if partial && account.written == 0 && dropped > 0 {
            dropped -= 1;
            self.dropped.add(self.partial_group, 1);
        }
        self.dropped.add(group, dropped);
        self.partial_group = group;
        let refused =
            self.sink.as_ref().and_then(|sink| Some((sink.name(), error::reason(sink.refused()?))));
        if let Some(message) = self.errors.message(account, self.dropped.lines(), refused) {
            tracing::warn!("{message}");
        }
    }
}
