use std::fs;

use serde_json::{Value, json};
use tracer_common::{Cause, TupleCount, TupleKey};

use super::*;
use crate::recording::test_recorder::{OFFSET, Recorder, S, key};

fn report(bytes: &[u8], json: bool) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    fs::write(&path, bytes).unwrap();
    let config = ReportConfig { files: vec![path], json, limit: 10 };
    let text = String::from_utf8(run(&config).unwrap()).unwrap();
    assert!(
        !text.contains(|letter| letter != '\n' && crate::format::text::is_harmful(letter)),
        "{text}"
    );
    text.replace(&*folder.path().to_string_lossy(), "/tmp")
}

fn value(bytes: &[u8]) -> Value {
    serde_json::from_str(&report(bytes, true)).unwrap()
}

fn count(in_use: u64, exhausted: u64, refused: u64) -> TupleCount {
    let mut count = TupleCount {
        opened: 2000 + in_use,
        released: 2000,
        time_wait_begun: in_use / 2,
        pid: 812,
        comm: *b"nginx\0\0\0\0\0\0\0\0\0\0\0",
        ..TupleCount::default()
    };
    count.failed[Cause::PortsExhausted as usize] = exhausted;
    count.failed[Cause::Refused as usize] = refused;
    count.search[usize::from(in_use > 500) * 20] = 100;
    count
}

/// A recording of a tuple that runs out of ports, and of another one. `failures`: with lines of single failed calls.
fn incident(failures: bool) -> Recorder {
    let mut recorder = Recorder::default();
    recorder.start(S, true);
    let other = TupleCount { comm: *b"\x1b[2Jevil\0\0\0\0\0\0\0\0", ..count(460, 0, 0) };
    recorder.tuple(10 * S, key(1), &count(300, 0, 0), None);
    recorder.tuple(10 * S, key(2), &other, None);
    recorder.totals(10 * S, 0, 0);
    recorder.tuple(20 * S, key(1), &count(500, 0, 0), None);
    recorder.tuple(20 * S, key(2), &TupleCount { released: other.opened, ..other }, None);
    recorder.totals(20 * S, 0, 0);
    recorder.tuple(30 * S, key(1), &count(850, 0, 0), None);
    recorder.totals(30 * S, 0, 0);
    if failures {
        recorder.failure(38 * S, Cause::PortsExhausted);
        recorder.failure(39 * S, Cause::PortsExhausted);
    }
    recorder.tuple(40 * S, key(1), &count(1000, 2, 0), None);
    recorder.totals(40 * S, 0, 2);
    if failures {
        recorder.failure(44 * S, Cause::PortsExhausted);
        recorder.failure(45 * S, Cause::Refused);
    }
    recorder.tuple(50 * S, key(1), &count(1000, 3, 1), None);
    recorder.totals(50 * S, 1, 3);
    recorder.tuple(60 * S, key(1), &count(100, 3, 1), None);
    recorder.totals(60 * S, 1, 3);
    recorder.stop(61 * S, 1, 3);
    recorder
}

#[test]
fn a_report_for_people() {
    let recorder = incident(true);
    let text = str::from_utf8(recorder.bytes()).unwrap();
    // One line is missing, one is damaged.
    let lines: Vec<_> = text.lines().enumerate().filter(|(number, _)| *number != 3).collect();
    let mut damaged: Vec<_> = lines.into_iter().map(|(_, line)| line).collect();
    damaged[6] = "\u{1b}]0;title";
    insta::assert_snapshot!(report(damaged.join("\n").as_bytes(), false));
}

#[test]
fn a_filtered_recording_says_which_numbers_are_the_hosts() {
    let recorder = incident(true);
    let text = str::from_utf8(recorder.bytes()).unwrap();
    let start = r#""event.name":"tracer.start""#;
    let filtered = text.replace(start, &format!(r#"{start},"settings.filter":"--dport 80""#));
    assert_ne!(text, filtered);
    let text_report = report(filtered.as_bytes(), false);
    let line = text_report.lines().find(|line| line.starts_with("filter")).unwrap();
    let what =
        "tuples and single events passed it; failures by cause and losses are the whole host's";
    assert!(line.ends_with(&format!("--dport 80: {what}")), "{line}");
    assert_eq!(value(filtered.as_bytes())["filter"], json!("--dport 80"));
    assert!(value(text.as_bytes()).get("filter").is_none());
}

#[test]
fn a_report_as_json() {
    let report = value(incident(true).bytes());
    insta::assert_snapshot!(serde_json::to_string_pretty(&report).unwrap());
}

#[test]
fn a_saturation_lasts_until_the_next_reading() {
    let report = value(incident(true).bytes());
    let [first, second] = &report["tuples"].as_array().unwrap()[..] else { panic!("{report}") };
    let above = |tuple: &Value| {
        ["45", "80", "95"].map(|share| tuple[format!("time.above_{share}_s")].clone())
    };
    assert_eq!(above(first), [json!(40.0), json!(30.0), json!(20.0)]);
    assert_eq!(above(second), [json!(10.0), json!(0.0), json!(0.0)]);
    assert_eq!(report["time.above_45_s"], json!(50.0));
    assert_eq!((&first["connect.failures"], &second["connect.failures"]), (&json!(4), &json!(0)));
}

#[test]
fn without_single_failures_the_counters_say_when_and_who() {
    let report = value(incident(false).bytes());
    let first = &report["exhaustion.first"];
    assert_eq!((&first["source"], &first["ports.in_use"]), (&json!("counters"), &json!(1000)));
    let time = crate::format::timestamp::Timestamp::default().text(OFFSET + 40 * S);
    assert_eq!(first["ts"], *String::from_utf8_lossy(&time));
    assert_eq!(report["failures.by_process.source"], "counters");
    let by_process = json!([{"process.executable.name": "nginx", "count": 4}]);
    assert_eq!(report["failures.by_process"], by_process);
    assert_eq!(report["failures.by_cause.source"], "totals");
}

#[test]
fn without_readings_the_report_has_failures_and_says_what_is_missing() {
    let mut recorder = Recorder::default();
    recorder.start(S, false);
    recorder.failure(2 * S, Cause::Refused);
    recorder.failure(3 * S, Cause::PortsExhausted);
    recorder.lost(4 * S);
    let report = value(recorder.bytes());
    assert_eq!(report["exhaustion.first"]["process.pid"], 812);
    assert_eq!(report["exhaustion.first"]["ports.capacity"], 1000);
    assert_eq!(report["failures.by_cause.source"], "events");
    assert_eq!(report["failures.by_cause"].as_array().unwrap().len(), 2);
    assert_eq!(report["lost"], json!({"map_busy": 2}));
    assert_eq!(report["tuples"][0]["connect.failures"], 2);
    assert_eq!(report["tuples"][0].get("ports.saturation.peak"), None);
    let notes = report["notes"].to_string();
    assert!(notes.contains("--events failed,stats,lost") && notes.contains("no end"), "{notes}");
}

#[test]
fn counts_from_before_the_recording_are_not_in_its_report() {
    let recorder = incident(false);
    let lines: Vec<_> = recorder.bytes().split_inclusive(|byte| *byte == b'\n').collect();
    // From the reading at 40 s on: two calls had failed by then.
    let report = value(&lines[9..].concat());
    let by_cause =
        json!([{"cause": "ports_exhausted", "count": 1}, {"cause": "refused", "count": 1}]);
    assert_eq!(report["failures.by_cause"], by_cause);
    assert_eq!(report["tuples"][0]["connect.failures"], 2);
    assert!(report["notes"].to_string().contains("middle of a run"));
}

#[test]
fn a_namespace_that_is_left_out_later_is_noted_with_the_time() {
    let mut recorder = Recorder::every(1);
    recorder.start(S, true);
    recorder.stats(2 * S, 0);
    let why = "network namespace 7 is left out: damaged";
    recorder.degraded(3 * S, &["less", why], &[why]);
    recorder.degraded(4 * S, &["less", why], &[why]);
    for number in 0..30 {
        let other = format!("reason {number}");
        recorder.degraded(5 * S, &[&other], &[&other]);
    }
    let report = value(recorder.bytes());
    let notes: Vec<_> =
        report["notes"].as_array().unwrap().iter().filter_map(|it| it.as_str()).collect();
    let time = crate::format::timestamp::Timestamp::default().text(OFFSET + 3 * S);
    let note = format!("it may be incomplete from {} on: {why}", String::from_utf8_lossy(&time));
    assert_eq!(notes.iter().filter(|it| **it == note).count(), 1, "{notes:?}");
    assert!(notes.contains(&"it may be incomplete for other reasons too: 11"), "{notes:?}");
    assert_eq!(report["degraded"], json!(["less"]));
}

#[test]
fn runs_are_added_up() {
    let twice = [incident(true).bytes(), incident(false).bytes()].concat();
    let report = value(&twice);
    assert_eq!((&report["runs"], &report["readings"]), (&json!(2), &json!(12)));
    assert_eq!(report["failures.by_cause"][0], json!({"cause": "ports_exhausted", "count": 6}));
    assert_eq!(report["tuples"][0]["time.above_95_s"], 40.0);
    assert_eq!(report["lost"], json!({"map_busy": 6}));
    // Half of the single failures are missing.
    assert_eq!(report["failures.by_process.source"], "counters");
    assert_eq!(report["notes"], json!([]));
}

#[test]
fn of_thousands_of_tuples_that_ran_out_each_listed_one_has_its_advice() {
    let mut recorder = Recorder::in_namespace(1);
    recorder.start(S, true);
    let last = 6_000;
    for port in 1..=last {
        let key = TupleKey { destination_port: port, ..key(1) };
        // The last ones of them failed most, so they are listed.
        recorder.tuple(S, key, &count(1000, port.into(), 0), None);
    }
    recorder.totals(S, 0, 1);
    let report = value(recorder.bytes());
    let tuples = report["tuples"].as_array().unwrap();
    assert_eq!((tuples.len(), &tuples[0]["network.peer.port"]), (10, &json!(last)));
    let findings: Vec<_> = tuples.iter().map(|it| &it["advice"]["finding"]).collect();
    assert_eq!(findings, [&json!("ports_exhausted"); 10]);
}

#[test]
fn rows_that_look_alike_have_their_namespace() {
    let mut recorder = Recorder::default();
    recorder.start(S, true);
    recorder.namespaces = [(71, "blue")].into();
    recorder.tuple(S, TupleKey { netns: 71, ..key(1) }, &count(1000, 2, 0), None);
    recorder.tuple(S, TupleKey { netns: 72, ..key(1) }, &count(500, 0, 0), None);
    let text = report(recorder.bytes(), false);
    let line = |start: &str| text.lines().find(|line| line.trim_start().starts_with(start));
    assert!(line("SRC").is_some_and(|line| line.contains(" NETNS ")), "{text}");
    let cells = |cells| text.lines().any(|line| line.contains(cells));
    assert!(cells("  blue   nginx") && cells("  72     nginx"), "{text}");
    assert!(line("out of ports").is_some_and(|line| line.contains(" in blue by nginx")), "{text}");
    let json = value(recorder.bytes());
    assert_eq!(json["tuples"][0]["netns.name"], "blue");
    assert_eq!(json["tuples"][1].get("netns.name"), None);
    assert_eq!(json["exhaustion.first"]["netns.name"], "blue");
    assert!(!report(incident(false).bytes(), false).contains("NETNS"));
}

#[test]
fn a_file_that_is_not_a_recording_is_an_error() {
    let config = ReportConfig { files: vec!["Cargo.toml".into()], json: true, limit: 1 };
    let error = run(&config).unwrap_err();
    assert_eq!(error.exit() as u8, 1);
    assert!(error.to_string().contains("is not a recording"), "{error}");
}

#[test]
fn limits_are_noted_and_tuples_that_were_out_of_ports_are_kept() {
    let mut recorder = Recorder::default();
    recorder.start(S, true);
    recorder.tuple(S, key(1), &count(1000, 2, 0), None);
    for number in 0..100_u8 {
        let mut refused = count(0, 0, 1);
        refused.comm = *b"name            ";
        refused.comm[15] = number;
        recorder.tuple(S, TupleKey { netns: number.into(), ..key(2) }, &refused, None);
    }
    recorder.totals(S, 100, 2);
    recorder.totals(11 * S, 100, 2);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    fs::write(&path, recorder.bytes()).unwrap();
    let mut reader = Reader::open(&[path]).unwrap();
    let limits = summary::Limits { tuples: 10, names: 5 };
    let mut summary = Summary::default();
    summary.limits = limits;
    while reader.next(&mut |at, entry| summary.add(at, &entry)).unwrap() {
        assert!(summary.tuples.len() <= 10 && summary.by_tuple.len() <= 6);
    }
    let advised = Recorded::for_advice(ADVISED).advised();
    let report = Report::new(summary.finish(), &reader, &advised, 1);
    assert_eq!(report.tuples[0].saturation, Some(1.0));
    assert!((report.tuples[0].above_95 - 10.0).abs() < 0.001);
    assert_eq!(report.tuples_total, 101);
    assert_eq!(report.first.as_ref().unwrap().in_use, Some(1000));
    assert_eq!(report.limits.len(), 2, "{:?}", report.limits);
    let text = text::render(&report);
    let starts = |line: Option<&str>, with| line.is_some_and(|line| line.starts_with(with));
    let mut lines = text.lines().rev();
    assert!(starts(lines.next(), "incomplete: lost: 3 map_busy;"), "{text}");
    assert!(starts(lines.nth(1), "limit reached: "), "{text}");
}
