//! Reads clocks. Durations and order come from CLOCK_MONOTONIC, which the kernel side uses; the wall clock only says, in
//! lines and on screens, when something was.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, Timespec, clock_gettime};

/// The time by CLOCK_MONOTONIC, ns.
pub fn monotonic_ns() -> u64 {
    ns(clock_gettime(ClockId::Monotonic))
}

/// CLOCK_MONOTONIC at an instant, ns; 0 if the instant is before the host's start. Each call with the same instant returns
/// the same value.
pub fn monotonic_at(instant: Instant) -> u64 {
    static EPOCH: OnceLock<(Instant, u64)> = OnceLock::new();
    let (epoch, epoch_ns) = *EPOCH.get_or_init(|| (Instant::now(), monotonic_ns()));
    let since = as_ns(instant.saturating_duration_since(epoch));
    let before = as_ns(epoch.saturating_duration_since(instant));
    epoch_ns.saturating_add(since).saturating_sub(before)
}

/// The time by the wall clock, ns since 1970.
pub fn wall_ns() -> u64 {
    ns(clock_gettime(ClockId::Realtime))
}

/// How long the host has been suspended since it was started, ns: CLOCK_BOOTTIME minus CLOCK_MONOTONIC. A little too small,
/// because CLOCK_BOOTTIME is read first.
pub(crate) fn suspended_ns() -> u64 {
    ns(clock_gettime(ClockId::Boottime)).saturating_sub(monotonic_ns())
}

/// Wall clock minus CLOCK_MONOTONIC, ns; 0 if that is negative. To be read again from time to time, because the wall clock
/// is set and slewed.
pub fn wall_offset_ns() -> u64 {
    wall_ns().saturating_sub(monotonic_ns())
}

/// A duration in ns; at most `u64::MAX` (584 years).
pub fn as_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds as seconds.
#[expect(
    clippy::cast_precision_loss,
    reason = "seconds since 1970 are exact to less than a microsecond"
)]
pub fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// The time of a clock, ns. Negative seconds count as 0.
pub(crate) fn ns(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}
