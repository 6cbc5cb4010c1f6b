//! `tracer replay`: plays a recording as a source of readings.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    commands::top::{Batch, is_batch, model},
    config::ReplayConfig,
    error::Error,
    recording::Player,
    runtime::shutdown,
    view::{
        answers::Answers,
        failures::FailureRates,
        model::{Direction, Model, Replay},
        reading::Snapshot,
        screen,
        source::Source,
        time_input::{self, Base},
        tuple_history::TupleHistory,
        update::{Message, Play, update},
    },
};

/// Shows a recording: as text to its end, on a terminal until a key ends it. A signal, or the number of readings that is wanted,
/// ends both earlier.
///
/// # Errors
/// A file cannot be opened, read or decompressed, or is not a recording (see [`Player::open`]); the value of `--at` is not a
/// time; the terminal or stdout cannot be used; a signal asked to stop, but the work does not ([`shutdown::run`]).
pub fn run(config: &ReplayConfig) -> Result<(), Error> {
    let config = config.clone();
    let player = Player::open(&config.files)?;
    shutdown::run(move |signals| {
        let mut source = Recorded::new(player, &config);
        let mut model = model(source.player.about().clone(), &config.show);
        model.history = TupleHistory::of(TUPLES);
        if let Some(at) = &config.at {
            source.begin_at(&mut model, at)?;
        }
        if is_batch(&config.show) {
            Batch::new(&config.show, &signals).recorded(&mut source, model)
        } else {
            screen::run(&mut source, model, config.show.count, &signals)
        }
    })
}

/// A recording that is played.
struct Recorded {
    player: Player,
    name: String,
    speed: f64,
    /// The reading that `--at` asks for, until [`Source::next`] returns it; `None`: there is none to return first.
    found: Option<Snapshot>,
    /// When the newest reading was read, or when the user paused or resumed the playing after that.
    shown_at: Instant,
    /// The time of the newest reading by CLOCK_MONOTONIC of the recorded host, ns; 0: there is none yet.
    shown_ns: u64,
    /// The time of the next reading by CLOCK_MONOTONIC of the recorded host, ns; 0 until the first reading is read. `None`:
    /// there is no further reading.
    next_ns: Option<u64>,
    /// The times of the readings that were played, the shown one last, ns since 1970: to step back. Emptied by a jump.
    played: VecDeque<u64>,
    /// Whether the log has said that a limit was reached.
    warned: bool,
}

/// The most tuples that the history keeps at a time.
const TUPLES: usize = 100_000;

/// The most readings whose times are kept, to step back.
const PLAYED: usize = 100_000;
/// A longer time between two readings (no tracer was running) is shortened to this, before the speed is applied.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

impl Recorded {
    fn new(player: Player, config: &ReplayConfig) -> Self {
        let name = match &config.files[..] {
            [file] => file.display().to_string(),
            files => format!("{} files", files.len()),
        };
        Self {
            player,
            name,
            speed: config.speed,
            found: None,
            shown_at: Instant::now(),
            shown_ns: 0,
            next_ns: Some(0),
            played: VecDeque::new(),
            warned: false,
        }
    }

    fn begin_at(&mut self, model: &mut Model, at: &str) -> Result<(), Error> {
        let (begin_ns, end_ns) = self.player.span();
        let base = Base {
            now_ns: begin_ns,
            begin_ns,
            end_ns: if end_ns == 0 { u64::MAX } else { end_ns },
            zone: model.zone.clone(),
        };
        let ns = time_input::parse(at, &base, Direction::Forward)
            .map_err(|error| Error::Usage(format!("--at {at}: {error}")))?;
        self.found = self.go_to(model, ns)?;
        Ok(())
    }

    /// Plays up to the first reading at `ns` (since 1970) or after it, or if there is none, to the last one. Returns that
    /// reading, which the model does not have yet; `None`: there is no reading. Empties the history first. A time outside of
    /// the recording counts as its begin or end, and a message on the screen says so.
    fn go_to(&mut self, model: &mut Model, ns: u64) -> Result<Option<Snapshot>, Error> {
        let (begin_ns, end_ns) = self.player.span();
        let end_ns = if end_ns == 0 { u64::MAX } else { end_ns };
        if !(begin_ns..=end_ns).contains(&ns) {
            model.message = Some("that time is outside of the recording".to_owned());
        }
        // clamp() would panic if the end was before the beginning.
        let ns = ns.min(end_ns).max(begin_ns);
        self.player.seek(ns)?;
        model.history = TupleHistory::of(TUPLES);
        model.failures.clear();
        model.answers = Answers::default();
        model.failure_rates = FailureRates::default();
        self.played.clear();
        let mut newest = None;
        while let Some(reading) = self.read(model)? {
            if let Some(before) = newest.take() {
                update(model, Message::Read(before));
            }
            let reached = reading.wall_ns >= ns;
            newest = Some(Box::new(reading));
            if reached {
                break;
            }
        }
        Ok(newest.map(|reading| *reading))
    }

    /// Adds the tuples of the next reading to the history, and returns the rest of it; `None`: the recording has ended.
    fn read(&mut self, model: &mut Model) -> Result<Option<Snapshot>, Error> {
        let Some(mono_ns) = self.player.upcoming()? else { return Ok(None) };
        model.history.begin(mono_ns);
        let Some(reading) = self.player.next(&mut |sample| model.history.add(sample))? else {
            return Ok(None);
        };
        model.history.end(&reading);
        if *model.about != *self.player.about() {
            model.about = self.player.about().clone().into();
        }
        if self.played.len() == PLAYED {
            self.played.pop_front();
        }
        self.played.push_back(reading.wall_ns);
        self.warn(model);
        self.shown_ns = mono_ns;
        self.shown_at = Instant::now();
        self.next_ns = self.player.upcoming()?;
        Ok(Some(reading))
    }

    /// What was left out so far because a limit was reached, one text each; empty: no limit was reached.
    fn limits(&self, model: &Model) -> Vec<String> {
        let (failures, names) = self.player.left_out();
        let limits = [
            (model.history.left_out(), "tuples left out"),
            (failures, "failures left out"),
            (names, "lines without their names"),
        ];
        let reached = limits.into_iter().filter(|(count, _)| *count > 0);
        reached.map(|(count, what)| format!("{count} {what}")).collect()
    }

    /// Logs once that a limit was reached.
    fn warn(&mut self, model: &Model) {
        if self.warned {
            return;
        }
        let limits = self.limits(model);
        if !limits.is_empty() {
            self.warned = true;
            tracing::warn!(
                "limit reached, so that memory stays within bounds: {}",
                limits.join(", ")
            );
        }
    }

    /// Shows the reading at `ns` (since 1970). If that fails, or there is none, a message on the screen says so.
    fn show(&mut self, model: &mut Model, ns: u64) {
        match self.go_to(model, ns) {
            Ok(Some(reading)) => _ = update(model, Message::Read(Box::new(reading))),
            Ok(None) => {
                model.message = Some("the recording has no reading at that time".to_owned());
            }
            Err(error) => model.message = Some(error.to_string()),
        }
    }

    fn step_back(&mut self, model: &mut Model) {
        let before = self.played.len().checked_sub(2).and_then(|at| self.played.get(at)).copied();
        match before {
            Some(ns) => self.show(model, ns),
            None => {
                model.message =
                    Some("no earlier reading is in memory; j jumps to a time".to_owned());
            }
        }
    }
}

impl Source for Recorded {
    fn next(&mut self, model: &mut Model) -> Result<Option<Snapshot>, Error> {
        match self.found.take() {
            Some(reading) => Ok(Some(reading)),
            None => self.read(model),
        }
    }

    fn due(&self, model: &Model) -> Option<Duration> {
        if self.found.is_some() {
            return Some(Duration::ZERO);
        }
        let next_ns = self.next_ns.filter(|_| !model.paused)?;
        let pause = Duration::from_nanos(next_ns.saturating_sub(self.shown_ns));
        let pause = pause.min(LONGEST_PAUSE).div_f64(self.speed);
        Some(pause.saturating_sub(self.shown_at.elapsed()))
    }

    fn play(&mut self, model: &mut Model, what: Play) -> Result<(), Error> {
        match what {
            // The wait for the next reading begins again, so that a pause does not shorten it.
            Play::Pause => self.shown_at = Instant::now(),
            Play::Speed(speed) => self.speed = speed,
            Play::Seek(ns) => self.show(model, ns),
            Play::Step(Direction::Back) => self.step_back(model),
            Play::Step(Direction::Forward) => match self.next(model)? {
                Some(reading) => _ = update(model, Message::Read(Box::new(reading))),
                None => model.message = Some("this is the last reading".to_owned()),
            },
        }
        model.replay = self.replay(model);
        Ok(())
    }

    fn replay(&self, model: &Model) -> Option<Replay> {
        let (begin_ns, end_ns) = self.player.span();
        Some(Replay {
            begin_ns,
            end_ns,
            speed: self.speed,
            at_end: self.next_ns.is_none(),
            missing: self.player.missing(),
            unreadable: self.player.unreadable(),
            limits: self.limits(model),
            name: self.name.clone(),
        })
    }
}

#[cfg(test)]
mod tests;
