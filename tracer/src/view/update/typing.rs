//! Handles keys while a filter or a time is typed.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{
    super::{
        filter::Filter,
        model::{Mode, Model},
        time_input,
    },
    Effect, Play, refresh,
};

/// Handles a key of the modes in which a line is typed, and returns what the caller has to do next; in other modes, does nothing.
pub(super) fn pressed(model: &mut Model, key: &KeyEvent) -> Effect {
    let (Mode::Filter { input, error } | Mode::Jump { input, error, .. }) = &mut model.mode else {
        return Effect::None;
    };
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    *error = None;
    match key.code {
        KeyCode::Esc => model.mode = Mode::Browse,
        KeyCode::Enter => return entered(model),
        KeyCode::Char('u') if control => input.clear(),
        KeyCode::Char('a') if control => input.home(),
        KeyCode::Char('e') if control => input.end(),
        KeyCode::Char(letter) if !control => input.insert(letter),
        KeyCode::Backspace => {
            if !input.backspace() && input.text().is_empty() {
                model.mode = Mode::Browse;
            }
        }
        KeyCode::Left => input.left(),
        KeyCode::Right => input.right(),
        KeyCode::Home => input.home(),
        KeyCode::End => input.end(),
        _ => return Effect::None,
    }
    Effect::Draw
}

/// Applies what was typed.
fn entered(model: &mut Model) -> Effect {
    match &mut model.mode {
        Mode::Filter { input, error } => match Filter::parse(input.text()) {
            Ok(filter) => {
                model.filter = filter;
                model.mode = Mode::Browse;
                model.selected = None;
                refresh(model);
            }
            Err(reason) => *error = Some(reason),
        },
        Mode::Jump { input, error, direction } => {
            let replay = model.replay.as_ref();
            let base = time_input::Base {
                now_ns: model.reading.wall_ns,
                begin_ns: replay.map_or(0, |replay| replay.begin_ns),
                end_ns: replay.map_or(u64::MAX, |replay| replay.end_ns),
                zone: model.zone.clone(),
            };
            match time_input::parse(input.text(), &base, *direction) {
                Ok(ns) => {
                    model.mode = Mode::Browse;
                    return Effect::Play(Play::Seek(ns));
                }
                Err(reason) => *error = Some(reason),
            }
        }
        _ => {}
    }
    Effect::Draw
}
