//! Where readings come from: a running tracer, or a recording.

use std::time::Duration;

use super::{
    model::{Model, Replay},
    reading::Snapshot,
    update::Play,
};
use crate::error::Error;

/// Gives readings to a [`Model`].
pub trait Source {
    /// Feeds the book with the next reading, and returns the rest of it; `None`: there is none yet,
    /// or none any more.
    ///
    /// # Errors
    /// What makes going on senseless.
    fn next(&mut self, model: &mut Model) -> Result<Option<Snapshot>, Error>;

    /// Time until the next reading; `None`: there will be none unless somebody asks for it.
    fn due(&self, model: &Model) -> Option<Duration>;

    /// Looks after what cannot wait for the next reading.
    fn idle(&mut self) {}

    /// Does what was asked for. The model may be made anew.
    ///
    /// # Errors
    /// As [`Self::next`]; a request that cannot be met is said in the model's message.
    fn play(&mut self, model: &mut Model, what: Play) -> Result<(), Error> {
        _ = (model, what);
        Ok(())
    }

    /// Where the recording is, and what of it has no place in this model; `None`: it is live.
    fn replay(&self, model: &Model) -> Option<Replay> {
        _ = model;
        None
    }
}
