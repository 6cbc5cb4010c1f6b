//! The rounds of `tracer doctor`: one, or with `--watch` one after the other. The hooks stay attached between them.

use std::time::{Duration, Instant};

use super::{Doctor, round::POLL_INTERVAL};
use crate::{doctor::verdict::Verdict, error::Error, runtime::shutdown::StopSignals};

/// How often the ledger is looked after between two rounds.
const CARE_INTERVAL: Duration = Duration::from_secs(1);

impl Doctor {
    /// Makes a diagnosis and prints it; with `--watch` again and again, until a signal asks to stop or the reader of stdout is
    /// gone. Returns the verdict of the last diagnosis that was printed. A signal ends the first round early, and it is printed;
    /// a later round is given up. Without `--watch`, a reader of stdout that is gone changes nothing.
    ///
    /// # Errors
    /// A map cannot be read, or the ledger refuses a command; the namespaces cannot be searched for; the diagnosis cannot be
    /// formatted as JSON; stdout cannot be written.
    pub fn run(mut self, signals: &StopSignals) -> Result<Verdict, Error> {
        let mut last = None;
        loop {
            let began = Instant::now();
            let Some(diagnosis) = self.diagnose(last.is_some(), signals)? else { break };
            last = Some(diagnosis.verdict);
            let open = self.print(&diagnosis, signals)?;
            let Some(every) = self.config.watch.filter(|_| open) else { break };
            if !self.rest(every.saturating_sub(began.elapsed()), signals)? {
                break;
            }
        }
        Ok(last.unwrap_or(Verdict::Unknown))
    }

    /// Waits for the next round. Returns false if a signal asked to stop.
    fn rest(&mut self, time: Duration, signals: &StopSignals) -> Result<bool, Error> {
        let until = Instant::now() + time;
        let mut care_at = Instant::now();
        while !signals.stop() {
            let now = Instant::now();
            let left = until.saturating_duration_since(now);
            if left.is_zero() {
                return Ok(true);
            }
            if let Some(window) = self.window.as_mut().filter(|_| now >= care_at) {
                window.rest()?;
                care_at = now + CARE_INTERVAL;
            }
            std::thread::sleep(left.min(POLL_INTERVAL));
        }
        Ok(false)
    }
}
