//! How often the ledger is compared with the kernel.

use std::time::Duration;

/// How often the ledger is compared with the kernel's own sockets: for one part in so many of the
/// time, unless these bounds say otherwise.
pub(super) struct ReconcilePacing {
    share: u32,
    soonest: Duration,
    pub(super) latest: Duration,
}

/// When nothing hints at an error.
pub(super) const CALM: ReconcilePacing = ReconcilePacing {
    share: 600,
    soonest: Duration::from_secs(5),
    latest: Duration::from_secs(30),
};
/// While hooks are being missed.
pub(super) const ALERT: ReconcilePacing =
    ReconcilePacing { share: 20, soonest: Duration::from_secs(1), latest: Duration::from_secs(8) };
/// While something is missing that found no room in a table: idle tuples are forgotten, and what is missing is looked for.
pub(super) const LACKING: ReconcilePacing =
    ReconcilePacing { share: 20, soonest: Duration::from_secs(3), latest: Duration::from_secs(15) };

impl ReconcilePacing {
    pub(super) fn pause(&self, cost: Duration) -> Duration {
        (cost * self.share).clamp(self.soonest, self.latest)
    }
}
