//! Every line of the stream: the same as serde writes, and valid by the schema, for any event.

#[path = "support/any.rs"]
mod any;
#[path = "support/reference.rs"]
mod reference;

use std::{mem::offset_of, sync::LazyLock};

use any::{any_address, any_event};
use proptest::prelude::*;
use serde_json::{Value, json};
use tracer::{
    export::{
        Context, LineWriter, Lines, Moment, SCHEMA,
        port_settings::PortSettings,
        record::{Decided, Degraded, Lost, NetnsSettings, Start, Stats, Stop},
    },
    format::tuple::{AddressStats, Tuple},
    host::{
        capacity::Limits,
        cgroups::Name,
        holder::Holder,
        process::{Called, NameOf},
    },
    ledger::{decode::decode, stats::Row},
};
use tracer_common::{
    Addr, Cause, Ends, Event, Kind, Loss, TupleCount, TupleKey, ends::LIFETIMES, spread::Decision,
    tuple::SEARCH_BUCKETS,
};

static VALIDATOR: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    let schema = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    assert!(jsonschema::meta::is_valid(&schema), "the schema is no JSON Schema");
    jsonschema::validator_for(&schema).expect("the schema can be used")
});

/// A line as a value. Fails unless the line is UTF-8, ends with a newline, has no character that could act on a
/// terminal, and is valid by the schema.
fn checked(line: &[u8]) -> Value {
    let text = str::from_utf8(line).expect("UTF-8");
    let text = text.strip_suffix('\n').expect("a newline at the end");
    assert!(!text.contains(tracer::format::text::is_harmful), "{text}");
    let value: Value = serde_json::from_str(text).expect(text);
    if let Err(error) = VALIDATOR.validate(&value) {
        panic!("{error} at {} of {text}", error.instance_path());
    }
    value
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn any_event_gives_the_line_that_serde_gives_or_an_error(
        bytes in any_event(), seq: u64, wall_offset_ns: u64,
        cgroup in prop::option::of(any::<String>()),
        container in prop::option::of("[0-9a-f]{64}"), unit in prop::option::of(any::<String>()), capacity: Option<u32>,
        netns in prop::option::of(any::<String>()), called: Option<([u8; 16], u8, [u8; 16])>,
    ) {
        let of = |number: u8| [NameOf::Process, NameOf::Thread, NameOf::Unknown][usize::from(number % 3)];
        let called = called.map(|(name, number, thread)| Called { name, of: of(number), thread });
        let context = Context { seq, wall_offset_ns, capacity, holder: None, called };
        let name = cgroup.map(|path| Name { path: path.into(), container: container.map(Into::into), unit: unit.map(Into::into) });
        let mut writer = LineWriter::default();
        let mut out = Lines::default();
        let kept = Lost { reason: "kept", count: 1 };
        writer.lost(&mut out, Moment::default(), &kept).expect("a line");
        let kept = out.as_bytes().to_vec();
        match decode(&bytes) {
            Err(error) => {
                let mut event = Event { kind: bytes[offset_of!(Event, kind)], ..Event::default() };
                event.detail = bytes[offset_of!(Event, detail)];
                let result = writer.event(&mut out, &event, &context, || name.as_ref());
                prop_assert_eq!(result, Err(error));
                prop_assert_eq!(out.as_bytes(), kept);
            }
            Ok(event) => {
                let netns = netns.as_deref();
                writer.name_namespaces(netns.map(|name| (event.tuple.netns, name)).into_iter());
                let result = writer.event(&mut out, &event, &context, || name.as_ref());
                result.expect("an event that decodes");
                let added = out.as_bytes().strip_prefix(&kept[..]);
                let added = added.expect("what was there before");
                let line = checked(added);
                let mut reference = reference::line(&event, &context, name.as_ref());
                reference.netns_name = netns;
                let reference = serde_json::to_string(&reference).expect("JSON") + "\n";
                // If no character has to be escaped, not only the values are the same, but the bytes, too.
                if reference.bytes().all(|byte| matches!(byte, b'\n' | b' '..=b'~' if byte != b'\\')) {
                    prop_assert_eq!(str::from_utf8(added), Ok(reference.as_str()));
                }
                let reference: Value = serde_json::from_str(&reference).expect("JSON");
                prop_assert_eq!(line, reference);
            }
        }
    }

    #[test]
    fn any_counters_give_a_valid_line_of_totals(
        source in any_address(), destination in any_address(), port: u16,
        now in any::<[u64; 4]>(), before in any::<[u64; 4]>(), nanos: u64,
        search in any::<[u32; SEARCH_BUCKETS]>(), limits in any::<Option<(u16, u16, u32, u32)>>(), held: u64,
        failed in any::<[bool; Cause::COUNT]>(), pid in 0_u32..3, comm: [u8; 16], ends in any::<[u64; 4]>(),
        lifetimes in any::<[u32; LIFETIMES]>(), syns_again: u32,
        cgroup in prop::option::of(any::<String>()),
    ) {
        let fill = |[opened, released, time_wait_begun, time_wait_ended]: [u64; 4]| TupleCount {
            opened, released, time_wait_begun, time_wait_ended, held, search, pid, comm,
            failed: failed.map(u64::from), syns_again,
            ends: Ends {
                closed_here: ends[0], closed_by_peer: ends[1], aborted: ends[2], segments: ends[3], lifetimes
            },
            ..TupleCount::default()
        };
        let key = TupleKey { source, destination, destination_port: port, ..TupleKey::default() };
        let elapsed = std::time::Duration::from_nanos(nanos);
        let (now, before) = (fill(now), fill(before));
        let limits = limits.map(|(one, other, reserved, bound)| {
            Limits { low: one.min(other), high: one.max(other), reserved, bound }
        });
        let row = Row::new(key, &now, Some((&before, elapsed)), limits);
        let name = cgroup.map(|path| Name { path: path.into(), container: Some("c".into()), unit: None });
        let tuple = Tuple::recorded(&row, &now, name.as_ref());
        let mut out = Lines::default();
        LineWriter::default().tuple_stats(&mut out, Moment::default(), &tuple).expect("a line");
        let line = checked(out.as_bytes());
        prop_assert_eq!(&line["ports.time_wait_begun"], &json!(now.time_wait_begun));
        let path = name.map(|name| Value::from(&*name.path));
        prop_assert_eq!(line.get("process.linux.cgroup").cloned(), path);
        prop_assert_eq!(&line["syns.sent_again"], &json!(syns_again));
        let of = |count: u64| (ends[..3] != [0; 3]).then(|| Value::from(count));
        prop_assert_eq!(line.get("connections.closed_here").cloned(), of(ends[0]));
        prop_assert_eq!(line.get("connections.segments").cloned(), of(ends[3]));
        let failures = failed.iter().filter(|failed| **failed).count();
        prop_assert_eq!(line["connect.failures"].as_object().map(serde_json::Map::len), Some(failures));
        prop_assert_eq!(&line["ports.in_use"], &json!(row.in_use));
        prop_assert_eq!(line.get("ports.capacity").cloned(), row.capacity.map(Value::from));
        prop_assert_eq!(line.get("ports.reserved").cloned(), limits.map(|it| it.reserved.into()));
        prop_assert_eq!(line.get("ports.bound").cloned(), limits.map(|it| it.bound.into()));
        let range = limits.map(|it| format!("{}-{}", it.low, it.high));
        prop_assert_eq!(line.get("ports.range").cloned(), range.map(Value::from));
        let mut out = Lines::default();
        let bind = Row { key: TupleKey::of_bind(key.netns, source), ..row };
        let stats = AddressStats::from(&bind);
        LineWriter::default().address_stats(&mut out, Moment::default(), &stats).expect("a line");
        let line = checked(out.as_bytes());
        prop_assert_eq!(&line["ports.in_use"], &json!(bind.in_use));
    }
}

#[test]
fn an_exhausted_connect_says_everything() {
    let event = Event {
        mono_ns: 5_000_000_000,
        cookie: 4242,
        duration_ns: 1_234_567,
        tuple: TupleKey {
            source: Addr::v4([10, 0, 0, 1]),
            destination: Addr::v4([10, 0, 1, 7]),
            netns: 4_026_531_840,
            destination_port: 8080,
            zero: 0,
        },
        pid: 812,
        comm: *b"nginx\0\0\0\0\0\0\0\0\0\0\0",
        in_use: 28_232,
        time_wait: 28_001,
        errno: 99,
        kind: Kind::ConnectFailed as u8,
        flags: tracer_common::event_flag::DURATION | tracer_common::event_flag::PORTS,
        ..Event::default()
    };
    let context = Context {
        seq: 17,
        wall_offset_ns: 1_795_229_093_000_000_000,
        capacity: Some(28_232),
        holder: None,
        called: None,
    };
    let mut out = Lines::default();
    let name = Name {
        path: "/system.slice/nginx.service".into(),
        container: None,
        unit: Some("nginx.service".into()),
    };
    let result = LineWriter::default().event(&mut out, &event, &context, || Some(&name));
    result.expect("a line");
    checked(out.as_bytes());
    insta::assert_snapshot!(String::from_utf8_lossy(out.as_bytes()).trim_end());
}

#[test]
fn a_port_that_is_taken_has_its_holder() {
    let event = Event {
        mono_ns: 5_000_000_000,
        tuple: TupleKey { netns: 4_026_531_840, ..TupleKey::default() },
        pid: 812,
        comm: *b"webui\0\0\0\0\0\0\0\0\0\0\0",
        local_port: 40_007,
        errno: 98,
        kind: Kind::BindFailed as u8,
        detail: Cause::PortInUse as u8,
        ..Event::default()
    };
    let holder = Holder {
        pid: 4711,
        comm: *b"craw\x1bler\xff\0\0\0\0\0\0\0",
        state: 1,
        peer: Addr::v4([10, 0, 1, 7]),
        peer_port: 443,
    };
    let mut out = Lines::default();
    for holder in [Some(holder), Some(Holder { state: 6, ..Holder::default() }), None] {
        let context = Context { holder, ..Context::default() };
        let result = LineWriter::default().event(&mut out, &event, &context, || None);
        result.expect("a line");
    }
    let lines: Vec<_> = out.as_bytes().split_inclusive(|byte| *byte == b'\n').collect();
    for line in &lines {
        checked(line);
    }
    insta::assert_snapshot!(String::from_utf8_lossy(&lines.concat()).trim_end());
}

#[test]
fn the_rare_lines_are_valid() {
    let moment = Moment { seq: 0, mono_ns: 1, wall_offset_ns: 1_795_229_093_000_000_000 };
    let mut writer = LineWriter::default();
    let mut out = Lines::default();
    let start = Start {
        version: "0.1.0",
        kernel: "6.18.5\u{1b}[2J".into(),
        backend: "tracepoint",
        host: "proxy-7".into(),
        range: Some("32768-60999".to_owned()),
        netns: Some(4_026_531_840),
        ports: PortSettings {
            reserved: Some("40001,40010-40019".to_owned()),
            reuse: Some(2),
            reuse_delay_ms: Some(1_000),
            timestamps: Some(true),
        },
        hz: Some(250),
        degraded: vec!["fexit: the kernel refuses it (EPERM)".to_owned()],
        settings: [("events".into(), json!(["failed"])), ("ring_size".into(), json!(1 << 24))]
            .into_iter()
            .collect(),
    };
    writer.start(&mut out, moment, &start).expect("a line");
    let settings = NetnsSettings {
        netns: 4_026_532_281,
        name: Some("edge\u{1b}"),
        range: "40000-40999".to_owned(),
        ports: PortSettings::new(Some(Vec::new()), None),
    };
    writer.settings(&mut out, moment, &settings).expect("a line");
    let less = ["network namespace 7 (a\u{1b}) is left out: damaged".to_owned()];
    let degraded = Degraded { degraded: &less, added: &less, ended: &start.degraded };
    writer.degraded(&mut out, moment, &degraded).expect("a line");
    for loss in Loss::ALL {
        let lost = Lost { reason: loss.name(), count: 3 };
        writer.lost(&mut out, moment, &lost).expect("a line");
    }
    let stats = Stats {
        tuples: 3,
        seen: 10,
        emitted: 9,
        failed: Cause::ALL.map(|cause| (cause.name(), 2)).into_iter().collect(),
        lost: Loss::ALL.map(|loss| (loss.name(), 1)).into_iter().collect(),
        drift: 0,
        cpu_ns: 1_234_567,
        rss_kib: 9876,
    };
    writer.stats(&mut out, moment, &stats).expect("a line");
    let stop = Stop {
        seen: 10,
        emitted: 9,
        written: 9,
        failed: Cause::ALL.map(|cause| (cause.name(), 2)).into_iter().collect(),
        lost: Loss::ALL.map(|loss| (loss.name(), 1)).into_iter().collect(),
        drift: 0,
    };
    writer.stop(&mut out, moment, &stop).expect("a line");
    let lines: Vec<_> = out.as_bytes().split_inclusive(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len(), Loss::COUNT + 5);
    for line in &lines {
        checked(line);
    }
    let first_and_last = [&lines[..3], &lines[lines.len() - 2..]].concat().concat();
    insta::assert_snapshot!(String::from_utf8_lossy(&first_and_last).trim_end());
}

#[test]
fn decisions_are_valid_with_and_without_what_may_be_absent() {
    let four: std::net::IpAddr = "10.0.0.1".parse().expect("an address");
    let six: std::net::IpAddr = "fd00::1".parse().expect("an address");
    let full = Decided {
        transport: "tcp",
        family: "ipv4",
        destination: four,
        port: 443,
        netns: 1,
        pid: 7,
        comm: "a\u{1b}\"b".to_owned(),
        comm_source: Some("thread"),
        thread: "a\u{1b}\"b".to_owned(),
        cgroup: Some("/system.slice/nginx.service"),
        container: Some("0123456789ab"),
        unit: Some("nginx.service"),
        cookie: 1,
        chosen: Some(four),
        chosen_port: Some(32_769),
        original: Some(four),
        reason: "fast_port",
        passed: None,
        rule: "default",
        in_use: Some(14_000),
    };
    let (chosen, chosen_port, original) = (None, None, None);
    let bare = Decided {
        family: "ipv6",
        destination: six,
        cgroup: None,
        comm_source: None,
        container: None,
        unit: None,
        reason: "pool_full",
        chosen,
        chosen_port,
        original,
        in_use: None,
        ..full.clone()
    };
    let written = |record: &Decided<'_>| {
        let mut out = Lines::default();
        LineWriter::default().decided(&mut out, Moment::default(), record).expect("a line");
        checked(out.as_bytes())
    };
    let line = written(&full);
    assert_eq!(line["process.linux.cgroup"], "/system.slice/nginx.service");
    assert_eq!(
        (&line["container.id"], &line["ports.in_use"]),
        (&json!("0123456789ab"), &json!(14_000))
    );
    let line = written(&bare);
    for absent in ["spread.passed", "spread.chosen", "ports.in_use", "process.linux.cgroup"] {
        assert_eq!(line.get(absent), None, "{line}");
    }
    // The schema must know the name of every decision that a line can have.
    let not_told = [Decision::Moved, Decision::NotTold];
    for decision in Decision::ALL.into_iter().filter(|decision| !not_told.contains(decision)) {
        let passed = Some(decision.name());
        let line = written(&Decided { reason: "passed", passed, ..bare.clone() });
        assert_eq!(line["spread.passed"], decision.name());
    }
}

#[test]
fn the_schema_refuses_what_the_format_does_not_know() {
    let line = json!({
        "v": 1, "seq": 0, "ts": "2026-11-21T02:44:53.123456789Z", "mono_ns": 1,
        "event.name": "lost", "lost.reason": "map_busy", "lost.count": 1,
    });
    assert!(VALIDATOR.is_valid(&line));
    for (key, value) in [
        ("v", json!(2)),
        ("seq", json!(-1)),
        ("ts", json!("2026-11-21 02:44:53")),
        ("event.name", json!("losses")),
        ("lost.count", json!("1")),
        ("extra", json!(1)),
        ("port.by", json!("connect")),
    ] {
        let mut bad = line.clone();
        bad[key] = value;
        assert!(!VALIDATOR.is_valid(&bad), "{bad}");
    }
    for key in line.as_object().expect("an object").keys() {
        let mut bad = line.clone();
        bad.as_object_mut().expect("an object").remove(key);
        assert!(!VALIDATOR.is_valid(&bad), "{bad}");
    }
}
