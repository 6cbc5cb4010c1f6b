//! Small recordings with an incident, and what is found in them.

use std::{fs, path::PathBuf};

use serde_json::Value;
use tracer_common::{Cause, Ends, PortState, States, TupleCount, TupleKey, tuple::search_bucket};

use super::*;
use crate::{
    doctor::finding::Id,
    host::capacity::Reuse,
    recording::test_recorder::{Recorder, S, key},
};

/// What the kernel does by default: only TIME_WAITs of loopback addresses.
const DEFAULT: Reuse = Reuse { setting: 2, delay_ms: Some(1_000), timestamps: true };

/// A tuple of nginx that opened this many connections, each for one request, closed all of them first, and whose calls failed so
/// often for lack of a port.
fn closed(opened: u64, failed: u64) -> TupleCount {
    let mut count = TupleCount {
        opened,
        time_wait_begun: opened,
        ends: Ends { closed_here: opened, segments: opened, ..Ends::NONE },
        pid: 812,
        comm: *b"nginx\0\0\0\0\0\0\0\0\0\0\0",
        ..TupleCount::default()
    };
    count.failed[Cause::PortsExhausted as usize] = failed;
    count.search[search_bucket(20_000)] = u32::try_from(opened).unwrap();
    count
}

/// A tuple that holds this many connections: of them so many wait for an answer after their SYN was sent again.
fn waiting(open: u64, unanswered: u64) -> TupleCount {
    let of = |state: PortState| States::one(state.flags());
    let states =
        of(PortState::Unanswered) * unanswered + of(PortState::Established) * (open - unanswered);
    TupleCount { opened: open, states, ..TupleCount::default() }
}

/// 200 connections a second use up 1,000 ports in 5 s; from then on, 100 calls a second fail for 20 s.
fn incident(mut recorder: Recorder) -> Recorder {
    recorder.namespaces = [(1, "edge")].into();
    recorder.start(S, true);
    if recorder.own.is_some() {
        recorder.settings(2 * S, 1, DEFAULT);
    }
    for second in 2..=30_u64 {
        let (opened, failed) = ((second - 2).min(5) * 200, second.saturating_sub(7).min(20) * 100);
        recorder.tuple(second * S, key(8), &closed(opened, failed), None);
        recorder.tuple(second * S, key(9), &waiting(10, 0), None);
        recorder.totals(second * S, 0, failed);
    }
    recorder.stop(31 * S, 0, 2_000);
    recorder
}

/// A recording of 20 s in which 10 connections a second are opened and closed by the other end.
fn healthy() -> Recorder {
    let mut recorder = new();
    recorder.start(S, true);
    recorder.settings(2 * S, 1, DEFAULT);
    for second in 2..=22 {
        let opened = (second - 2) * 10 + 5;
        let count = TupleCount { opened, released: opened - 5, ..TupleCount::default() };
        recorder.tuple(second * S, key(8), &count, None);
        recorder.totals(second * S, 0, 0);
    }
    recorder.stop(23 * S, 0, 0);
    recorder
}

fn new() -> Recorder {
    Recorder::in_namespace(7)
}

/// Recordings in a folder, which is removed with this value.
struct Files {
    _folder: tempfile::TempDir,
    paths: Vec<PathBuf>,
}

/// Writes each part into a file of its own.
fn files(parts: &[&[u8]]) -> Files {
    let folder = tempfile::tempdir().unwrap();
    let path = |(number, bytes): (usize, &&[u8])| {
        let path = folder.path().join(format!("part{number}"));
        fs::write(&path, bytes).unwrap();
        path
    };
    let paths = parts.iter().enumerate().map(path).collect();
    Files { _folder: folder, paths }
}

fn config(files: &Files) -> DoctorConfig {
    DoctorConfig {
        netns: Vec::new(),
        pids: Vec::new(),
        cgroups: Vec::new(),
        window: None,
        watch: None,
        format: DoctorFormat::Text,
        logs: Vec::new(),
        from: files.paths.clone(),
    }
}

fn diagnosis(bytes: &[u8]) -> Diagnosis {
    let files = files(&[bytes]);
    diagnose(&config(&files)).unwrap()
}

fn ids(diagnosis: &Diagnosis) -> Vec<Id> {
    diagnosis.findings.iter().map(|it| it.id).collect()
}

fn missing<'a>(diagnosis: &'a Diagnosis, id: &str) -> Option<&'a str> {
    let check = diagnosis.checks.iter().find(|it| it.id == id).unwrap();
    check.missing.as_ref().map(|it| it.why.as_str())
}

#[test]
fn an_incident_is_named_with_its_numbers_and_its_time() {
    let mut diagnosis = diagnosis(incident(new()).bytes());
    assert_eq!(diagnosis.verdict, Verdict::Critical);
    let first = &diagnosis.findings[0];
    assert_eq!(first.id, Id::PortsExhausted);
    assert_eq!(
        (&first.evidence["ports.in_use"], &first.evidence["failed"]),
        (&1_000.into(), &500.into())
    );
    let at = first.evidence["at"].as_str().unwrap();
    assert!(
        at.ends_with('Z') && first.what.starts_with(&format!("at {}", &at[11..19])),
        "{first:?}"
    );
    assert!(first.advice[0].command.as_ref().is_some_and(|it| it.contains("tcp_tw_reuse=1")));
    insta::assert_snapshot!(show::text(&diagnosis));
    diagnosis.wall_ns = 0;
    let json = show::json_line(&diagnosis).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    let schema = serde_json::from_str(include_str!("../../../../schema/doctor-v1.json")).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    assert_eq!(validator.validate(&json).map_err(|error| error.to_string()), Ok(()), "{json}");
    let mut json = json;
    json["version"] = "0".into();
    insta::assert_snapshot!(serde_json::to_string_pretty(&json).unwrap());
}

#[test]
fn a_recording_of_an_older_version_is_judged_without_its_settings() {
    let old = diagnosis(incident(Recorder::default()).bytes());
    assert_eq!(old.findings[0].id, Id::PortsExhausted);
    assert!(missing(&old, "settings").unwrap().contains("tcp_tw_reuse"), "{:?}", old.checks);
    // Nothing shows that timestamps are on.
    let advice = old.findings.iter().flat_map(|it| &it.advice);
    assert!(advice.clone().count() > 0);
    assert!(advice.filter_map(|it| it.command.as_ref()).all(|it| !it.contains("tcp_tw_reuse")));
    assert_eq!(old.findings[0].evidence["time_wait_s"], 62.0);
    let new = diagnosis(incident(new()).bytes());
    assert_eq!(
        (missing(&new, "settings"), &new.findings[0].evidence["time_wait_s"]),
        (None, &62.048.into())
    );
}

#[test]
fn a_recording_of_an_older_version_does_not_say_how_connections_were_used() {
    let recorder = incident(new());
    let older = |line: &str| {
        let mut line: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap();
        line.retain(|key, _| !key.starts_with("connections.") && !key.starts_with("syns."));
        serde_json::to_string(&line).unwrap()
    };
    let text = str::from_utf8(recorder.bytes()).unwrap();
    let text: Vec<String> = text.lines().map(older).collect();
    let [new, old] = [recorder.bytes(), text.join("\n").as_bytes()].map(|bytes| {
        let found = diagnosis(bytes).findings.into_iter();
        found.filter(|it| matches!(it.id, Id::ClosesFirst | Id::Churn)).collect::<Vec<_>>()
    });
    assert_eq!((new.len(), old.len()), (2, 2));
    for (new, old) in new.iter().zip(&old) {
        assert_eq!(new.evidence["connection.requests"], 1.0);
        assert_eq!(new.evidence["connections.closed_by_peer"], 0);
        let about =
            |key: &&String| key.starts_with("connections.") || *key == "connection.requests";
        assert_eq!(old.evidence.keys().find(about), None);
        assert_eq!(old.evidence["connects_per_s"], new.evidence["connects_per_s"]);
    }
}

#[test]
fn a_healthy_recording_is_healthy_and_says_what_it_does_not_know() {
    let diagnosis = diagnosis(healthy().bytes());
    assert_eq!((ids(&diagnosis), diagnosis.verdict), (vec![], Verdict::Healthy));
    for id in ["recording", "fill", "window", "settings"] {
        assert_eq!(missing(&diagnosis, id), None, "{id}");
    }
    for id in ["sockets", "descriptors", "conntrack", "snat", "configurations", "logs"] {
        assert_eq!(missing(&diagnosis, id), Some("not in a recording"), "{id}");
    }
    assert_eq!(diagnosis.metrics.failed, Some(0));
    insta::assert_snapshot!(show::text(&diagnosis));
}

#[test]
fn what_was_readable_of_a_damaged_recording_is_judged_and_it_is_never_healthy() {
    let recorder = healthy();
    let text = str::from_utf8(recorder.bytes()).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines[9] = "{\"v\":1,";
    lines.remove(20);
    let damaged = diagnosis(lines.join("\n").as_bytes());
    assert_eq!(damaged.verdict, Verdict::Unknown);
    let why = missing(&damaged, "recording").unwrap();
    assert!(why.starts_with("1 line is missing; 1 line is unreadable, the first in "), "{why}");
    assert!(why.ends_with("line 10: it is not a line of the format; the rest was judged"), "{why}");
    let cut = incident(new());
    let cut = diagnosis(&cut.bytes()[..cut.bytes().len() * 2 / 3]);
    assert_eq!((cut.verdict, cut.findings[0].id), (Verdict::Critical, Id::PortsExhausted));
    assert!(missing(&cut, "recording").unwrap().contains("the file ends within it"));
}

#[test]
fn parts_of_a_recording_are_judged_as_one_in_any_order() {
    let recorder = incident(new());
    let half = recorder.bytes().split_inclusive(|it| *it == b'\n').take(20).map(<[u8]>::len).sum();
    let (first, second) = recorder.bytes().split_at(half);
    let files = files(&[second, first]);
    let both = diagnose(&config(&files)).unwrap();
    let mut one = diagnosis(recorder.bytes());
    one.wall_ns = both.wall_ns;
    assert_eq!((both.findings, both.checks), (one.findings, one.checks));
    // The second half alone has no counters of before, and is no damage.
    let rest = diagnosis(second);
    assert_eq!((rest.findings[0].id, missing(&rest, "recording")), (Id::PortsExhausted, None));
}

#[test]
fn without_readings_the_failed_calls_show_what_was_full() {
    let mut recorder = new();
    recorder.start(S, false);
    for second in 2..=4 {
        recorder.failure(second * S, Cause::PortsExhausted);
    }
    recorder.failure(5 * S, Cause::Refused);
    let failed = diagnosis(recorder.bytes());
    let [finding] = &failed.findings[..] else { panic!("{failed:?}") };
    assert_eq!((finding.id, &finding.evidence["failed"]), (Id::PortsExhausted, &3.into()));
    assert_eq!(finding.evidence["ports.time_wait"], 900);
    assert!(missing(&failed, "fill").is_some() && missing(&failed, "window").is_some());
    assert_eq!(failed.metrics.failed, Some(3));
    let mut refused = new();
    refused.start(S, false);
    refused.failure(2 * S, Cause::Refused);
    assert_eq!(diagnosis(refused.bytes()).verdict, Verdict::Unknown);
}

#[test]
fn a_tuple_of_unanswered_connections_is_a_black_hole_and_its_exhaustion_the_consequence() {
    let mut recorder = new();
    recorder.start(S, true);
    for second in 2..=20 {
        recorder.tuple(second * S, key(8), &waiting(50 * second, 50 * second), None);
        recorder.totals(second * S, 0, 0);
    }
    let diagnosis = diagnosis(recorder.bytes());
    assert_eq!(diagnosis.findings[0].id, Id::BlackHole);
    let exhausted = diagnosis.findings.iter().find(|it| it.id == Id::PortsExhausted).unwrap();
    assert_eq!((exhausted.consequence_of, exhausted.advice.len()), (Some(Id::BlackHole), 0));
}

#[test]
fn namespaces_are_chosen_by_name_or_number_and_not_by_path() {
    let recorder = incident(new());
    let files = files(&[recorder.bytes()]);
    let of =
        |netns: &[NetnsRef]| diagnose(&DoctorConfig { netns: netns.to_vec(), ..config(&files) });
    let name = |name: &str| NetnsRef::Name(name.to_owned());
    assert!(!of(&[name("edge")]).unwrap().findings.is_empty());
    assert!(!of(&[NetnsRef::Inode(5), NetnsRef::Inode(1)]).unwrap().findings.is_empty());
    let other = of(&[name("blue")]).unwrap();
    assert_eq!((ids(&other), other.verdict), (vec![], Verdict::Unknown));
    let path = of(&[NetnsRef::Path("/proc/1/ns/net".into())]).unwrap_err();
    assert!(
        path.to_string().contains("by its name in /run/netns or by its inode number"),
        "{path}"
    );
}

#[test]
fn the_worst_window_of_a_finding_is_shown_and_when_it_began_and_ended() {
    let mut recorder = new();
    recorder.start(S, true);
    for (second, failed) in [(2, 0), (12, 10), (22, 510), (32, 515), (42, 515)] {
        recorder.tuple(second * S, key(8), &closed(1_000, failed), None);
        recorder.totals(second * S, 0, failed);
    }
    let diagnosis = diagnosis(recorder.bytes());
    let finding = &diagnosis.findings[0];
    let second = |key: &str| finding.evidence[key].as_str().unwrap()[11..19].to_owned();
    assert_eq!(finding.evidence["failed"], 500);
    let [at, first, last] = ["at", "at.first", "at.last"].map(second);
    assert!(
        finding.what.starts_with(&format!("at {at} (found from {first} to {last}): ")),
        "{finding:?}"
    );
    assert!(first < at && at < last, "{first} {at} {last}");
}

#[test]
fn runs_are_judged_apart_and_ports_of_a_full_table_are_no_health() {
    let twice = [healthy().bytes(), healthy().bytes()].concat();
    assert_eq!(diagnosis(&twice).verdict, Verdict::Healthy);
    let text = String::from_utf8(healthy().bytes().to_vec()).unwrap();
    let lost = diagnosis(text.replace("\"lost.map_busy\":3", "\"lost.conns_full\":3").as_bytes());
    assert_eq!(
        missing(&lost, "window"),
        Some("3 ports were not counted, because a table was full")
    );
    assert_eq!(lost.verdict, Verdict::Unknown);
}

#[test]
fn more_tuples_than_are_remembered_are_said() {
    let mut recorder = new();
    recorder.start(S, true);
    for number in 0..50_100_u16 {
        let key = TupleKey { netns: (number % 50).into(), destination_port: number / 50, ..key(8) };
        recorder.tuple(2 * S, key, &waiting(2, 0), None);
    }
    recorder.totals(2 * S, 0, 0);
    let diagnosis = diagnosis(recorder.bytes());
    assert!(missing(&diagnosis, "fill").unwrap().starts_with("it has too many tuples: 100 lines"));
}
