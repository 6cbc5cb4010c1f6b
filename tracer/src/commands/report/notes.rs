//! The texts of a report that say what it lacks.

use std::borrow::Cow;

use super::{outcome::ts, summary::Summary};

/// What the report lacks because a limit of memory was reached, one text for people each; empty: no limit was reached.
pub(super) fn limits(summary: &Summary) -> Vec<String> {
    let mut limits = Vec::new();
    if summary.forgotten > 0 {
        limits.push(format!(
            "more than {} tuples: those that were least full and failed least were forgotten {} times; the \
             number of tuples may be too high, and failures by process too low",
            summary.limits.tuples, summary.forgotten
        ));
    }
    if summary.unnamed > 0 {
        limits.push(format!(
            "more than {} process names: {} failed calls of the others are counted as one name",
            summary.limits.names, summary.unnamed
        ));
    }
    limits
}

/// What else the report lacks, and how to record it, one text for people each; empty: nothing.
pub(super) fn notes(summary: &Summary) -> Vec<Cow<'static, str>> {
    let mut notes = Vec::new();
    if summary.readings == 0 {
        notes.push(
            "there are no readings in it: how full tuples were is only known where a connect() \
             found no port. Record with --events failed,stats,lost"
                .into(),
        );
    }
    if summary.failures_wanted == Some(false) {
        notes.push(
            "single failures were not recorded: counters say how many there were, not when and \
             by whom. Record with --events failed,stats,lost"
                .into(),
        );
    }
    if summary.without_begin > 0 {
        notes.push(
            "it begins in the middle of a run: what was counted before that is left out".into(),
        );
    }
    if summary.without_end > 0 {
        let runs = if summary.runs == 1 { "it has" } else { "a run has" };
        notes.push(format!("{runs} no end (tracer.stop): the newest lines are missing").into());
    }
    let incomplete = |(since, reason): &(u64, String)| {
        format!("it may be incomplete from {} on: {reason}", ts(*since)).into()
    };
    notes.extend(summary.degraded.iter().map(incomplete));
    if summary.degraded_others > 0 {
        notes.push(
            format!("it may be incomplete for other reasons too: {}", summary.degraded_others)
                .into(),
        );
    }
    notes
}
