//! The clocks. Durations and order come from CLOCK_MONOTONIC, which the kernel side stamps with;
//! the wall clock only says what people read.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// CLOCK_MONOTONIC, ns.
pub fn monotonic_ns() -> u64 {
    ns(clock_gettime(ClockId::Monotonic))
}

/// Wall clock, ns since 1970.
pub fn wall_ns() -> u64 {
    ns(clock_gettime(ClockId::Realtime))
}

/// Wall clock minus CLOCK_MONOTONIC, ns. Read anew now and then: the wall clock is set and slewed.
pub fn wall_offset_ns() -> u64 {
    wall_ns().saturating_sub(monotonic_ns())
}

/// A duration in ns, as far as a u64 reaches (584 years).
pub fn as_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What a clock says, ns.
pub(crate) fn ns(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}
