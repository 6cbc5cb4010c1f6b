//! Styles with and without colours.

use ratatui::{
    buffer::Cell,
    style::{Color, Modifier},
};

use super::super::test_fixtures::{self as fixtures, Life, drawn};
use crate::view::model::{Mode, Model, View};

/// The cell at which a text begins, and those after it, of each line that has the text.
fn found(model: &mut Model, text: &str) -> Vec<Cell> {
    let terminal = drawn(model, 120, 30);
    let buffer = terminal.backend().buffer();
    let lines = buffer.content().chunks(120);
    let starts = lines.filter_map(|line| {
        let symbols: String = line.iter().map(Cell::symbol).collect();
        let at = symbols.find(text)?;
        Some(line[symbols[..at].chars().count()].clone())
    });
    starts.collect()
}

/// One port more than `permille` thousandths of the capacity.
fn held(permille: u64) -> u64 {
    28_232 * permille / 1000 + 1
}

/// A cell of the row in the list for a tuple that is a little more than `permille` thousandths full.
fn row(permille: u64, colour: bool) -> Cell {
    let held = held(permille);
    let mut model = fixtures::lived(&[Life::new(77, held), Life::new(78, 1)], 3, |_| {});
    model.colour = colour;
    found(&mut model, "10.0.1.77:8080").last().unwrap().clone()
}

#[test]
fn a_row_is_coloured_by_how_full_it_is() {
    let colours = |permille| {
        let cell = row(permille, true);
        (cell.fg, cell.bg)
    };
    assert_eq!(colours(440), (Color::Reset, Color::Reset));
    assert_eq!(colours(450), (Color::Yellow, Color::Reset));
    assert_eq!(colours(800), (Color::LightRed, Color::Reset));
    assert_eq!(colours(950), (Color::White, Color::Red));
}

#[test]
fn without_colour_it_is_bold_and_underlined_and_the_sign_is_there() {
    for (permille, modifier, sign) in [
        (440, Modifier::empty(), "44.0  "),
        (450, Modifier::empty(), "45.0 ~"),
        (800, Modifier::BOLD, "80.0 !"),
        (950, Modifier::BOLD | Modifier::UNDERLINED, "95.0!!"),
    ] {
        assert_eq!(row(permille, false).modifier, modifier, "{permille}");
        let held = held(permille);
        let mut model = fixtures::lived(&[Life::new(77, held)], 3, |_| {});
        assert_eq!(found(&mut model, sign).len(), 1, "{permille}");
    }
}

#[test]
fn without_colour_there_is_none_in_any_view() {
    let mut models = vec![fixtures::degraded(), fixtures::in_detail(fixtures::incident(), 7)];
    for view in View::ALL {
        models.push(Model { view, ..fixtures::replay(fixtures::incident()) });
    }
    let help = Mode::Help { scroll: 0, back: Box::default() };
    for mode in [Mode::Sort(2), help] {
        models.push(Model { mode, ..fixtures::incident() });
    }
    for mut model in models {
        for colour in [true, false] {
            model.colour = colour;
            let terminal = drawn(&mut model, 120, 30);
            let cells = terminal.backend().buffer().content().iter();
            let coloured = cells.filter(|cell| (cell.fg, cell.bg) != (Color::Reset, Color::Reset));
            assert_eq!(coloured.count() > 0, colour, "{:?} {:?}", model.view, model.mode);
        }
    }
}

#[test]
fn exhaustion_and_losses_are_highlighted() {
    let alarm = found(&mut fixtures::incident(), "!! ports_exhausted");
    assert_eq!((alarm[0].fg, alarm[0].bg), (Color::White, Color::Red));
    let mut plain = fixtures::incident();
    plain.colour = false;
    let alarm = found(&mut plain, "!! ports_exhausted");
    assert_eq!(alarm[0].modifier, Modifier::BOLD | Modifier::UNDERLINED);
    assert_eq!(found(&mut fixtures::degraded(), "LOST 1,237")[0].fg, Color::LightRed);
}

#[test]
fn the_selected_row_and_the_view_are_marked_without_colour() {
    let mut model = fixtures::incident();
    model.colour = false;
    model.list.cursor = Some(2);
    let row = found(&mut model, "10.0.1.7:8080");
    assert!(row[0].modifier.contains(Modifier::REVERSED), "{row:?}");
    assert!(found(&mut model, "[1 tuples]")[0].modifier.contains(Modifier::REVERSED));
}
