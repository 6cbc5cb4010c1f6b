//! A diagnosis for people: one line of verdict, the findings, and what was not checked. Lines have at most 100 columns, except
//! commands, which are never broken, and words that are wider.

use std::fmt::Write as _;

use super::{
    Diagnosis, OfRecording,
    lines::{Commands, Lines, Part},
};
use crate::{
    doctor::{
        changes::{Changes, Missed},
        finding::{Change, Severity},
        judge::subject,
        scope::Judged,
        verdict::{Check, Missing, Verdict},
    },
    format::timestamp::Timestamp,
};

/// The most columns of a line.
const WIDTH: usize = 100;
/// How many findings that are missing are listed.
const MOST_MISSED: usize = 16;

/// The diagnosis as text, with a newline at its end, without control characters. Of the findings that are missing or solved since
/// the last round, 16 each are listed, the rest counted.
pub fn text(diagnosis: &Diagnosis) -> String {
    let mut out = Lines { all: Vec::new(), room: WIDTH, commands: Commands::Whole };
    if let Some(changes) = &diagnosis.changes {
        if changes.round > 1 {
            out.line(Part::Text, "");
        }
        out.line(Part::Text, &round(changes, diagnosis));
    }
    out.wrapped("", "  ", &headline(diagnosis));
    if let Some(judged) = &diagnosis.judged {
        out.wrapped("  ", "    ", &only(judged));
    }
    if let Some(of) = &diagnosis.recording {
        out.wrapped("", "  ", &recording(diagnosis, of));
    }
    for finding in &diagnosis.findings {
        out.line(Part::Text, "");
        out.finding(finding);
    }
    if diagnosis.left_out > 0 {
        let more = format!("and {} of the same kinds", counted(diagnosis.left_out, "more finding"));
        out.line(Part::Text, "");
        out.line(Part::Text, &more);
    }
    if let Some(changes) = &diagnosis.changes {
        missed(&mut out, "solved (missing for two rounds)", &changes.solved);
        missed(&mut out, "missing in this round (the next one decides)", &changes.missing);
    }
    let missing = not_made(&diagnosis.checks);
    if !missing.is_empty() {
        out.line(Part::Text, "");
        out.line(Part::Text, "not checked:");
    }
    for (ids, missing) in missing {
        let mut text = format!("{}: {}", ids.join(", "), missing.why);
        if let Some(needs) = &missing.needs {
            write!(text, " (needs {needs})").unwrap_or_default();
        }
        out.wrapped("  ", "    ", &text);
    }
    out.all.into_iter().map(|(_, line)| line + "\n").collect()
}

/// The checks that were not made: those for the same reason together.
fn not_made(checks: &[Check]) -> Vec<(Vec<&'static str>, &Missing)> {
    let mut all: Vec<(Vec<&'static str>, &Missing)> = Vec::new();
    for (id, missing) in checks.iter().filter_map(|it| Some((it.id, it.missing.as_ref()?))) {
        match all.iter_mut().find(|(_, known)| *known == missing) {
            Some((ids, _)) => ids.push(id),
            None => all.push((vec![id], missing)),
        }
    }
    all
}

fn headline(diagnosis: &Diagnosis) -> String {
    // What a cause explains does not count if others are as bad.
    let count = |severity| {
        let all = || diagnosis.findings.iter().filter(move |it| it.severity == severity);
        let causes = all().filter(|it| it.consequence_of.is_none()).count();
        if causes == 0 { all().count() } else { causes }
    };
    let (critical, warnings) = (count(Severity::Critical), count(Severity::Warning));
    let not_made = diagnosis.checks.iter().filter(|check| check.missing.is_some()).count();
    let mut text = match diagnosis.verdict {
        Verdict::Healthy => "healthy: no sign of port exhaustion".to_owned(),
        Verdict::Unknown => "unknown: nothing found, but a core check was not made".to_owned(),
        Verdict::Warning => format!("warning: {}", counted(warnings, "warning")),
        Verdict::Critical => format!("critical: {}", counted(critical, "critical finding")),
    };
    if diagnosis.verdict == Verdict::Critical && warnings > 0 {
        write!(text, ", {}", counted(warnings, "warning")).unwrap_or_default();
    }
    if not_made > 0 {
        write!(text, "; {} not made", counted(not_made, "check")).unwrap_or_default();
    }
    text
}

/// `round 3 at 2026-11-30T09:15:02Z: 1 new, 1 solved`
fn round(changes: &Changes, diagnosis: &Diagnosis) -> String {
    let mut at = Timestamp::default();
    let at = String::from_utf8_lossy(at.date(diagnosis.wall_ns / 1_000_000_000));
    let mut text = format!("round {} at {}Z", changes.round, at.trim_end_matches('.'));
    if changes.round == 1 {
        return text;
    }
    let count = |change| diagnosis.findings.iter().filter(|it| it.change == Some(change)).count();
    let counts = [
        (count(Change::New), Change::New.name()),
        (count(Change::Worse), Change::Worse.name()),
        (count(Change::Better), Change::Better.name()),
        (changes.solved.len(), "solved"),
    ];
    let counts = counts.into_iter().filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts.map(|(count, what)| format!("{count} {what}")).collect();
    let counts = if counts.is_empty() { "no change".to_owned() } else { counts.join(", ") };
    write!(text, ": {counts}").unwrap_or_default();
    text
}

/// `judged: process 7, cgroup /system.slice/nginx.service`
fn only(judged: &Judged) -> String {
    let pids = judged.pids.iter().map(|pid| format!("process {pid}"));
    let cgroups = judged.cgroups.iter().map(|path| format!("cgroup {}", path.escape_debug()));
    format!("judged: {}", pids.chain(cgroups).collect::<Vec<_>>().join(", "))
}

/// The findings of earlier rounds that are missing, below this title; nothing if there are none.
fn missed(out: &mut Lines, title: &str, missed: &[Missed]) {
    if missed.is_empty() {
        return;
    }
    out.line(Part::Text, "");
    out.line(Part::Text, &format!("{title}:"));
    for it in missed.iter().take(MOST_MISSED) {
        let about = subject(&it.subject);
        let space = if about.is_empty() { "" } else { "  " };
        out.wrapped("  ", "    ", &format!("{}{space}{about}", it.id));
    }
    if missed.len() > MOST_MISSED {
        out.line(Part::Text, &format!("  and {} more", missed.len() - MOST_MISSED));
    }
}

/// Which recording it is, and what of it was read.
fn recording(diagnosis: &Diagnosis, of: &OfRecording) -> String {
    let host = if diagnosis.host.is_empty() { "an unknown host" } else { &diagnosis.host };
    let mut text = format!("recording of {host}");
    // Whole seconds are enough.
    let time = |ns: u64| {
        let text = Timestamp::default().text(ns);
        String::from_utf8_lossy(text.get(..19).unwrap_or_default()).replace('T', " ")
    };
    if of.begin_ns > 0 && of.end_ns > 0 {
        write!(text, ", {} to {} UTC", time(of.begin_ns), time(of.end_ns)).unwrap_or_default();
    }
    let lines = usize::try_from(of.lines).unwrap_or(usize::MAX);
    let readings = usize::try_from(of.readings).unwrap_or(usize::MAX);
    write!(text, ": {}, {}", counted(lines, "line"), counted(readings, "reading"))
        .unwrap_or_default();
    text
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests;
