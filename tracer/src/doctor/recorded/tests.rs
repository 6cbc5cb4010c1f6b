use std::fs;

use proptest::prelude::*;
use tracer_common::{Cause, PortState, States, TupleCount, TupleKey};

use super::*;
use crate::{
    doctor::finding::{Advice, Id, Severity},
    recording::{
        Reader,
        test_recorder::{Recorder, S, key},
    },
};

fn read<K: Keep>(bytes: &[u8], mut recorded: Recorded<K>) -> Recorded<K> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    fs::write(&path, bytes).unwrap();
    let mut reader = Reader::open(&[path]).unwrap();
    while reader.next(&mut |at, entry| recorded.add(at, &entry)).unwrap() {}
    recorded
}

fn judged(bytes: &[u8]) -> Judged {
    read(bytes, Recorded::new(Vec::new(), MOST_TUPLES)).finish(&Damage::default())
}

fn advised(bytes: &[u8]) -> Advised {
    read(bytes, Recorded::for_advice(MOST_TUPLES)).advised()
}

/// The first advice for a tuple, and the finding that gives it, if it is `ports_exhausted` or its cause.
fn advice_for<'a>(judged: &'a Judged, key: &TupleKey) -> Option<(&'a Finding, &'a Advice)> {
    let is_about = |it: &&Finding| worst::tuple_of(&it.subject) == Some(*key);
    let about = || judged.findings.iter().filter(is_about);
    let exhausted = about().find(|it| it.id == Id::PortsExhausted)?;
    let id = exhausted.consequence_of.unwrap_or(exhausted.id);
    let finding = about().find(|it| it.id == id)?;
    Some((finding, finding.advice.first()?))
}

/// A tuple with all of its 1,000 ports in TIME_WAIT, and this many calls that found none.
fn full(failed: u64) -> TupleCount {
    let mut count = TupleCount { opened: 1_000, time_wait_begun: 1_000, ..TupleCount::default() };
    count.failed[Cause::PortsExhausted as usize] = failed;
    count
}

#[test]
fn the_worst_window_is_found_however_long_the_recording_is() {
    let mut recorder = Recorder::default();
    recorder.start(S, true);
    let mut failed = 0;
    for reading in 1..=5_000_u64 {
        failed += if reading == 4_321 { 700 } else { reading % 7 };
        recorder.tuple(reading * 10 * S, key(1), &full(failed), None);
        recorder.totals(reading * 10 * S, 0, failed);
    }
    let judged = judged(recorder.bytes());
    assert_eq!(judged.metrics.failed, Some(failed - 1));
    let (finding, advice) = advice_for(&judged, &key(1)).unwrap();
    assert_eq!((finding.severity, &finding.evidence["failed"]), (Severity::Critical, &700.into()));
    assert!(!advice.what.is_empty());
    assert_eq!(advice_for(&judged, &key(2)), None);
}

#[test]
fn most_windows_of_a_long_recording_in_which_nothing_gets_worse_are_not_judged() {
    let mut window = Window::new(MOST_TUPLES);
    let mut due = 0;
    for reading in 1..=100_000_u64 {
        let at = At { wall_ns: reading, mono_ns: reading * 10 * S };
        window.complete(at);
        if window.end_reading().is_some() {
            due += u64::from(window.is_due());
            window.next();
        }
    }
    // All windows of the first 1,000 readings; of later ones, one in each thousandth of the time.
    assert!((1_000..6_500).contains(&due), "{due}");
}

#[test]
fn a_range_that_ends_before_it_begins_is_not_believed() {
    let mut recorder = Recorder::default();
    recorder.start(S, true);
    recorder.tuple(2 * S, key(1), &full(0), None);
    recorder.totals(2 * S, 0, 0);
    let text = String::from_utf8(recorder.bytes().to_vec()).unwrap();
    let text = text.replace("32768-33767", "60999-32768");
    assert!(advised(text.as_bytes()).cases.advice_for(&key(1)).is_some());
}

#[test]
fn more_tuples_that_ran_out_than_are_kept_are_counted() {
    let mut recorder = Recorder::default();
    recorder.start(S, true);
    (0..20).for_each(|number| recorder.tuple(2 * S, key(number), &full(1), None));
    recorder.totals(2 * S, 0, 20);
    let run = recorder.bytes();
    let mut other = Recorder::default();
    other.start(S, true);
    (20..25).for_each(|number| other.tuple(2 * S, key(number), &full(1), None));
    other.totals(2 * S, 0, 5);
    let runs = [run, other.bytes()].concat();
    let advised = read(&runs, Recorded::for_advice(20)).advised();
    assert_eq!(advised.left_out, 5);
    let known = (0..25).filter(|number| advised.cases.advice_for(&key(*number)).is_some());
    assert_eq!(known.count(), 20);
}

/// A tuple of 1,000 ports that holds at most these numbers of them, by state.
fn held(
    (waits, unanswered, established): (u64, u64, u64),
    released: u64,
    failed: u64,
) -> TupleCount {
    let of = |state: PortState| States::one(state.flags());
    let open = unanswered + established;
    let states = of(PortState::Unanswered) * unanswered + of(PortState::Established) * established;
    let opened = released + waits + open;
    TupleCount { opened, released, time_wait_begun: waits, states, ..full(failed) }
}

proptest! {
    #[test]
    fn what_helps_a_tuple_is_what_its_worst_findings_say(
        runs in prop::collection::vec((any::<bool>(), prop::collection::vec(
            (0..4_u8, (0..600_u64, 0..600_u64, 0..600_u64), 0..5_000_u64, 0..3_u64), 0..40,
        )), 1..4),
    ) {
        let mut bytes = Vec::new();
        for (has_readings, readings) in runs {
            let mut recorder = Recorder::in_namespace(1);
            recorder.start(S, has_readings);
            for (second, (number, ports, released, failed)) in (2..).zip(readings) {
                if has_readings {
                    recorder.tuple(second * S, key(number), &held(ports, released, failed), None);
                    recorder.totals(second * S, 0, 0);
                } else if failed > 0 {
                    recorder.failure(second * S, Cause::PortsExhausted);
                }
            }
            bytes.extend_from_slice(recorder.bytes());
        }
        let (judged, advised) = (judged(&bytes), advised(&bytes));
        for key in (0..4).map(key) {
            let expected = advice_for(&judged, &key).map(|(it, advice)| (it.id, advice.clone()));
            prop_assert_eq!(advised.cases.advice_for(&key), expected);
        }
    }

    #[test]
    fn any_readings_are_judged(
        readings in prop::collection::vec((0..20_u64, 0..4_u8, any::<[u64; 4]>(), any::<bool>()), 0..40),
    ) {
        let mut recorder = Recorder::in_namespace(1);
        recorder.start(0, true);
        for (second, number, [opened, released, begun, failed], ends) in readings {
            let count = TupleCount { opened, released, time_wait_begun: begun, ..full(failed) };
            recorder.tuple(second * S, key(number), &count, None);
            if ends {
                recorder.totals(second * S, 0, failed);
            }
        }
        let judged = judged(recorder.bytes());
        prop_assert!(judged.checks.len() == 10);
    }
}
