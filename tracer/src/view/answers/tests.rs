use std::sync::Arc;

use tracer_common::{Addr, PortState, States, TupleCount};

use super::*;
use crate::{
    host::{
        capacity::{Limits, Reuse},
        process::Called,
    },
    view::{
        failures::FailureGroup,
        model::Model,
        reading::TupleSample,
        tuple_history::MOST,
        update::{Message, judge, update},
    },
};

const OWN: u32 = 7;
const OTHER: u32 = 8;
const COMM: [u8; 16] = *b"nginx\0\0\0\0\0\0\0\0\0\0\0";

fn key(netns: u32, number: u16) -> TupleKey {
    let [high, low] = number.to_be_bytes();
    TupleKey {
        source: Addr::v4([10, 0, 0, 8]),
        destination: Addr::v4([10, 1, high, low]),
        netns,
        destination_port: 8080,
        zero: 0,
    }
}

/// A tuple that holds this many ports, all of them established.
fn open(in_use: u64) -> TupleCount {
    let states = States::one(PortState::Established.flags()).wrapping_mul(in_use);
    TupleCount { opened: in_use, states, pid: 812, comm: COMM, ..TupleCount::default() }
}

/// A tuple that holds this many ports, all of them in TIME_WAIT, and for which so many calls failed.
fn waiting(in_use: u64, failed: u64) -> TupleCount {
    let mut count = TupleCount { time_wait_begun: in_use, states: 0, ..open(in_use) };
    count.failed[Cause::PortsExhausted as usize] = failed;
    count
}

/// In CLOSE_WAIT.
fn left(in_use: u64) -> TupleCount {
    let states = States::one(PortState::CloseWait.flags()).wrapping_mul(in_use);
    TupleCount { states, ..open(in_use) }
}

fn model() -> Model {
    Model::new(About { netns: Some(OWN), hz: Some(250), ..About::default() })
}

/// Adds the reading of a second: tuples of 1,000 ports.
fn read(model: &mut Model, second: u64, tuples: &[(TupleKey, TupleCount)], failures: &[Failure]) {
    model.history.begin(second * 1_000_000_000);
    for (key, count) in tuples {
        let limits = Limits { low: 40_000, high: 40_999, ..Limits::default() };
        let name = (key.netns == OTHER).then(|| Arc::from("blue"));
        model.history.add(&TupleSample {
            key: *key,
            count,
            has_states: !key.is_of_bind(),
            has_uses: !key.is_of_bind(),
            capacity: Some(1_000),
            limits: Some(limits),
            reuse: None,
            older: None,
            search_p99: None,
            called: Called::of(count.pid, 0, count.comm),
            cgroup: Some("/system.slice/nginx.service".into()),
            container: None,
            netns_name: name,
        });
    }
    let reuse = Reuse { setting: 2, delay_ms: None, timestamps: true };
    let reading = Snapshot {
        mono_ns: second * 1_000_000_000,
        wall_ns: second * 1_000_000_000,
        failures: failures.to_vec(),
        reuses: [(OWN, reuse), (OTHER, reuse)].into(),
        ..Snapshot::default()
    };
    model.history.end(&reading);
    update(model, Message::Read(Box::new(reading)));
}

fn failure(call: Call, key: TupleKey, cause: Cause, count: u64) -> Failure {
    Failure {
        count,
        wall_ns: 0,
        call,
        key,
        local_port: 0,
        cause,
        errno: 99,
        pid: 812,
        comm: COMM,
        container: None,
        holder: None,
    }
}

fn ids(model: &Model) -> Vec<Id> {
    model.answers.findings.iter().map(|it| it.id).collect()
}

#[test]
fn a_tuple_without_a_free_port_gets_what_to_type_with_its_numbers() {
    let mut model = model();
    let full = key(OWN, 1);
    read(&mut model, 0, &[(full, waiting(900, 0))], &[]);
    for second in 1..=12 {
        read(&mut model, second, &[(full, waiting(1_000, 4 * second))], &[]);
    }
    let finding = &model.answers.findings[0];
    assert_eq!((finding.id, finding.severity), (Id::PortsExhausted, Severity::Critical));
    for text in [
        "1,000 of 1,000 ports in use",
        "nginx wants 4.0 connections/s",
        "40 connect() failed in 10 s",
    ] {
        assert!(finding.what.contains(text), "{}", finding.what);
    }
    let answer = model.answers.first(&full).unwrap();
    assert_eq!(answer.kind, Kind::Does);
    assert_eq!(answer.command, "sysctl -w net.ipv4.tcp_tw_reuse=1");
    assert!(answer.text.contains("ports are free after 1 s instead of 63 s"), "{}", answer.text);
    assert_eq!(model.answers.first(&key(OWN, 2)), None);
}

#[test]
fn open_connections_are_spread_over_more_addresses_by_the_cgroup_of_their_program() {
    let mut model = model();
    let (here, there) = (key(OWN, 1), key(OTHER, 1));
    for second in 0..2 {
        read(&mut model, second, &[(here, open(1_000)), (there, open(1_000))], &[]);
    }
    let command = |key| model.answers.first(key).unwrap().command.clone();
    let spread = "tracer spread --pool auto --cgroup /system.slice/nginx.service --dry-run";
    assert_eq!(command(&here), spread);
    assert_eq!(command(&there), format!("{spread} --netns blue"));
    assert_eq!(model.answers.of(&there).count(), 1);
    assert!(
        model
            .answers
            .of(&there)
            .all(|it| it.verify.as_deref() == Some("tracer doctor --netns blue"))
    );
}

#[test]
fn a_failure_keeps_its_answer_when_its_tuple_is_empty_again() {
    let mut model = model();
    let full = key(OWN, 1);
    read(&mut model, 0, &[(full, open(1_000))], &[]);
    let failed = failure(Call::Connect, full, Cause::PortsExhausted, 3);
    let refused = failure(Call::Connect, full, Cause::Refused, 1);
    let unknown = failure(Call::Connect, key(OTHER, 9), Cause::PortsExhausted, 1);
    read(&mut model, 1, &[(full, open(1_000))], &[refused, unknown, failed]);
    let commands = |model: &Model| -> Vec<Option<String>> {
        let command = |it: &FailureGroup| it.answer.as_ref().map(|it| it.command.clone());
        model.failures.iter().map(command).collect()
    };
    let expected = [
        None,
        Some("tracer doctor --netns 8"),
        Some("tracer spread --pool auto --cgroup /system.slice/nginx.service --dry-run"),
    ];
    let expected = expected.map(|it| it.map(str::to_owned));
    assert_eq!(commands(&model), expected);
    for second in 2..20 {
        read(
            &mut model,
            second,
            &[(full, TupleCount { released: 1_000, states: 0, ..open(1_000) })],
            &[],
        );
    }
    assert_eq!(model.answers.first(&full), None);
    assert_eq!(commands(&model), expected);
}

#[test]
fn only_the_worst_are_judged_and_another_namespace_does_not_displace_them() {
    let mut model = model();
    let mut tuples: Vec<_> = (0..20_000).map(|number| (key(OWN, number), open(20))).collect();
    tuples.push((key(OWN, 30_000), open(960)));
    tuples.extend((0..2_000).map(|number| (key(OTHER, number), open(1_000))));
    read(&mut model, 0, &tuples, &[]);
    assert_eq!(model.answers.judged, (2 * MOST, 22_001));
    let first = &model.answers.findings[0];
    assert_eq!(first.subject.place().map(|it| it.inum), Some(OWN), "{first:?}");
    assert!(model.answers.first(&key(OWN, 30_000)).is_some());
    assert!(model.answers.left_out > 200, "{}", model.answers.left_out);
    // One that is open on the screen is judged, too.
    model.mode = crate::view::model::Mode::Detail(key(OTHER, 1_999));
    judge(&mut model);
    assert!(model.answers.first(&key(OTHER, 1_999)).is_some());
}

#[test]
fn connections_that_stay_in_close_wait_are_the_cause_and_those_that_go_are_not() {
    let mut model = model();
    let (stays, goes) = (key(OWN, 1), key(OWN, 2));
    read(&mut model, 0, &[(stays, left(1_000)), (goes, left(400))], &[]);
    assert_eq!(ids(&model), [Id::PortsExhausted], "nobody knows yet whether they stay");
    for second in 1..=11 {
        let some = if second % 4 == 0 { open(400) } else { left(400) };
        read(&mut model, second, &[(stays, left(1_000)), (goes, some)], &[]);
    }
    assert_eq!(ids(&model), [Id::HeldOpen, Id::PortsExhausted]);
    assert_eq!(model.answers.findings[1].consequence_of, Some(Id::HeldOpen));
    let answer = model.answers.first(&stays).unwrap();
    assert_eq!((answer.id, answer.kind), (Id::HeldOpen, Kind::Looks));
    assert!(answer.text.starts_with("restart the program"), "{}", answer.text);
}

#[test]
fn an_address_at_which_bind_fails_is_found_with_and_without_a_row() {
    let mut model = model();
    let row = TupleKey::of_bind(OWN, Addr::v4([10, 0, 0, 8]));
    let bound = TupleCount { opened: 500, ..TupleCount::default() };
    let at = |last| {
        let place =
            TupleKey { source: Addr::v4([10, 0, 0, last]), netns: OWN, ..TupleKey::default() };
        failure(Call::Bind, place, Cause::BindExhausted, 2)
    };
    read(&mut model, 0, &[(row, bound)], &[]);
    assert_eq!(ids(&model), []);
    read(&mut model, 1, &[(row, bound)], &[at(8), at(9), at(8)]);
    assert_eq!(ids(&model), [Id::PortsExhausted; 2]);
    let (one, other) = (model.answers.of(&row).next().unwrap(), &model.answers.findings[1]);
    assert!(one.what.ends_with("4 bind() of port 0 failed in 10 s (nginx)"), "{}", one.what);
    assert_eq!(other.what, "2 bind() of port 0 failed in 10 s (nginx)");
    assert!(
        model.failures.iter().all(|it| it.answer.as_ref().is_some_and(|it| it.kind == Kind::Other))
    );
    for second in 2..=11 {
        read(&mut model, second, &[(row, bound)], &[]);
    }
    assert_eq!(ids(&model), [], "ten seconds later");
}

#[test]
fn port_searches_count_that_were_made_lately() {
    let mut model = model();
    let tuple = key(OWN, 1);
    let searched = |second: u64, slow: u32| {
        let mut count =
            TupleCount { released: 400 * second, opened: 400 * second + 600, ..open(600) };
        count.search[tracer_common::tuple::search_bucket(9_000)] = 1_000_000;
        count.search[tracer_common::tuple::search_bucket(700_000)] = slow;
        (tuple, count)
    };
    read(&mut model, 0, &[searched(0, 0)], &[]);
    for second in 1..=4 {
        let slow = 400 * u32::try_from(second).unwrap();
        read(&mut model, second, &[searched(second, slow)], &[]);
    }
    let found = model.answers.findings.iter().find(|it| it.id == Id::SlowSearch).unwrap();
    assert_eq!(found.severity, Severity::Critical);
    assert!(found.what.contains("26 % of a CPU at 400 connections/s"), "{}", found.what);
    for second in 5..=20 {
        read(&mut model, second, &[searched(second, 1_600)], &[]);
    }
    let still = model.answers.findings.iter().any(|it| it.severity == Severity::Critical);
    assert!(!still, "the slow ones are over: {:?}", model.answers.findings);
}

#[test]
fn what_is_kept_of_later_readings_is_forgotten_when_a_replay_goes_back() {
    let mut model = model();
    let leak = [(key(OWN, 1), left(1_000))];
    for second in 100..=112 {
        read(&mut model, second, &leak, &[]);
    }
    assert_eq!(ids(&model)[0], Id::HeldOpen);
    model.history = TupleHistory::default();
    read(&mut model, 50, &leak, &[]);
    assert!(!ids(&model).contains(&Id::HeldOpen), "{:?}", model.answers.findings);
}

#[test]
fn without_a_namespace_of_its_own_every_command_names_the_namespace() {
    let mut model = Model::new(About::default());
    read(&mut model, 0, &[(key(OWN, 1), open(1_000))], &[]);
    let command = &model.answers.first(&key(OWN, 1)).unwrap().command;
    assert!(command.ends_with("--dry-run --netns 7"), "{command}");
}
