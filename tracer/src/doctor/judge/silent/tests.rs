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
    assert_eq!(severity(silent(5, 5, 0)), Some(Severity::Warning));
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
    let expected = "20 of 20 ports wait in SYN_SENT (100 %), 20 after their SYN was sent again: no answer comes";
    assert_eq!(found[0].what, expected);
}
