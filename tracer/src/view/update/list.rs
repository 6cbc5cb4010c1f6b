//! Chooses the rows that are on the screen: those of the view that the filter matches, in its order, around the selection.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use tracer_common::{Addr, TupleCount, TupleKey};

use super::super::{
    group::{GroupBy, Subject, grouped},
    layout,
    model::{List, Mode, Model, View},
    reading::{HolderKind, Pool},
    render,
    tuple_history::Worst,
};
use crate::{
    format::table::{self, Alike, Top},
    ledger::stats::{Rates, Row},
};

/// The tuple with the worst problem, or the fullest, whatever the list shows; `None`: there is no tuple.
pub fn worst(model: &Model) -> Option<Worst> {
    model.history.worst(model.window)
}

/// How many rows of the list there is room for on the screen.
pub(super) fn height(model: &Model) -> usize {
    layout::areas(model).rows()
}

/// Makes [`Model::list`] again (empty in a view without a table), and limits the scroll to the lines that there are. The selected
/// row stays selected, wherever it is now; if it is gone, the row at its place in the order is selected; without rows, the list
/// has no cursor, and the selection is kept for later.
pub fn refresh(model: &mut Model) {
    limit_scroll(model);
    show(model, None);
}

/// Moves the selection by `rows` rows, down or (negative) up; `isize::MIN` and `isize::MAX`: to the first and the last row.
/// If no row is selected, it begins above the first row.
pub(super) fn select(model: &mut Model, rows: isize) {
    let at = model.list.cursor.map(|cursor| model.list.first + cursor);
    let to = match (at, rows) {
        (_, isize::MAX) => usize::MAX,
        (None, 1..) => usize::try_from(rows - 1).unwrap_or(0),
        (None, _) => 0,
        (Some(at), _) => at.saturating_add_signed(rows),
    };
    show(model, Some(to));
}

/// Limits the scroll of the help, or of a view without a cursor: it ends where the last line is at the bottom.
pub(super) fn limit_scroll(model: &mut Model) {
    let height = usize::from(layout::areas(model).body.height);
    let most = render::lines(model).saturating_sub(height);
    if let Mode::Help { scroll, .. } = &mut model.mode {
        *scroll = (*scroll).min(most);
    } else {
        model.scroll = model.scroll.min(most);
    }
}

/// Makes the list. `to`: the index to select; `None`: keeps the selected row.
fn show(model: &mut Model, to: Option<usize>) {
    let by = match model.view {
        View::Tuples => model.by,
        View::Processes => GroupBy::Process,
        View::Sources => GroupBy::Source,
        View::Failures | View::SelfStats | View::Doctor => {
            model.list = List::default();
            return;
        }
    };
    let height = height(model).max(1);
    let mut list = if (model.view, by) == (View::Tuples, GroupBy::Tuple) {
        let unfiltered = model.history.count();
        choose(model, || filtered(model), by, (to, height), unfiltered)
    } else {
        // The filter chooses tuples before they are grouped, because a group lacks values that the filter may ask for. Rows of
        // processes are not made of tuples alone, so there the filter chooses among the rows.
        let (rows, unfiltered) = match model.view {
            View::Processes => {
                let all = processes(model);
                let count = all.len();
                (all.into_iter().filter(|row| model.filter.matches(row)).collect(), count)
            }
            View::Sources => with_count(sources(model)),
            _ => with_count(grouped(filtered(model), by)),
        };
        choose(model, || rows.iter().cloned(), by, (to, height), unfiltered)
    };
    if let Some(cursor) = list.cursor {
        model.selected = list.rows.get(cursor).cloned().or(model.selected.take());
    }
    if model.selected.is_none() {
        list.cursor = None;
    }
    model.list = list;
}

fn filtered(model: &Model) -> impl Iterator<Item = Row> {
    model.history.rows(model.window).filter(|row| model.filter.matches(row))
}

fn with_count(rows: Vec<Row>) -> (Vec<Row>, usize) {
    let count = rows.len();
    (rows, count)
}

/// The part of the rows that is on the screen, in order. `rows` makes all rows, and is called several times: to keep
/// 10,000 of them would take megabytes. `to`: the index to select; `None`: keeps the selected row. `height`: rows that
/// there is room for. `unfiltered`: rows that there would be without the filter.
fn choose<I: Iterator<Item = Row>>(
    model: &Model,
    rows: impl Fn() -> I,
    by: GroupBy,
    (to, height): (Option<usize>, usize),
    unfiltered: usize,
) -> List {
    let sort = model.sort();
    let order = |one: &Row, other: &Row| {
        if sort.reverse {
            table::order(sort.by, other, one)
        } else {
            table::order(sort.by, one, other)
        }
    };
    let subject = |row: &Row| match model.view {
        View::Processes => Subject { pid: row.pid, ..Subject::of(row, by) },
        _ => Subject::of(row, by),
    };
    let selected = model.selected.as_ref().filter(|_| to.is_none());
    let wanted = selected.map(subject);
    let mut total = 0;
    let mut found = None;
    if wanted.is_none() && model.filter.is_empty() {
        total = unfiltered;
    } else {
        for row in rows() {
            total += 1;
            if wanted.as_ref().is_some_and(|wanted| subject(&row) == *wanted) {
                found = Some(row);
            }
        }
    }
    // If the selected row is gone, the row at its place is selected.
    let at = match (to, found.as_ref().or(selected)) {
        (Some(to), _) => Some(to),
        (None, None) => None,
        (None, Some(row)) => Some(rows().filter(|it| order(it, row).is_lt()).count()),
    };
    let at = at.map(|at| at.min(usize::saturating_sub(total, 1)));
    let last = total.saturating_sub(height);
    let first = match at {
        None => 0,
        Some(at) => {
            let first = model.list.first.min(at);
            if at >= first + height { at + 1 - height } else { first }.min(last)
        }
    };
    let mut top = Top::new(sort.by, Some(first + height)).reversed(sort.reverse);
    rows().for_each(|row| top.add(row));
    let rows: Vec<Row> = top.sorted().into_iter().skip(first).collect();
    let cursor = at.map(|at| at - first).filter(|at| *at < rows.len());
    // Only of the shown rows: any user can make a namespace with a row like another one, and the column for namespaces
    // displaces others.
    let alike = Alike::of(&rows).found();
    List { rows, first, total, unfiltered, alike, cursor }
}

/// The rows by source address, including the unused addresses of pools.
fn sources(model: &Model) -> Vec<Row> {
    let mut rows = grouped(filtered(model), GroupBy::Source);
    let pools = &model.reading.pools;
    for row in &mut rows {
        row.note = note(pools, IpAddr::from(row.key.source.0).to_canonical());
    }
    let used: Vec<IpAddr> =
        rows.iter().map(|row| IpAddr::from(row.key.source.0).to_canonical()).collect();
    let addresses = pools.iter().flat_map(|pool| &pool.addresses).map(|(address, _)| *address);
    for address in addresses.filter(|address| !used.contains(address)) {
        let source = match address {
            IpAddr::V4(v4) => Addr::v4(v4.octets()),
            IpAddr::V6(v6) => Addr(v6.octets()),
        };
        let key = TupleKey { source, ..TupleKey::default() };
        let mut row = Row::new(key, &TupleCount::default(), None, None);
        row.tuples = 0;
        row.note = note(pools, address);
        if !rows.iter().any(|other| other.key == row.key) {
            rows.push(row);
        }
    }
    rows
}

/// The names of the rules whose pools have the address, each with the reason if it leaves the address out; `None`: none has
/// it.
fn note(pools: &[Pool], address: IpAddr) -> Option<Arc<str>> {
    let mut words = Vec::new();
    for pool in pools {
        if let Some((_, out)) = pool.addresses.iter().find(|(of, _)| *of == address) {
            let out = out.as_ref().map_or_else(String::new, |why| format!(" (left out: {why})"));
            words.push(format!("{}{out}", pool.rule));
        }
    }
    (!words.is_empty()).then(|| words.join(", ").into())
}

/// The rows by process: of those that hold ports, or if these are not known, of those that connected last. Processes
/// whose calls fail have a row, too.
fn processes(model: &Model) -> Vec<Row> {
    let mut rows: Vec<Row> = match &model.reading.holders {
        Some(holders) => holders
            .iter()
            .map(|holder| {
                let mut row = Row::new(TupleKey::default(), &TupleCount::default(), None, None);
                row.in_use = holder.ports.into();
                row.time_wait = holder.time_wait.into();
                row.tuples = holder.tuples;
                row.pid = holder.pid;
                row.called.name = match holder.kind {
                    HolderKind::Process => holder.comm,
                    HolderKind::TimeWait => *b"(TIME_WAIT)\0\0\0\0\0",
                    HolderKind::JustOpened => *b"(opened now)\0\0\0\0",
                    HolderKind::Others => *b"(others)\0\0\0\0\0\0\0\0",
                    HolderKind::NoProcess => *b"(no process)\0\0\0\0",
                    HolderKind::Unknown => *b"(not known)\0\0\0\0\0",
                };
                row.container.clone_from(&holder.container);
                row
            })
            .collect(),
        None => by_process(model.history.rows(model.window)),
    };
    let seconds = model.window.seconds();
    for row in &mut rows {
        row.rates = Some(Rates::default());
    }
    // A row without a process id belongs to no process.
    let of_pid = rows.iter().enumerate().filter(|(_, row)| row.pid != 0);
    let at: HashMap<u32, usize> = of_pid.map(|(at, row)| (row.pid, at)).collect();
    for (pid, comm, failed) in model.failure_rates.within(model.reading.wall_ns, seconds) {
        let rates = Some(Rates { failed, ..Rates::default() });
        if let Some(row) = at.get(&pid).and_then(|at| rows.get_mut(*at)) {
            row.rates = rates;
        } else {
            let mut row = Row::new(TupleKey::default(), &TupleCount::default(), None, None);
            (row.pid, row.called.name, row.rates, row.tuples) = (pid, comm, rates, 0);
            rows.push(row);
        }
    }
    rows
}

/// The rows of tuples grouped by the id and the name of the process that connected last.
fn by_process(rows: impl Iterator<Item = Row>) -> Vec<Row> {
    let mut by_pid: HashMap<u32, Vec<Row>> = HashMap::new();
    for row in rows {
        by_pid.entry(row.pid).or_default().push(row);
    }
    by_pid.into_values().flat_map(|rows| grouped(rows.into_iter(), GroupBy::Process)).collect()
}
