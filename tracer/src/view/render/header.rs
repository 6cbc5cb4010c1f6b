//! The top of the screen: the rates of the host, losses, rules, and the worst tuple.

use ratatui::{buffer::Buffer, layout::Rect, style::Style, text::Line};
use tracer_common::Cause;

use super::{
    detail::percent_and_sign,
    doctor,
    drawing::{self, Field, field, fit},
    fmt::{clock, container, count, ends_within, per_second, several, who},
    plot,
};
use crate::{
    doctor::finding::Severity,
    format::{table::seconds, text},
    host::cgroups::is_unit,
    view::{
        failures::is_exhaustion,
        model::Model,
        theme::Theme,
        tuple_history::{HostRates, Problem, Worst},
    },
};

/// From this width on, words are not abbreviated.
const WIDE: usize = 60;
/// How many columns the line of the worst tuple leaves for saturation and ETA.
const USAGE_WIDTH: usize = 30;

/// Draws the top of the screen into `area`, as far as its height goes: in one line, the rates and the time; in two, also the host
/// and the losses; in more, also the worst tuple, what to do about it, and the limitations; in the lines that are left,
/// sparklines of connects and failures.
pub(super) fn draw(model: &Model, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let width = usize::from(area.width);
    let rates = model.history.host().rates(model.window);
    let mut advice = Vec::new();
    let lines = match area.height {
        0 => return,
        1 => vec![[rate_fields(model, rates, theme, width), now(model, theme)].concat()],
        2 => {
            let mut rates = rate_fields(model, rates, theme, width);
            let mut about = about(model, theme, true);
            // Failures and their causes need the whole line.
            if width < WIDE && rates.len() > 2 {
                about.push(rates.remove(0));
            }
            vec![about, rates]
        }
        height => {
            let room = (usize::from(height) - 3).min(3);
            advice = now_do(model, theme, (width, room));
            let mut lines = if usize::from(height) < 4 + advice.len() {
                vec![about(model, theme, true), rate_fields(model, rates, theme, width)]
            } else {
                let rates = rate_fields(model, rates, theme, width);
                vec![about(model, theme, false), rates, health(model, theme)]
            };
            lines.push(worst(model, theme, width));
            lines
        }
    };
    let lines: Vec<Line<'_>> = lines.into_iter().map(|fields| fit(fields, width)).collect();
    let lines = [lines, advice].concat();
    let rows = lines.len();
    for (row, line) in lines.iter().enumerate() {
        drawing::line(buffer, area, row, line);
    }
    let rest = usize::from(area.height).saturating_sub(rows);
    for (row, line) in sparklines(model, theme, (width, rest)).iter().enumerate() {
        drawing::line(buffer, area, rows + row, line);
    }
}

/// The fields that even the smallest screen has: the time, whether it is paused or a recording is played, and losses.
fn now(model: &Model, theme: Theme) -> Vec<Field> {
    let time = clock(model.reading.wall_ns, &model.zone);
    let mut fields = vec![field(3, time, theme.strong())];
    if model.paused {
        fields.push(field(1, " PAUSED ", theme.selected()));
    } else if model.replay.is_some() {
        fields.push(field(4, "REPLAY", theme.strong()));
    }
    let lost = lost(model);
    if lost > 0 && only_missed(model) {
        fields.push(field(2, format!("missed {}", count(lost)), theme.warn()));
    } else if lost > 0 {
        fields.push(field(2, format!("LOST {}", count(lost)), theme.bad()));
    }
    fields
}

/// The fields of [`now`], without the losses unless `with_losses`, and those about the host and its tracer.
fn about(model: &Model, theme: Theme, with_losses: bool) -> Vec<Field> {
    let mut fields = now(model, theme);
    if !with_losses && lost(model) > 0 {
        fields.pop();
    }
    let about = &model.about;
    let mut add = |rank, text: String| {
        if !text.is_empty() {
            fields.push(field(rank, text::line(&text), Style::new()));
        }
    };
    add(5, about.host.clone());
    add(7, about.backend.clone());
    if let Some((low, high)) = about.range {
        let ports = u64::from(high.saturating_sub(low)) + 1;
        add(6, format!("ports {low}-{high} ({})", count(ports)));
    }
    if !about.kernel.is_empty() {
        add(9, format!("Linux {}", about.kernel));
    }
    fields
}

/// Connects and failures per second, and the causes of the failures; `-` if `rates` are not known (`None`). With a filter of
/// the command line, connects are those of the tuples that it matches, but failures those of the whole host: the hooks
/// count failures without the filter.
fn rate_fields(model: &Model, rates: Option<HostRates>, theme: Theme, width: usize) -> Vec<Field> {
    let of_host = !model.about.filter.is_empty();
    let (connects, failures) = match (width < WIDE, of_host) {
        (true, false) => ("conn", "fail"),
        (true, true) => ("conn", "host fail"),
        (false, false) => ("connects", "failures"),
        (false, true) => ("connects", "host failures"),
    };
    let Some(rates) = rates else {
        return vec![field(0, format!("{connects} -  {failures} -"), Style::new())];
    };
    let failed = rates.failures();
    let mut causes: Vec<(Cause, f64)> =
        Cause::ALL.into_iter().zip(rates.failed).filter(|(_, rate)| *rate > 0.0).collect();
    // Lack of ports comes first, then the most frequent cause.
    causes.sort_by(|one, other| {
        is_exhaustion(other.0).cmp(&is_exhaustion(one.0)).then(other.1.total_cmp(&one.1))
    });
    let style = if failed > 0.0 { theme.bad() } else { Style::new() };
    let mut fields = vec![
        field(2, format!("{connects} {}/s", per_second(rates.opened)), Style::new()),
        field(0, format!("{failures} {}/s", per_second(failed)), style),
    ];
    for (rank, (cause, rate)) in (10..).zip(&causes) {
        let first = rank == 10;
        let rank = if first { 1 } else { rank };
        // A single cause needs no number: its number is that of all failures.
        let name = cause.name();
        let number = match causes.len() {
            1 => name.to_owned(),
            _ => format!("{name} {}/s", per_second(*rate)),
        };
        fields.push(if is_exhaustion(*cause) {
            field(rank, format!(" !! {number} "), theme.alarm())
        } else {
            field(rank, number, theme.bad())
        });
    }
    fields
}

fn lost(model: &Model) -> u64 {
    model.reading.lost.iter().fold(0, |sum, (_, lost)| sum.saturating_add(*lost))
}

/// Whether there is no loss but `hook_missed` (hooks that the kernel skipped): the comparison with the kernel's sockets
/// corrects the counts after such a loss. Also true if nothing was lost.
fn only_missed(model: &Model) -> bool {
    let mut losses = model.reading.lost.iter().filter(|(_, lost)| *lost > 0);
    losses.all(|(reason, _)| *reason == "hook_missed")
}

/// The fields about losses, limitations and rules of `tracer spread`.
fn health(model: &Model, theme: Theme) -> Vec<Field> {
    let mut fields = Vec::new();
    let lost = lost(model);
    let mut reasons: Vec<_> = model.reading.lost.iter().filter(|(_, lost)| *lost > 0).collect();
    reasons.sort_by_key(|(_, lost)| std::cmp::Reverse(*lost));
    if lost > 0 && only_missed(model) {
        let missed = format!("{} missed; counts corrected", several(lost, "event"));
        fields.push(field(0, missed, theme.warn()));
    } else if lost > 0 {
        let all =
            reasons.iter().map(|(reason, lost)| format!("{} {}", text::line(reason), count(*lost)));
        fields.push(field(0, format!("LOST {}", count(lost)), theme.bad()));
        for (rank, reason) in (10..).zip(all) {
            let rank = if rank == 10 { 3 } else { rank };
            fields.push(field(rank, reason, theme.bad()));
        }
    } else {
        fields.push(field(3, "lost 0", Style::new()));
    }
    let degraded = model.about.degraded.len();
    if degraded > 0 {
        let text = format!("{} (press 5)", several(degraded as u64, "limitation"));
        fields.push(field(2, text, theme.warn()));
    }
    if model.reading.pools.is_empty() {
        fields.push(field(5, "spread off", theme.faint()));
    }
    for (rank, pool) in (4..).zip(&model.reading.pools) {
        let out = pool.addresses.iter().filter(|(_, why)| why.is_some()).count();
        let all = match pool.addresses.len() {
            1 => "1 address".to_owned(),
            some => format!("{some} addresses"),
        };
        let mut text = format!("spread {}: {all}", text::line(&pool.rule));
        if out > 0 {
            text = format!("{text}, {out} left out");
        }
        let mut pool_field = field(rank, text, if out > 0 { theme.warn() } else { Style::new() });
        if pool.agent.is_none() {
            pool_field = pool_field.and(", no agent", theme.warn());
        }
        fields.push(pool_field);
    }
    fields
}

/// What to do now about the worst tuple, in this many columns and lines at most; nothing if there is no warning about it.
fn now_do(model: &Model, theme: Theme, (width, lines): (usize, usize)) -> Vec<Line<'static>> {
    let answer = model.worst.as_ref().and_then(|worst| model.answers.first(&worst.row.key));
    let answer = answer.filter(|it| it.severity > Severity::Info);
    answer.map(|it| doctor::short(it, width, lines, theme)).unwrap_or_default()
}

/// The fields about the worst tuple; none if there is no tuple.
fn worst(model: &Model, theme: Theme, width: usize) -> Vec<Field> {
    let Some(Worst { row, problem, others }) = &model.worst else { return Vec::new() };
    let share = row.saturation;
    let style = match *problem {
        Problem::PortsExhausted(_) | Problem::Full => theme.alarm(),
        Problem::CallsFail(_) => theme.bad(),
        Problem::FillsUp(eta) if eta < 60.0 => theme.alarm(),
        // TIME_WAITs that connect() takes over count as free ports.
        Problem::None if row.reusable.is_some_and(|reusable| reusable > 0) => Style::new(),
        Problem::FillsUp(_) | Problem::None => theme.level(share),
    };
    let label = if *problem == Problem::None { "fullest" } else { "worst" };
    let ends = ends_within(&row.key, width.saturating_sub(USAGE_WIDTH + label.len() + 1));
    let mut fields = vec![field(0, format!("{label} {ends}"), style)];
    if let Some(share) = share {
        fields.push(field(1, percent_and_sign(share), style));
    }
    match row.eta_s {
        Some(0.0) => {
            let by = row.limits.filter(|_| row.capacity == Some(0));
            let by = by.map(|limits| limits.taken_by()).unwrap_or_default();
            let by = if by.is_empty() { by.to_owned() } else { format!(" (all {by})") };
            fields.push(field(2, format!("NO PORT LEFT{by}"), theme.alarm()));
        }
        Some(eta) => fields.push(field(2, format!("full in {}", seconds(eta)), style)),
        None if row.capacity.is_none() => {
            fields.push(field(7, "capacity not known", Style::new()));
        }
        None if matches!(problem, Problem::PortsExhausted(_)) => {
            fields.push(field(4, "at its limit", theme.bad()));
        }
        None if matches!(problem, Problem::CallsFail(_)) => {}
        None => fields.push(field(7, "not filling up", Style::new())),
    }
    if let Problem::CallsFail(rate) | Problem::PortsExhausted(rate) = *problem {
        fields.push(field(3, format!("{} calls/s fail", per_second(rate)), theme.bad()));
    }
    if let Some(reusable @ 1..) = row.reusable {
        fields.push(field(5, format!("{} reusable", count(reusable)), Style::new()));
    }
    match others {
        0 => {}
        1 => fields.push(field(2, "1 other is in trouble", theme.warn())),
        _ => fields.push(field(
            2,
            format!("{} others are in trouble", count(*others as u64)),
            theme.warn(),
        )),
    }
    if row.pid != 0 || row.called.name != [0; 16] {
        fields.push(field(4, format!("by {}", who(&row.called.shown(), row.pid)), Style::new()));
    }
    if let Some(id) = container(row.container.as_deref()) {
        fields.push(field(
            6,
            format!("{} {id}", if is_unit(&id) { "unit" } else { "container" }),
            Style::new(),
        ));
    }
    if let Some(capacity) = row.capacity {
        let ports = format!("{} of {} ports", count(row.in_use), count(capacity.into()));
        fields.push(field(5, ports, Style::new()));
    }
    fields
}

/// Sparklines of the connects and the failures of the newest readings, side by side; none if there is too little room.
fn sparklines(model: &Model, theme: Theme, (width, height): (usize, usize)) -> Vec<Line<'static>> {
    let half = width / 2;
    if height == 0 || half < 10 {
        return Vec::new();
    }
    let both = model.history.host().series(half);
    let (opened, failed): (Vec<f64>, Vec<f64>) = both.into_iter().unzip();
    let one = |label: &str, values: &[f64], style, room: usize| {
        let top = values.iter().copied().fold(0.0, f64::max);
        let label = format!("{label} max {}/s ", per_second(top));
        let space = room.saturating_sub(label.len());
        let bars = plot::bars(values, (space, height), top);
        let lines = bars.into_iter().enumerate().map(|(row, bar)| {
            let label = if row == 0 { label.clone() } else { " ".repeat(label.len()) };
            fit(vec![field(0, label, theme.faint()).and(bar, style)], room)
        });
        lines.collect::<Vec<_>>()
    };
    let opened = one("conn", &opened, Style::new(), half.saturating_sub(1));
    let failed = one("fail", &failed, theme.bad(), width - half);
    drawing::two_columns(opened, failed, half)
}
