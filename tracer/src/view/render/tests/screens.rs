//! Every view and panel at several sizes, against reviewed snapshots.

use insta::assert_snapshot;

use tracer_common::Cause;

use super::super::test_fixtures::{self as fixtures, Life, drawn};
use crate::{
    format::table::Column,
    view::{
        filter::Filter,
        group::GroupBy,
        input::Input,
        model::{Mode, Model, Sort, View},
    },
};

const SIZES: [(u16, u16); 5] = [(40, 10), (80, 24), (120, 40), (200, 50), (300, 100)];

/// Compares a model's screen with its snapshots, at the first `sizes` of [`SIZES`].
fn check_screens(name: &str, mut model: Model, sizes: usize) {
    for (width, height) in SIZES.into_iter().take(sizes) {
        let terminal = drawn(&mut model, width, height);
        assert_snapshot!(format!("{name}_{width}x{height}"), terminal.backend());
    }
}

fn view(view: View, mut model: Model) -> Model {
    model.view = view;
    model
}

#[test]
fn an_incident() {
    let mut model = fixtures::incident();
    model.list.cursor = Some(1);
    check_screens("incident", model, 5);
}

#[test]
fn an_incident_through_a_filter_of_the_command_line() {
    let mut model = fixtures::incident();
    model.about = std::sync::Arc::new(crate::view::reading::About {
        filter: "--dst 10.0.0.0/8".into(),
        ..fixtures::about()
    });
    model.reading.outside = 3007;
    check_screens("filtered_incident", model, 4);
}

#[test]
fn nothing_yet() {
    check_screens("empty", fixtures::empty(), 2);
}

#[test]
fn all_rows_are_hidden_by_the_filter_of_the_command_line() {
    let mut model = fixtures::empty();
    model.about = std::sync::Arc::new(crate::view::reading::About {
        filter: "--dst 10.0.0.0/8".into(),
        ..fixtures::about()
    });
    model.reading.outside = 3010;
    check_screens("hidden", model, 2);
}

#[test]
fn a_tuple_at_its_limit_where_calls_fail() {
    let life =
        Life { waiting: 9, failed: vec![(Cause::PortsExhausted, 14)], ..Life::new(9, 27_700) };
    check_screens("at_limit", fixtures::in_detail(fixtures::lived(&[life], 120, |_| {}), 9), 2);
}

#[test]
fn hooks_that_the_kernel_skipped() {
    let missed = fixtures::lived(&[Life::new(1, 40)], 3, |reading| {
        reading.lost = vec![("hook_missed".into(), 2)];
    });
    check_screens("missed", missed, 2);
}

#[test]
fn one_row() {
    check_screens("one_row", fixtures::lived(&[Life::new(1, 40)], 3, |_| {}), 2);
}

#[test]
fn many_rows() {
    check_screens("many", fixtures::many(), 3);
}

#[test]
fn only_ipv6() {
    check_screens("ipv6", fixtures::only_v6(), 4);
}

#[test]
fn everything_is_full() {
    check_screens("saturated", fixtures::saturated(), 3);
}

#[test]
fn a_degraded_backend_and_losses() {
    check_screens("degraded", fixtures::degraded(), 3);
    check_screens("degraded_own", view(View::SelfStats, fixtures::degraded()), 3);
}

#[test]
fn what_the_tracer_costs() {
    check_screens("own", view(View::SelfStats, fixtures::incident()), 3);
    let mut recorded = fixtures::replay(view(View::SelfStats, fixtures::incident()));
    recorded.reading.self_stats = crate::view::reading::SelfStats::default();
    check_screens("own_replay", recorded, 2);
}

#[test]
fn what_failed() {
    check_screens("failures", view(View::Failures, fixtures::incident()), 4);
    check_screens("failures_none", view(View::Failures, fixtures::empty()), 2);
}

#[test]
fn what_to_do() {
    check_screens("doctor", view(View::Doctor, fixtures::incident()), 4);
    check_screens("doctor_replay", fixtures::replay(view(View::Doctor, fixtures::incident())), 2);
    check_screens("doctor_none", view(View::Doctor, fixtures::empty()), 2);
    let mut end = view(View::Doctor, fixtures::incident());
    end.scroll = 1000;
    check_screens("doctor_end", end, 2);
    check_screens("doctor_many", view(View::Doctor, fixtures::saturated()), 2);
}

#[test]
fn a_recording() {
    let mut model = fixtures::replay(fixtures::incident());
    check_screens("replay", fixtures::replay(fixtures::incident()), 4);
    model.paused = true;
    check_screens("replay_paused", model, 2);
}

#[test]
fn a_tuple_that_fills() {
    check_screens("detail", fixtures::in_detail(fixtures::incident(), 7), 5);
}

#[test]
fn a_tuple_that_is_full() {
    check_screens("detail_full", fixtures::in_detail(fixtures::incident(), 9), 3);
}

#[test]
fn the_end_of_a_detail() {
    let mut model = fixtures::in_detail(fixtures::incident(), 7);
    model.scroll = 1000;
    check_screens("detail_end", model, 2);
}

#[test]
fn a_tuple_out_of_a_recording() {
    check_screens(
        "detail_replay",
        fixtures::in_detail(fixtures::replay(fixtures::incident()), 7),
        3,
    );
}

#[test]
fn a_tuple_that_is_gone() {
    check_screens("detail_gone", fixtures::in_detail(fixtures::incident(), 999), 2);
}

#[test]
fn what_a_process_holds_and_what_a_source() {
    let mut model = view(View::Processes, fixtures::incident());
    model.sorts[View::Processes as usize] = Sort { by: Column::Comm, reverse: true };
    check_screens("processes", model, 3);
    check_screens("sources", view(View::Sources, fixtures::incident()), 3);
    check_screens("sources_none", view(View::Sources, fixtures::empty()), 2);
}

#[test]
fn a_filter_in_force_and_one_that_hides_all() {
    let mut model = fixtures::incident();
    model.filter = Filter::parse("sat>45 !haproxy").unwrap();
    model.by = GroupBy::Destination;
    check_screens("filtered", model, 3);
    let mut model = fixtures::incident();
    model.filter = Filter::parse("squid").unwrap();
    check_screens("filtered_away", model, 2);
}

#[test]
fn a_filter_with_an_error() {
    let mut model = fixtures::incident();
    let error = Filter::parse("nginx foo>3").unwrap_err();
    model.mode = Mode::Filter { input: Input::new("nginx foo>3"), error: Some(error) };
    check_screens("filter_error", model, 3);
    let mut model = fixtures::incident();
    model.mode = Mode::Filter {
        input: Input::new("dst:日本 comm:nginx !container:3f1c sat>45 eta<60"),
        error: None,
    };
    check_screens("filter_long", model, 2);
}

#[test]
fn choosing_a_column() {
    let mut model = fixtures::incident();
    model.mode = Mode::Sort(8);
    check_screens("sort", model, 3);
}

#[test]
fn the_keys() {
    let mut model = fixtures::incident();
    model.mode = Mode::Help { scroll: 0, back: Box::default() };
    check_screens("help", model, 3);
}

#[test]
fn a_message_and_a_pause() {
    let mut model = fixtures::incident();
    model.message = Some("the container of these is not known\u{1b}[2J".into());
    model.paused = true;
    check_screens("message", model, 2);
}
