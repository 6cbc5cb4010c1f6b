//! Series of readings of a simulated kernel, which opens and closes connections and ends TIME_WAITs in batches, when its
//! timer wheel turns.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "small numbers"
)]

use std::collections::VecDeque;

use proptest::{prelude::*, test_runner::RngSeed};

use super::*;

/// Periods of the batches in which TIME_WAITs end, ms, where HZ is 250, 300, 1000 and 100.
const WHEELS: [u64; 4] = [2_048, 1_707, 4_096, 5_120];

/// A simulated host that connects to one destination: its clock, its connections, and the tuple's counters.
struct Host {
    capacity: u32,
    wheel_ms: u64,
    /// When each TIME_WAIT ends, ms on the host's clock, in order.
    waiting: VecDeque<u64>,
    /// When the peer closes each open connection, ms on the host's clock.
    open: Vec<u64>,
    count: TupleCount,
    now_ms: u64,
    random: u64,
}

impl Host {
    fn new(capacity: u32, wheel_ms: u64, seed: u64) -> Self {
        Self {
            capacity,
            wheel_ms,
            waiting: VecDeque::new(),
            open: Vec::new(),
            count: TupleCount::default(),
            now_ms: 1_000_000,
            random: seed.wrapping_mul(2) + 1,
        }
    }

    /// The next pseudorandom number, from 0 to 1.
    fn random(&mut self) -> f64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
        (self.random >> 33) as f64 / f64::from(1_u32 << 31)
    }

    /// Opens a connection, if a port is free, and closes it immediately: it goes into TIME_WAIT.
    fn close_at_once(&mut self) {
        if self.connect() {
            self.count.time_wait_begun += 1;
            self.waiting.push_back((self.now_ms + 60_000).div_ceil(self.wheel_ms) * self.wheel_ms);
        }
    }

    /// Opens a connection, if a port is free, which the peer closes after `for_ms` milliseconds: it never is in TIME_WAIT.
    fn hold(&mut self, for_ms: u64) {
        if self.connect() {
            let until = self.now_ms + for_ms;
            self.open.push(until);
        }
    }

    fn connect(&mut self) -> bool {
        let room = self.count.in_use() < u64::from(self.capacity);
        if room {
            self.count.opened += 1;
        } else {
            self.count.failed[Cause::PortsExhausted as usize] += 1;
        }
        room
    }

    fn advance(&mut self, ms: u64) {
        self.now_ms += ms;
        while self.waiting.front().is_some_and(|end| *end <= self.now_ms) {
            self.waiting.pop_front();
            self.count.time_wait_ended += 1;
            self.count.released += 1;
        }
        let before = self.open.len();
        self.open.retain(|end| *end > self.now_ms);
        self.count.released += (before - self.open.len()) as u64;
    }

    fn left(&self) -> f64 {
        f64::from(self.capacity) - self.count.in_use() as f64
    }
}

/// Runs a host for a second, in steps of 10 ms, and adds a reading. Returns its forecast, s.
fn second(
    host: &mut Host,
    forecast: &mut TupleForecast,
    mut step: impl FnMut(&mut Host, u64),
) -> Option<f64> {
    for number in 0..100 {
        step(host, number);
        host.advance(10);
    }
    let now_ms = host.now_ms as u32;
    let holds = Holds { capacity: Some(host.capacity), reuse: None };
    forecast.add_reading(&host.count, holds, now_ms, None);
    forecast.eta_s(now_ms)
}

/// Runs a host for `warm` seconds, whose readings are added if `seen_before`, then for a hundred seconds, whose readings are
/// always added. Returns the forecasts of the hundred, s; seconds without a forecast are left out.
fn forecasts(
    host: &mut Host,
    warm: u64,
    seen_before: bool,
    mut step: impl FnMut(&mut Host, u64),
) -> Vec<f64> {
    let mut forecast = TupleForecast::new(None);
    for _ in 0..warm {
        if seen_before {
            second(host, &mut forecast, &mut step);
        } else {
            second(host, &mut TupleForecast::default(), &mut step);
        }
    }
    (0..100).filter_map(|_| second(host, &mut forecast, &mut step)).collect()
}

/// How many of `per_second` fall into step `number` of 100, evenly.
fn even(per_second: u64, number: u64) -> u64 {
    per_second * (number + 1) / 100 - per_second * number / 100
}

/// How many of `per_second` fall into a step of 10 ms, at random.
fn by_chance(host: &mut Host, per_second: f64) -> u64 {
    // Several draws, so that one step can have several calls.
    (0..8).filter(|_| host.random() < per_second / 800.0).count() as u64
}

#[test]
fn the_sawtooth_of_the_timer_wheel_has_no_forecast() {
    for wheel in WHEELS {
        // At their peaks, before a batch ends, these hold at most 521, 912 and 977 of 1,000 ports.
        for per_second in [8, 14, 15] {
            for seen_before in [true, false] {
                let mut host = Host::new(1000, wheel, 1);
                let step = |host: &mut Host, number| {
                    (0..even(per_second, number)).for_each(|_| host.close_at_once());
                };
                let etas = forecasts(&mut host, 130, seen_before, step);
                assert_eq!(etas, [0.0; 0], "{per_second} a second, {wheel} ms");
            }
        }
    }
}

#[test]
fn a_sawtooth_of_the_load_has_no_forecast_after_its_first_peak() {
    // Filled to 80 % within 20 s; then all connections end together, and it begins again.
    let mut host = Host::new(1000, 2_048, 1);
    let mut at = 0;
    let etas = forecasts(&mut host, 60, true, |host, number| {
        (0..even(40, number)).for_each(|_| host.hold(20_000 - at % 20_000));
        at += 10;
    });
    assert_eq!(etas, [0.0; 0]);
}

#[test]
fn bursts_have_no_forecast() {
    let mut host = Host::new(1000, 2_048, 1);
    let mut steps = 0;
    let etas = forecasts(&mut host, 60, true, |host, _| {
        steps += 1;
        if steps % 1_500 == 0 {
            (0..250).for_each(|_| host.hold(9_000));
        }
    });
    assert_eq!(etas, [0.0; 0]);
}

#[test]
fn one_port_of_a_thousand_has_no_forecast() {
    let mut host = Host::new(1000, 2_048, 1);
    let mut steps = 0;
    let etas = forecasts(&mut host, 0, true, |host, _| {
        steps += 1;
        if steps == 300 {
            host.hold(1_000_000);
        }
    });
    assert_eq!(etas, [0.0; 0]);
}

#[test]
fn with_ten_seconds_between_readings_a_ramp_has_a_forecast_from_the_fourth_on() {
    let mut host = Host::new(1000, 2_048, 1);
    let mut forecast = TupleForecast::new(None);
    let mut first = None;
    for reading in 0..9_u32 {
        for _ in 0..1000 {
            host.advance(10);
            if host.now_ms.is_multiple_of(100) {
                host.hold(1_000_000);
            }
        }
        let holds = Holds { capacity: Some(1000), reuse: None };
        forecast.add_reading(&host.count, holds, host.now_ms as u32, None);
        if let Some(eta) = forecast.eta_s(host.now_ms as u32) {
            let left = host.left() / 10.0;
            assert!((eta - left).abs() <= 0.1 * left, "{eta} for {left}");
            first.get_or_insert(reading);
        }
    }
    assert_eq!(first, Some(4));
}

#[test]
fn with_reuse_of_time_waits_there_is_no_forecast_and_no_more_end_than_there_are() {
    // 49 connections a second over 200 ports; a port is taken over no sooner than a second after it was closed.
    let mut forecast = TupleForecast::new(Some(0));
    let mut count = TupleCount::default();
    for second in 1..=100_u64 {
        count.opened += 49;
        count.time_wait_begun += 49;
        let over = count.in_use().saturating_sub(200);
        count.released += over;
        count.time_wait_ended += over;
        let all = count.time_wait();
        let reuse = Some(TakenOver { all, old: false, after_ms: 1000 });
        let now_ms = second as u32 * 1000;
        forecast.add_reading(&count, Holds { capacity: Some(200), reuse }, now_ms, None);
        assert_eq!(forecast.eta_s(now_ms), None, "after {second} s");
        let reusable = forecast.reusable(now_ms).unwrap();
        assert_eq!((reusable.now, reusable.young), (all - 49, 49), "after {second} s");
        let ending: u32 = forecast.ending(now_ms).iter().sum();
        assert_eq!(u64::from(ending), all, "after {second} s");
    }
    // After a second without a connection all are old enough.
    forecast.add_reading(&count, forecast.holds, 102_000, None);
    assert_eq!(forecast.reusable(102_000).unwrap().now, 200);
    // Without the setting, the tuple is full; with it, when a search fails.
    forecast.add_reading(&count, Holds { capacity: Some(200), reuse: None }, 102_000, None);
    assert_eq!(forecast.eta_s(102_000), Some(0.0));
    let reuse = Some(TakenOver { all: 200, old: false, after_ms: 1000 });
    forecast.add_reading(&count, Holds { capacity: Some(200), reuse }, 103_000, None);
    assert_eq!(forecast.eta_s(103_000), None);
    count.failed[Cause::PortsExhausted as usize] += 1;
    forecast.add_reading(&count, Holds { capacity: Some(200), reuse }, 104_000, None);
    assert_eq!(forecast.eta_s(104_000), Some(0.0));
}

#[test]
fn time_waits_older_than_the_tracer_end_when_the_kernel_says() {
    // 900 of 1,000 ports; a hundred end in each of the next nine seconds.
    let mut left = [0; TIME_WAIT_S];
    left[..9].fill(100);
    let older = Older { left: &left, at_ms: 10_000 };
    let count = TupleCount { opened: 900, time_wait_begun: 900, ..TupleCount::default() };
    let mut forecast = TupleForecast::new(None);
    forecast.add_reading(&count, Holds::default(), 12_000, Some(older));
    let ending = forecast.ending(12_000);
    assert_eq!(ending.iter().sum::<u32>(), 900);
    // Two seconds later, 300 of them are due.
    assert_eq!(ending[..8], [300, 100, 100, 100, 100, 100, 100, 0], "{ending:?}");
}

proptest! {
    // The same cases in every run: by chance, one steady load of a thousand looks like a ramp for three readings, which
    // would not be the fault of a change of the code.
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::with_cases(32)
    })]

    #[test]
    fn a_steady_load_has_no_forecast(
        wheel in prop::sample::select(&WHEELS[..]), share in 10_u64..=100, seed: u64,
        capacity in prop::sample::select(&[200_u32, 1000, 5000][..]), waits: bool,
    ) {
        let mut host = Host::new(capacity, wheel, seed);
        // Random loads up to this leave room for five standard deviations, at the end of a batch: none of them fills
        // up.
        let most = f64::from(capacity) - 5.0 * f64::from(capacity).sqrt();
        let per_second = most * share as f64 / 100.0 / 66.0;
        let etas = forecasts(&mut host, 150, true, |host, _| {
            for _ in 0..by_chance(host, per_second) {
                if waits {
                    host.close_at_once();
                } else {
                    let for_ms = (host.random() * 122_000.0) as u64;
                    host.hold(for_ms);
                }
            }
        });
        prop_assert_eq!(etas, vec![0.0; 0]);
    }

    #[test]
    fn a_ramp_has_a_forecast_a_minute_ahead_that_is_right_within_a_tenth(
        wheel in prop::sample::select(&WHEELS[..]), per_second in 10_u64..300, seed: u64, noisy: bool,
        waits: bool, older in 0_u64..40,
    ) {
        // The tuple is full 85 s after the ramp begins; with TIME_WAITs after 42 s, before the first of them ends.
        let ports = per_second * if waits { 42 } else { 85 };
        let mut host = Host::new(ports as u32, wheel, seed);
        let mut forecast = TupleForecast::new(None);
        let step = |host: &mut Host, number| {
            let more = if noisy { by_chance(host, per_second as f64) } else { even(per_second, number) };
            for _ in 0..more {
                if waits { host.close_at_once() } else { host.hold(1_000_000) }
            }
        };
        // The tracer starts some seconds before the ramp.
        for _ in 0..older {
            second(&mut host, &mut forecast, |_, _| {});
        }
        let (mut right, mut all) = (0, 0);
        for _ in 0..200 {
            let eta = second(&mut host, &mut forecast, step);
            let left = host.left() / per_second as f64;
            if left <= 0.0 {
                break;
            }
            if (20.0..62.0).contains(&left) && host.count.opened > 14 * per_second {
                all += 1;
                // A random load of the last twelve seconds may differ from the average by 3.5 standard deviations.
                let chance = if noisy { 3.5 / (12.0 * per_second as f64).sqrt() } else { 0.0 };
                right += u64::from(eta.is_some_and(|eta| (eta - left).abs() <= (0.1 + chance) * left));
            }
        }
        prop_assert!(all > 5 && right == all, "{right} of {all}");
    }
}
