//! Lines put together to readings.

mod held;
mod names;
mod state;

use std::{collections::VecDeque, path::PathBuf};

use held::Held;
use names::Names;
use state::State;

use super::{
    line::Totals,
    reader::{At, Reader, Unreadable},
};
use crate::{
    error::Error,
    view::reading::{self, About, Snapshot, TupleSample},
};

/// How long before a time the readings begin that lead to what is known at that time.
const LEAD_NS: u64 = 90 * SECOND;
const SECOND: u64 = 1_000_000_000;

/// Plays a recording: the readings that a live view would have had.
pub struct Player {
    reader: Reader,
    about: About,
    names: Names,
    state: State,
    held: Option<(At, Held)>,
    /// Readings without tuples that are complete.
    ready: VecDeque<Snapshot>,
    /// The rest of a reading comes first, whose beginning was not read.
    partial: bool,
    /// Of the newest reading, ns since 1970.
    now_ns: u64,
    /// Between two readings, as far as it is said.
    interval_ns: u64,
    failures_left_out: u64,
}

impl Player {
    /// Opens these files; `-` is stdin. Their order does not matter.
    ///
    /// # Errors
    /// A file that cannot be opened or is no recording; nothing but empty files.
    pub fn open(paths: &[PathBuf]) -> Result<Self, Error> {
        let mut player = Self {
            reader: Reader::open(paths)?,
            about: About::default(),
            names: Names::default(),
            state: State::default(),
            held: None,
            ready: VecDeque::new(),
            partial: false,
            now_ns: 0,
            interval_ns: 0,
            failures_left_out: 0,
        };
        player.held = player.read()?;
        // Of a rotated set, the oldest files can be gone.
        player.partial = true;
        if let Some((_, Held::Start(start))) = &player.held {
            player.about = start.about.clone();
            player.interval_ns = start.interval_ns;
            player.partial = false;
        }
        Ok(player)
    }

    /// What holds for the readings since the last `tracer.start` that was read.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// When it begins and ends, ns since 1970; 0: not known. The end is not before the beginning.
    pub fn span(&self) -> (u64, u64) {
        self.reader.span()
    }

    /// Lines that should be there and are not, in what was read so far.
    pub fn missing(&self) -> u64 {
        self.reader.missing()
    }

    /// Lines that could not be read so far.
    pub fn unreadable(&self) -> u64 {
        self.reader.unreadable()
    }

    /// Failed calls that were more than one reading can have, and lines whose names (of a cgroup, a container or
    /// a network namespace) were too many, so far.
    pub fn left_out(&self) -> (u64, u64) {
        (self.failures_left_out, self.names.left_out())
    }

    pub fn first_unreadable(&self) -> Option<&Unreadable> {
        self.reader.first_unreadable()
    }

    /// Whether [`Self::seek`] can go back.
    pub fn is_seekable(&self) -> bool {
        self.reader.is_seekable()
    }

    fn read(&mut self) -> Result<Option<(At, Held)>, Error> {
        let Self { reader, names, .. } = self;
        let mut held = None;
        reader.next(&mut |at, entry| held = Some((at, Held::of(entry, names))))?;
        Ok(held)
    }

    /// CLOCK_MONOTONIC of the reading that [`Self::next`] gives next, ns; `None`: there is none.
    ///
    /// # Errors
    /// Reading fails.
    pub fn upcoming(&mut self) -> Result<Option<u64>, Error> {
        loop {
            if let Some(reading) = self.ready.front() {
                return Ok(Some(reading.mono_ns));
            }
            let held = match self.held.take() {
                Some(held) => Some(held),
                None => self.read()?,
            };
            match held {
                Some((at, held @ (Held::Tuple(_) | Held::Stats(_)))) => {
                    self.held = Some((at, held));
                    if !self.partial {
                        return Ok(Some(at.mono_ns));
                    }
                    self.pass_partial(at)?;
                }
                Some((at, held)) => self.between(at, held),
                None if self.state.since.is_some() => self.close_second(),
                None => return Ok(None),
            }
        }
    }

    /// Gives the next reading: first its tuples, then the rest; `None`: there is none.
    ///
    /// # Errors
    /// Reading fails.
    pub fn next(
        &mut self,
        each: &mut dyn FnMut(&TupleSample<'_>),
    ) -> Result<Option<Snapshot>, Error> {
        if self.upcoming()?.is_none() {
            return Ok(None);
        }
        let reading = match self.ready.pop_front() {
            Some(reading) => reading,
            None => self.reading(each)?,
        };
        self.now_ns = reading.wall_ns;
        Ok(Some(reading))
    }

    /// The reading that the line which is held begins.
    fn reading(&mut self, each: &mut dyn FnMut(&TupleSample<'_>)) -> Result<Snapshot, Error> {
        self.state.stats = Some(true);
        let mut of = None;
        loop {
            let held = match self.held.take() {
                Some(held) => Some(held),
                None => self.read()?,
            };
            let Some((at, held)) = held else { break };
            let same = of.get_or_insert(at).mono_ns == at.mono_ns;
            match held {
                Held::Tuple(kept) if same => kept.look(at.mono_ns, each),
                Held::Stats(totals) if same => {
                    self.state.set(totals);
                    break;
                }
                held @ (Held::Tuple(_) | Held::Stats(_) | Held::Start(_)) => {
                    // Its end is missing.
                    self.held = Some((at, held));
                    break;
                }
                held => self.between(at, held),
            }
        }
        Ok(self.state.close(of.unwrap_or_default()))
    }

    /// Passes over the rest of a reading whose beginning was not read.
    fn pass_partial(&mut self, of: At) -> Result<(), Error> {
        self.partial = false;
        self.state.stats = Some(true);
        loop {
            let held = match self.held.take() {
                Some(held) => Some(held),
                None => self.read()?,
            };
            match held {
                Some((at, Held::Tuple(_))) if at.mono_ns == of.mono_ns => {}
                Some((at, Held::Stats(totals))) if at.mono_ns == of.mono_ns => {
                    self.state.set(totals);
                    return Ok(());
                }
                Some((at, held @ (Held::Tuple(_) | Held::Stats(_) | Held::Start(_)))) => {
                    self.held = Some((at, held));
                    return Ok(());
                }
                Some((at, held)) => self.between(at, held),
                None => return Ok(()),
            }
        }
    }

    /// A line that is of no reading.
    fn between(&mut self, at: At, held: Held) {
        match held {
            Held::Start(start) => {
                if self.state.since.is_some() {
                    self.close_second();
                }
                self.about = start.about;
                self.interval_ns = start.interval_ns;
                self.state = State { stats: start.stats, ..State::default() };
                self.partial = false;
            }
            Held::Failure(failure) => {
                if self.state.stats != Some(true) {
                    self.failure_alone(at, &failure);
                }
                let left_out = self.state.failure(failure);
                self.failures_left_out = self.failures_left_out.saturating_add(left_out);
            }
            Held::Lost(reason, count) => {
                // Totals say the same.
                if self.state.stats != Some(true) {
                    self.state.lost.add(&reason, count);
                }
            }
            Held::Degraded(now) => self.about.degraded = now,
            Held::Stop(totals) => {
                self.state.set(Totals { self_stats: self.state.self_stats, ..totals })
            }
            Held::Tuple(_) | Held::Stats(_) => {}
        }
    }

    /// Where there are no other readings, the failures of each second are one.
    fn failure_alone(&mut self, at: At, failure: &reading::Failure) {
        if let Some(since) = self.state.since
            && at.mono_ns >= since.mono_ns.saturating_add(SECOND)
        {
            self.close_second();
            // Nothing failed from then on, for a while.
            let empty = since.later(2 * SECOND);
            if at.mono_ns > empty.mono_ns {
                self.ready.push_back(self.state.close(empty));
            }
        }
        self.state.since.get_or_insert(at);
        let count = &mut self.state.failed[failure.cause as usize];
        *count = count.saturating_add(1);
    }

    fn close_second(&mut self) {
        if let Some(since) = self.state.since.take() {
            self.ready.push_back(self.state.close(since.later(SECOND)));
        }
    }

    /// Goes to a time, ns since 1970: the readings that come next begin some 90 s before it, so
    /// that what was known at that time can be known again. On a pipe it can only go forward, and
    /// passes nothing over.
    ///
    /// # Errors
    /// Going back on a pipe; reading fails.
    pub fn seek(&mut self, wall_ns: u64) -> Result<(), Error> {
        if !self.is_seekable() {
            if wall_ns < self.now_ns {
                return Err(Error::Failure(
                    "cannot go back in a recording that comes from a pipe; write it to a file \
                     first"
                        .into(),
                ));
            }
            return Ok(());
        }
        // At least one whole reading has to lie before it.
        let lead = LEAD_NS.max(self.interval_ns.saturating_mul(2));
        let begin = self.reader.go_to(wall_ns.saturating_sub(lead))?;
        self.state = State { stats: self.state.stats, ..State::default() };
        self.ready.clear();
        self.held = self.read()?;
        let whole = matches!(self.held, Some((_, Held::Start(_))));
        self.partial = !(begin && whole);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
