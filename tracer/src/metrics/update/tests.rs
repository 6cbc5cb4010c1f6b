use std::time::Duration;

use tracer_common::TupleCount;

use super::{
    super::{
        encode::Format,
        test_reading::{count, key, reading, tuple},
    },
    *,
};

/// The value of this series in the text of the snapshot; `None`: it is not there.
fn value(snapshot: &Arc<Snapshot>, series: &str) -> Option<f64> {
    let text = String::from_utf8(snapshot.encode(Format::Text).into()).unwrap();
    let rest = |line: &str| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned);
    text.lines().find_map(rest)?.parse().ok()
}

fn of_tuple(name: &str, port: u16) -> String {
    format!("{name}{{netns=\"4026531840\",src=\"10.0.0.8\",dst=\"10.0.1.7\",dport=\"{port}\"}}")
}

fn others(name: &str) -> String {
    format!("{name}{{netns=\"other\",src=\"other\",dst=\"other\",dport=\"other\"}}")
}

#[test]
fn shown_and_other_tuples_add_up_to_all() {
    let counts = [count(20), count(500), count(30)];
    let tuples = counts.iter().zip([80, 443, 8080]).map(|(count, port)| tuple(port, count));
    let snapshot =
        Metrics::new(1, &[0.45, 0.8, 0.95]).update(&reading(tuples.collect()), Instant::now());
    let of = |series: &str| value(&snapshot, series);
    assert_eq!(of(&of_tuple("tracer_tuple_ports_in_use", 443)), Some(500.0));
    assert_eq!(of(&of_tuple("tracer_tuple_ports_in_use", 80)), None);
    assert_eq!(of(&others("tracer_tuple_ports_in_use")), Some(50.0));
    assert_eq!(of("tracer_ports_in_use"), Some(550.0));
    assert_eq!(of(&others("tracer_tuple_ports_time_wait")), Some(4.0));
    assert_eq!(of("tracer_ports_time_wait"), Some(6.0));
    assert_eq!(of(&others("tracer_tuple_opened_total")), None);
    assert_eq!((of("tracer_tuples"), of("tracer_saturation_max_ratio")), (Some(3.0), Some(0.5)));
    assert_eq!(of("tracer_tuples_above{threshold=\"0.45\"}"), Some(1.0));
    assert_eq!(of("tracer_tuples_above{threshold=\"0.80\"}"), Some(0.0));
}

#[test]
fn how_many_tuples_are_shown_and_the_thresholds_can_change() {
    let counts = [count(20), count(500)];
    let tuples = || counts.iter().zip([80, 443]).map(|(count, port)| tuple(port, count)).collect();
    let mut metrics = Metrics::new(1, &[0.8]);
    metrics.update(&reading(tuples()), Instant::now());
    metrics.change(2, &[0.45]);
    let snapshot = metrics.update(&reading(tuples()), Instant::now());
    let of = |series: &str| value(&snapshot, series);
    assert_eq!(of(&of_tuple("tracer_tuple_ports_in_use", 80)), Some(20.0));
    assert_eq!(of("tracer_tuples_above{threshold=\"0.45\"}"), Some(1.0));
    assert_eq!(of("tracer_tuples_above{threshold=\"0.80\"}"), None);
}

#[test]
fn what_is_not_known_is_absent() {
    let counts = count(20);
    let unknown = TupleReading {
        capacity: None,
        eta_s: None,
        count: &TupleCount { search: Default::default(), ..counts },
        ..tuple(80, &counts)
    };
    let endless = TupleReading { eta_s: Some(f64::INFINITY), ..tuple(443, &counts) };
    let mut reading = reading(vec![unknown, endless]);
    (reading.programs, reading.process) = (vec![], None);
    let snapshot = Metrics::new(2, &[0.45, 0.8, 0.95]).update(&reading, Instant::now());
    for name in [
        "tracer_tuple_ports_capacity",
        "tracer_tuple_saturation_ratio",
        "tracer_tuple_exhaustion_seconds",
        "tracer_tuple_port_search_p99_seconds",
    ] {
        assert_eq!(value(&snapshot, &of_tuple(name, 80)), None, "{name}");
    }
    assert_eq!(value(&snapshot, &of_tuple("tracer_tuple_exhaustion_seconds", 443)), None);
    assert_eq!(value(&snapshot, &of_tuple("tracer_tuple_ports_in_use", 80)), Some(20.0));
    assert_eq!(value(&snapshot, "tracer_map_entries{map=\"ATTEMPTS\"}"), None);
    let text = String::from_utf8(snapshot.encode(Format::Text).into()).unwrap();
    assert!(!text.contains("tracer_bpf_run_seconds") && !text.contains("process_"), "{text}");
}

#[test]
fn without_tuples_every_cause_loss_and_total_is_there_with_0() {
    let mut empty = reading(vec![]);
    (empty.totals, empty.losses) = Default::default();
    let snapshot = Metrics::new(20, &[0.45, 0.8, 0.95]).update(&empty, Instant::now());
    let causes =
        Cause::ALL.map(|cause| format!("tracer_failures_total{{cause=\"{}\"}}", cause.name()));
    let losses = ["tuples_full", "hook_missed", "output_full", "output_full_other", "undecodable"]
        .map(|loss| format!("tracer_losses_total{{loss=\"{loss}\"}}"));
    let totals = [
        "tracer_ports_opened_total",
        "tracer_port_search_duration_seconds_count",
        "tracer_port_search_duration_seconds_bucket{le=\"+Inf\"}",
        "tracer_saturation_max_ratio",
    ];
    for series in causes.iter().chain(&losses).map(String::as_str).chain(totals) {
        assert_eq!(value(&snapshot, series), Some(0.0), "{series}");
    }
}

#[test]
fn totals_do_not_fall_when_a_tuple_is_removed_and_p99_is_of_the_newest_searches() {
    let (mut metrics, now) = (Metrics::new(2, &[0.45, 0.8, 0.95]), Instant::now());
    let (small, large) = (count(20), count(500));
    let first = metrics.update(&reading(vec![tuple(80, &small), tuple(443, &large)]), now);
    assert_eq!(value(&first, "tracer_ports_opened_total"), Some(540.0));
    let mut slower = large;
    slower.search[tracer_common::tuple::search_bucket(700_000)] += 1;
    let second = metrics.update(&reading(vec![tuple(443, &slower)]), now + Duration::from_secs(5));
    assert_eq!(value(&second, "tracer_ports_opened_total"), Some(540.0));
    assert_eq!(value(&second, "tracer_port_search_duration_seconds_count"), Some(541.0));
    let p99 = of_tuple("tracer_tuple_port_search_p99_seconds", 443);
    assert_eq!((value(&first, &p99), value(&second, &p99)), (Some(1.2288e-5), Some(7.86432e-4)));
    let gone = of_tuple("tracer_tuple_ports_in_use", 80);
    assert_eq!((value(&first, &gone), value(&second, &gone)), (Some(20.0), None));
}

#[test]
fn two_namespaces_never_have_one_label() {
    let counts = count(20);
    let named = |inum: u32, name: &str| TupleReading {
        key: tracer_common::TupleKey { netns: inum, ..key(80) },
        netns_name: Some(name.into()),
        ..tuple(80, &counts)
    };
    let tuples =
        vec![named(1, "blue"), named(2, "same"), named(3, "same"), named(4, "1"), named(5, "")];
    let labels = netns_labels(&reading(tuples));
    let labels: Vec<_> = labels.values().map(String::as_str).collect();
    assert_eq!(labels, ["blue", "2", "3", "4", "5"]);
}

#[test]
fn no_more_than_twice_the_fullest_are_shown_and_a_scrape_stays_small() {
    let (mut metrics, start) = (Metrics::new(20, &[0.45, 0.8, 0.95]), Instant::now());
    for round in 0..20 {
        let counts: Vec<_> = (0..200).map(|one| count((one * 37 + round * 61) % 1000)).collect();
        let tuples = counts.iter().zip(1..).map(|(count, port)| tuple(port, count));
        let snapshot =
            metrics.update(&reading(tuples.collect()), start + Duration::from_secs(round));
        let text = snapshot.encode(Format::Text);
        assert!(snapshot.shown.len() <= 40 && text.len() < 64 << 10, "{} bytes", text.len());
    }
}
