//! What is wrong and what to do, in the words of `tracer doctor`: the view of all findings, and the first advice for one tuple.

use ratatui::{buffer::Buffer, layout::Rect, style::Style, text::Line};

use super::{
    drawing::{self, wrapped},
    fmt::{count, cut, several, width},
};
use crate::{
    doctor::{
        finding::{Finding, Severity},
        show::{self, Commands, Part},
    },
    format::text,
    view::{
        answers::{Answer, Kind},
        model::Model,
        theme::Theme,
    },
};

/// The most columns that a text has: longer lines are hard to read.
const WIDEST: usize = 100;
/// The fewest: text in a narrower window is cut.
const NARROWEST: usize = 40;
/// The most findings that are shown.
const MOST: usize = 8;
/// Columns before the text of an advice in short.
const LABEL: usize = 5;
/// An advice's text is left out if there are fewer columns for it.
const LEAST: usize = 16;

/// What only `tracer doctor` looks at.
const ELSEWHERE: &str = "descriptors, connection tracking and NAT, sysctls, listeners and bound ports, FIN_WAIT2, \
    configurations and logs of proxies";

/// Draws the view into `area`, without its first [`Model::scroll`] lines; at the end, the last line stays at the bottom.
pub(super) fn draw(model: &Model, theme: Theme, area: Rect, buffer: &mut Buffer) {
    drawing::scrolled(buffer, area, &lines(model, area.width.into(), theme), model.scroll);
}

/// All lines of the view, with at most 8 findings and how many more there are, in `room` columns, but at least 40 (a narrower
/// area cuts them) and at most 100.
pub(super) fn lines(model: &Model, room: usize, theme: Theme) -> Vec<Line<'static>> {
    let room = room.clamp(NARROWEST, WIDEST);
    let plain = Style::new();
    let answers = &model.answers;
    let found = match answers.counts {
        (0, 0) => "Nothing is wrong with the ports of these tuples.".to_owned(),
        (0, some) => several(some as u64, "warning"),
        (some, 0) => several(some as u64, "critical finding"),
        (some, more) => {
            let (some, more) =
                (several(some as u64, "critical finding"), several(more as u64, "warning"));
            format!("{some}, {more}")
        }
    };
    let mut lines = vec![Line::styled(found, severity_style(theme, worst(&answers.findings)))];
    lines.extend(wrapped(&scope(model), room, plain));
    for finding in answers.findings.iter().take(MOST) {
        lines.push(Line::default());
        lines.extend(styled(finding, room, theme));
    }
    let more = answers.findings.len().saturating_sub(MOST) + answers.left_out;
    if more > 0 {
        lines.push(Line::default());
        let more = several(more as u64, "more finding");
        let more = if model.is_live() {
            format!("and {more}, which tracer doctor lists")
        } else {
            format!("and {more}")
        };
        lines.extend(wrapped(&more, room, plain));
    }
    lines.push(Line::default());
    let elsewhere = if model.is_live() {
        format!("Not checked here, but by tracer doctor: {ELSEWHERE}.")
    } else {
        format!("Not in a recording: {ELSEWHERE}.")
    };
    lines.extend(wrapped(&elsewhere, room, plain));
    lines
}

/// What was judged.
fn scope(model: &Model) -> String {
    let (judged, all) = model.answers.judged;
    let [some, every] = [judged, all].map(|it| count(it as u64));
    let mut scope = if judged < all {
        format!("Judged: the last 10 s of {some} of {every} tuples, those most likely in trouble.")
    } else {
        format!("Judged: the last 10 s of {}.", several(all as u64, "tuple"))
    };
    if model.answers.unknown > 0 {
        scope = format!(
            "{scope} Of {}, it is not known how many ports they can hold.",
            count(model.answers.unknown as u64)
        );
    }
    let filter = text::line(&model.about.filter);
    if !filter.is_empty() {
        scope = format!("{scope} Only {filter}.");
    }
    scope
}

fn worst(findings: &[Finding]) -> Option<Severity> {
    findings.iter().map(|it| it.severity).max()
}

fn severity_style(theme: Theme, severity: Option<Severity>) -> Style {
    match severity {
        Some(Severity::Critical) => theme.alarm(),
        Some(Severity::Warning) => theme.warn(),
        Some(Severity::Info) | None => theme.strong(),
    }
}

fn styled(finding: &Finding, room: usize, theme: Theme) -> Vec<Line<'static>> {
    let lines = show::finding(finding, room, Commands::Broken);
    let style = |part| match part {
        Part::Head => severity_style(theme, Some(finding.severity)),
        Part::Command => theme.strong(),
        Part::Text => Style::new(),
    };
    lines.into_iter().map(|(part, line)| Line::styled(line, style(part))).collect()
}

/// The first finding about a tuple that has an advice, with that advice and, if that has no command, the first that has one; and
/// the names of its other findings. No lines if no finding has an advice. In `room` columns, but at least 40 and at most 100.
pub(super) fn of_tuple(
    model: &Model,
    key: &tracer_common::TupleKey,
    room: usize,
    theme: Theme,
) -> Vec<Line<'static>> {
    let room = room.clamp(NARROWEST, WIDEST);
    let all: Vec<&Finding> = model.answers.of(key).collect();
    let Some(cause) = all.iter().find(|it| !it.advice.is_empty()) else { return Vec::new() };
    let mut cause = (*cause).clone();
    // If there is no command for the first one, with the first that has one.
    let with_command = cause.advice.iter().position(|it| it.command.is_some()).unwrap_or(0);
    let kept = [0, with_command];
    let more = cause.advice.len() > if with_command == 0 { 1 } else { 2 };
    let mut index = 0..;
    cause.advice.retain(|_| index.next().is_some_and(|it| kept.contains(&it)));
    cause.not = None;
    let mut lines = styled(&cause, room, theme);
    let others: Vec<&str> =
        all.iter().map(|it| it.id.name()).filter(|it| *it != cause.id.name()).collect();
    let rest = match (more, others.is_empty()) {
        (false, true) => return lines,
        (true, true) => "Press 6 for all that helps.".to_owned(),
        (true, false) => format!("Press 6 for all that helps, and for {}.", others.join(", ")),
        (false, false) => format!("Press 6 for {}.", others.join(", ")),
    };
    lines.extend(wrapped(&rest, room, theme.faint()));
    lines
}

/// An advice in at most `most` lines of `room` columns. If the command does what the text says and fits, the command, with the
/// text after it if there is room; else the text, cut to one line, and below it the command of another advice, or one that shows
/// more, if that fits.
pub(super) fn short(answer: &Answer, room: usize, most: usize, theme: Theme) -> Vec<Line<'static>> {
    let text = text::line(&answer.text);
    let inner = room.saturating_sub(LABEL);
    let command = |label: &str, most: usize| {
        let parts = show::broken(&text::line(&answer.command), inner);
        let fits = parts.len() <= most && parts.iter().all(|part| width(part) <= inner);
        let labels = std::iter::once(label).chain(std::iter::repeat(""));
        let line = |(label, part): (&str, String)| {
            Line::styled(format!("{label:<LABEL$}{part}"), theme.strong())
        };
        if fits { labels.zip(parts).map(line).collect() } else { Vec::new() }
    };
    if answer.kind == Kind::Does {
        let mut lines = command("now", most);
        if let Some(last) = lines.last_mut() {
            let left = room.saturating_sub(last.width() + 2);
            if left >= LEAST {
                last.push_span(ratatui::text::Span::styled(
                    format!("  {}", cut(&text, left)),
                    Style::new().remove_modifier(ratatui::style::Modifier::BOLD),
                ));
            }
            return lines;
        }
    }
    let mut lines = vec![Line::from(format!("{:<LABEL$}{}", "now", cut(&text, inner)))];
    let label = match answer.kind {
        Kind::Does => "",
        Kind::Other => "or",
        Kind::Looks => "see",
    };
    if answer.kind != Kind::Does {
        lines.extend(command(label, most.saturating_sub(1)));
    }
    lines.truncate(most);
    lines
}
