use super::{
    super::test_diagnosis::{diagnosis, healthy, round},
    *,
};

#[test]
fn a_diagnosis_is_read_from_the_worst_to_what_was_not_checked() {
    insta::assert_snapshot!(text(&diagnosis()));
}

#[test]
fn a_round_of_a_watch_says_what_has_changed() {
    insta::assert_snapshot!(text(&round()));
    let same = Diagnosis { changes: Some(Changes { round: 3, ..Changes::default() }), ..healthy() };
    let expected =
        "\nround 3 at 2025-11-24T16:00:00Z: no change\nhealthy: no sign of port exhaustion\n";
    assert_eq!(text(&same), expected);
    let first =
        Diagnosis { changes: Some(Changes { round: 1, ..Changes::default() }), ..healthy() };
    assert!(text(&first).starts_with("round 1 at 2025-11-24T16:00:00Z\nhealthy"));
}

#[test]
fn a_healthy_host_gets_one_line() {
    assert_eq!(text(&healthy()), "healthy: no sign of port exhaustion\n");
}

#[test]
fn no_line_but_a_command_is_longer_than_100_columns_and_none_acts_on_the_terminal() {
    let all = text(&diagnosis()) + &text(&round());
    assert!(
        all.lines().all(|it| it.chars().count() <= WIDTH || it.contains("ip netns exec")),
        "{all}"
    );
    assert!(!all.contains('\u{1b}'), "{all}");
}
