//! Changes the model after a key, a reading or another message. No I/O, no clock.

mod list;
mod typing;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

pub use list::{refresh, worst};

use super::{
    answers,
    filter::Filter,
    group::GroupBy,
    input::Input,
    keys::{self, Action},
    model::{Direction, Mode, Model, Replay, Size, View},
    reading::Snapshot,
};

/// What happened.
#[derive(Clone, Debug)]
pub enum Message {
    Key(KeyEvent),
    /// The mouse wheel: rows down, or (negative) up.
    Wheel(isize),
    Resize(Size),
    /// A reading, whose tuples the history already has.
    Read(Box<Snapshot>),
    /// The state of the recording that is being played.
    Replay(Replay),
    /// A message for the bottom of the screen.
    Notice(String),
}

/// What the caller has to do next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Effect {
    None,
    Draw,
    Leave,
    /// Ask the player of a recording for this, and draw.
    Play(Play),
}

/// A request to the player of a recording.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Play {
    /// Pause or resume, as `Model::paused` says.
    Pause,
    /// Go to the next reading, or to the one before.
    Step(Direction),
    /// Go to this time, ns since 1970.
    Seek(u64),
    /// Play at this speed, as a multiple of real time.
    Speed(f64),
}

/// Limits of a replay's speed, as a multiple of real time.
const SLOWEST: f64 = 0.125;
const FASTEST: f64 = 1024.0;

/// Updates the model with what happened. Returns what the caller has to do next.
pub fn update(model: &mut Model, message: Message) -> Effect {
    match message {
        Message::Key(key) => {
            model.message = None;
            return pressed(model, &key);
        }
        Message::Wheel(rows) => move_by(model, rows),
        Message::Resize(size) => {
            model.size = size;
            refresh(model);
        }
        Message::Read(reading) => read(model, *reading),
        Message::Replay(replay) => model.replay = Some(replay),
        Message::Notice(text) => model.message = Some(text),
    }
    Effect::Draw
}

fn read(model: &mut Model, reading: Snapshot) {
    for failure in &reading.failures {
        model.failure_rates.add(failure);
        super::failures::remember(&mut model.failures, failure);
    }
    model.cpu_share = cpu_share(&model.reading, &reading);
    model.answers.remember(&reading.failures, model.history.now_ms());
    model.reading = reading;
    model.worst = worst(model);
    judge(model);
    super::failures::answer(&mut model.failures, &model.answers, &model.about);
    refresh(model);
    let shown: Vec<_> = model.list.rows.iter().map(|row| row.key).chain(model.detailed()).collect();
    if model.by == GroupBy::Tuple && model.view == View::Tuples {
        for key in &shown {
            model.history.watch(key);
        }
    }
}

/// Makes [`Model::answers`] again from the newest reading, and judges the tuple whose details are open in any case.
pub(super) fn judge(model: &mut Model) {
    let detailed = model.detailed();
    let Model { answers, history, about, reading, .. } = model;
    answers::refresh(answers, history, (about, reading), detailed);
}

/// CPU time of the tracer per elapsed time between two readings (1: a whole core); `None`: a reading does not say it, the
/// two are of different processes, or no time has passed.
fn cpu_share(before: &Snapshot, now: &Snapshot) -> Option<f64> {
    let cpu = now
        .self_stats
        .cpu_ns
        .checked_sub(before.self_stats.cpu_ns)
        .filter(|_| before.self_stats.cpu_ns > 0)?;
    let time = now.mono_ns.checked_sub(before.mono_ns).filter(|time| *time > 0)?;
    let seconds = |ns| std::time::Duration::from_nanos(ns).as_secs_f64();
    Some(seconds(cpu) / seconds(time))
}

fn pressed(model: &mut Model, key: &KeyEvent) -> Effect {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    if control && key.code == KeyCode::Char('c') {
        return Effect::Leave;
    }
    match &model.mode {
        Mode::Filter { .. } | Mode::Jump { .. } => typing::pressed(model, key),
        Mode::Sort(at) => sort_pressed(model, *at, key.code),
        Mode::Help { .. } => help_pressed(model, key.code),
        Mode::Browse | Mode::Detail(_) => match keys::action(key, model.is_live()) {
            Some(action) => act(model, action),
            None => Effect::None,
        },
    }
}

fn act(model: &mut Model, action: Action) -> Effect {
    match action {
        Action::Quit => return Effect::Leave,
        Action::Close if model.mode == Mode::Browse => return Effect::Leave,
        Action::Close | Action::Back => back(model),
        Action::Help => {
            let back = Box::new(std::mem::take(&mut model.mode));
            model.mode = Mode::Help { scroll: 0, back };
        }
        Action::Show(view) => show(model, view),
        Action::NextView => show(model, neighbour(model.view, 1)),
        Action::PreviousView => show(model, neighbour(model.view, View::ALL.len() - 1)),
        Action::Move(rows) => move_by(model, rows),
        Action::Page(pages) => {
            let rows = isize::try_from(list::height(model)).unwrap_or(1).max(2) - 1;
            move_by(model, pages * rows);
        }
        Action::First => move_by(model, isize::MIN),
        Action::Last => move_by(model, isize::MAX),
        Action::Open => open(model),
        Action::Sort => sort(model),
        Action::Reverse => {
            let sort = &mut model.sorts[model.view as usize];
            sort.reverse = !sort.reverse;
            model.selected = None;
            refresh(model);
        }
        Action::Filter => {
            let input = Input::new(model.filter.text());
            model.mode = Mode::Filter { input, error: None };
        }
        Action::Group => {
            if model.view != View::Tuples {
                show(model, View::Tuples);
            }
            model.mode = Mode::Browse;
            model.by = model.by.next();
            model.selected = None;
            refresh(model);
        }
        Action::Window => {
            model.window = model.window.next();
            refresh(model);
        }
        Action::Pause => return pause(model),
        Action::Step(direction) => {
            model.paused = true;
            return Effect::Play(Play::Step(direction));
        }
        Action::Jump(direction) => {
            model.mode = Mode::Jump { input: Input::default(), error: None, direction };
        }
        Action::Faster => return speed(model, 2.0),
        Action::Slower => return speed(model, 0.5),
    }
    Effect::Draw
}

fn pause(model: &mut Model) -> Effect {
    model.paused = !model.paused;
    if model.is_live() { Effect::Draw } else { Effect::Play(Play::Pause) }
}

fn speed(model: &mut Model, factor: f64) -> Effect {
    let Some(replay) = &mut model.replay else { return Effect::None };
    replay.speed = (replay.speed * factor).clamp(SLOWEST, FASTEST);
    Effect::Play(Play::Speed(replay.speed))
}

fn neighbour(view: View, steps: usize) -> View {
    let at = (view as usize + steps) % View::ALL.len();
    View::ALL[at]
}

fn show(model: &mut Model, view: View) {
    model.reading.holders = None;
    model.view = view;
    model.mode = Mode::Browse;
    model.selected = None;
    model.scroll = 0;
    model.list = super::model::List::default();
    refresh(model);
}

/// Goes back: closes what is open; if nothing is, removes the filter; if there is none, removes the selection.
fn back(model: &mut Model) {
    if model.mode != Mode::Browse {
        model.mode = Mode::Browse;
        model.scroll = 0;
    } else if !model.filter.is_empty() {
        model.filter = Filter::default();
    } else {
        model.selected = None;
        model.scroll = 0;
    }
    refresh(model);
}

/// Opens the selected row (or the first, if none is selected): a tuple's details, or the tuples of a group. Does nothing in
/// other modes and in views without rows.
fn open(model: &mut Model) {
    let row = model.selected.clone().or_else(|| model.list.rows.first().cloned());
    let (Mode::Browse, Some(row)) = (&model.mode, row) else { return };
    let by = match model.view {
        View::Tuples => model.by,
        View::Sources => GroupBy::Source,
        View::Processes => GroupBy::Process,
        View::Failures | View::SelfStats | View::Doctor => return,
    };
    if by == GroupBy::Tuple {
        model.history.watch(&row.key);
        // The known holders are not those of this tuple.
        model.reading.holders = None;
        model.mode = Mode::Detail(row.key);
        model.scroll = 0;
        judge(model);
        return;
    }
    match Filter::to_members(&row, by) {
        Some(filter) => {
            model.by = GroupBy::Tuple;
            show(model, View::Tuples);
            model.filter = filter;
            refresh(model);
        }
        None => model.message = Some(format!("the {} of these is not known", by.name())),
    }
}

fn sort(model: &mut Model) {
    let by = model.sort().by;
    let at = model.view.columns().iter().position(|column| *column == by);
    if model.mode == Mode::Browse && !model.view.columns().is_empty() {
        model.mode = Mode::Sort(at.unwrap_or(0));
    }
}

fn sort_pressed(model: &mut Model, at: usize, code: KeyCode) -> Effect {
    let columns = model.view.columns();
    let last = columns.len().saturating_sub(1);
    match code {
        KeyCode::Up | KeyCode::Left | KeyCode::Char('k') => {
            model.mode = Mode::Sort(at.saturating_sub(1));
        }
        KeyCode::Down | KeyCode::Right | KeyCode::Char('j') => {
            model.mode = Mode::Sort((at + 1).min(last));
        }
        KeyCode::Home => model.mode = Mode::Sort(0),
        KeyCode::End => model.mode = Mode::Sort(last),
        KeyCode::Enter => {
            if let Some(column) = columns.get(at) {
                let sort = &mut model.sorts[model.view as usize];
                *sort = super::model::Sort { by: *column, reverse: false };
            }
            model.mode = Mode::Browse;
            model.selected = None;
            refresh(model);
        }
        KeyCode::Esc | KeyCode::Char('q' | 's') => model.mode = Mode::Browse,
        _ => return Effect::None,
    }
    Effect::Draw
}

fn help_pressed(model: &mut Model, code: KeyCode) -> Effect {
    let Mode::Help { scroll, back } = &mut model.mode else { return Effect::None };
    match code {
        KeyCode::Up | KeyCode::Char('k') => *scroll = scroll.saturating_sub(1),
        KeyCode::Down | KeyCode::Char('j') => *scroll += 1,
        KeyCode::PageUp | KeyCode::Home => *scroll = 0,
        KeyCode::PageDown | KeyCode::End => *scroll += PAGE,
        KeyCode::Esc | KeyCode::Enter | KeyCode::Char('q' | '?' | 'h') | KeyCode::F(1) => {
            model.mode = std::mem::take(&mut **back);
        }
        _ => return Effect::None,
    }
    list::limit_scroll(model);
    Effect::Draw
}

/// Lines by which PgDn and End scroll the help. (PgUp and Home go to its beginning.)
const PAGE: usize = 10;

/// Moves the selection; in views without one, scrolls.
fn move_by(model: &mut Model, rows: isize) {
    if let Mode::Help { scroll, .. } = &mut model.mode {
        *scroll = scroll.saturating_add_signed(rows);
        list::limit_scroll(model);
    } else if model.detailed().is_some() || model.view.columns().is_empty() {
        model.scroll = model.scroll.saturating_add_signed(rows);
        list::limit_scroll(model);
    } else if model.mode == Mode::Browse {
        list::select(model, rows);
    }
}

#[cfg(test)]
mod tests;
