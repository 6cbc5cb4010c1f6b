//! How many source ports a flow of connections needs, how many connections a second its ports allow, and what would change that.
//! Arithmetic only.

/// Share of a tuple's ports that can be in use before connect() searches long: it tries the ports of one parity first, and the
/// other half only when it found none (`__inet_hash_connect`, net/ipv4/inet_hashtables.c). A little less than half, because ports
/// of TIME_WAITs come back in bursts.
pub const FAST_SHARE: f64 = 0.45;

/// How long a TIME_WAIT lasts at most if the kernel's timer frequency is not known, in seconds: within 5 % of what it is with the
/// frequencies that distributions use.
const UNKNOWN_HZ_S: f64 = 62.0;

/// How long a TIME_WAIT lasts at most, in seconds. `hz`: ticks of the kernel's timer per second (CONFIG_HZ); `None` or 0: not
/// known, so it is taken to be 62 s.
///
/// It lasts 60 s (TCP_TIMEWAIT_LEN), rounded up to the step of the level of the timer wheel in which 60 s lie (`LVL_START` and
/// `LVL_GRAN` in kernel/time/timer.c). The longest one determines how many there are at once, because all ports of a step come
/// back together.
pub fn longest_time_wait_s(hz: Option<u32>) -> f64 {
    /// Ticks from which on a timer is in the level with steps of 4,096 ticks; below, a step has 512.
    const LEVEL_4: u32 = 63 << 9;
    let Some(hz) = hz.filter(|hz| *hz > 0) else { return UNKNOWN_HZ_S };
    let step = if 60_u32.saturating_mul(hz) < LEVEL_4 { 512 } else { 4096 };
    60.0 + f64::from(step) / f64::from(hz)
}

/// The connections of one tuple: how many are opened, and how long each holds its port.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flow {
    /// Connections that are opened, or wanted, per second.
    pub rate: f64,
    /// Mean time that a connection is open, in seconds.
    pub open_s: f64,
    /// Share of the connections that this host closes first, 0 to 1: their ports stay in TIME_WAIT.
    pub closes_first: f64,
    /// How long a TIME_WAIT holds its port, in seconds: [`longest_time_wait_s`], or less if connect() reuses TIME_WAITs.
    pub time_wait_s: f64,
}

impl Flow {
    /// How long a connection holds its port on average, in seconds: while it is open, and in TIME_WAIT if this host closes it
    /// first.
    pub fn held_s(&self) -> f64 {
        self.open_s + self.closes_first * self.time_wait_s
    }

    /// How many ports are in use at this rate, on average: the rate multiplied by [`Self::held_s`].
    pub fn ports(&self) -> f64 {
        self.rate * self.held_s()
    }

    /// The largest rate at which no connect() fails, in connections per second. `capacity`: how many ports the tuple can hold.
    /// Infinite if a connection holds its port for no time (not a number if `capacity` is 0, too).
    pub fn largest_rate(&self, capacity: u32) -> f64 {
        f64::from(capacity) / self.held_s()
    }

    /// The largest rate at which connect() finds a port soon, in connections per second: [`FAST_SHARE`] of
    /// [`Self::largest_rate`].
    pub fn largest_fast_rate(&self, capacity: u32) -> f64 {
        self.largest_rate(capacity) * FAST_SHARE
    }

    /// How many source addresses this rate needs so that connect() finds a port soon (see [`FAST_SHARE`]); at least 1.
    /// `capacity`: ports of one address towards the destination; with 0, it is [`u32::MAX`].
    pub fn addresses(&self, capacity: u32) -> u32 {
        ceil(self.ports() / (FAST_SHARE * f64::from(capacity))).max(1)
    }

    /// How many requests each connection must carry so that connect() finds a port soon (see [`FAST_SHARE`]), at `requests` per
    /// second in all; at least 1. `capacity`: ports towards the destination; with 0, it is [`u32::MAX`].
    pub fn requests_per_connection(&self, requests: f64, capacity: u32) -> u32 {
        ceil(requests * self.held_s() / (FAST_SHARE * f64::from(capacity))).max(1)
    }
}

/// The next whole number; [`u32::MAX`] if it is larger or none.
fn ceil(number: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    if number.is_nan() { u32::MAX } else { number.ceil() as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ports of the default range.
    const DEFAULT: u32 = 28_232;

    fn flow(rate: f64) -> Flow {
        Flow { rate, open_s: 0.1, closes_first: 1.0, time_wait_s: longest_time_wait_s(Some(250)) }
    }

    #[test]
    fn a_time_wait_lasts_a_minute_and_a_step_of_the_timer() {
        let seconds = |hz| format!("{:.2}", longest_time_wait_s(hz));
        let expected = [(100, "65.12"), (250, "62.05"), (300, "61.71"), (1000, "64.10")];
        for (hz, expected) in expected {
            assert_eq!(seconds(Some(hz)), expected, "HZ {hz}");
        }
        assert_eq!([None, Some(0)].map(seconds), ["62.00", "62.00"]);
    }

    #[test]
    fn the_default_range_gives_454_connections_a_second() {
        let one = flow(1.0);
        let rates =
            [one.largest_rate(DEFAULT), one.largest_fast_rate(DEFAULT), flow(300.0).ports()];
        assert_eq!(rates.map(|it| format!("{it:.0}")), ["454", "204", "18644"]);
    }

    #[test]
    fn addresses_and_requests_are_rounded_up() {
        assert_eq!(flow(1_000.0).addresses(DEFAULT), 5);
        assert_eq!(flow(1.0).addresses(DEFAULT), 1);
        assert_eq!(flow(0.0).addresses(DEFAULT), 1);
        assert_eq!(flow(1.0).requests_per_connection(5_000.0, DEFAULT), 25);
    }

    #[test]
    fn ports_that_are_held_for_no_time_allow_any_rate() {
        let flow = Flow { open_s: 0.0, closes_first: 0.0, ..flow(1.0) };
        assert!(flow.largest_rate(DEFAULT).is_infinite());
        assert_eq!(flow.addresses(DEFAULT), 1);
        assert_eq!(flow.addresses(0), u32::MAX);
    }
}
