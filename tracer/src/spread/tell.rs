//! Decisions as JSON Lines.

use tracer_common::{
    Addr,
    spread::{Decision, Told},
};

use super::start::address;
use crate::{
    clock,
    error::Error,
    export::{LineWriter, Lines, Moment, Sink, record::Decided, sink::Closed},
    text,
};

/// Writes decisions.
pub(super) struct Teller {
    sink: Sink,
    writer: LineWriter,
    lines: Lines,
    seq: u64,
    waiting: u64,
    /// Lines that the output could not take.
    dropped: u64,
    closed: bool,
}

impl Teller {
    pub(super) fn new(sink: Sink) -> Self {
        Self {
            sink,
            writer: LineWriter::default(),
            lines: Lines::default(),
            seq: 0,
            waiting: 0,
            dropped: 0,
            closed: false,
        }
    }

    /// Adds one decision of a rule.
    pub(super) fn add(&mut self, rule: &str, told: &Told) {
        let some = |addr: Addr| (addr != Addr::UNSPECIFIED).then(|| address(addr));
        let destination = address(told.destination);
        let reason = Decision::from_wire(told.decision).map_or("passed", reason);
        let record = Decided {
            transport: "tcp",
            family: if destination.is_ipv4() { "ipv4" } else { "ipv6" },
            destination,
            port: told.destination_port,
            netns: told.netns,
            pid: told.who.pid,
            comm: String::from_utf8_lossy(text::until_nul(&told.who.comm)).into_owned(),
            cookie: told.cookie,
            chosen: some(told.chosen),
            chosen_port: (told.port != 0).then_some(told.port),
            original: some(told.original),
            reason,
            rule,
            in_use: told.in_use,
        };
        let moment = Moment {
            seq: self.seq,
            mono_ns: told.mono_ns,
            wall_offset_ns: clock::wall_offset_ns(),
        };
        if self.writer.decided(&mut self.lines, moment, &record).is_ok() {
            self.seq += 1;
            self.waiting += 1;
        }
    }

    /// Writes what was added. A reader that is gone has what it wanted; what a full disk does not take
    /// is dropped and said.
    pub(super) fn flush(&mut self) {
        if self.waiting > 0 && !self.closed {
            let written = self.sink.write_chunk(self.lines.as_bytes(), self.waiting);
            match written.and_then(|account| {
                self.dropped += account.dropped;
                self.sink.flush()
            }) {
                Ok(account) => self.dropped += account.dropped,
                Err(Closed) => self.closed = true,
            }
            if self.dropped > 0 {
                tracing::warn!(
                    "{} decisions could not be written: the output is full",
                    self.dropped
                );
                self.dropped = 0;
            }
        }
        self.lines.clear();
        self.waiting = 0;
    }

    /// Opens the output anew (SIGHUP).
    pub(super) fn reopen(&mut self) -> Result<(), Error> {
        match self.sink.reopen()? {
            Ok(account) => self.dropped += account.dropped,
            Err(Closed) => self.closed = true,
        }
        Ok(())
    }
}

/// The word in `spread.reason`.
const fn reason(decision: Decision) -> &'static str {
    match decision {
        Decision::LeastUsed | Decision::FastPort | Decision::PoolFull => decision.name(),
        _ => "passed",
    }
}
