//! Decisions as JSON Lines.

mod writer;

use std::{sync::Arc, time::Instant};

use tracer_common::{
    Addr,
    spread::{Decision, DecisionRecord},
};

use self::writer::{Handed, Writer};
use super::pool::address;
use crate::{
    commands::record::{
        output::{Dropped, Output},
        totals::Change,
    },
    error::Error,
    export::{
        Sink,
        record::{Decided, Stop},
        sink::Closed,
    },
    format::text::until_nul,
    host::{
        callers::Callers,
        cgroups::{Name, Names},
    },
    runtime::shutdown::StopSignals,
};

/// Of a pool without room, one line is written in so much time where not every decision is.
const FULL_PAUSE_NS: u64 = 1_000_000_000;

/// Writes decisions. Nothing is written before [`DecisionLog::begin`], and nothing after its reader is gone.
pub(super) struct DecisionLog {
    writer: Option<Writer>,
    /// The stream has begun.
    begun: bool,
    rule: Arc<str>,
    callers: Callers,
    /// One decision in so many is wanted; 0: none.
    sample: u32,
    /// When the newest pool without room was told, by CLOCK_MONOTONIC.
    full_ns: Option<u64>,
    /// Lines of decisions, those that were left out too.
    lines: u64,
    /// Decisions that this program does not know.
    undecodable: u64,
}

impl DecisionLog {
    /// Starts the thread that writes, with the calling thread's privileges, of which it keeps what it needs.
    ///
    /// # Errors
    /// No thread can be had.
    pub(super) fn new(sink: Sink, names: Names, rule: &str, sample: u32) -> Result<Self, Error> {
        let writer = Some(Writer::start(sink)?);
        let (begun, full_ns) = (false, None);
        Ok(Self {
            writer,
            begun,
            rule: rule.into(),
            callers: Callers::new(names),
            sample,
            full_ns,
            lines: 0,
            undecodable: 0,
        })
    }

    /// Begins the stream. `line`: its first one.
    pub(super) fn begin(
        &mut self,
        asked: &StopSignals,
        line: impl FnOnce(&mut Output) -> Result<(), Closed> + Send + 'static,
    ) {
        if let Some(writer) = &mut self.writer {
            writer.begin(asked);
            self.begun = true;
        }
        // The first one always finds room.
        self.hand_over(|output| line(output).and_then(|()| output.write()));
    }

    /// Says whether the line will be written, as far as is known now. A reader that is gone has what it wanted.
    fn hand_over(
        &mut self,
        line: impl FnOnce(&mut Output) -> Result<(), Closed> + Send + 'static,
    ) -> bool {
        let Some(writer) = self.writer.as_ref().filter(|_| self.begun) else { return false };
        match writer.add(line) {
            Handed::Over => true,
            Handed::LeftOut => false,
            Handed::Closed => {
                self.writer = None;
                false
            }
        }
    }

    /// Adds one decision, if it is wanted.
    pub(super) fn add(&mut self, told: &DecisionRecord) {
        let Some(decision) = Decision::from_wire(told.decision) else {
            self.undecodable += 1;
            return;
        };
        if self.writer.is_none() || !self.begun || !self.wants(decision, told.mono_ns) {
            return;
        }
        let some = |addr: Addr| (addr != Addr::UNSPECIFIED).then(|| address(addr));
        let destination = address(told.destination);
        let (reason, passed) = reason(decision);
        let name: Option<Name> = self.callers.cgroups.get(told.who.cgroup, Instant::now()).cloned();
        let called = self.callers.processes.called(&told.who, told.mono_ns);
        let (told, rule) = (*told, Arc::clone(&self.rule));
        let text = |name: &[u8; 16]| String::from_utf8_lossy(until_nul(name)).into_owned();
        self.lines += 1;
        let handed = self.hand_over(move |output| {
            let record = Decided {
                transport: "tcp",
                family: if destination.is_ipv4() { "ipv4" } else { "ipv6" },
                destination,
                port: told.destination_port,
                netns: told.netns,
                pid: told.who.pid,
                comm: text(&called.name),
                comm_source: called.of.word(),
                thread: text(&called.thread),
                cgroup: name.as_ref().map(|name| &*name.path),
                container: name.as_ref().and_then(|name| name.container.as_deref()),
                unit: name.as_ref().and_then(|name| name.unit.as_deref()),
                cookie: told.cookie,
                chosen: some(told.chosen),
                chosen_port: (told.port != 0).then_some(told.port),
                original: some(told.original),
                reason,
                passed,
                rule: &rule,
                in_use: some(told.chosen).map(|_| told.in_use),
            };
            output.decided(told.mono_ns, &record)
        });
        if !handed && let Some(writer) = &self.writer {
            writer.leave_out();
        }
    }

    /// Whether a line is wanted of this decision. Of a pool without room one is in any case.
    fn wants(&mut self, decision: Decision, mono_ns: u64) -> bool {
        if self.sample == 1 {
            return true;
        }
        if !matches!(decision, Decision::PoolFull | Decision::FailedFast) {
            return self.sample != 0;
        }
        let pause = self.full_ns.map(|before| mono_ns.saturating_sub(before));
        let wanted = pause.is_none_or(|pause| pause >= FULL_PAUSE_NS);
        if wanted {
            self.full_ns = Some(mono_ns);
        }
        wanted
    }

    /// Lines that were left out, and decisions that no line could be made of.
    pub(super) fn dropped(&self) -> (Dropped, u64) {
        (self.writer.as_ref().map(Writer::dropped).unwrap_or_default(), self.undecodable)
    }

    /// Adds a line of what was lost since the last one. False: it cannot be said now.
    pub(super) fn lost(&mut self, reason: &'static str, count: u64) -> bool {
        self.hand_over(move |output| output.lost(reason, count))
    }

    /// Adds a line of what works less well than before, or again. False: it cannot be said now.
    pub(super) fn degraded(&mut self, change: Change) -> bool {
        self.hand_over(move |output| output.degraded(&change.line()))
    }

    /// Ends the stream. `finish` puts its last line together, given how many lines of decisions there were,
    /// and what became of them. Does not wait until it is written.
    pub(super) fn end(&mut self, finish: impl FnOnce(u64, Dropped, u64) -> Stop + Send + 'static) {
        let (lines, undecodable) = (self.lines, self.undecodable);
        if let Some(writer) = self.writer.as_mut().filter(|_| self.begun) {
            writer.end(Box::new(move |dropped| finish(lines, dropped, undecodable)));
        }
    }

    /// Waits until everything is written.
    pub(super) fn wait(mut self) {
        if let Some(writer) = &mut self.writer {
            writer.wait();
        }
    }

    /// Opens the output anew (SIGHUP).
    pub(super) fn reopen(&mut self) {
        if let Some(writer) = &self.writer {
            writer.reopen();
        }
    }
}

/// The words in `spread.reason` and `spread.passed`.
const fn reason(decision: Decision) -> (&'static str, Option<&'static str>) {
    match decision {
        Decision::LeastUsed | Decision::FastPort | Decision::PoolFull => (decision.name(), None),
        // The pool was full for it too.
        Decision::FailedFast => ("pool_full", Some(decision.name())),
        _ => ("passed", Some(decision.name())),
    }
}
