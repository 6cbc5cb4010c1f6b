//! Decisions as JSON Lines on stdout.

use std::io::{self, Write};

use tracer_common::{
    Addr,
    spread::{Decision, Told},
};

use super::start::address;
use crate::{
    clock,
    error::Error,
    export::{LineWriter, Lines, Moment, record::Decided},
    text,
};

/// Writes decisions.
#[derive(Default)]
pub(super) struct Teller {
    writer: LineWriter,
    lines: Lines,
    seq: u64,
    closed: bool,
}

impl Teller {
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
        }
    }

    /// Writes what was added. A reader that is gone has what it wanted.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        if self.lines.is_empty() || self.closed {
            self.lines.clear();
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        let result = stdout.write_all(self.lines.as_bytes()).and_then(|()| stdout.flush());
        self.lines.clear();
        match result {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            Err(error) => Err(Error::Failure(format!("cannot write to stdout: {error}"))),
        }
    }
}

/// The word in `spread.reason`.
const fn reason(decision: Decision) -> &'static str {
    match decision {
        Decision::LeastUsed | Decision::FastPort | Decision::PoolFull => decision.name(),
        _ => "passed",
    }
}
