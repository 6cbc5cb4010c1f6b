//! `tracer record`: writes the events of the ring buffer, and readings of the ledger (tuples, addresses, totals), as lines.

pub(crate) mod delivery;
pub(crate) mod output;
mod output_errors;
mod progress;
pub(crate) mod queue;
pub(crate) mod recorder;
mod settings;
pub(crate) mod stream;
pub(crate) mod totals;

use progress::Progress;
use tracer_common::Filter;

use self::{
    output::Output,
    recorder::{Ended, Recorder, Work},
    stream::Stream,
};
use crate::{
    config::RecordConfig, error::Error, export::sink::Sink, host::callers::Callers,
    ledger::trace::Tracer, runtime::shutdown::StopSignals,
};

/// Records until a signal asks to stop, the duration is over, or the reader of the output is gone. Lines that the output does
/// not take are dropped and counted; the recording continues.
///
/// # Errors
/// A BPF map cannot be read, or the ledger refuses a command. Else, at the end of the recording: the output did not take some
/// lines. It is no error that its reader is gone, or that lines could not be compressed.
pub fn run(
    tracer: Tracer,
    config: &RecordConfig,
    filter: Filter,
    sink: Sink,
    callers: Callers,
    signals: &StopSignals,
) -> Result<(), Error> {
    let output = Output::new(sink, config.output.rotation.as_ref(), signals.clone());
    let stream = Stream::new(output, config.clone(), &filter, true);
    let mut recorder = Recorder::new(tracer, callers, vec![stream]);
    let mut progress = Shown(Progress::new(config));
    let ended = recorder.run(signals, config.duration, &mut progress);
    progress.0.end();
    match ended {
        Ok(()) => recorder
            .streams()
            .first()
            .and_then(Stream::failure)
            .map_or(Ok(()), |it| Err(Error::Failure(it))),
        Err(Ended::Failed(error)) => Err(error),
        // It is no error that the reader of the output stops reading.
        Err(Ended::Closed) => Ok(()),
    }
}

/// Shows the progress each second.
struct Shown(Progress);

impl Work for Shown {
    fn tick(&mut self, recorder: &mut Recorder) -> Result<(), Error> {
        let totals = recorder.shared.tracer.totals()?;
        if let Some(stream) = recorder.streams().first() {
            self.0.show(stream.events, &totals, stream.taken().dropped.events);
        }
        Ok(())
    }
}
