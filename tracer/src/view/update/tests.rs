mod rows;

use proptest::prelude::*;
use tracer_common::{Addr, Cause, TupleCount, TupleKey};

use super::*;
use crate::{
    format::table::Column,
    view::{
        model::List,
        reading::{About, Call, Failure, Holder, HolderKind, Pool, TupleSample},
        tuple_history::Window,
    },
};

fn tuple(source: u8, destination: u8) -> TupleKey {
    TupleKey {
        source: Addr::v4([10, 0, 0, source]),
        destination: Addr::v4([10, 0, 1, destination]),
        netns: 7,
        destination_port: 8080,
        zero: 0,
    }
}

fn count(in_use: u64) -> TupleCount {
    TupleCount {
        opened: in_use,
        pid: 812,
        comm: *b"nginx\0\0\0\0\0\0\0\0\0\0\0",
        ..TupleCount::default()
    }
}

/// Adds a reading. `counts`: ports in use by destination, all from one source.
fn read(model: &mut Model, second: u64, counts: &[(u8, u64)], reading: Snapshot) {
    model.history.begin(second * 1_000_000_000);
    for (destination, in_use) in counts {
        model.history.add(&TupleSample {
            key: tuple(1, *destination),
            count: &count(*in_use),
            has_states: true,
            has_uses: true,
            capacity: Some(1000),
            limits: None,
            reuse: None,
            older: None,
            search_p99: None,
            called: crate::host::process::Called::of(812, 0, count(*in_use).comm),
            cgroup: None,
            container: None,
            netns_name: None,
        });
    }
    model.history.end(&reading);
    update(model, Message::Read(Box::new(reading)));
}

fn model(counts: &[(u8, u64)]) -> Model {
    let mut model = Model::new(About::default());
    read(&mut model, 1, counts, Snapshot::default());
    model
}

fn press(model: &mut Model, code: KeyCode) -> Effect {
    update(model, Message::Key(KeyEvent::from(code)))
}

fn type_in(model: &mut Model, text: &str) {
    for letter in text.chars() {
        press(model, KeyCode::Char(letter));
    }
}

fn destinations(model: &Model) -> Vec<u8> {
    model.list.rows.iter().map(|row| row.key.destination.0[15]).collect()
}

fn selected(model: &Model) -> Option<u8> {
    let cursor = model.list.cursor?;
    Some(model.list.rows[cursor].key.destination.0[15])
}

#[test]
fn the_fullest_come_first_and_the_order_can_be_chosen_and_reversed() {
    let mut model = model(&[(1, 100), (2, 900), (3, 500)]);
    assert_eq!(destinations(&model), [2, 3, 1]);
    press(&mut model, KeyCode::Char('S'));
    assert_eq!(destinations(&model), [1, 3, 2]);
    press(&mut model, KeyCode::Char('s'));
    assert!(matches!(model.mode, Mode::Sort(5)));
    press(&mut model, KeyCode::Home);
    press(&mut model, KeyCode::Down);
    press(&mut model, KeyCode::Enter);
    assert_eq!((model.sort().by, destinations(&model)), (Column::Destination, vec![1, 2, 3]));
}

#[test]
fn the_selection_follows_its_tuple_and_keeps_its_place_when_that_is_gone() {
    let mut model = model(&[(1, 100), (2, 900), (3, 500)]);
    assert_eq!(selected(&model), None);
    press(&mut model, KeyCode::Down);
    press(&mut model, KeyCode::Down);
    assert_eq!(selected(&model), Some(3));
    read(&mut model, 2, &[(1, 600), (2, 900), (3, 500)], Snapshot::default());
    assert_eq!((selected(&model), model.list.cursor), (Some(3), Some(2)));
    read(&mut model, 3, &[(1, 600), (2, 900)], Snapshot::default());
    assert_eq!(selected(&model), Some(1));
    press(&mut model, KeyCode::Esc);
    assert_eq!(selected(&model), None);
}

#[test]
fn a_long_list_scrolls_with_the_selection() {
    let counts: Vec<_> = (0..100).map(|number| (number, 1000 - u64::from(number))).collect();
    let mut model = model(&counts);
    let height = model.list.rows.len();
    assert_eq!((model.list.first, model.list.total, destinations(&model)[0]), (0, 100, 0));
    press(&mut model, KeyCode::End);
    assert_eq!((selected(&model), model.list.first), (Some(99), 100 - height));
    press(&mut model, KeyCode::Up);
    assert_eq!((selected(&model), model.list.first), (Some(98), 100 - height));
    press(&mut model, KeyCode::PageUp);
    press(&mut model, KeyCode::PageUp);
    assert!(model.list.first < 100 - height);
    press(&mut model, KeyCode::Home);
    assert_eq!((selected(&model), model.list.first), (Some(0), 0));
    update(&mut model, Message::Wheel(3));
    assert_eq!(selected(&model), Some(3));
    update(&mut model, Message::Resize(Size { width: 80, height: 5 }));
    assert_eq!(selected(&model), Some(3));
}

#[test]
fn a_filter_is_typed_and_removed() {
    let mut model = model(&[(1, 100), (2, 900), (3, 500)]);
    press(&mut model, KeyCode::Char('/'));
    type_in(&mut model, "sat>much");
    press(&mut model, KeyCode::Enter);
    assert!(matches!(&model.mode, Mode::Filter { error: Some(_), .. }));
    for _ in 0..4 {
        press(&mut model, KeyCode::Backspace);
    }
    type_in(&mut model, "45");
    press(&mut model, KeyCode::Enter);
    assert_eq!((destinations(&model), model.list.unfiltered), (vec![2, 3], 3));
    press(&mut model, KeyCode::Char('a'));
    assert_eq!((model.by, destinations(&model)), (GroupBy::Destination, vec![2, 3]));
    press(&mut model, KeyCode::Esc);
    assert_eq!(destinations(&model), [2, 3, 1]);
}

#[test]
fn a_group_opens_into_its_tuples_and_a_tuple_into_its_detail() {
    let mut model = model(&[(1, 100), (2, 900), (3, 500)]);
    press(&mut model, KeyCode::Char('a'));
    press(&mut model, KeyCode::Char('a'));
    assert_eq!((model.by, model.list.rows.len()), (GroupBy::Source, 1));
    let row = &model.list.rows[0];
    assert_eq!((row.in_use, row.tuples, row.saturation), (1500, 3, Some(0.9)));
    press(&mut model, KeyCode::Enter);
    assert_eq!((model.by, model.filter.text()), (GroupBy::Tuple, "src:10.0.0.1"));
    assert_eq!(destinations(&model), [2, 3, 1]);
    press(&mut model, KeyCode::Down);
    press(&mut model, KeyCode::Enter);
    assert_eq!(model.mode, Mode::Detail(tuple(1, 2)));
    assert_eq!(model.wants().holders, Some(Some(tuple(1, 2))));
    press(&mut model, KeyCode::Char('?'));
    assert_eq!(model.detailed(), Some(tuple(1, 2)));
    press(&mut model, KeyCode::Char('q'));
    press(&mut model, KeyCode::Char('q'));
    assert_eq!(model.mode, Mode::Browse);
    assert_eq!(press(&mut model, KeyCode::Char('q')), Effect::Leave);
}

fn failure(wall_ns: u64, pid: u32) -> Failure {
    Failure {
        count: 1,
        wall_ns,
        call: Call::Connect,
        key: tuple(1, 2),
        local_port: 0,
        cause: Cause::PortsExhausted,
        errno: 99,
        pid,
        comm: *b"nginx\0\0\0\0\0\0\0\0\0\0\0",
        container: None,
        holder: None,
    }
}

#[test]
fn failures_of_one_kind_in_a_row_are_one_line() {
    let mut model = model(&[(2, 1000)]);
    let failures = [1, 1, 1, 2, 1].map(|pid| failure(1_500_000_000, pid)).to_vec();
    let reading = Snapshot { failures, wall_ns: 2_000_000_000, ..Snapshot::default() };
    read(&mut model, 2, &[(2, 1000)], reading);
    let counts: Vec<_> = model.failures.iter().map(|failures| failures.count).collect();
    assert_eq!(counts, [3, 1, 1]);
}

#[test]
fn processes_are_those_that_hold_ports_and_those_that_fail() {
    let mut model = model(&[(2, 1000)]);
    press(&mut model, KeyCode::Char('2'));
    assert_eq!(model.wants().holders, Some(None));
    // The process that connected last, as long as the holders are not known.
    assert_eq!(model.list.rows.iter().map(|row| row.pid).collect::<Vec<_>>(), [812]);
    let holder = Holder { pid: 9, ports: 700, time_wait: 600, tuples: 1, ..Holder::default() };
    let failures = vec![failure(1_200_000_000, 4), failure(1_300_000_000, 4)];
    let wall_ns = 2_100_000_000;
    let reading =
        Snapshot { holders: Some(vec![holder]), failures, wall_ns, ..Snapshot::default() };
    read(&mut model, 2, &[(2, 1000)], reading);
    let rows: Vec<_> = model
        .list
        .rows
        .iter()
        .map(|row| (row.pid, row.in_use, row.rates.unwrap().failed))
        .collect();
    assert_eq!(rows, [(9, 700, 0.0), (4, 0, 2.0)]);
}

#[test]
fn sources_show_the_unused_addresses_of_a_pool() {
    let mut model = model(&[(1, 100), (2, 900)]);
    let out = Some("not on this host".to_owned());
    let addresses = vec![([10, 0, 0, 1].into(), None), ([10, 0, 0, 9].into(), out)];
    let pool = Pool { rule: "default".into(), agent: None, addresses };
    read(&mut model, 2, &[(1, 100)], Snapshot { pools: vec![pool], ..Snapshot::default() });
    press(&mut model, KeyCode::Char('3'));
    let cells: Vec<_> = model
        .list
        .rows
        .iter()
        .map(|row| [Column::Source, Column::Tuples, Column::Pool].map(|it| it.cell(row)))
        .collect();
    let expected =
        [["10.0.0.1", "1", "default"], ["10.0.0.9", "0", "default (left out: not on this host)"]];
    assert_eq!(cells, expected);
}

#[test]
fn a_replay_is_played_by_its_own_keys() {
    let mut model = model(&[(1, 1)]);
    assert_eq!(press(&mut model, KeyCode::Char('t')), Effect::None);
    let begin_ns = 1_795_229_093_000_000_000;
    let end_ns = begin_ns + 3_600_000_000_000;
    let replay = Replay { begin_ns, end_ns, speed: 1.0, ..Replay::default() };
    update(&mut model, Message::Replay(replay));
    assert_eq!(press(&mut model, KeyCode::Char(' ')), Effect::Play(Play::Pause));
    assert_eq!(press(&mut model, KeyCode::Char('T')), Effect::Play(Play::Step(Direction::Back)));
    assert_eq!(press(&mut model, KeyCode::Char('+')), Effect::Play(Play::Speed(2.0)));
    press(&mut model, KeyCode::Char('j'));
    type_in(&mut model, "soon");
    assert_eq!(press(&mut model, KeyCode::Enter), Effect::Draw);
    assert!(matches!(&model.mode, Mode::Jump { error: Some(_), .. }));
    update(&mut model, Message::Key(KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL)));
    type_in(&mut model, "2026-11-21T03:00:00Z");
    let at = 1_795_230_000_000_000_000;
    assert_eq!(press(&mut model, KeyCode::Enter), Effect::Play(Play::Seek(at)));
}

fn any_key() -> impl Strategy<Value = KeyEvent> {
    let letters = prop::char::range(' ', '~').prop_map(KeyCode::Char);
    let others = prop::sample::select(vec![
        KeyCode::Enter,
        KeyCode::Esc,
        KeyCode::Tab,
        KeyCode::BackTab,
        KeyCode::Up,
        KeyCode::Down,
        KeyCode::Left,
        KeyCode::Right,
        KeyCode::PageUp,
        KeyCode::PageDown,
        KeyCode::Home,
        KeyCode::End,
        KeyCode::Backspace,
        KeyCode::F(1),
        KeyCode::F(6),
        KeyCode::Char('日'),
    ]);
    let control = prop::bool::weighted(0.1)
        .prop_map(|control| if control { KeyModifiers::CONTROL } else { KeyModifiers::NONE });
    (prop_oneof![letters, others], control).prop_map(|(code, control)| KeyEvent::new(code, control))
}

#[derive(Clone, Debug)]
enum Step {
    Key(KeyEvent),
    Wheel(isize),
    Resize(u16, u16),
    Read(Vec<(u8, u64)>),
    Replay(bool),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => any_key().prop_map(Step::Key),
        1 => (-5_isize..5).prop_map(Step::Wheel),
        1 => (0_u16..310, 0_u16..110).prop_map(|(width, height)| Step::Resize(width, height)),
        3 => prop::collection::btree_map(0_u8..30, 0_u64..1200, 0..30)
            .prop_map(|counts| Step::Read(counts.into_iter().collect())),
        1 => any::<bool>().prop_map(Step::Replay),
    ]
}

/// Checks what must be true of every model.
fn check(model: &Model) {
    let List { rows, first, total, unfiltered, cursor, alike } = &model.list;
    assert!(first + rows.len() <= *total && total <= unfiltered, "{:?}", model.list);
    assert!(cursor.is_none_or(|cursor| cursor < rows.len()), "{:?}", model.list);
    // All tuples are in one namespace.
    assert!(!alike);
    assert!(model.failures.len() <= crate::view::failures::FAILURES);
    let sort = model.sort();
    for pair in rows.windows(2) {
        let order = crate::format::table::order(sort.by, &pair[0], &pair[1]);
        assert!(if sort.reverse { order.is_gt() } else { order.is_lt() }, "{pair:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_keys_and_readings_leave_a_sound_model_that_can_be_left(
        steps in prop::collection::vec(any_step(), 0..60),
    ) {
        let mut model = model(&[(1, 5), (2, 900)]);
        let mut second = 1;
        for step in steps {
            match step {
                Step::Key(key) => _ = update(&mut model, Message::Key(key)),
                Step::Wheel(rows) => _ = update(&mut model, Message::Wheel(rows)),
                Step::Resize(width, height) => {
                    update(&mut model, Message::Resize(Size { width, height }));
                }
                Step::Read(counts) => {
                    second += 1;
                    let failures = vec![failure(second * 1_000_000_000, u32::try_from(second % 3).unwrap())];
                    read(&mut model, second, &counts, Snapshot { failures, ..Snapshot::default() });
                }
                Step::Replay(on) => {
                    model.replay = on.then(|| Replay { speed: 1.0, ..Replay::default() });
                }
            }
            check(&model);
        }
        // From every mode, Esc and then q leave the program; Ctrl-C alone leaves it, too.
        let left = (0..10).any(|_| {
            press(&mut model, KeyCode::Esc);
            model.mode == Mode::Browse
        });
        prop_assert!(left, "{:?}", model.mode);
        prop_assert_eq!(press(&mut model, KeyCode::Char('q')), Effect::Leave);
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        prop_assert_eq!(update(&mut model, Message::Key(control_c)), Effect::Leave);
    }
}

#[test]
fn every_window_and_view_can_be_reached_by_keys() {
    let mut model = model(&[(1, 1)]);
    for view in View::ALL {
        assert_eq!(model.view, view);
        press(&mut model, KeyCode::Tab);
    }
    assert_eq!(model.view, View::Tuples);
    press(&mut model, KeyCode::BackTab);
    assert_eq!(model.view, View::Doctor);
    for window in [Window::TenSeconds, Window::Minute, Window::Second] {
        press(&mut model, KeyCode::Char('r'));
        assert_eq!(model.window, window);
    }
}
