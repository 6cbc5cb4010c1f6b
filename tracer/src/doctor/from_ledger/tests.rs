use proptest::prelude::*;
use tracer_common::Addr;

use super::*;
use crate::doctor::{
    finding::Id,
    judge::{self, Around},
    verdict,
};

fn key(source: u8) -> TupleKey {
    TupleKey {
        source: Addr::v4([10, 0, 0, source]),
        destination: Addr::v4([10, 0, 1, 7]),
        netns: 1,
        destination_port: 8080,
        zero: 0,
    }
}

fn namespace() -> Namespace {
    Namespace {
        place: Place { inum: 1, name: Some("edge".into()), own: false, path: None },
        range: None,
        limits: Some(Limits { low: 40_000, high: 40_999, ..Limits::default() }),
        reuse: Some(Reuse { setting: 2, delay_ms: None, timestamps: true }),
        time_wait_s: 62.05,
    }
}

fn held(in_use: u64, time_wait: u64) -> Held {
    Held { in_use, time_wait, capacity: Some(1_000), ..Held::default() }
}

fn counted(held: Held) -> Counted {
    Counted { key: key(8), held, activity: None }
}

fn failing(failed: u64) -> Activity {
    let mut activity =
        Activity { seconds: 5.0, opened: 80, ended: 80, closed_first: 80, ..Activity::default() };
    activity.failed[Cause::PortsExhausted as usize] = failed;
    activity
}

fn ids(tuples: Vec<Counted>) -> Vec<Id> {
    let (seen, _) = seen(namespace(), tuples);
    verdict::sort(judge::of_tuples(&seen, &Around::default())).iter().map(|it| it.id).collect()
}

#[test]
fn a_full_tuple_is_exhausted_and_its_first_advice_has_its_numbers() {
    let full = Counted { activity: Some(failing(1_200)), ..counted(held(1_000, 1_000)) };
    let namespace = namespace();
    let subject = subject(&namespace.place, &full.key);
    let (seen, left_out) = seen(namespace, [full]);
    assert_eq!(left_out, 0);
    let findings = verdict::sort(judge::of_tuples(&seen, &Around::default()));
    let (finding, advice) = verdict::advice_for(&findings, &subject).unwrap();
    assert_eq!(finding.id, Id::PortsExhausted);
    assert_eq!(finding.evidence["ports.in_use"], 1_000);
    assert_eq!(finding.evidence["failed"], 1_200);
    assert_eq!(
        advice.command.as_deref(),
        Some("ip netns exec edge sysctl -w net.ipv4.tcp_tw_reuse=1")
    );
}

#[test]
fn a_tuple_of_unanswered_connections_is_a_black_hole_and_gets_no_advice_to_add_ports() {
    let states = Ports { connecting: 950, unanswered: 900, established: 50, ..Ports::default() };
    let full = counted(Held { states: Some(states), ..held(1_000, 0) });
    let subject = subject(&namespace().place, &full.key);
    let (seen, _) = seen(namespace(), [full]);
    let findings = verdict::sort(judge::of_tuples(&seen, &Around::default()));
    let (finding, advice) = verdict::advice_for(&findings, &subject).unwrap();
    assert_eq!((finding.id, &advice.command), (Id::BlackHole, &None));
}

#[test]
fn what_is_reusable_is_not_in_use() {
    let busy = held(1_000, 990);
    assert_eq!(ids(vec![counted(busy)]), [Id::PortsExhausted, Id::HotSpot]);
    assert_eq!(ids(vec![counted(Held { reusable: 990, ..busy })]), []);
}

#[test]
fn without_a_known_capacity_only_failed_calls_show_that_a_tuple_is_full() {
    let unknown = || Namespace { limits: None, ..namespace() };
    let some = counted(Held { capacity: None, ..held(500, 0) });
    let (none, left_out) = seen(unknown(), [some.clone()]);
    assert_eq!((judge::of_tuples(&none, &Around::default()), left_out), (vec![], 1));
    let failing = Counted { activity: Some(failing(3)), ..some.clone() };
    let (full, left_out) = seen(unknown(), [failing]);
    let found = judge::of_tuples(&full, &Around::default());
    assert!(found.iter().any(|it| it.id == Id::PortsExhausted), "{found:?}");
    assert_eq!(left_out, 0);
    assert!(found.iter().all(|it| it.advice.iter().all(|it| !it.what.contains("widen"))));
    // With the range, it is known what it can hold.
    let (known, left_out) = seen(namespace(), [some]);
    assert_eq!((known.now.by_ends.values().next().unwrap().capacity, left_out), (1_000, 0));
}

#[test]
fn ports_that_bind_took_are_of_an_address() {
    let mut activity = Activity { seconds: 5.0, ..Activity::default() };
    activity.failed[Cause::BindExhausted as usize] = 7;
    let key = TupleKey::of_bind(1, Addr::v4([10, 0, 0, 8]));
    let (seen, _) =
        seen(namespace(), [Counted { key, held: held(1_000, 0), activity: Some(activity) }]);
    assert!(seen.now.by_ends.is_empty() && seen.activity.is_empty());
    let [finding] = &judge::of_tuples(&seen, &Around::default())[..] else { panic!("{seen:?}") };
    assert_eq!((finding.id, &finding.evidence["failed"]), (Id::PortsExhausted, &7.into()));
}

#[test]
fn reuse_is_what_tuples_show() {
    let (out, home) = (key(1), TupleKey { source: Addr::v4([127, 0, 0, 1]), ..key(1) });
    let of = |tuples: &[(&TupleKey, Option<u64>)]| {
        let reuse = reuse(tuples.iter().copied());
        (reuse.setting, reuse.timestamps)
    };
    assert_eq!(of(&[]), (0, false));
    assert_eq!(of(&[(&out, None)]), (0, false));
    assert_eq!(of(&[(&out, None), (&home, Some(0))]), (2, true));
    assert_eq!(of(&[(&home, Some(3)), (&out, Some(0))]), (1, true));
}

#[test]
fn a_row_of_the_screen_is_what_the_ledger_counted() {
    let mut count =
        tracer_common::TupleCount { opened: 30, time_wait_begun: 10, ..Default::default() };
    count.states = tracer_common::States::one(tracer_common::PortState::Established.flags()) * 15;
    let mut row = Row::new(key(1), &count, None, Some(namespace().limits.unwrap()));
    row.reusable = Some(4);
    let held = Held::from(&row);
    assert_eq!(
        (held.in_use, held.time_wait, held.reusable, held.capacity),
        (30, 10, 4, Some(1_030))
    );
    let (seen, _) = seen(namespace(), [counted(held)]);
    let tuple = &seen.now.by_ends[&ends(&key(8))];
    assert_eq!((tuple.in_use(), tuple.established, tuple.syn_sent), (26, 15, 5));
}

proptest! {
    #[test]
    fn any_counts_are_judged(
        counts: [u64; 3], states: [u64; 5], capacity: Option<u32>, failed: u64, opened: u64, is_bind: bool,
    ) {
        let [in_use, time_wait, reusable] = counts;
        let [connecting, unanswered, established, close_wait, closing] = states;
        let states = Some(Ports { connecting, unanswered, established, close_wait, closing });
        let key = if is_bind { TupleKey::of_bind(1, Addr::UNSPECIFIED) } else { key(1) };
        let activity = Some(Activity { opened, ..failing(failed) });
        let held = Held { in_use, time_wait, reusable, states, capacity };
        let (seen, _) = seen(namespace(), [Counted { key, held, activity }]);
        let findings = verdict::sort(judge::of_tuples(&seen, &Around::default()));
        prop_assert!(findings.len() <= 6);
    }
}
