//! Any size, view and mode, with hostile text from outside.

use std::sync::Arc;

use proptest::prelude::*;
use ratatui::{Terminal, backend::TestBackend};
use tracer_common::Cause;

use super::super::test_fixtures::{self as fixtures, Life, sized};
use crate::{
    format::text,
    view::{
        filter::Filter,
        group::GroupBy,
        input::Input,
        model::{Mode, Model, Size, View},
        reading::About,
        tuple_history::Window,
    },
};

const EVIL: &str = "\u{1b}[2J\u{202e}日\u{200b}\n\u{7}";

fn hostile() -> Model {
    let life = |number| Life {
        comm: EVIL,
        container: Some(EVIL),
        growth: 40,
        waiting: 5,
        failed: vec![(Cause::PortsExhausted, 3), (Cause::Other, 1)],
        ..Life::new(number, number as u64 * 800)
    };
    let mut model = fixtures::lived(&(0..40).map(life).collect::<Vec<_>>(), 5, |reading| {
        reading.lost = vec![(EVIL.into(), 7)];
        reading.pools = vec![crate::view::reading::Pool {
            rule: EVIL.into(),
            addresses: vec![("::1".parse().unwrap(), Some(EVIL.into()))],
            ..Default::default()
        }];
    });
    let incident = fixtures::incident();
    model.reading.holders = incident.reading.holders.clone();
    model.reading.blocked = incident.reading.blocked.clone();
    for holder in model.reading.holders.iter_mut().flatten() {
        holder.comm = fixtures::comm(EVIL);
        holder.container = Some(EVIL.into());
    }
    model.failures = incident.failures;
    for failures in &mut model.failures {
        failures.newest.comm = fixtures::comm(EVIL);
        failures.newest.container = Some(EVIL.into());
    }
    model.about = Arc::new(About {
        host: EVIL.into(),
        kernel: EVIL.into(),
        version: EVIL.into(),
        backend: EVIL.into(),
        degraded: vec![EVIL.into()],
        range: Some((1, u16::MAX)),
        filter: EVIL.into(),
        ..About::default()
    });
    model
}

fn mode(number: usize, scroll: usize) -> Mode {
    let input = Input::new("dst:日本語 nginx");
    let error = Some(EVIL.to_owned());
    match number {
        0 => Mode::Browse,
        1 => fixtures::in_detail(fixtures::empty(), 7).mode,
        2 => fixtures::in_detail(fixtures::empty(), 999).mode,
        3 => Mode::Sort(scroll),
        4 => Mode::Filter { input, error: None },
        5 => Mode::Filter { input, error },
        _ => Mode::Help { scroll, back: Box::default() },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_screen_can_be_drawn_and_does_no_harm(
        (width, height) in (0_u16..300, 0_u16..120), (real_width, real_height) in (0_u16..300, 0_u16..120),
        same in any::<bool>(), view in 0..View::ALL.len(), number in 0_usize..7, scroll in 0_usize..300,
        (replayed, paused, has_message, colour) in any::<(bool, bool, bool, bool)>(),
        cursor in prop::option::of(0_usize..50),
        (by, window, text) in (0_usize..5, 0_usize..3, prop::sample::select(vec!["", "sat>45", "nobody"])),
    ) {
        let mut model = hostile();
        (model.view, model.mode) = (View::ALL[view], mode(number, scroll));
        (model.scroll, model.paused, model.colour) = (scroll, paused, colour);
        (model.by, model.window) = (GroupBy::ALL[by], Window::ALL[window]);
        model.filter = Filter::parse(text).unwrap();
        model.message = has_message.then(|| EVIL.to_owned());
        model.list.cursor = cursor;
        if replayed {
            model = fixtures::replay(model);
            if let Some(replay) = &mut model.replay {
                replay.name = EVIL.into();
            }
        }
        sized(&mut model, width, height);
        // The terminal may have another size than the model has.
        let real = if same { (width, height) } else { (real_width, real_height) };
        let mut terminal = Terminal::new(TestBackend::new(real.0, real.1)).unwrap();
        terminal.draw(|frame| super::super::draw(&model, frame)).unwrap();
        for cell in terminal.backend().buffer().content() {
            prop_assert!(!cell.symbol().contains(text::is_harmful), "{:?}", cell.symbol());
        }
        model.size = Size { width, height };
        let lines = super::super::lines(&model);
        prop_assert!(lines < 600, "{}", lines);
    }
}
