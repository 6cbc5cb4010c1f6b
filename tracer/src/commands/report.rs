//! `tracer report`: summarizes a recording, in one pass over it.

mod notes;
mod outcome;
mod place;
mod summary;
mod tally;
mod text;
mod to_do;

use super::bar::Bar;
use crate::{
    config::ReportConfig,
    doctor::recorded::Recorded,
    error::Error,
    format::json::terminal_safe,
    recording::{At, Entry, Reader},
};
use outcome::Report;
use summary::Summary;

/// Lines between two updates of the progress bar.
const STRIDE: u64 = 4096;
/// Tuples of a run of which it is known how they were, at most; and tuples of which it is known what to do.
const ADVISED: usize = 10_000;

/// Reads the files, and returns the report: text, or one line of JSON with a newline. What the report lacks (because a limit was
/// reached, or lines or events are missing) is also logged.
///
/// # Errors
/// A file cannot be opened, read or decompressed, or is not a recording (see [`Reader::open`]); the report cannot be formatted as
/// JSON. Damaged lines are no error: the report counts them.
pub fn run(config: &ReportConfig) -> Result<Vec<u8>, Error> {
    let mut reader = Reader::open(&config.files)?;
    let mut summary = Summary::default();
    let mut recorded = Recorded::for_advice(ADVISED);
    let mut bar = Bar::new();
    let mut left = STRIDE;
    let mut add = |at: At, entry: Entry<'_>| {
        summary.add(at, &entry);
        recorded.add(at, &entry);
    };
    while reader.next(&mut add)? {
        left -= 1;
        if left == 0 {
            left = STRIDE;
            bar.show(reader.progress());
        }
    }
    bar.end();
    let advised = recorded.advised();
    let report = Report::new(summary.finish(), &reader, &advised, config.limit);
    for limit in &report.limits {
        tracing::warn!("limit reached: {limit}");
    }
    if let Some(incomplete) = text::incomplete(&report) {
        tracing::warn!("{}", crate::format::text::line(&incomplete));
    }
    if !config.json {
        return Ok(text::render(&report).into_bytes());
    }
    let mut json = terminal_safe(&report)
        .map_err(|error| Error::Failure(format!("cannot format the report: {error}")))?;
    json.push(b'\n');
    Ok(json)
}

#[cfg(test)]
mod tests;
