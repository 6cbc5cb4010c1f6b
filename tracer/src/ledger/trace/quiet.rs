//! Namespaces of which the ledger has nothing. Where every hook of one was missed, only its own counters say that it
//! has sockets.

use std::{
    collections::HashSet,
    io,
    time::{Duration, Instant},
};

use super::{Tracer, left_out::Look};
use crate::{
    host::{netns::Netns, sockstat},
    runtime::shutdown,
};

/// How long it takes until the counters are read again, unless reading them took long: then, so many times as long.
const SOONEST: Duration = Duration::from_secs(30);
const LATEST: Duration = Duration::from_mins(5);
const SHARE: u32 = 2000;

/// When the counters were read last.
#[derive(Debug)]
pub(super) struct Quiet {
    looked: Instant,
    cost: Duration,
}

impl Quiet {
    /// All namespaces have just been read in full.
    pub(super) fn new(now: Instant) -> Self {
        Self { looked: now, cost: Duration::ZERO }
    }

    fn is_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.looked) >= (self.cost * SHARE).clamp(SOONEST, LATEST)
    }
}

impl Tracer {
    /// Now and then, the namespaces that have TCP sockets and that are not among `known`; else none.
    pub(super) fn quiet_namespaces(&mut self, known: &HashSet<u32>) -> Vec<Netns> {
        let began = Instant::now();
        if !self.quiet.is_due(began) {
            return Vec::new();
        }
        let mut found = self.namespaces();
        found.retain(|netns| {
            if known.contains(&netns.inum) || shutdown::asked().is_some() {
                return false;
            }
            match self.worker.run_in(netns, || sockstat::sockets(true)).and_then(|count| count) {
                Ok(count) => count > 0,
                Err(error) => {
                    // One that has gone has no sockets.
                    if error.kind() != io::ErrorKind::NotFound && shutdown::asked().is_none() {
                        self.left_out.add(netns, Look::Sockets, &error);
                    }
                    false
                }
            }
        });
        self.quiet = Quiet { looked: Instant::now(), cost: began.elapsed() };
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_done_seldom() {
        let now = Instant::now();
        let later = |quiet: &Quiet, seconds| quiet.is_due(now + Duration::from_secs(seconds));
        let quiet = Quiet::new(now);
        assert!(!later(&quiet, 29) && later(&quiet, 30));
        let slow = Quiet { cost: Duration::from_millis(50), ..quiet };
        assert!(!later(&slow, 99) && later(&slow, 100));
        let slowest = Quiet { cost: Duration::from_secs(9), looked: now };
        assert!(!later(&slowest, 299) && later(&slowest, 300));
    }
}
