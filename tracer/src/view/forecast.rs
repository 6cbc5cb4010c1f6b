//! How long until a tuple has no port left. Pure arithmetic.
//!
//! What comes is the trend of the last seconds; what goes is partly known: a TIME_WAIT that began `s`
//! seconds ago ends in `60 - s` seconds. So a tuple that fills at 400 connections a second is not said
//! to run out of 28,232 ports: its first ports come back after a minute, at 24,000.

/// Seconds that a TIME_WAIT lasts (`TCP_TIMEWAIT_LEN`, include/net/tcp.h).
pub const TIME_WAIT_S: usize = 60;
/// Beyond this no trend of a minute says anything, seconds.
const HORIZON_S: f64 = 24.0 * 3600.0;

/// What a forecast goes by.
#[derive(Clone, Copy, Debug)]
pub struct Filling<'a> {
    pub in_use: u64,
    pub time_wait: u64,
    pub capacity: u32,
    /// What happened in the window that the trend is taken from.
    pub trend: Trend,
    /// TIME_WAITs that were seen to begin, by their age in seconds: those of the last second first.
    pub begun: &'a [u32; TIME_WAIT_S],
}

/// Changes within a window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Trend {
    /// Length of the window, s.
    pub seconds: f64,
    /// Ports taken.
    pub opened: u64,
    /// Ports given back other than by the end of a TIME_WAIT.
    pub closed: u64,
    /// Ports that went into TIME_WAIT.
    pub begun: u64,
}

/// Seconds until no port is left; `None`: it is not filling, or so slowly that chance could be all
/// there is to it.
pub fn eta_s(filling: &Filling<'_>) -> Option<f64> {
    let free = u64::from(filling.capacity).saturating_sub(filling.in_use);
    if free == 0 {
        return (filling.capacity > 0).then_some(0.0);
    }
    let Trend { seconds, opened, closed, begun } = filling.trend;
    if seconds <= 0.0 || opened == 0 {
        return None;
    }
    let (opened, closed, begun) = (number(opened), number(closed), number(begun));
    // Of what comes by chance, twice the standard deviation is seldom passed (Poisson).
    let chance = 2.0 * (opened + closed).sqrt();
    let ends = ends(filling);
    // Where even the slower course gets there, the likely one is told.
    let course = |slower: f64| {
        let growth = (opened - closed - slower) / seconds;
        course(number(free), growth, begun / seconds, &ends)
    };
    course(chance)?;
    course(0.0)
}

/// Whether what the trend shows has come to an end: far less happened of late than it would make expect.
pub fn has_stopped(trend: &Trend, recent: &Trend) -> bool {
    if trend.seconds <= 0.0 {
        return false;
    }
    let expected = number(trend.opened) * recent.seconds / trend.seconds;
    number(recent.opened) < expected / 2.0 - expected.sqrt()
}

/// TIME_WAITs that end in each of the next seconds. Those that were not seen to begin can end at any
/// time; where fewer are left than were seen to begin, ports were taken over or given back early.
fn ends(filling: &Filling<'_>) -> [f64; TIME_WAIT_S] {
    let seen: f64 = filling.begun.iter().map(|count| f64::from(*count)).sum();
    let now = number(filling.time_wait);
    let left = if seen > now { now / seen } else { 1.0 };
    let unseen = (now - seen).max(0.0) / number(TIME_WAIT_S as u64);
    let mut ends = [0.0; TIME_WAIT_S];
    for (end, begun) in ends.iter_mut().zip(filling.begun.iter().rev()) {
        *end = f64::from(*begun) * left + unseen;
    }
    ends
}

/// When `free` ports are gone, `growth` a second being taken on balance, of which `begun` come back a
/// minute later.
fn course(free: f64, growth: f64, begun: f64, ends: &[f64; TIME_WAIT_S]) -> Option<f64> {
    let mut left = free;
    let mut at = 0.0;
    for end in ends {
        let change = growth - end;
        if change > 0.0 && change >= left {
            return Some(at + left / change);
        }
        left -= change;
        at += 1.0;
    }
    let change = growth - begun;
    let eta = at + left / change;
    (change > 0.0 && eta <= HORIZON_S).then_some(eta)
}

#[expect(clippy::cast_precision_loss, reason = "a forecast has no more than a few digits")]
fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONE: [u32; TIME_WAIT_S] = [0; TIME_WAIT_S];

    fn trend(opened: u64, closed: u64, begun: u64) -> Trend {
        Trend { seconds: 10.0, opened, closed, begun }
    }

    fn filling(in_use: u64, trend: Trend, begun: &[u32; TIME_WAIT_S]) -> Filling<'_> {
        let time_wait = begun.iter().map(|count| u64::from(*count)).sum();
        Filling { in_use, time_wait, capacity: 28_232, trend, begun }
    }

    #[test]
    fn what_is_held_open_fills_in_a_line() {
        let eta = eta_s(&filling(8_232, trend(1_000, 0, 0), &NONE)).unwrap();
        assert!((eta - 200.0).abs() < 1.0, "{eta}");
        let eta = eta_s(&filling(27_232, trend(1_000, 0, 0), &NONE)).unwrap();
        assert!((eta - 10.0).abs() < 0.1, "{eta}");
    }

    #[test]
    fn ports_that_come_back_from_time_wait_in_time_are_no_danger() {
        // 400 connections a second for 50 s, each in TIME_WAIT at once: 24,000 at the most.
        let mut begun = NONE;
        begun[..50].fill(400);
        assert_eq!(eta_s(&filling(20_000, trend(4_000, 0, 4_000), &begun)), None);
    }

    #[test]
    fn ports_that_come_back_too_late_are() {
        // 500 a second for 50 s: 28,232 are gone after 56.5 s, before the first one comes back.
        let mut begun = NONE;
        begun[..50].fill(500);
        let eta = eta_s(&filling(25_000, trend(5_000, 0, 5_000), &begun)).unwrap();
        assert!((eta - 6.46).abs() < 0.1, "{eta}");
    }

    #[test]
    fn a_steady_state_has_no_end() {
        let begun = [400; TIME_WAIT_S];
        assert_eq!(eta_s(&filling(24_000, trend(4_000, 0, 4_000), &begun)), None);
        // Without TIME_WAIT, with some chance in it.
        assert_eq!(eta_s(&filling(24_000, trend(4_050, 4_000, 0), &NONE)), None);
        assert_eq!(eta_s(&filling(24_000, trend(4_000, 4_050, 0), &NONE)), None);
    }

    #[test]
    fn a_burst_that_is_over_is_no_trend() {
        let recent = |opened| Trend { seconds: 2.5, opened, ..Trend::default() };
        assert!(has_stopped(&trend(50, 0, 0), &recent(0)));
        assert!(has_stopped(&trend(1_000, 0, 0), &recent(100)));
        assert!(!has_stopped(&trend(1_000, 0, 0), &recent(200)));
        // Of one connection in three seconds, none in 2.5 says nothing.
        assert!(!has_stopped(&trend(3, 0, 0), &recent(0)));
        assert!(!has_stopped(&Trend::default(), &recent(0)));
    }

    #[test]
    fn nothing_that_moves_is_no_filling() {
        assert_eq!(eta_s(&filling(20_000, Trend::default(), &NONE)), None);
        assert_eq!(eta_s(&filling(20_000, trend(0, 500, 0), &NONE)), None);
        // One connection in ten seconds can be chance.
        assert_eq!(eta_s(&filling(20_000, trend(1, 0, 0), &NONE)), None);
    }

    #[test]
    fn a_full_tuple_has_no_time_left() {
        assert_eq!(eta_s(&filling(28_232, Trend::default(), &NONE)), Some(0.0));
        assert_eq!(eta_s(&filling(30_000, trend(0, 100, 0), &NONE)), Some(0.0));
        let none = Filling { capacity: 0, ..filling(0, trend(1_000, 0, 0), &NONE) };
        assert_eq!(eta_s(&none), None);
    }

    #[test]
    fn older_time_waits_can_end_at_any_time() {
        // 12,000 of unknown age end at 200 a second: they make up for 200 of 300 that come.
        let unknown = Filling { time_wait: 12_000, ..filling(20_000, trend(3_000, 0, 0), &NONE) };
        let eta = eta_s(&unknown).unwrap();
        // 100 a second for a minute, then 300.
        assert!((eta - (60.0 + (8_232.0 - 6_000.0) / 300.0)).abs() < 1.0, "{eta}");
    }

    proptest! {
        #[test]
        fn any_input_gives_a_time_or_none(
            in_use in 0_u64..100_000, time_wait in 0_u64..100_000, capacity in 0_u32..65_536,
            seconds in 0.0..100.0_f64, opened: u32, closed: u32, begun in any::<[u32; TIME_WAIT_S]>(),
        ) {
            let trend = Trend {
                seconds, opened: opened.into(), closed: closed.into(), begun: opened.into(),
            };
            let filling = Filling { in_use, time_wait, capacity, trend, begun: &begun };
            let eta = eta_s(&filling);
            prop_assert!(eta.is_none_or(|eta| (0.0..=HORIZON_S).contains(&eta)), "{eta:?}");
        }
    }
}
