use super::{
    super::test_diagnosis::{diagnosis, healthy},
    *,
};

#[test]
fn a_diagnosis_is_read_from_the_worst_to_what_was_not_checked() {
    insta::assert_snapshot!(text(&diagnosis()));
}

#[test]
fn a_healthy_host_gets_one_line() {
    assert_eq!(text(&healthy()), "healthy: no sign of port exhaustion\n");
}

#[test]
fn no_line_but_a_command_is_longer_than_100_columns_and_none_acts_on_the_terminal() {
    let all = text(&diagnosis());
    assert!(
        all.lines().all(|it| it.chars().count() <= WIDTH || it.contains("ip netns exec")),
        "{all}"
    );
    assert!(!all.contains('\u{1b}'), "{all}");
}
