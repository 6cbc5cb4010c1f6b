//! [`Progress`]: a line on stderr that shows the progress on a terminal: events, rate, losses.

use std::{
    io::{IsTerminal, Write, stderr, stdout},
    time::Instant,
};

use tracer_common::Cause;

use crate::{
    config::{RecordConfig, Target},
    kernel::maps::Totals,
    ledger::trace::named_losses,
};

/// A line on stderr: shown if stderr is a terminal, and the lines of events go to a file or a pipe.
pub(super) struct Progress {
    shown: bool,
    events: u64,
    at: Instant,
}

impl Progress {
    /// A line that is not shown yet; the first rate is that since now.
    pub(super) fn new(config: &RecordConfig) -> Self {
        // On the terminal that also shows the lines of events, the progress would break them up.
        let apart = matches!(config.output.target, Target::File(_)) || !stdout().is_terminal();
        Self { shown: apart && stderr().is_terminal(), events: 0, at: Instant::now() }
    }

    /// Shows the line, if it is wanted. `events`: lines of socket events so far, including dropped ones; `totals`: those of the
    /// host since the start; `dropped`: how many of `events` the output dropped. The rate is that since the previous call (over
    /// at least 1 s), in whole events per second.
    pub(super) fn show(&mut self, events: u64, totals: &Totals, dropped: u64) {
        if !self.shown {
            return;
        }
        let seconds = self.at.elapsed().as_secs().max(1);
        let rate = events.saturating_sub(self.events) / seconds;
        let lost = named_losses(totals).map(|(_, count)| count).sum::<u64>() + dropped;
        self.events = events;
        self.at = Instant::now();
        let exhausted = [Cause::PortsExhausted, Cause::BindExhausted];
        let out: u64 = exhausted.map(|cause| totals.failed_for(cause)).iter().sum();
        write(&format!("\r{events} events, {rate}/s, {out} out of ports, {lost} lost\u{1b}[K"));
    }

    /// Ends the line with a newline, if it is wanted.
    pub(super) fn end(&self) {
        if self.shown {
            write("\n");
        }
    }
}

fn write(text: &str) {
    if let Err(error) = stderr().write_all(text.as_bytes()) {
        tracing::trace!("stderr: {error}");
    }
}
