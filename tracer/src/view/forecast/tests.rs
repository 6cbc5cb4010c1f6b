use proptest::prelude::*;

use super::*;

const NONE: [u32; BEGUN_S] = [0; BEGUN_S];

fn trend(opened: u64, closed: u64, begun: u64) -> Trend {
    Trend { seconds: 10.0, opened, closed, begun, scatter: 0.0 }
}

fn filling(in_use: u64, trend: Trend, by_age: &[u32; BEGUN_S]) -> Filling<'_> {
    let time_wait = by_age.iter().map(|count| u64::from(*count)).sum();
    Filling {
        in_use,
        time_wait,
        capacity: 28_232,
        reuse: None,
        failing: false,
        trend: Some(trend),
        begun: Begun { by_age, known_s: BEGUN_S },
    }
}

#[test]
fn connections_that_stay_open_fill_the_tuple_linearly() {
    let eta = eta_s(&filling(18_232, trend(2_000, 0, 0), &NONE)).unwrap();
    assert!((eta - 50.0).abs() < 0.5, "{eta}");
    let eta = eta_s(&filling(27_232, trend(1_000, 0, 0), &NONE)).unwrap();
    assert!((eta - 10.0).abs() < 0.1, "{eta}");
}

#[test]
fn ten_seconds_make_no_forecast_for_hours() {
    assert_eq!(eta_s(&filling(8_232, trend(1_000, 0, 0), &NONE)), None);
    let minute = Trend { seconds: 60.0, ..trend(6_000, 0, 0) };
    let eta = eta_s(&filling(8_232, minute, &NONE)).unwrap();
    assert!((eta - 200.0).abs() < 1.0, "{eta}");
}

#[test]
fn ports_that_time_wait_gives_back_in_time_prevent_a_forecast() {
    // 400 connections a second for 50 s, each in TIME_WAIT immediately: 24,400 at most.
    let mut begun = NONE;
    begun[..50].fill(400);
    assert_eq!(eta_s(&filling(20_000, trend(4_000, 0, 4_000), &begun)), None);
}

#[test]
fn ports_that_time_wait_gives_back_too_late_do_not() {
    // 500 a second for 50 s: 28,232 are gone after 56.5 s, before the first TIME_WAIT ends.
    let mut begun = NONE;
    begun[..50].fill(500);
    let eta = eta_s(&filling(25_000, trend(5_000, 0, 5_000), &begun)).unwrap();
    assert!((eta - 6.46).abs() < 0.1, "{eta}");
}

#[test]
fn a_steady_state_has_no_forecast() {
    let begun = [400; BEGUN_S];
    assert_eq!(eta_s(&filling(24_000, trend(4_000, 0, 4_000), &begun)), None);
    // Without TIME_WAIT, with differences that can be chance.
    assert_eq!(eta_s(&filling(28_000, trend(4_150, 4_000, 0), &NONE)), None);
    assert_eq!(eta_s(&filling(28_000, trend(4_000, 4_050, 0), &NONE)), None);
    // More than single calls explain, but the parts of the window differ by a factor of three.
    let uneven = Trend { scatter: 300.0, ..trend(4_600, 4_000, 0) };
    assert_eq!(eta_s(&filling(28_000, uneven, &NONE)), None);
    assert!(eta_s(&filling(28_000, trend(4_600, 4_000, 0), &NONE)).is_some());
}

#[test]
fn a_batch_that_is_due_has_no_forecast() {
    // 28,086 of 28,232, the peak of the sawtooth: 453 TIME_WAITs are due, and end at any moment.
    let begun = [453; BEGUN_S];
    let top = Filling { time_wait: 28_086, ..filling(28_086, trend(4_530, 0, 4_530), &begun) };
    assert_eq!(eta_s(&top), None);
}

#[test]
fn a_burst_that_is_over_is_no_trend() {
    let recent = |opened| Trend { seconds: 2.5, opened, ..Trend::default() };
    assert!(has_stopped(&trend(50, 0, 0), &recent(0)));
    assert!(has_stopped(&trend(1_000, 0, 0), &recent(100)));
    assert!(!has_stopped(&trend(1_000, 0, 0), &recent(200)));
    // With one connection in three seconds, none in 2.5 s proves nothing.
    assert!(!has_stopped(&trend(3, 0, 0), &recent(0)));
    assert!(!has_stopped(&Trend::default(), &recent(0)));
}

#[test]
fn without_changes_there_is_no_forecast() {
    let without = Filling { trend: None, ..filling(20_000, Trend::default(), &NONE) };
    assert_eq!(eta_s(&without), None);
    assert_eq!(eta_s(&filling(28_200, Trend::default(), &NONE)), None);
    assert_eq!(eta_s(&filling(28_200, trend(0, 500, 0), &NONE)), None);
    // A few connections in ten seconds can be chance.
    assert_eq!(eta_s(&filling(28_231, trend(9, 0, 0), &NONE)), None);
}

#[test]
fn a_full_tuple_has_no_time_left() {
    assert_eq!(eta_s(&filling(28_232, Trend::default(), &NONE)), Some(0.0));
    assert_eq!(eta_s(&filling(30_000, trend(0, 100, 0), &NONE)), Some(0.0));
    let none = Filling { capacity: 0, ..filling(0, trend(1_000, 0, 0), &NONE) };
    assert_eq!(eta_s(&none), Some(0.0));
}

#[test]
fn older_time_waits_are_expected_to_end_evenly() {
    // 12,200 of unknown age end at 200 a second, while 300 ports a second are taken.
    let minute = Trend { seconds: 60.0, ..trend(18_000, 0, 0) };
    let unknown = Filling {
        time_wait: 12_200,
        begun: Begun { by_age: &NONE, known_s: 0 },
        ..filling(20_000, minute, &NONE)
    };
    let eta = eta_s(&unknown).unwrap();
    // 100 a second for 61 s, then 300.
    assert!((eta - (61.0 + (8_232.0 - 6_100.0) / 300.0)).abs() < 1.0, "{eta}");
}

/// The ETA of a tuple with 200 ports, all held by TIME_WAITs, of which `now` can be taken over. `per_second`: ports
/// that are taken per second.
fn reused(now: u64, per_second: u64, failing: bool) -> Option<f64> {
    let mut begun = NONE;
    begun.fill(u32::try_from(per_second).unwrap());
    let reuse = Some(Reusable { now, young: 200 - now, after_s: 1 });
    let opened = 10 * per_second;
    eta_s(&Filling {
        time_wait: 200,
        capacity: 200,
        reuse,
        failing,
        ..filling(200, trend(opened, 0, opened), &begun)
    })
}

#[test]
fn time_waits_that_are_taken_over_count_as_free_ports() {
    assert_eq!(reused(151, 49, false), None);
    assert_eq!(reused(20, 180, false), None);
    // More connections a second than ports: they run out.
    assert!(reused(20, 500, false).is_some_and(|eta| eta < 1.0));
    // Only a search shows whether one is old enough to be taken over.
    assert_eq!(reused(0, 150, false).filter(|eta| *eta == 0.0), None);
    assert_eq!(reused(0, 150, true), Some(0.0));
    assert_eq!(reused(151, 49, true), Some(0.0));
}

#[test]
fn no_more_time_waits_end_than_there_are() {
    let mut begun = NONE;
    begun.fill(49);
    let sum = |ends: Vec<u32>| ends.iter().sum::<u32>();
    let known = Begun { by_age: &begun, known_s: BEGUN_S };
    assert_eq!(sum(ending(200, known, false)), 200);
    // The older ones were taken over, so none ends for a while.
    let ends = ending(200, known, true);
    assert_eq!((sum(ends.clone()), ends[..50].iter().sum::<u32>()), (200, 0));
    // Those of the five oldest seconds are due; about the others nothing is known.
    assert_eq!(sum(ending(10_000, known, false)), 49 * 66);
    assert_eq!(sum(ending(49 * 62, known, false)), 49 * 62);
    assert_eq!(ending(49 * 62, known, false)[..2], [98, 49]);
}

#[test]
fn time_waits_that_resets_end_early_have_no_forecast() {
    // 400 a second, of which three quarters are reset in TIME_WAIT.
    let begun = [400; BEGUN_S];
    let reset = Filling { time_wait: 6_100, ..filling(26_000, trend(4_000, 0, 4_000), &begun) };
    assert_eq!(eta_s(&reset), None);
}

proptest! {
    #[test]
    fn any_input_gives_a_time_or_none(
        in_use in 0_u64..100_000, time_wait in 0_u64..100_000, capacity in 0_u32..65_536,
        seconds in 0.0..100.0_f64, opened: u32, closed: u32, scatter in 0.0..1e6_f64,
        by_age in any::<[u32; BEGUN_S]>(), known_s in 0_usize..80, failing: bool,
        reuse in prop::option::of((0_u64..100_000, 0_u64..100_000, 0_usize..80)),
    ) {
        let trend = Trend {
            seconds, opened: opened.into(), closed: closed.into(), begun: opened.into(), scatter,
        };
        let reuse = reuse.map(|(now, young, after_s)| Reusable { now, young, after_s });
        let begun = Begun { by_age: &by_age, known_s };
        let filling =
            Filling { in_use, time_wait, capacity, reuse, failing, trend: Some(trend), begun };
        let eta = eta_s(&filling);
        prop_assert!(eta.is_none_or(|eta| (0.0..=seconds * REACH).contains(&eta)), "{eta:?}");
        for reuse in [false, true] {
            let ends: u64 = ending(time_wait, begun, reuse).into_iter().map(u64::from).sum();
            prop_assert!(ends <= time_wait, "{ends} of {time_wait}");
        }
    }
}
