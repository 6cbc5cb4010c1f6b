use std::fs;

use proptest::prelude::*;
use tracer_common::{Cause, TupleCount};

use super::*;
use crate::{
    doctor::finding::Severity,
    recording::{
        Reader,
        test_recorder::{Recorder, S, key},
    },
};

fn judged(bytes: &[u8]) -> Judged {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    fs::write(&path, bytes).unwrap();
    let mut reader = Reader::open(&[path]).unwrap();
    let mut recorded = Recorded::new(Vec::new(), MOST_TUPLES);
    while reader.next(&mut |at, entry| recorded.add(at, &entry)).unwrap() {}
    recorded.finish(&Damage::default())
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
    let (finding, advice) = judged.advice_for(&key(1)).unwrap();
    assert_eq!((finding.severity, &finding.evidence["failed"]), (Severity::Critical, &700.into()));
    assert!(!advice.what.is_empty());
    assert_eq!(judged.advice_for(&key(2)), None);
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
    assert!(judged(text.as_bytes()).advice_for(&key(1)).is_some());
}

proptest! {
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
