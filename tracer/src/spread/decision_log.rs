//! Writes the agent's stream as JSON Lines: the spreader's decisions, and the agent's other lines.

mod writer;

use std::{sync::Arc, time::Instant};

use tracer_common::{
    Addr,
    spread::{Decision, DecisionRecord},
};

use self::writer::{Handover, Writer};
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

/// Shortest time between two lines about a full pool, ns, unless every decision has a line (`sample` is 1).
const FULL_PAUSE_NS: u64 = 1_000_000_000;

/// Writes the agent's stream, as JSON Lines. It writes nothing before [`DecisionLog::begin`], and nothing after its
/// reader is gone.
pub(super) struct DecisionLog {
    /// The thread that writes; `None`: the reader is gone.
    writer: Option<Writer>,
    /// Whether the stream has begun.
    begun: bool,
    rule: Arc<str>,
    callers: Callers,
    /// 1: every decision has a line. Else decisions about full pools have lines, at most one in [`FULL_PAUSE_NS`]. N:
    /// other decisions have a line if the hooks record them (about 1 in N, [`tracer_common::Rule::sample`]); 0: they
    /// have none.
    sample: u32,
    /// When the last decision about a full pool that got a line was made, CLOCK_MONOTONIC, ns; `None`: none got one
    /// yet. Not kept if `sample` is 1.
    full_ns: Option<u64>,
    /// Lines of decisions so far, including those that found no room.
    lines: u64,
    /// Decisions so far of a kind that this program does not know.
    undecodable: u64,
}

impl DecisionLog {
    /// Starts the thread that writes. It begins with the calling thread's privileges, and drops those that it does not need.
    /// `rule`: the rule's name. `sample`: 1: every decision has a line. Else decisions about full pools have a line, at most one
    /// a second, and N: other decisions have one if the hooks record them (about 1 in N); 0: these have none.
    ///
    /// # Errors
    /// The thread cannot be started, or the kernel refuses a step of its sandbox (no_new_privs, user, capabilities, seccomp
    /// filter).
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

    /// Begins the stream; `line` writes its first line. Does nothing if the reader is gone.
    pub(super) fn begin(
        &mut self,
        signals: &StopSignals,
        line: impl FnOnce(&mut Output) -> Result<(), Closed> + Send + 'static,
    ) {
        if let Some(writer) = &mut self.writer {
            writer.begin(signals);
            self.begun = true;
        }
        // The queue is still empty, so this line finds room.
        self.enqueue(|output| line(output).and_then(|()| output.write()));
    }

    /// Queues a line. False: it will not be written, because the queue is full, the stream has not begun, or the
    /// reader is gone.
    fn enqueue(
        &mut self,
        line: impl FnOnce(&mut Output) -> Result<(), Closed> + Send + 'static,
    ) -> bool {
        let Some(writer) = self.writer.as_ref().filter(|_| self.begun) else { return false };
        match writer.add(line) {
            Handover::Queued => true,
            Handover::QueueFull => false,
            Handover::Closed => {
                self.writer = None;
                false
            }
        }
    }

    /// Queues a line of this decision, if one is wanted (see [`Self::new`]). Only counted in [`Self::dropped`]: a line that finds
    /// the queue full, and a decision that this program does not know. Does nothing else before [`Self::begin`], or if the reader
    /// is gone.
    pub(super) fn add(&mut self, record: &DecisionRecord) {
        let Some(decision) = Decision::from_wire(record.decision) else {
            self.undecodable += 1;
            return;
        };
        if self.writer.is_none() || !self.begun || !self.wants(decision, record.mono_ns) {
            return;
        }
        let some = |addr: Addr| (addr != Addr::UNSPECIFIED).then(|| address(addr));
        let destination = address(record.destination);
        let (reason, passed) = reason(decision);
        let name: Option<Name> =
            self.callers.cgroups.get(record.who.cgroup, Instant::now()).cloned();
        let called = self.callers.processes.called(&record.who, record.mono_ns);
        let (record, rule) = (*record, Arc::clone(&self.rule));
        let text = |name: &[u8; 16]| String::from_utf8_lossy(until_nul(name)).into_owned();
        self.lines += 1;
        let queued = self.enqueue(move |output| {
            let line = Decided {
                transport: "tcp",
                family: if destination.is_ipv4() { "ipv4" } else { "ipv6" },
                destination,
                port: record.destination_port,
                netns: record.netns,
                pid: record.who.pid,
                comm: text(&called.name),
                comm_source: called.of.word(),
                thread: text(&called.thread),
                cgroup: name.as_ref().map(|name| &*name.path),
                container: name.as_ref().and_then(|name| name.container.as_deref()),
                unit: name.as_ref().and_then(|name| name.unit.as_deref()),
                cookie: record.cookie,
                chosen: some(record.chosen),
                chosen_port: (record.port != 0).then_some(record.port),
                original: some(record.original),
                reason,
                passed,
                rule: &rule,
                in_use: some(record.chosen).map(|_| record.in_use),
            };
            output.decided(record.mono_ns, &line)
        });
        if !queued && let Some(writer) = &self.writer {
            writer.leave_out();
        }
    }

    /// Whether this decision is to have a line. Notes the time of a decision about a full pool that is to have one.
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

    /// How many lines the full queue or the output dropped so far (0 after the reader is gone), and how many decisions so far
    /// this program did not know.
    pub(super) fn dropped(&self) -> (Dropped, u64) {
        (self.writer.as_ref().map(Writer::dropped).unwrap_or_default(), self.undecodable)
    }

    /// Queues a `lost` line: `count` more were lost for this reason. False: it will not be written, because the queue is full,
    /// the stream has not begun, or the reader is gone.
    pub(super) fn lost(&mut self, reason: &'static str, count: u64) -> bool {
        self.enqueue(move |output| output.lost(reason, count))
    }

    /// Queues a line about degradations that began or ended. False: it will not be written, because the queue is full, the stream
    /// has not begun, or the reader is gone.
    pub(super) fn degraded(&mut self, change: Change) -> bool {
        self.enqueue(move |output| output.degraded(&change.line()))
    }

    /// Ends the stream, without waiting until it is written; does nothing if it has not begun, or the reader is gone.
    /// `finish` makes the last line from three counts: lines of decisions (those that were dropped included), dropped lines, and
    /// decisions that this program did not know.
    pub(super) fn end(&mut self, finish: impl FnOnce(u64, Dropped, u64) -> Stop + Send + 'static) {
        let (lines, undecodable) = (self.lines, self.undecodable);
        if let Some(writer) = self.writer.as_mut().filter(|_| self.begun) {
            writer.end(Box::new(move |dropped| finish(lines, dropped, undecodable)));
        }
    }

    /// Waits until everything is written, or the reader is gone: without a limit, as long as the reader takes.
    pub(super) fn wait(mut self) {
        if let Some(writer) = &mut self.writer {
            writer.wait();
        }
    }

    /// Has the output opened again (SIGHUP), without waiting for that.
    pub(super) fn reopen(&mut self) {
        if let Some(writer) = &self.writer {
            writer.reopen();
        }
    }
}

/// The values of `spread.reason` and `spread.passed`; `None`: the line has no `spread.passed`.
const fn reason(decision: Decision) -> (&'static str, Option<&'static str>) {
    match decision {
        Decision::LeastUsed | Decision::FastPort | Decision::PoolFull => (decision.name(), None),
        // The call was denied because the pool was full.
        Decision::FailedFast => ("pool_full", Some(decision.name())),
        _ => ("passed", Some(decision.name())),
    }
}
