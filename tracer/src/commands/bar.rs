//! [`Bar`]: a progress bar on stderr, while a long recording is read.

use std::{
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// How long reading takes before the bar is shown.
const SHOWN_AFTER: Duration = Duration::from_secs(1);

/// A progress bar on stderr, if that is a terminal.
pub(super) struct Bar {
    begun: Instant,
    wanted: bool,
    shown: Option<ProgressBar>,
}

impl Bar {
    /// A bar that is not shown yet, and never will be if stderr is no terminal. Its time begins now.
    pub(super) fn new() -> Self {
        Self { begun: Instant::now(), wanted: stderr().is_terminal(), shown: None }
    }

    /// Updates the bar. `done`: bytes that were read; `all`: bytes in all, 0: not known. Does nothing within a second of
    /// [`Self::new`], or if stderr is no terminal.
    pub(super) fn show(&mut self, (done, all): (u64, u64)) {
        if !self.wanted || self.begun.elapsed() < SHOWN_AFTER {
            return;
        }
        let bar = self.shown.get_or_insert_with(|| {
            let bar = if all == 0 { ProgressBar::no_length() } else { ProgressBar::new(all) };
            // If the template was wrong, the default style would be used.
            if let Ok(style) = ProgressStyle::with_template(
                "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
            ) {
                bar.set_style(style);
            }
            bar
        });
        bar.set_position(done);
    }

    /// Removes the bar from the terminal, if it was shown.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}
