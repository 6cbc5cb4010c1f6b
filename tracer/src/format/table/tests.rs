use std::time::Duration;

use tracer_common::{
    Addr, Cause, PortState, Ports, States, TupleCount, TupleKey, tuple::search_bucket,
};

use super::*;
use crate::{
    host::capacity::Limits,
    ledger::{
        stats::{Forecast, P99},
        uses::{Carried, Closed, Uses},
    },
};

/// 2026-11-21T02:44:53.5Z, in ns since 1970.
const NS: u64 = 1_795_229_093_500_000_000;

fn comm(name: &[u8]) -> [u8; 16] {
    std::array::from_fn(|index| name.get(index).copied().unwrap_or(0))
}

fn key(source: u8, destination: u8, port: u16) -> TupleKey {
    TupleKey {
        source: Addr::v4([10, 0, 0, source]),
        destination: Addr::v4([10, 0, 1, destination]),
        netns: 4_026_531_840,
        destination_port: port,
        zero: 0,
    }
}

fn filling(in_use: u64) -> Row {
    let mut now = TupleCount {
        opened: 100_000 + in_use,
        released: 100_000,
        time_wait_begun: 90_000 + in_use / 2,
        time_wait_ended: 90_000,
        pid: 812,
        comm: comm(b"nginx"),
        held: in_use,
        ..TupleCount::default()
    };
    let [established, close_wait] = [PortState::Established, PortState::CloseWait];
    let open = in_use - in_use / 2;
    now.states = States::one(established.flags()) * (open / 2)
        + States::one(close_wait.flags()) * (open - open / 2);
    now.search[search_bucket(12_500)] = 1000;
    let before = TupleCount { opened: now.opened - 940, released: 99_500, ..now };
    let before = Some((&before, Duration::from_secs(2)));
    let row = Row::new(key(1, 7, 8080), &now, before, Some(Limits::of(28_232)));
    let eta_s = f64::from(28_232 - u32::try_from(in_use).unwrap()) / 220.0;
    row.with(Forecast { eta_s: Some(eta_s), reusable: Some(in_use / 4) })
}

fn rows() -> Vec<Row> {
    let mut failing = filling(28_232);
    failing.key = key(2, 7, 8080);
    failing.failed[Cause::PortsExhausted as usize] = 4711;
    failing.failed[Cause::Refused as usize] = 2;
    failing.last_errno = 99;
    failing.search_p99 = Some(P99 { ns: 1_572_864, at_least: false });
    failing.rates =
        failing.rates.map(|rates| crate::ledger::stats::Rates { failed: 33.25, ..rates });
    failing.container = Some("3f1c8a90b7d2e45f60718293a4b5c6d7".into());

    failing.uses = Some(Uses {
        closed: Closed { here: 900, by_peer: 0, aborted: 100, segments: 25_000 },
        recent: Carried { connections: 10, segments: 251 },
        syns_again: 7,
        unanswered: 2,
    });

    let mut slow = filling(14_000);
    slow.key = key(3, 7, 8080);
    let mut high = filling(23_000);
    high.key = key(4, 7, 8080);

    let seeded = TupleCount { opened: 12, released: 2, ..TupleCount::default() };
    let v6 = TupleKey {
        source: Addr([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        destination: Addr([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]),
        ..key(0, 0, 443)
    };
    let first_reading = Row::new(v6, &seeded, None, None);

    let mut hostile = filling(10);
    hostile.key = key(5, 7, 8080);
    hostile.netns_name = Some("blue, \u{1b}".into());
    hostile.called.name = comm(b"\x1b[2J\"a, b\"\xe2\x80\xae");
    vec![filling(100), failing, slow, high, first_reading, hostile]
}

/// The first `limit` rows in the order of a column.
fn top(rows: Vec<Row>, by: Column, limit: Option<usize>) -> Vec<Row> {
    let mut top = Top::new(by, limit);
    for row in rows {
        top.add(row);
    }
    top.sorted()
}

fn reading() -> Reading<'static> {
    Reading { ns: NS, drift: 1, lost: [("hook_missed", 2), ("map_busy", 0)].into() }
}

fn rendered(format: TableFormat) -> String {
    let rows = top(rows(), Column::Saturation, None);
    String::from_utf8(render(&rows, format, &reading(), true).unwrap()).unwrap()
}

#[test]
fn time_waits_that_can_be_taken_over_have_a_mark() {
    let row = |reusable| Row { time_wait: 200, reusable, ..row_of(1000) };
    let cells = [None, Some(0), Some(151)].map(|reusable| Column::TimeWait.cell(&row(reusable)));
    assert_eq!(cells, ["200", "200", "200r"]);
    assert_eq!(Column::Reusable.cell(&row(Some(151))), "151");
}

#[test]
fn a_search_that_is_longer_than_what_is_measured_says_at_least() {
    let mut now = TupleCount::default();
    now.search[search_bucket(15_000_000)] = 1;
    let row = |now: &TupleCount| Row::new(key(1, 1, 1), now, None, None);
    assert_eq!(Column::Search.cell(&row(&now)), "16ms");
    now.search[search_bucket(20_000_000)] = 1;
    assert_eq!(Column::Search.cell(&row(&now)), "≥16ms");
}

#[test]
fn columns_are_aligned_and_marked_fullest_first() {
    insta::assert_snapshot!(rendered(TableFormat::Columns));
}

#[test]
fn rows_that_look_alike_have_their_namespace() {
    let of = |netns, name: Option<&str>| Row {
        key: TupleKey { netns, ..key(1, 7, 8080) },
        netns_name: name.map(Into::into),
        ..row_of(10)
    };
    let text = |rows: &[Row]| {
        let text = render(rows, TableFormat::Columns, &Reading::default(), true).unwrap();
        String::from_utf8(text).unwrap()
    };
    let (blue, other) = (of(7, Some("blue")), of(4_026_532_000, None));
    let both = text(&[blue.clone(), other.clone()]);
    // The column comes after the numbers, because scripts find these by their place.
    let cells = |line: usize| {
        let cells: Vec<_> = both.lines().nth(line).unwrap().split_whitespace().collect();
        (cells[2].to_owned(), cells[cells.len() - 3].to_owned())
    };
    let expected = [("PORTS", "NETNS"), ("0", "blue"), ("0", "4026532000")];
    assert_eq!([0, 1, 2].map(cells), expected.map(|(one, two)| (one.into(), two.into())));
    // The rows differ in their source, too, or there is only one namespace.
    let elsewhere = Row { key: TupleKey { netns: 8, ..key(2, 7, 8080) }, ..other };
    for rows in [&[blue.clone(), elsewhere][..], &[blue.clone(), blue][..]] {
        assert!(!text(rows).contains("NETNS"));
    }
}

#[test]
fn a_table_without_rows_is_its_header_and_what_was_lost() {
    let rendered = |reading: &Reading<'_>| {
        String::from_utf8(render(&[], TableFormat::Columns, reading, true).unwrap()).unwrap()
    };
    let text = rendered(&Reading::default());
    assert_eq!(text.lines().count(), 1);
    assert!(text.starts_with("SRC "));
    let text = rendered(&reading());
    assert_eq!(text.lines().count(), 2);
    assert!(text.lines().last().unwrap().starts_with("lost: 2 hook_missed;"), "{text}");
}

#[test]
fn json_is_one_line_for_each_reading() {
    let text = rendered(TableFormat::Json);
    assert_eq!(text.matches('\n').count(), 1);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["tuples"].as_array().map(Vec::len), Some(6));
    insta::assert_snapshot!(text.replace("},{", "},\n{"));
}

#[test]
fn csv_has_one_header_and_crlf() {
    let text = rendered(TableFormat::Csv);
    assert_eq!(text.matches("\r\n").count(), 7);
    insta::assert_snapshot!(text.replace("\r\n", "\n"));
    let later = render(&rows(), TableFormat::Csv, &reading(), false).unwrap();
    assert_eq!(String::from_utf8(later).unwrap().matches("\r\n").count(), 6);
}

#[test]
fn no_form_lets_a_control_or_bidirectional_character_through() {
    for format in [TableFormat::Columns, TableFormat::Json, TableFormat::Csv] {
        let text = rendered(format);
        let bad = text.chars().find(|letter| {
            crate::format::text::is_harmful(*letter) && !matches!(letter, '\n' | '\r')
        });
        assert_eq!(bad, None, "{format:?}");
    }
}

#[test]
fn the_signs_appear_from_their_thresholds_on() {
    let cell = |in_use| {
        let saturation = crate::ledger::stats::saturation(in_use, Some(1000));
        Column::Saturation.cell(&Row { in_use, saturation, ..row_of(1000) })
    };
    assert_eq!(cell(449), "44.9  ");
    assert_eq!(cell(450), "45.0 ~");
    assert_eq!(cell(799), "79.9 ~");
    assert_eq!(cell(800), "80.0 !");
    assert_eq!(cell(949), "94.9 !");
    assert_eq!(cell(950), "95.0!!");
    assert_eq!(cell(1000), "100.0!!");
}

fn row_of(capacity: u16) -> Row {
    Row::new(key(1, 1, 1), &TupleCount::default(), None, Some(Limits::of(capacity)))
}

#[test]
fn every_column_gives_a_total_order_whatever_the_order_before() {
    for column in Column::ALL {
        let mut rows = top(rows(), column, None);
        let expected: Vec<_> = rows.iter().map(|row| row.key).collect();
        for _ in 0..rows.len() {
            rows.rotate_left(1);
            let again = top(rows.clone(), column, None);
            let found: Vec<_> = again.iter().map(|row| row.key).collect();
            assert_eq!(found, expected, "{column:?}");
        }
    }
}

#[test]
fn the_state_is_the_one_that_most_ports_are_in_and_of_equals_the_worst() {
    let cell = |ports: Ports, time_wait, in_use| {
        Column::State.cell(&Row { states: Some(ports), time_wait, in_use, ..row_of(1000) })
    };
    let leak = Ports { close_wait: 60, established: 4, ..Ports::default() };
    assert_eq!(cell(leak, 0, 64), "close_wait 93%");
    let hole = Ports { connecting: 40, unanswered: 39, ..Ports::default() };
    assert_eq!(cell(hole, 0, 40), "no answer 97%");
    assert_eq!(cell(Ports { closing: 30, ..Ports::default() }, 30, 60), "closing 50%");
    assert_eq!(cell(Ports { established: 9, ..Ports::default() }, 91, 100), "time_wait 91%");
    assert_eq!(cell(Ports::default(), 0, 0), "-");
    assert_eq!(Column::State.cell(&Row { states: None, ..row_of(1000) }), "-");
}

#[test]
fn a_limit_keeps_the_first_of_all_rows() {
    // The order is neither rising nor falling, and there are equals.
    let many: Vec<Row> = (0_u64..500)
        .map(|number| Row {
            key: key(1, 1, (number * 7 % 500) as u16),
            ..filling(number * 37 % 101)
        })
        .collect();
    for column in [Column::Saturation, Column::Destination, Column::Comm] {
        let all = top(many.clone(), column, None);
        for limit in [0, 1, 2, 31, 32, 33, 250, 499, 500, 501] {
            let first = top(many.clone(), column, Some(limit));
            assert_eq!(first, all[..limit.min(500)], "{column:?}, {limit}");
        }
    }
}

#[test]
fn unknown_values_come_last() {
    for column in [Column::Saturation, Column::Opened, Column::Search, Column::Eta] {
        let rows = top(rows(), column, None);
        assert_eq!(column.cell(rows.last().unwrap()), "-", "{column:?}");
    }
}

#[test]
fn every_column_has_its_own_id() {
    for column in Column::ALL {
        assert_eq!(Column::from_id(column.id()), Some(column));
        assert!(column.width() >= column.title().len(), "{column:?}");
    }
    assert_eq!(Column::from_id("nonsense"), None);
}
