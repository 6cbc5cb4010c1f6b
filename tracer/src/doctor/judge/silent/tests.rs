use super::{
    super::test_seen::{held, opened, seen},
    *,
};

fn silent(syn_sent: u32, unanswered: u32, established: u32) -> Tuple {
    let held = syn_sent + established;
    Tuple { syn_sent, unanswered, established, held, capacity: 1_000, ..Tuple::default() }
}

fn severity(tuple: Tuple) -> Option<Severity> {
    black_holes(&seen(tuple)).first().map(|it| it.severity)
}

#[test]
fn a_tuple_full_of_connections_without_an_answer_is_a_black_hole() {
    assert_eq!(severity(silent(450, 300, 0)), Some(Severity::Critical));
    assert_eq!(severity(silent(449, 300, 0)), Some(Severity::Warning));
    assert_eq!(severity(silent(450, 300, 451)), None, "most get through");
    assert_eq!(severity(silent(100, 50, 1)), None, "some get through");
}

#[test]
fn a_few_unanswered_connections_and_slow_ones_are_none() {
    assert_eq!(severity(silent(4, 4, 0)), None);
    assert_eq!(severity(silent(19, 19, 0)), None);
    assert_eq!(severity(silent(20, 20, 0)), Some(Severity::Warning));
    assert_eq!(severity(silent(500, 4, 0)), None, "no SYN was sent again: they have just begun");
    assert_eq!(severity(held(900, 0)), None);
}

#[test]
fn failing_calls_make_it_critical_and_no_advice_asks_for_ports() {
    let mut failing = opened(0, 0);
    failing.failed[tracer_common::Cause::PortsExhausted as usize] = 5;
    let found = black_holes(&seen(silent(20, 20, 0)).watched(failing));
    assert_eq!(found[0].severity, Severity::Critical);
    assert!(found[0].advice.iter().all(|it| it.command.is_none()), "{found:?}");
    let expected = "20 of 20 ports in use wait in SYN_SENT (100 %), 20 after their SYN was sent again: no answer comes";
    assert_eq!(found[0].what, expected);
}

#[test]
fn short_connections_that_got_through_between_two_looks_are_seen() {
    let lossy = |opened_in_5_s, no_answer| {
        let mut activity = opened(opened_in_5_s, 0);
        activity.failed[tracer_common::Cause::NoAnswer as usize] = no_answer;
        let tuple = Tuple { time_wait: 40, held: 60, established: 0, ..silent(20, 20, 0) };
        black_holes(&seen(tuple).watched(activity)).first().map(|it| it.severity)
    };
    assert_eq!(lossy(500, 0), None, "most were established, though none is at this moment");
    assert_eq!(lossy(60, 40), Some(Severity::Warning), "the program gives up, and tries again");
}

#[test]
fn one_look_counts_what_is_in_time_wait_as_having_got_through() {
    let with = |time_wait| severity(Tuple { time_wait, held: 20 + time_wait, ..silent(20, 20, 0) });
    assert_eq!((with(80), with(81)), (Some(Severity::Warning), None));
}
