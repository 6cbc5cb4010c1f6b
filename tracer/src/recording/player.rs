//! Makes of the lines of a recording the readings that the view shows, and goes to any time of it.

mod names;
mod owned_line;
mod settings;
mod state;

use std::{collections::VecDeque, path::PathBuf};

use names::Names;
use owned_line::OwnedLine;
use state::State;

use super::{
    line::Totals,
    reader::{At, Entry, Reader, Unreadable},
};
use crate::{
    error::Error,
    view::reading::{self, About, Snapshot, TupleSample},
};

/// How long before the wanted time a seek begins to read, ns: the screen at that time needs the tuples' past.
const LEAD_NS: u64 = 90 * SECOND;
const SECOND: u64 = 1_000_000_000;
/// How many lines are read at most for the settings of the namespaces of the first reading.
const FIRST_LINES: usize = 100_000;

/// Plays a recording: gives its readings one after the other, as a live view has them.
pub struct Player {
    reader: Reader,
    about: About,
    names: Names,
    state: State,
    /// A line that was read and not handled yet; `None`: the next one must be read.
    pending: Option<(At, OwnedLine)>,
    /// Readings that are complete and come next. They are of a recording without `tuple.stats`, so they have no tuples.
    ready: VecDeque<Snapshot>,
    /// Whether the next lines can be the rest of a reading whose beginning was not read.
    partial: bool,
    /// The time of the reading that [`Self::next`] returned last, ns since 1970; 0: it returned none yet.
    now_ns: u64,
    /// Time between two readings, ns; 0: not known.
    interval_ns: u64,
    /// Failed calls that were left out so far, because a reading had too many.
    failures_left_out: u64,
}

impl Player {
    /// Opens these files, in any order; `-` is stdin. Reads up to the first line that the player uses; of a pipe, waits for it.
    ///
    /// # Errors
    /// A file cannot be opened or read; the beginning of a zstd file cannot be decompressed; the first line of a file or pipe is
    /// not one of the format; a pipe is given together with other files; stdin is a terminal; all files, or the pipe, are empty.
    pub fn open(paths: &[PathBuf]) -> Result<Self, Error> {
        let mut player = Self {
            reader: Reader::open(paths)?,
            about: About::default(),
            names: Names::default(),
            state: State::default(),
            pending: None,
            ready: VecDeque::new(),
            partial: false,
            now_ns: 0,
            interval_ns: 0,
            failures_left_out: 0,
        };
        player.pending = player.read()?;
        // The oldest files of a rotated set may have been removed.
        player.partial = true;
        if let Some((at, OwnedLine::Start(start))) = &player.pending {
            player.about = start.about.clone();
            player.interval_ns = start.interval_ns;
            player.partial = false;
            if let Some(own) = &start.own {
                player.state.settings.set(at.wall_ns, own);
            }
        }
        Ok(player)
    }

    /// What the `tracer.start` that was read last says, with `degraded` from the `tracer.degraded` that was read last since then;
    /// empty if no such line was read. [`Self::seek`] does not change it.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Begin and end of the recording, ns since 1970; of either, 0: not known. A known end is not before the begin.
    pub fn span(&self) -> (u64, u64) {
        self.reader.span()
    }

    /// How many lines are missing in what was read so far, by gaps in `seq`. What is read again is not counted again, and what
    /// [`Self::seek`] skipped does not count.
    pub fn missing(&self) -> u64 {
        self.reader.missing()
    }

    /// How many lines, and ends of compressed files, could not be read so far; what is read again is not counted again.
    pub fn unreadable(&self) -> u64 {
        self.reader.unreadable()
    }

    /// What was left out so far because a limit was reached. First how many failed calls (a reading keeps only its newest 20,000
    /// entries), then how many names (of a cgroup, a container or a network namespace; at most 16 MiB are kept), each counted in
    /// every line that has it.
    pub fn left_out(&self) -> (u64, u64) {
        (self.failures_left_out, self.names.left_out())
    }

    /// The first line, or end of a compressed file, that could not be read; `None`: all could so far.
    pub fn first_unreadable(&self) -> Option<&Unreadable> {
        self.reader.first_unreadable()
    }

    /// Whether [`Self::seek`] can go back: the recording does not come from a pipe.
    pub fn is_seekable(&self) -> bool {
        self.reader.is_seekable()
    }

    /// The next line that the player uses; `None`: there is none up to the end of the recording.
    fn read(&mut self) -> Result<Option<(At, OwnedLine)>, Error> {
        let Self { reader, names, .. } = self;
        let mut line = None;
        reader.next(&mut |at, entry| line = Some((at, OwnedLine::of(entry, names))))?;
        Ok(line)
    }

    /// The time of the reading that [`Self::next`] returns next, by CLOCK_MONOTONIC, ns; `None`: the recording has no more
    /// readings. Reads up to that reading: [`Self::about`] and the counts change with it.
    ///
    /// # Errors
    /// A plain file cannot be read, or the next file cannot be opened for reading. Damaged lines and the damaged end of a zstd
    /// file are no errors: [`Self::unreadable`] counts them.
    pub fn upcoming(&mut self) -> Result<Option<u64>, Error> {
        loop {
            if let Some(reading) = self.ready.front() {
                return Ok(Some(reading.mono_ns));
            }
            let line = match self.pending.take() {
                Some(line) => Some(line),
                None => self.read()?,
            };
            match line {
                Some((at, line @ (OwnedLine::Tuple(_) | OwnedLine::Stats(_)))) => {
                    self.pending = Some((at, line));
                    if !self.partial {
                        return Ok(Some(at.mono_ns));
                    }
                    self.skip_partial(at)?;
                }
                Some((at, line)) => self.other_line(at, line),
                None if self.state.since.is_some() => self.close_second(),
                None => return Ok(None),
            }
        }
    }

    /// Calls `each` with each tuple of the next reading, in the order of their lines, then returns the rest of the reading;
    /// `None`: the recording has no more readings. A reading of a recording without `tuple.stats` has no tuples: it covers one
    /// second with failed calls, or shows that they ended. A reading whose `tracer.stats` is missing has the totals of the one
    /// before.
    ///
    /// # Errors
    /// Those of [`Self::upcoming`]; tuples that `each` was called with are then lost.
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

    /// Reads the reading whose first line is pending: calls `each` with each of its tuples, returns the rest.
    fn reading(&mut self, each: &mut dyn FnMut(&TupleSample<'_>)) -> Result<Snapshot, Error> {
        self.state.stats = Some(true);
        let mut of = None;
        loop {
            let line = match self.pending.take() {
                Some(line) => Some(line),
                None => self.read()?,
            };
            let Some((at, line)) = line else { break };
            let same = of.get_or_insert(at).mono_ns == at.mono_ns;
            match line {
                OwnedLine::Tuple(tuple) if same => tuple.give(at.mono_ns, each),
                OwnedLine::Stats(totals) if same => {
                    self.state.set(totals);
                    break;
                }
                line @ (OwnedLine::Tuple(_) | OwnedLine::Stats(_) | OwnedLine::Start(_)) => {
                    // The reading ended without its `tracer.stats`.
                    self.pending = Some((at, line));
                    break;
                }
                line => self.other_line(at, line),
            }
        }
        Ok(self.state.close(of.unwrap_or_default()))
    }

    /// Skips the rest of a reading whose beginning was not read. `of`: the time of the reading.
    fn skip_partial(&mut self, of: At) -> Result<(), Error> {
        self.partial = false;
        self.state.stats = Some(true);
        loop {
            let line = match self.pending.take() {
                Some(line) => Some(line),
                None => self.read()?,
            };
            match line {
                Some((at, OwnedLine::Tuple(_))) if at.mono_ns == of.mono_ns => {}
                Some((at, OwnedLine::Stats(totals))) if at.mono_ns == of.mono_ns => {
                    self.state.set(totals);
                    return Ok(());
                }
                Some((
                    at,
                    line @ (OwnedLine::Tuple(_) | OwnedLine::Stats(_) | OwnedLine::Start(_)),
                )) => {
                    self.pending = Some((at, line));
                    return Ok(());
                }
                Some((at, line)) => self.other_line(at, line),
                None => return Ok(()),
            }
        }
    }

    /// Handles a line that is not part of a reading: it changes the state, and can complete readings (see `ready`).
    fn other_line(&mut self, at: At, line: OwnedLine) {
        match line {
            OwnedLine::Start(start) => {
                if self.state.since.is_some() {
                    self.close_second();
                }
                self.about = start.about;
                self.interval_ns = start.interval_ns;
                self.state = State { stats: start.stats, ..State::default() };
                if let Some(own) = &start.own {
                    self.state.settings.set(at.wall_ns, own);
                }
                self.partial = false;
            }
            OwnedLine::Failure(failure) => {
                if self.state.stats != Some(true) {
                    self.failure_alone(at, &failure);
                }
                let left_out = self.state.failure(failure);
                self.failures_left_out = self.failures_left_out.saturating_add(left_out);
            }
            OwnedLine::Lost(reason, count) => {
                // In a recording with readings, their totals have the losses.
                if self.state.stats != Some(true) {
                    self.state.lost.add(&reason, count);
                }
            }
            OwnedLine::Degraded(now) => self.about.degraded = now,
            OwnedLine::Settings(settings) => self.state.settings.set(at.wall_ns, &settings),
            OwnedLine::Stop(totals) => {
                self.state.set(Totals { self_stats: self.state.self_stats, ..totals });
            }
            OwnedLine::Tuple(_) | OwnedLine::Stats(_) => {}
        }
    }

    /// Counts a failure in a recording without `tuple.stats`. There, a reading has the failures of one second, which
    /// begins with the first of them. A failure after that second completes this reading, and if it comes more than
    /// another second later, also an empty reading that shows that the failures ended.
    fn failure_alone(&mut self, at: At, failure: &reading::Failure) {
        if let Some(since) = self.state.since
            && at.mono_ns >= since.mono_ns.saturating_add(SECOND)
        {
            self.close_second();
            // A reading without failures shows that the failures ended.
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

    /// Goes to a time, ns since 1970. The next readings begin at least 90 s (or two intervals, if longer) before it, in a zstd
    /// file at its beginning, or at the recording's beginning: the screen at that time needs the tuples' past. After a time
    /// beyond the end, the last readings can follow, or none. Settings of a namespace stay known if their newest line that was
    /// read is at least 90 s (or two intervals) older than the wanted time; before the first reading was returned, the lines up
    /// to its end are read for that. On a pipe this does nothing: the caller reads forward to the time.
    ///
    /// # Errors
    /// The time is earlier than the newest reading, and the recording comes from a pipe; a plain file cannot be read, or a file
    /// cannot be opened for reading.
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
        if self.now_ns == 0 {
            self.read_first_settings()?;
        }
        // Far enough that a whole reading is before the time.
        let lead = LEAD_NS.max(self.interval_ns.saturating_mul(2));
        let begin_ns = wall_ns.saturating_sub(lead);
        let begin = self.reader.go_to(begin_ns)?;
        let State { stats, mut settings, .. } = std::mem::take(&mut self.state);
        settings.forget_after(begin_ns);
        self.state = State { stats, settings, ..State::default() };
        self.ready.clear();
        self.pending = self.read()?;
        let whole = matches!(self.pending, Some((_, OwnedLine::Start(_))));
        self.partial = !(begin && whole);
        Ok(())
    }

    /// Reads up to the end of the first reading, which has the settings of most namespaces: a seek would skip their lines. Keeps
    /// nothing else of these lines. For a player that has returned no reading yet.
    fn read_first_settings(&mut self) -> Result<(), Error> {
        let Self { reader, state, .. } = self;
        for _ in 0..FIRST_LINES {
            let mut ends = false;
            let more = reader.next(&mut |at, entry| match entry {
                Entry::Settings(settings) => state.settings.set(at.wall_ns, &settings),
                Entry::Stats(_) | Entry::Start(_) => ends = true,
                _ => {}
            })?;
            if ends || !more {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
