//! `tracer tuples`: the tuple table as it is now.

use std::{
    collections::HashMap,
    io::{self, Write},
    time::{Duration, Instant},
};

use tracer_common::{Filter, TupleCount, TupleKey};

use crate::{
    cgroups::Names,
    clock,
    config::TuplesConfig,
    error::Error,
    shutdown::Asked,
    stats::Row,
    table,
    trace::{Tracer, visible},
};

/// How long to look before a single reading, so that it can show rates.
const GLANCE: Duration = Duration::from_secs(1);
/// How often a wait looks whether it was asked to stop.
const LOOK: Duration = Duration::from_millis(20);
/// How often the port ranges are read.
const RANGES_INTERVAL: Duration = Duration::from_secs(1);

/// Prints one reading, or one every `watch` until asked to stop or its reader is gone.
///
/// # Errors
/// BPF maps that cannot be read; a stdout that cannot be written, but for a closed one.
pub fn run(
    mut tracer: Tracer,
    config: &TuplesConfig,
    filter: &Filter,
    mut names: Names,
    asked: &Asked,
) -> Result<(), Error> {
    let mut before: HashMap<TupleKey, TupleCount> = HashMap::new();
    let mut before_at: Option<Instant> = None;
    let mut ranges_at: Option<Instant> = None;
    let mut first = true;
    if config.watch.is_none() {
        before = tracer.read_tuples()?.iter().copied().collect();
        before_at = Some(Instant::now());
        wait(GLANCE, asked);
    }
    loop {
        let read_at = clock::wall_ns();
        let now = Instant::now();
        tracer.read_tuples()?;
        let due = ranges_at.is_none_or(|at| at.elapsed() >= RANGES_INTERVAL);
        if due || tracer.tuples().iter().any(|(key, _)| tracer.capacity(key.netns).is_none()) {
            tracer.refresh_capacities()?;
            ranges_at = Some(now);
        }
        let elapsed = before_at.map(|at| now.duration_since(at));
        let mut rows = rows(&tracer, filter, &before, elapsed, &mut names, now);
        table::sort(&mut rows, config.sort);
        if let Some(limit) = config.limit {
            rows.truncate(limit);
        }
        let text = table::render(&rows, config.format, read_at, first)
            .map_err(|error| Error::Failure(format!("cannot put the table together: {error}")))?;
        asked.writing(true);
        let open = print(&text)?;
        asked.writing(false);
        if !open {
            return Ok(());
        }
        first = false;
        let Some(interval) = config.watch else { return Ok(()) };
        before = tracer.tuples().iter().copied().collect();
        before_at = Some(now);
        tracer.reconcile_if_due()?;
        wait(interval.saturating_sub(now.elapsed()), asked);
        if asked.stop() {
            return Ok(());
        }
    }
}

fn rows(
    tracer: &Tracer,
    filter: &Filter,
    before: &HashMap<TupleKey, TupleCount>,
    elapsed: Option<Duration>,
    names: &mut Names,
    now: Instant,
) -> Vec<Row> {
    let zero = TupleCount::default();
    let mut rows = Vec::new();
    for (key, count) in tracer.tuples() {
        if visible(filter, key, count, names, now) {
            let before = elapsed.map(|elapsed| (before.get(key).unwrap_or(&zero), elapsed));
            let mut row = Row::new(*key, count, before, tracer.capacity(key.netns));
            row.container = names.get(count.cgroup, now).and_then(|name| name.container.clone());
            rows.push(row);
        }
    }
    rows
}

fn wait(time: Duration, asked: &Asked) {
    let until = Instant::now() + time;
    while !asked.stop()
        && let Some(left) = until.checked_duration_since(Instant::now())
        && !left.is_zero()
    {
        std::thread::sleep(left.min(LOOK));
    }
}

/// Writes to stdout; false when its reader is gone.
fn print(text: &[u8]) -> Result<bool, Error> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::Failure(format!("cannot write to stdout: {error}"))),
    }
}
