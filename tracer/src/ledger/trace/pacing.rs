//! Decides how often the ledger is compared with the kernel's sockets.

use std::time::Duration;

/// How often the ledger is compared with the kernel's sockets: comparisons take 1/`share` of the time, but `soonest` and
/// `latest` are the shortest and the longest pause between two.
pub(super) struct ReconcilePacing {
    share: u32,
    soonest: Duration,
    pub(super) latest: Duration,
}

/// If nothing hints at an error: every 5 to 30 s.
pub(super) const CALM: ReconcilePacing = ReconcilePacing {
    share: 600,
    soonest: Duration::from_secs(5),
    latest: Duration::from_secs(30),
};
/// While hooks are missed, or could be missed unnoticed because the kernel does not count all hooks that it skips, and while
/// differences are to be confirmed.
pub(super) const ALERT: ReconcilePacing =
    ReconcilePacing { share: 20, soonest: Duration::from_secs(1), latest: Duration::from_secs(8) };
/// While entries are missing that found no room: idle tuples are removed, and the missing entries are retried.
pub(super) const LACKING: ReconcilePacing =
    ReconcilePacing { share: 20, soonest: Duration::from_secs(3), latest: Duration::from_secs(15) };

impl ReconcilePacing {
    /// How long to wait after a comparison that took `cost`: `share` times that, but at least `soonest` and at most `latest`.
    pub(super) fn pause(&self, cost: Duration) -> Duration {
        (cost * self.share).clamp(self.soonest, self.latest)
    }
}
