//! The settings that a recording has decide what a replay advises, as they do for `tracer doctor --from`.

use super::*;
use crate::{
    doctor::{
        finding::{Advice, Id},
        recorded::{Damage, MOST_TUPLES, Recorded as Diagnosed},
    },
    host::capacity::Reuse,
    recording::Reader,
};

/// What the kernel does by default: only TIME_WAITs of loopback addresses.
const DEFAULT: Reuse = Reuse { setting: 2, delay_ms: Some(1_000), timestamps: true };
const SECONDS: u64 = 400;

/// The same tuple in the namespace of tracer (7) and in another one (8): all of its 1,000 ports are in TIME_WAIT.
fn full(netns: u32) -> TupleKey {
    TupleKey { netns, ..key(1) }
}

fn full_for_minutes(mut recorder: Recorder) -> Recorder {
    recorder.namespaces = [(8, "blue")].into();
    recorder.start(S, true);
    let has_settings = recorder.own.is_some();
    let count = TupleCount { opened: 1_000, time_wait_begun: 1_000, ..TupleCount::default() };
    for second in 2..SECONDS {
        for netns in [7, 8] {
            if has_settings && second == 2 {
                recorder.settings(second * S, netns, DEFAULT);
            }
            recorder.tuple(second * S, full(netns), &count, None);
        }
        recorder.totals(second * S, 0, 0);
    }
    recorder
}

/// The advice of `ports_exhausted` for a tuple, and for how long it says that a TIME_WAIT holds its port, in seconds.
type Said = (Vec<Advice>, serde_json::Value);

fn by_doctor(path: &Path, key: &TupleKey) -> Said {
    let mut reader = Reader::open(&[path.to_owned()]).unwrap();
    let mut recorded = Diagnosed::new(Vec::new(), MOST_TUPLES);
    while reader.next(&mut |at, entry| recorded.add(at, &entry)).unwrap() {}
    let findings = recorded.finish(&Damage::default()).findings;
    let is_about = |it: &crate::doctor::finding::Finding| {
        it.subject.place().is_some_and(|place| place.inum == key.netns)
    };
    let found = findings.iter().find(|it| it.id == Id::PortsExhausted && is_about(it)).unwrap();
    (found.advice.clone(), found.evidence["time_wait_s"].clone())
}

/// As [`by_doctor`], by the newest reading.
fn on_the_screen(model: &Model, key: &TupleKey) -> Said {
    let found = model.answers.of(key).find(|it| it.id == Id::PortsExhausted).unwrap();
    (found.advice.clone(), found.evidence["time_wait_s"].clone())
}

fn show(source: &mut Recorded, model: &mut Model) {
    let reading = source.next(model).unwrap().unwrap();
    update(model, Message::Read(Box::new(reading)));
}

#[test]
fn a_replay_advises_what_doctor_does_also_after_a_jump() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    fs::write(&path, full_for_minutes(Recorder::in_namespace(7)).bytes()).unwrap();
    let expected = [7, 8].map(|netns| by_doctor(&path, &full(netns)));
    let commands: Vec<_> = expected.iter().map(|(advice, _)| advice[0].command.clone()).collect();
    let command = "sysctl -w net.ipv4.tcp_tw_reuse=1";
    let there = format!("ip netns exec blue {command}");
    assert_eq!(commands, [Some(command.to_owned()), Some(there)]);
    assert_eq!(expected[0].1, 62.048);
    for at in [None, Some("+300s".to_owned())] {
        let config = config(&path, at);
        let mut source = Recorded::new(Player::open(&config.files).unwrap(), &config);
        let mut model = model(source.player.about().clone(), &config.show);
        if let Some(at) = &config.at {
            source.begin_at(&mut model, at).unwrap();
        }
        show(&mut source, &mut model);
        let said = |model: &Model| [7, 8].map(|netns| on_the_screen(model, &full(netns)));
        assert_eq!(said(&model), expected, "--at {:?}", config.at);
        for second in [350, 2, 200] {
            source.play(&mut model, Play::Seek(OFFSET + second * S)).unwrap();
            assert_eq!(said(&model), expected, "after a jump to {second} s");
        }
    }
}

#[test]
fn a_replay_of_an_older_version_does_not_advise_what_it_does_not_know() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    fs::write(&path, full_for_minutes(Recorder::default()).bytes()).unwrap();
    let expected = by_doctor(&path, &full(8));
    let config = config(&path, None);
    let mut source = Recorded::new(Player::open(&config.files).unwrap(), &config);
    let mut model = model(source.player.about().clone(), &config.show);
    show(&mut source, &mut model);
    assert_eq!(on_the_screen(&model, &full(8)), expected);
    assert!(expected.0.iter().all(|it| !it.what.contains("take over")), "{expected:?}");
    assert_eq!(expected.1, 62.0);
}
