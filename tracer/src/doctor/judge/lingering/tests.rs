use super::{
    super::test_seen::{held as tuple, seen},
    *,
};

fn close_wait(count: u32, first_cookie: u64) -> Tuple {
    let lingering = (first_cookie..).take(count as usize).collect();
    Tuple { close_wait: count, lingering, ..tuple(count, 0) }
}

fn fin_wait2(count: u32, first_cookie: u64) -> Tuple {
    let lingering = (first_cookie..).take(count as usize).collect();
    Tuple { fin_wait2: count, lingering, ..tuple(count, 0) }
}

fn ids(seen: &Seen) -> Vec<(Id, Certainty)> {
    held(seen).into_iter().map(|it| (it.id, it.certainty)).collect()
}

#[test]
fn connections_that_the_program_does_not_close_are_a_leak() {
    let leak = seen(close_wait(100, 5)).after(close_wait(100, 5));
    assert_eq!(ids(&leak), [(Id::HeldOpen, Certainty::Measured)]);
    assert_eq!(ids(&seen(close_wait(99, 5)).after(close_wait(99, 5))), []);
    let mut many = close_wait(1_000, 5);
    many.capacity = 28_000;
    assert_eq!(ids(&seen(many.clone()).after(many)), [(Id::HeldOpen, Certainty::Measured)]);
}

#[test]
fn connections_that_come_and_go_are_none() {
    let others = seen(close_wait(100, 5)).after(close_wait(100, 500));
    assert_eq!(ids(&others), []);
    let mut new = seen(close_wait(100, 5)).after(tuple(0, 0));
    assert_eq!(ids(&new), []);
    new.before = None;
    assert_eq!(ids(&new), [(Id::HeldOpen, Certainty::Inferred)], "one look cannot know it");
}

#[test]
fn connections_that_the_other_end_does_not_close_are_said_with_the_time_out() {
    let held = seen(fin_wait2(100, 5)).after(fin_wait2(100, 5));
    assert_eq!(ids(&held), [(Id::FinWait2Held, Certainty::Measured)]);
    let finding = super::held(&held).remove(0);
    let command = finding.advice[0].command.as_deref();
    assert_eq!(command, Some("ip netns exec proxy sysctl -w net.ipv4.tcp_fin_timeout=10"));
    assert_eq!(ids(&seen(fin_wait2(99, 5)).after(fin_wait2(99, 5))), []);
}
