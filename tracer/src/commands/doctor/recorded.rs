//! `tracer doctor --from`: the diagnosis of a recording.

use std::time::Duration;

use crate::{
    cli::{DoctorFormat, NetnsRef},
    commands::bar::Bar,
    config::DoctorConfig,
    doctor::{
        recorded::{Damage, MOST_TUPLES, Recorded},
        show::{self, Diagnosis, OfRecording},
        verdict::{self, Verdict},
    },
    error::Error,
    recording::Reader,
    runtime::{clock, stdout},
};

/// Lines between two updates of the progress bar.
const STRIDE: u64 = 4_096;

/// Prints the diagnosis of the recordings, and returns its verdict. A reader of stdout that is gone changes nothing. Damaged
/// lines are no error: a check says how many.
///
/// # Errors
/// A namespace is named by a path; a file cannot be opened, read or decompressed, or is not a recording (see [`Reader::open`]);
/// stdout cannot be written.
pub fn run(config: &DoctorConfig) -> Result<Verdict, Error> {
    let diagnosis = diagnose(config)?;
    let text = match config.format {
        DoctorFormat::Text => show::text(&diagnosis),
        DoctorFormat::Json => show::json_line(&diagnosis)?,
        DoctorFormat::Plugin => show::plugin(&diagnosis),
    };
    stdout::print(text.as_bytes())?;
    Ok(diagnosis.verdict)
}

fn diagnose(config: &DoctorConfig) -> Result<Diagnosis, Error> {
    if let Some(path) = config.netns.iter().find(|it| matches!(it, NetnsRef::Path(_))) {
        return Err(Error::Usage(format!(
            "--netns {path}: a recording knows a network namespace by its name in /run/netns or by its inode number; name one of these"
        )));
    }
    let mut reader = Reader::open(&config.from)?;
    let mut recorded = Recorded::new(config.netns.clone(), MOST_TUPLES);
    let mut bar = Bar::new();
    let mut left = STRIDE;
    while reader.next(&mut |at, entry| recorded.add(at, &entry))? {
        left -= 1;
        if left == 0 {
            left = STRIDE;
            bar.show(reader.progress());
        }
    }
    bar.end();
    let damage = Damage {
        missing: reader.missing(),
        unreadable: reader.unreadable(),
        first: reader.first_unreadable().map(ToString::to_string),
    };
    let judged = recorded.finish(&damage);
    let mut findings = judged.findings;
    let verdict = verdict::verdict(&findings, &judged.checks);
    let left_out = verdict::shorten(&mut findings);
    let (begin_ns, end_ns) = judged.span;
    let (lines, readings) = (reader.lines(), judged.readings);
    Ok(Diagnosis {
        wall_ns: clock::wall_ns(),
        host: judged.about.host,
        kernel: judged.about.kernel,
        window: Duration::try_from_secs_f64(judged.watched_s).unwrap_or_default(),
        metrics: judged.metrics,
        findings,
        left_out,
        checks: judged.checks,
        verdict,
        judged: None,
        changes: None,
        recording: Some(OfRecording { begin_ns, end_ns, lines, readings }),
    })
}

#[cfg(test)]
mod tests;
