//! Finds namespaces that have sockets although the ledger has nothing of them. If every hook in one was missed, only the kernel's
//! counters of the namespace (`/proc/net/sockstat`) show that.

use std::{
    collections::HashSet,
    io,
    time::{Duration, Instant},
};

use super::{Tracer, left_out::Depth};
use crate::{
    host::{netns::Netns, sockstat},
    runtime::shutdown,
};

/// Shortest time from a reading of the counters to the next one.
const SOONEST: Duration = Duration::from_secs(30);
/// Longest time from a reading of the counters to the next one.
const LATEST: Duration = Duration::from_mins(5);
/// N, if readings of the counters may take 1/N of the time, within these bounds.
const SHARE: u32 = 2000;

/// When the counters were last read, and how long that took.
#[derive(Debug)]
pub(super) struct Quiet {
    read: Instant,
    cost: Duration,
}

impl Quiet {
    /// Counts `now` as the time of a reading that took no time. To be called when all namespaces have just been read.
    pub(super) fn new(now: Instant) -> Self {
        Self { read: now, cost: Duration::ZERO }
    }

    fn is_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.read) >= (self.cost * SHARE).clamp(SOONEST, LATEST)
    }
}

impl Tracer {
    /// The namespaces that have TCP sockets, TIME_WAITs included, and are not among `known`; empty while no reading of
    /// the counters is due (30 s to 5 min after the one before), and if the namespaces cannot be searched for. One whose counters
    /// cannot be read is not returned, and noted as left out, unless it is gone.
    pub(super) fn quiet_namespaces(&mut self, known: &HashSet<u32>) -> Vec<Netns> {
        let began = Instant::now();
        if !self.quiet.is_due(began) {
            return Vec::new();
        }
        let mut found = self.namespaces();
        found.retain(|netns| {
            if known.contains(&netns.inum) || shutdown::stop_signal().is_some() {
                return false;
            }
            match self.worker.run_in(netns, || sockstat::sockets(true)) {
                Ok(count) => count > 0,
                Err(error) => {
                    // A namespace that is gone has no sockets.
                    if error.kind() != io::ErrorKind::NotFound && shutdown::stop_signal().is_none()
                    {
                        self.left_out.add(netns, Depth::Sockets, &error);
                    }
                    false
                }
            }
        });
        self.quiet = Quiet { read: Instant::now(), cost: began.elapsed() };
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_that_takes_long_is_made_seldom() {
        let now = Instant::now();
        let later = |quiet: &Quiet, seconds| quiet.is_due(now + Duration::from_secs(seconds));
        let quiet = Quiet::new(now);
        assert!(!later(&quiet, 29) && later(&quiet, 30));
        let slow = Quiet { cost: Duration::from_millis(50), ..quiet };
        assert!(!later(&slow, 99) && later(&slow, 100));
        let slowest = Quiet { cost: Duration::from_secs(9), read: now };
        assert!(!later(&slowest, 299) && later(&slowest, 300));
    }
}
