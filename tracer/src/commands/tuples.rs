//! `tracer tuples`: prints the tuple table as it is now.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tracer_common::{Filter, TupleCount, TupleKey};

use crate::{
    config::TuplesConfig,
    error::Error,
    format::{
        losses::Reported,
        table::{self, Column, Reading, Top},
    },
    host::{callers::Callers, netns},
    ledger::{
        stats::{Earlier, Forecast, Row},
        trace::{Tracer, named_losses, visible},
    },
    runtime::{clock, shutdown::StopSignals, stdout},
    view::forecasts::Forecasts,
};

/// If only one reading is printed, an earlier one is taken this long before it and not printed: rates need two readings.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
/// How often a wait checks for signals.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Least time between two readings of the port ranges.
const RANGES_INTERVAL: Duration = Duration::from_secs(1);

/// Prints the tuple table to stdout. Without `config.interval`: once, 1 s after the call, because rates need two readings. With
/// it: at once (without rates), then once per interval, until a signal asks to stop or the reader of stdout is gone. `filter`:
/// which tuples are printed. Losses are logged when they grow, and all of them at the end.
///
/// # Errors
/// A BPF map cannot be read; the ledger refuses a command; the table cannot be formatted; stdout cannot be written. That its
/// reader is gone is no error.
pub fn run(
    mut tracer: Tracer,
    config: &TuplesConfig,
    filter: &Filter,
    mut callers: Callers,
    signals: &StopSignals,
) -> Result<(), Error> {
    let mut before = Earlier::default();
    let mut before_at: Option<Instant> = None;
    let mut ranges_at: Option<Instant> = None;
    let mut first = true;
    let mut namespaces = netns::Names::default();
    let mut binds_before = BTreeMap::new();
    let mut forecasts = Forecasts::default();
    let mut logged = Reported::default();
    if config.interval.is_none() {
        tracer.read(true)?;
        make_forecasts(&mut forecasts, &mut tracer, (&mut before, &binds_before));
        binds_before = binds(&tracer);
        tracer.keep_tuples(&mut before);
        before_at = Some(Instant::now());
        wait(FIRST_INTERVAL, signals);
    }
    loop {
        let read_at = clock::wall_ns();
        let now = Instant::now();
        let due = ranges_at.is_none_or(|at| at.elapsed() >= RANGES_INTERVAL);
        tracer.read(due)?;
        if due {
            ranges_at = Some(now);
        }
        let elapsed = before_at.map(|at| now.duration_since(at));
        let row_forecasts =
            make_forecasts(&mut forecasts, &mut tracer, (&mut before, &binds_before));
        let earlier = (&mut before, &binds_before, elapsed, &row_forecasts[..]);
        let mut rows = rows(&tracer, config, filter, earlier, &mut callers, now);
        namespaces.refresh(now);
        for row in &mut rows {
            row.netns_name = namespaces.get(row.key.netns).cloned();
        }
        let totals = tracer.totals()?;
        if let Some(message) = logged.new_losses(named_losses(&totals)) {
            tracing::warn!("{message}");
        }
        let lost = named_losses(&totals).collect();
        let reading = Reading { ns: read_at, drift: tracer.drift, lost };
        let text = table::render(&rows, config.table.format, &reading, first)
            .map_err(|error| Error::Failure(format!("cannot format the table: {error}")))?;
        signals.writing(true);
        let open = stdout::print(&text)?;
        signals.writing(false);
        if !open {
            return Ok(());
        }
        first = false;
        let Some(interval) = config.interval else {
            return log_all_losses(&mut tracer, &mut logged);
        };
        binds_before = binds(&tracer);
        tracer.keep_tuples(&mut before);
        before_at = Some(now);
        tracer.reconcile_if_due()?;
        wait(interval.saturating_sub(now.elapsed()), signals);
        if signals.stop() {
            return log_all_losses(&mut tracer, &mut logged);
        }
    }
}

/// Logs all losses, unless each was logged with its present count already.
fn log_all_losses(tracer: &mut Tracer, logged: &mut Reported) -> Result<(), Error> {
    if let Some(rest) = logged.all_losses(named_losses(&tracer.totals()?)) {
        tracing::warn!("{rest}");
    }
    Ok(())
}

type Binds = BTreeMap<TupleKey, TupleCount>;

/// Counters of the addresses at which bind(address, 0) is used, at the newest reading.
fn binds(tracer: &Tracer) -> Binds {
    tracer.bind_rows().map(|(key, count, _)| (key, count)).collect()
}

/// The forecasts of all tuples of the newest reading, in its order, followed by those of the addresses.
fn make_forecasts(
    forecasts: &mut Forecasts,
    tracer: &mut Tracer,
    (earlier, binds_before): (&mut Earlier, &Binds),
) -> Vec<Forecast> {
    let older = tracer.take_older();
    forecasts.begin(clock::monotonic_ns());
    let each = |(key, count): &(TupleKey, TupleCount)| {
        forecasts.read(key, (earlier.get(key), count), tracer.holds(key, count), older.get(key))
    };
    let mut row_forecasts: Vec<_> = tracer.tuples().iter().map(each).collect();
    row_forecasts.extend(tracer.bind_rows().map(|(key, count, of)| {
        // An address without an earlier reading has not grown: its ports may have been taken before tracer started.
        let before = binds_before.get(&key).unwrap_or(&count);
        forecasts.read(&key, (Some(before), &count), of.holds(), None)
    }));
    forecasts.end();
    row_forecasts
}

/// The rows to print: those that pass the filter, in the wanted order and number. `before`: an earlier reading of tuples and
/// of addresses, how long ago it was (`None`: there is none), and the forecast of each row.
fn rows(
    tracer: &Tracer,
    config: &TuplesConfig,
    filter: &Filter,
    before: (&mut Earlier, &Binds, Option<Duration>, &[Forecast]),
    callers: &mut Callers,
    now: Instant,
) -> Vec<Row> {
    let (earlier, binds_before, elapsed, row_forecasts) = before;
    let zero = TupleCount::default();
    let mut top = Top::new(config.table.sort, config.table.limit);
    for ((key, count), forecast) in tracer.tuples().iter().zip(row_forecasts) {
        if visible(filter, key, count, callers, now) {
            let before = elapsed.map(|elapsed| (earlier.get(key).unwrap_or(&zero), elapsed));
            let row = Row::new(*key, count, before, tracer.limits(key.netns));
            let mut row = row.with(*forecast);
            row.called = callers.last(count);
            if config.table.sort == Column::Container {
                row.container = container(&row, callers, now);
            }
            top.add(row);
        }
    }
    let of_addresses = row_forecasts.iter().skip(tracer.tuples().len());
    for ((key, count, of), forecast) in tracer.bind_rows().zip(of_addresses) {
        if visible(filter, &key, &count, callers, now) {
            let before = binds_before.get(&key).unwrap_or(&count);
            let before = elapsed.map(|elapsed| (before, elapsed));
            top.add(Row::new(key, &count, before, Some(of.limits)).with(*forecast));
        }
    }
    let mut rows = top.sorted();
    for row in &mut rows {
        row.container = container(row, callers, now);
    }
    rows
}

fn container(row: &Row, callers: &mut Callers, now: Instant) -> Option<Arc<str>> {
    callers.cgroups.get(row.cgroup, now).and_then(|name| name.place().cloned())
}

fn wait(time: Duration, signals: &StopSignals) {
    let until = Instant::now() + time;
    while !signals.stop()
        && let Some(left) = until.checked_duration_since(Instant::now())
        && !left.is_zero()
    {
        std::thread::sleep(left.min(POLL_INTERVAL));
    }
}
