//! Who holds a tuple's ports, and who keeps ports of its namespace from connect().

use ratatui::{style::Style, text::Line};

use super::{
    super::{
        drawing::wrapped,
        fmt::{container, count, several, who},
        grid::{ColumnSpec, Grid, needed},
    },
    heading,
};
use crate::view::{
    model::Model,
    reading::{Blocked, Holder, HolderKind, Opener},
    theme::Theme,
    tuple_history::Detail,
};

/// The most rows of each list; below them is how many more there are.
const SOME: usize = 8;

/// The processes that hold a tuple's ports, and the ports of its namespace that connect() is not given, in `room` columns.
pub(super) fn lines(
    model: &Model,
    detail: &Detail,
    theme: Theme,
    room: usize,
) -> Vec<Line<'static>> {
    let mut lines = holders(model, detail, theme, room);
    lines.push(Line::default());
    lines.extend(blocked(model, detail, theme, room));
    lines
}

fn holders(model: &Model, detail: &Detail, theme: Theme, room: usize) -> Vec<Line<'static>> {
    let mut lines = vec![heading("Processes that hold ports here", theme)];
    let Some(holders) = &model.reading.holders else {
        let last = who(&detail.row.called.shown(), detail.row.pid);
        let text = if model.is_live() {
            format!("not known yet; the process that connected last: {last}")
        } else {
            format!("a recording has only the process that connected last: {last}")
        };
        lines.extend(wrapped(&text, room, Style::new()));
        return lines;
    };
    if holders.is_empty() {
        lines.push(Line::from("none"));
        return lines;
    }
    let mut holders: Vec<&Holder> = holders.iter().collect();
    holders.sort_by(|one, other| other.ports.cmp(&one.ports).then(one.pid.cmp(&other.pid)));
    let row = |holder: &&Holder| {
        let unknown = || "-".to_owned();
        vec![
            match holder.kind {
                HolderKind::Process if holder.pid == 0 && holder.comm == [0; 16] => {
                    "not known".to_owned()
                }
                HolderKind::Process => who(&holder.comm, holder.pid),
                HolderKind::TimeWait => "TIME_WAIT".to_owned(),
                HolderKind::JustOpened => "opened just now".to_owned(),
                HolderKind::Others => "other processes".to_owned(),
                HolderKind::NoProcess => "no process".to_owned(),
                HolderKind::Unknown => "not known".to_owned(),
            },
            count(holder.ports.into()),
            count(holder.time_wait.into()),
            opener(&holder.opener),
            container(holder.container.as_deref()).unwrap_or_else(unknown),
        ]
    };
    let columns = [
        ("HELD BY", 0, 12, true),
        ("PORTS", 1, 7, false),
        ("TW", 3, 7, false),
        ("OPENED BY", 2, 12, true),
        ("CONTAINER", 4, 12, true),
    ];
    let specs = columns.into_iter().map(column_spec).collect();
    lines.extend(listed(holders.iter().map(row), specs, theme, room));
    if let Some(more) = holders.len().checked_sub(SOME).filter(|more| *more > 0) {
        lines.push(Line::from(format!("and {}", several(more as u64, "other"))));
    }
    lines
}

/// Who called connect(), with `ended:` before it if that process has ended; "not known" if its id is 0.
fn opener(opener: &Opener) -> String {
    match (opener.pid, opener.ended) {
        (0, _) => "not known".to_owned(),
        (pid, false) => who(&opener.comm, pid),
        (pid, true) => format!("ended: {}", who(&opener.comm, pid)),
    }
}

/// The ports of the tuple's namespace that bind() and listen() took; those in the port range come first.
fn blocked(model: &Model, detail: &Detail, theme: Theme, room: usize) -> Vec<Line<'static>> {
    let netns = detail.row.key.netns;
    let mut lines = vec![heading("Ports taken by bind() and listen()", theme)];
    let Some(blocked) = &model.reading.blocked else {
        let text = if model.is_live() { "not known yet" } else { "not in a recording" };
        lines.push(Line::from(text));
        return lines;
    };
    // The range of the tuple's namespace, which can differ from that of the tracer's.
    let limits = detail.row.limits;
    let is_in_range = |port: u16| limits.is_some_and(|it| (it.low..=it.high).contains(&port));
    let mut here: Vec<&Blocked> = blocked.iter().filter(|it| it.netns == netns).collect();
    here.sort_by_key(|it| (!is_in_range(it.port), it.port));
    let in_range = here.iter().filter(|it| is_in_range(it.port)).count();
    let style = if in_range > 0 { theme.warn() } else { Style::new() };
    let text = match in_range {
        _ if limits.is_none() => "the range of this namespace is not known".to_owned(),
        0 => "No bound or listening socket uses a port of the range.".to_owned(),
        some => format!("{} in the range: connect() cannot use them", count(some as u64)),
    };
    lines.extend(wrapped(&text, room, style));
    let row = |it: &&Blocked| {
        let note = match limits {
            None => "",
            Some(_) if is_in_range(it.port) => "in the range",
            Some(_) => "outside",
        };
        let holder = who(&it.comm, it.pid);
        vec![it.port.to_string(), holder, several(it.sockets.into(), "socket"), note.to_owned()]
    };
    let columns = [
        ("PORT", 0, 5, false),
        ("BOUND BY", 1, 12, true),
        ("SOCKETS", 3, 9, true),
        ("", 2, 12, true),
    ];
    if !here.is_empty() {
        let specs = columns.into_iter().map(column_spec).collect();
        lines.extend(listed(here.iter().map(row), specs, theme, room));
    }
    if let Some(more) = here.len().checked_sub(SOME).filter(|more| *more > 0) {
        lines.push(Line::from(format!("and {}", several(more as u64, "other"))));
    }
    lines
}

fn column_spec((title, rank, least, text): (&str, u8, usize, bool)) -> ColumnSpec {
    ColumnSpec { title: title.to_owned(), rank, least, usual: least, text, address: false }
}

/// The first [`SOME`] rows, below their titles.
fn listed(
    rows: impl Iterator<Item = Vec<String>>,
    specs: Vec<ColumnSpec>,
    theme: Theme,
    room: usize,
) -> Vec<Line<'static>> {
    let rows: Vec<Vec<String>> = rows.take(SOME).collect();
    let needs = needed(rows.iter(), specs.len());
    let grid = Grid::new(specs, &needs, room);
    let mut lines = vec![grid.titles(theme.strong())];
    for cells in rows {
        lines.push(grid.line(cells.into_iter().map(|cell| (cell, Style::new())).collect()));
    }
    lines
}
