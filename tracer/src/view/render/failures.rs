//! The list of failed calls, newest first.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    text::{Line, Span},
};

use super::{
    doctor, drawing,
    fmt::{clock, container, count, destination, who},
    grid::{ColumnSpec, Grid, needed},
};
use tracer_common::TupleKey;

use crate::{
    format::{errno, tuple::address},
    host::{
        holder::{self, Holder},
        sockdiag::tcp_state,
    },
    view::{
        failures::{FailureGroup, is_exhaustion},
        model::Model,
        reading::Call,
        theme::Theme,
    },
};

/// Index of the column of causes in [`specs`].
const CAUSE: usize = 2;
/// Index of a column that is shown only if a row has a value for it.
const HELD_BY: usize = 7;
/// Columns before what to do about a failure.
const INDENT: usize = 2;
/// The most lines that it has.
const ADVICE: usize = 3;

/// A line of the list.
enum Entry<'a> {
    Row(&'a FailureGroup),
    /// What to do about the row above it.
    Answer(Line<'static>),
}

/// The lines of the list, in `room` columns.
fn entries(model: &Model, room: usize, theme: Theme) -> Vec<Entry<'_>> {
    let mut all = Vec::new();
    for failures in model.failures.iter().rev() {
        all.push(Entry::Row(failures));
        let lines = failures
            .answer
            .iter()
            .flat_map(|answer| doctor::short(answer, room.saturating_sub(INDENT), ADVICE, theme));
        all.extend(lines.map(|mut line| {
            line.spans.insert(0, Span::raw(" ".repeat(INDENT)));
            Entry::Answer(line)
        }));
    }
    all
}

/// How many lines the view has, its titles included.
pub(super) fn lines(model: &Model, room: usize, theme: Theme) -> usize {
    entries(model, room, theme).len() + 1
}

/// Draws the titles and, below them, the list into `area`, without its first [`Model::scroll`] lines; at the end, the last line
/// stays at the bottom.
pub(super) fn draw(model: &Model, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let room = usize::from(area.width);
    let height = usize::from(area.height).saturating_sub(1);
    let all = entries(model, room, theme);
    let skip = model.scroll.min(all.len().saturating_sub(height));
    let shown: Vec<Entry<'_>> = all.into_iter().skip(skip).take(height).collect();
    let rows = || {
        shown.iter().filter_map(|entry| match entry {
            Entry::Row(failures) => Some(*failures),
            Entry::Answer(_) => None,
        })
    };
    let mut cells: Vec<Vec<String>> = rows().map(|failures| cells(model, failures)).collect();
    let held = rows().any(|failures| failures.newest.holder.is_some());
    let mut specs = specs();
    if !held {
        specs.remove(HELD_BY);
        for cells in &mut cells {
            cells.remove(HELD_BY);
        }
    }
    let needs = needed(cells.iter(), specs.len());
    let grid = Grid::new(specs, &needs, room);
    drawing::style(buffer, area, 0, theme.title());
    drawing::line(buffer, area, 0, &grid.titles(theme.title()));
    if shown.is_empty() {
        let text = if model.about.filter.is_empty() {
            "  No connect() or bind() has failed."
        } else {
            "  No connect() or bind() that passes the filter has failed."
        };
        drawing::line(buffer, area, 2, &text.into());
    }
    let mut cells = cells.into_iter();
    for (row, entry) in (1..).zip(&shown) {
        match entry {
            Entry::Row(failures) => {
                let exhausted = is_exhaustion(failures.newest.cause);
                let style = |at| match at {
                    CAUSE if exhausted => theme.alarm(),
                    CAUSE => theme.bad(),
                    _ => Style::new(),
                };
                let cells = cells.next().unwrap_or_default().into_iter().enumerate();
                let cells = cells.map(|(at, cell)| (cell, style(at)));
                drawing::line(buffer, area, row, &grid.line(cells.collect()));
            }
            Entry::Answer(line) => drawing::line(buffer, area, row, line),
        }
    }
}

fn specs() -> Vec<ColumnSpec> {
    let column_spec = |title: &str, rank, least, usual, text| ColumnSpec {
        title: title.to_owned(),
        rank,
        least,
        usual,
        text,
        address: matches!(title, "SRC" | "DST:PORT"),
    };
    vec![
        column_spec("TIME", 2, 8, 8, true),
        column_spec("TIMES", 6, 5, 5, false),
        column_spec("CAUSE", 0, 15, 17, true),
        column_spec("ERRNO", 7, 13, 13, true),
        column_spec("SRC", 5, 9, 15, true),
        column_spec("DST:PORT", 1, 13, 21, true),
        column_spec("PROCESS", 3, 10, 16, true),
        column_spec("HELD BY", 4, 12, 16, true),
        column_spec("CONTAINER", 8, 9, 12, true),
    ]
}

fn cells(model: &Model, failures: &FailureGroup) -> Vec<String> {
    let failure = &failures.newest;
    let key = &failure.key;
    let source = if key.source.0 == [0; 16] { "-".to_owned() } else { address(key.source) };
    let to = match (failure.call, failure.local_port) {
        (Call::Connect, _) => destination(key).unwrap_or_else(|| "-".to_owned()),
        (Call::Bind, 0) => "bind()".to_owned(),
        (Call::Bind, port) => format!("bind() to {port}"),
    };
    vec![
        clock(failure.wall_ns, &model.zone),
        format!("x{}", count(failures.count)),
        failure.cause.name().to_owned(),
        if failure.errno == 0 { "-".to_owned() } else { errno::name(failure.errno).into_owned() },
        source,
        to,
        who(&failure.comm, failure.pid),
        failure.holder.as_ref().map_or_else(|| "-".to_owned(), held_by),
        container(failure.container.as_deref()).unwrap_or_else(|| "-".to_owned()),
    ]
}

/// Who holds a port: `webui (7), listen`, `crawler (812), close_wait → 10.0.0.2:443`, and if the connection is established,
/// `crawler (812) → 10.0.0.2:443`. If neither name nor id is known, without the process: `time_wait → 10.0.0.2:443`.
fn held_by(holder: &Holder) -> String {
    let to = TupleKey {
        destination: holder.peer,
        destination_port: holder.peer_port,
        ..TupleKey::default()
    };
    let to = destination(&to).filter(|_| holder.peer_port != 0);
    let what = match (to, holder.state) {
        (Some(to), tcp_state::ESTABLISHED) => format!("→ {to}"),
        (Some(to), state) => format!("{} → {to}", holder::word(state)),
        (None, state) => holder::word(state).to_owned(),
    };
    match (holder.pid, holder.comm) {
        (0, [0, ..]) => what,
        (pid, comm) if what.starts_with('→') => format!("{} {what}", who(&comm, pid)),
        (pid, comm) => format!("{}, {what}", who(&comm, pid)),
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::Addr;

    use super::*;

    #[test]
    fn a_holder_is_named_with_what_it_does() {
        let open = Holder {
            pid: 812,
            comm: *b"crawler\0\0\0\0\0\0\0\0\0",
            state: tcp_state::ESTABLISHED,
            peer: Addr::v4([10, 0, 0, 2]),
            peer_port: 443,
        };
        assert_eq!(held_by(&open), "crawler (812) → 10.0.0.2:443");
        let left = Holder { state: tcp_state::CLOSE_WAIT, ..open };
        assert_eq!(held_by(&left), "crawler (812), close_wait → 10.0.0.2:443");
        let waits = Holder { state: tcp_state::TIME_WAIT, pid: 0, comm: [0; 16], ..open };
        assert_eq!(held_by(&waits), "time_wait → 10.0.0.2:443");
        let listens = Holder { state: tcp_state::LISTEN, peer_port: 0, ..open };
        assert_eq!(held_by(&listens), "crawler (812), listen");
    }
}
