//! Where readings come from: a running tracer, or a recording.

use std::time::Duration;

use super::{
    model::{Model, Replay},
    reading::Snapshot,
    update::Play,
};
use crate::error::Error;

/// Provides readings for a [`Model`].
pub trait Source {
    /// Adds the tuples of the next reading to the model's history, and returns the rest of the reading; `None`: a live
    /// source is paused, or a recording has no more readings.
    ///
    /// # Errors
    /// The source failed, and has no more readings.
    fn next(&mut self, model: &mut Model) -> Result<Option<Snapshot>, Error>;

    /// Time until [`Self::next`] should be called; zero: now. `None`: a recording is paused or at its end, so that there is no
    /// next reading unless a key asks for it.
    fn due(&self, model: &Model) -> Option<Duration>;

    /// Does work that cannot wait for the next reading. Called many times between two readings.
    fn idle(&mut self) {}

    /// Does what a key asked of the player of a recording. It may change the model: a jump replaces the history. A live
    /// source does nothing.
    ///
    /// # Errors
    /// The source failed, and has no more readings. A request that cannot be met is no error: the model's message says so.
    fn play(&mut self, model: &mut Model, what: Play) -> Result<(), Error> {
        _ = (model, what);
        Ok(())
    }

    /// The state of the recording, and what this model left out because of its limits; `None`: the source is live.
    fn replay(&self, model: &Model) -> Option<Replay> {
        _ = model;
        None
    }
}
