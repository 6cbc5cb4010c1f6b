//! Decisions as JSON Lines.

use std::time::Instant;

use tracer_common::{
    Addr,
    spread::{Decision, Told},
};

use super::start::address;
use crate::{
    cgroups::{Name, Names},
    export::{
        Sink,
        record::{Decided, Start, Stop},
        sink::Closed,
    },
    record::output::{Dropped, Output},
    shutdown::Asked,
    text,
};

/// Of a pool without room, one line is written in so much time where not every decision is.
const FULL_PAUSE_NS: u64 = 1_000_000_000;

/// Writes decisions. Nothing is written before [`Teller::begin`], and nothing after its reader is gone.
pub(super) struct Teller {
    sink: Option<Sink>,
    output: Option<Output>,
    names: Names,
    /// One decision in so many is wanted; 0: none.
    sample: u32,
    /// When the newest pool without room was told, by CLOCK_MONOTONIC.
    full_ns: Option<u64>,
    /// Lines of decisions that were handed to the output.
    lines: u64,
    /// Decisions that this program does not know.
    undecodable: u64,
}

impl Teller {
    pub(super) fn new(sink: Sink, names: Names, sample: u32) -> Self {
        let (output, full_ns) = (None, None);
        Self { sink: Some(sink), output, names, sample, full_ns, lines: 0, undecodable: 0 }
    }

    /// Begins the stream.
    pub(super) fn begin(&mut self, asked: &Asked, line: &Start<'_>) {
        self.output = self.sink.take().map(|sink| Output::new(sink, None, asked.clone()));
        self.with(|output| output.start(line).and_then(|()| output.write()));
    }

    /// Does something with the output; a reader that is gone has what it wanted.
    fn with<T>(&mut self, act: impl FnOnce(&mut Output) -> Result<T, Closed>) -> Option<T> {
        let done = self.output.as_mut().map(act)?.ok();
        if done.is_none() {
            self.output = None;
        }
        done
    }

    /// Adds one decision of a rule, if it is wanted.
    pub(super) fn add(&mut self, rule: &str, told: &Told) {
        let Some(decision) = Decision::from_wire(told.decision) else {
            self.undecodable += 1;
            return;
        };
        if self.output.is_none() || !self.wants(decision, told.mono_ns) {
            return;
        }
        let some = |addr: Addr| (addr != Addr::UNSPECIFIED).then(|| address(addr));
        let destination = address(told.destination);
        let (reason, passed) = reason(decision);
        let name: Option<Name> = self.names.get(told.who.cgroup, Instant::now()).cloned();
        let record = Decided {
            transport: "tcp",
            family: if destination.is_ipv4() { "ipv4" } else { "ipv6" },
            destination,
            port: told.destination_port,
            netns: told.netns,
            pid: told.who.pid,
            comm: String::from_utf8_lossy(text::until_nul(&told.who.comm)).into_owned(),
            cgroup: name.as_ref().map(|name| &*name.path),
            container: name.as_ref().and_then(|name| name.container.as_deref()),
            cookie: told.cookie,
            chosen: some(told.chosen),
            chosen_port: (told.port != 0).then_some(told.port),
            original: some(told.original),
            reason,
            passed,
            rule,
            in_use: some(told.chosen).map(|_| told.in_use),
        };
        self.with(|output| output.decided(told.mono_ns, &record));
        self.lines += 1;
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

    /// Lines that the output could not take, and decisions that no line could be made of.
    pub(super) fn dropped(&self) -> (Dropped, u64) {
        (self.output.as_ref().map(Output::dropped).unwrap_or_default(), self.undecodable)
    }

    /// Adds a line of what was lost since the last one.
    pub(super) fn lost(&mut self, reason: &str, count: u64) {
        self.with(|output| output.lost(reason, count));
    }

    /// Hands over what was added.
    pub(super) fn flush(&mut self) {
        self.with(Output::flush);
    }

    /// Ends the stream. `finish` puts its last line together, given how many lines of decisions there were,
    /// and what became of them.
    pub(super) fn end(&mut self, finish: impl FnOnce(u64, Dropped, u64) -> Stop) {
        let (lines, undecodable) = (self.lines, self.undecodable);
        self.with(|output| {
            output.stop(|dropped| finish(lines, dropped, undecodable))?;
            output.close()
        });
        self.output = None;
    }

    /// Opens the output anew (SIGHUP).
    pub(super) fn reopen(&mut self) {
        self.with(Output::reopen);
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
