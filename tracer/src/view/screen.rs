//! The main loop: takes keys and readings, updates the model, draws the screen.

use std::{io, time::Duration};

use ratatui::crossterm::event::{self, Event, KeyEventKind, MouseEventKind};

use super::{
    model::{Model, Size},
    render,
    source::Source,
    terminal::{Keys, Screen},
    update::{Effect, Message, update},
};
use crate::{
    error::Error,
    runtime::{log, shutdown::StopSignals},
};

/// The longest wait for a key, before the loop checks for signals and asks the source for a reading.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Rows that one step of the mouse wheel moves.
const WHEEL: isize = 3;
/// The most events (keys, mouse, size) that are handled before the screen is drawn, so that it is also drawn while a key is
/// held down.
const KEYS: usize = 64;

/// Shows a source until a key ends it, `count` readings were shown (`None`: any number), a signal ends the program, or the
/// terminal is gone. The last of `count` readings stays on the screen until the next one would be due: if none will be, as
/// at the end of a recording, until a key ends it.
///
/// # Errors
/// Those of the source; the terminal cannot be used.
pub fn run(
    source: &mut dyn Source,
    mut model: Model,
    count: Option<u64>,
    signals: &StopSignals,
) -> Result<(), Error> {
    let cannot = |error: io::Error| Error::Failure(format!("cannot use the terminal: {error}"));
    let held = log::hold();
    let mut screen = Screen::take().map_err(cannot)?;
    let result = show(source, &mut model, (count, signals), &mut screen);
    drop(screen);
    drop(held);
    match result {
        Ok(()) => Ok(()),
        // It is no error that the terminal is gone: its user closed it.
        Err(Ended::Terminal(error)) if is_gone(&error) || signals.stop() => Ok(()),
        Err(Ended::Terminal(error)) => Err(cannot(error)),
        Err(Ended::Source(error)) => Err(error),
    }
}

/// What ended the loop.
enum Ended {
    Terminal(io::Error),
    Source(Error),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Terminal(error)
    }
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Source(error)
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EPIPE | libc::ENXIO | libc::EBADF))
        || error.kind() == io::ErrorKind::UnexpectedEof
}

fn show(
    source: &mut dyn Source,
    model: &mut Model,
    (count, signals): (Option<u64>, &StopSignals),
    screen: &mut Screen,
) -> Result<(), Ended> {
    let size = screen.0.size()?;
    model.size = Size { width: size.width, height: size.height };
    model.replay = source.replay(model);
    let keys = Keys::open()?;
    signals.end_with_terminal();
    let mut draw = advance(source, model)?;
    let mut readings = 1;
    loop {
        if draw {
            screen.0.draw(|frame| render::draw(model, frame))?;
        }
        draw = false;
        if signals.stop() {
            return Ok(());
        }
        keys.wait(source.due(model).map_or(POLL_INTERVAL, |due| due.min(POLL_INTERVAL)))?;
        signals.writing(true);
        let next = pressed(source, model)?;
        signals.writing(false);
        match next {
            Next::Leave => return Ok(()),
            Next::Draw => draw = true,
            Next::Nothing => {}
        }
        source.idle();
        for line in log::held() {
            update(model, Message::Notice(line));
            draw = true;
        }
        if source.due(model).is_some_and(|due| due.is_zero()) {
            // The last reading, too, is shown until the next one would be due.
            if count.is_some_and(|count| readings >= count) {
                return Ok(());
            }
            let advanced = advance(source, model)?;
            readings += u64::from(advanced);
            draw |= advanced;
        }
    }
}

/// Adds the next reading to the model. Returns whether the model changed: false if there is no reading, and the
/// recording's state is the same.
fn advance(source: &mut dyn Source, model: &mut Model) -> Result<bool, Error> {
    let read = source.next(model)?;
    let replay = source.replay(model);
    let changed = read.is_some() || replay != model.replay;
    if let Some(replay) = replay {
        update(model, Message::Replay(replay));
    }
    if let Some(reading) = read {
        update(model, Message::Read(Box::new(reading)));
    }
    Ok(changed)
}

/// What the loop does after keys.
enum Next {
    Leave,
    Draw,
    Nothing,
}

/// Handles the keys and other events of the terminal that wait, at most [`KEYS`].
fn pressed(source: &mut dyn Source, model: &mut Model) -> Result<Next, Ended> {
    let mut next = Next::Nothing;
    for _ in 0..KEYS {
        if !event::poll(Duration::ZERO)? {
            break;
        }
        let Some(message) = message(event::read()?) else { continue };
        match update(model, message) {
            Effect::None => {}
            Effect::Draw => next = Next::Draw,
            Effect::Leave => return Ok(Next::Leave),
            Effect::Play(what) => {
                source.play(model, what)?;
                next = Next::Draw;
            }
        }
    }
    Ok(next)
}

fn message(event: Event) -> Option<Message> {
    match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => Some(Message::Key(key)),
        Event::Resize(width, height) => Some(Message::Resize(Size { width, height })),
        Event::Mouse(mouse) => match mouse.kind {
            MouseEventKind::ScrollDown => Some(Message::Wheel(WHEEL)),
            MouseEventKind::ScrollUp => Some(Message::Wheel(-WHEEL)),
            _ => None,
        },
        _ => None,
    }
}
