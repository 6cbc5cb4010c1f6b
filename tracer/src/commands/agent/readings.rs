//! [`Readings`]: turns readings of the ledger into metrics, and hands them out.

use std::{
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tracer_common::{settings::MAX_TOUCHED, share::Table};

use crate::{
    commands::record::{
        recorder::{Recorder, Shared},
        stream::Stream,
    },
    config::AgentConfig,
    error::{Error, reason},
    host::capacity::Limits,
    kernel::{maps::Totals, run_time},
    ledger::{stats::Earlier, trace::named_losses},
    metrics::{
        ConfigReading, MapReading, Metrics, NetnsReading, OutputReading, Process, ProgramReading,
        Reading, Server, Slot, TextFile, TupleReading,
    },
    runtime::clock,
    view::forecasts::Forecasts,
};

/// Half of the time between two questions whether a reading is due.
const HALF_A_TICK: Duration = Duration::from_millis(500);

/// The metrics of an agent: their state, and who hands them out.
pub(super) struct Readings {
    interval: Duration,
    metrics: Metrics,
    slot: Arc<Slot>,
    server: Option<Server>,
    #[expect(dead_code, reason = "its thread ends when it is dropped")]
    file: Option<TextFile>,
    /// While it is open, the kernel counts how long programs run. `None`: nobody asked for that.
    run_times: Option<OwnedFd>,
    /// The names of the outputs, in their order: a path, or `-`.
    outputs: Vec<String>,
    /// The tuples' counters at the newest reading.
    last: Earlier,
    forecasts: Forecasts,
    /// When the newest reading began; `None`: there is none.
    read_at: Option<Instant>,
}

impl Readings {
    /// Opens what hands the metrics out, and starts its threads, which give up their rights. To be called before the calling
    /// thread gives up its own. `None`: the configuration asks for no metrics.
    ///
    /// # Errors
    /// The address cannot be listened on; the file cannot be written; run times cannot be counted; a thread cannot be started.
    pub(super) fn start(config: &AgentConfig) -> Result<Option<Self>, Error> {
        let wanted = &config.metrics;
        if wanted.listen.is_none() && wanted.textfile.is_none() {
            return Ok(None);
        }
        let slot = Arc::<Slot>::default();
        let server = wanted.listen.as_ref().map(|it| Server::start(it, Arc::clone(&slot)));
        let file = wanted.textfile.as_deref();
        let file = file.map(|path: &Path| TextFile::start(path, Arc::clone(&slot)));
        let run_times = wanted.bpf_stats.then(|| run_time::count().map_err(cannot_count));
        Ok(Some(Self {
            interval: wanted.interval,
            metrics: Metrics::new(wanted.top as usize, &config.thresholds.saturation),
            server: server.transpose()?,
            file: file.transpose()?,
            run_times: run_times.transpose()?,
            slot,
            outputs: config.outputs.iter().map(|output| output.output.target.name()).collect(),
            last: Earlier::default(),
            forecasts: Forecasts::default(),
            read_at: None,
        }))
    }

    /// Whether a reading is due.
    pub(super) fn is_due(&self) -> bool {
        // The loop asks once a second, or a little later: without the half, every second reading would be left out.
        self.read_at.is_none_or(|at| at.elapsed() + HALF_A_TICK >= self.interval)
    }

    /// From now on, reads at the interval of this configuration, and shows the tuples and thresholds that it asks for.
    pub(super) fn change(&mut self, config: &AgentConfig) {
        self.interval = config.metrics.interval;
        self.metrics.change(config.metrics.top as usize, &config.thresholds.saturation);
    }

    /// Reads the ledger, and hands out what it says. `config`: what the agent runs with.
    ///
    /// # Errors
    /// A BPF map cannot be read, or a command fails.
    pub(super) fn read(
        &mut self,
        recorder: &mut Recorder,
        config: ConfigReading,
    ) -> Result<(), Error> {
        let (now, mono_ns) = (Instant::now(), clock::monotonic_ns());
        recorder.shared.tracer.read(true)?;
        let took = now.elapsed();
        let totals = recorder.shared.tracer.totals()?;
        let degraded = recorder.shared.tracer.degraded().len();
        let maps = maps(&recorder.shared)?;
        let (shared, streams) = (&recorder.shared, recorder.streams());
        let tracer = &shared.tracer;
        let mut tuples = Vec::with_capacity(tracer.tuples().len());
        self.forecasts.begin(mono_ns);
        for (key, count) in tracer.tuples() {
            let holds = tracer.holds(key, count);
            let forecast = self.forecasts.read(key, (self.last.get(key), count), holds, None);
            tuples.push(TupleReading {
                key: *key,
                netns_name: shared.namespaces.get(key.netns).cloned(),
                count,
                capacity: holds.capacity,
                eta_s: forecast.eta_s,
            });
        }
        self.forecasts.end();
        let reading = Reading {
            at_ns: mono_ns.saturating_add(clock::wall_offset_ns()),
            took,
            backend: tracer.session.backend.name(),
            kernel: &tracer.release,
            degraded,
            config,
            tuples,
            losses: losses(&totals, shared, streams),
            totals,
            drift: tracer.drift,
            outputs: streams.iter().zip(&self.outputs).map(output).collect(),
            maps,
            programs: self.programs(shared),
            namespaces: tracer.all_limits().map(namespace).collect(),
            http_refused: self.server.as_ref().map_or(0, Server::refused),
            process: Process::read().ok(),
        };
        self.slot.put(self.metrics.update(&reading, now), now);
        drop(reading);
        recorder.shared.tracer.keep_tuples(&mut self.last);
        self.read_at = Some(now);
        Ok(())
    }

    /// The run times of the BPF programs; empty: they are not counted.
    fn programs(&self, shared: &Shared) -> Vec<ProgramReading<'static>> {
        if self.run_times.is_none() {
            return Vec::new();
        }
        let times = shared.tracer.session.run_times().into_iter();
        times.map(|(name, run)| ProgramReading { name, run }).collect()
    }
}

/// How full the tables of the kernel side are.
fn maps(shared: &Shared) -> Result<Vec<MapReading>, Error> {
    let tracer = &shared.tracer;
    let held = tracer.session.maps.held()?;
    let held = |table: Table| held.get(table as usize).copied();
    let sizes = &tracer.tables.sizes;
    let tables = [
        ("tuples", Table::Tuples, sizes.tuples),
        ("conns", Table::Conns, sizes.conns),
        ("binds", Table::Binds, sizes.binds),
        ("touched", Table::Touched, MAX_TOUCHED),
    ];
    let tables = tables.into_iter().map(|(name, table, max)| MapReading {
        name,
        entries: held(table),
        max_entries: max.into(),
    });
    Ok(tables.collect())
}

/// Every loss by name: those of the kernel side, and those of all outputs together.
fn losses(totals: &Totals, shared: &Shared, streams: &[Stream]) -> Vec<(&'static str, u64)> {
    let dropped = streams.iter().map(|stream| stream.taken().dropped);
    let (events, others) = dropped.fold((0, 0), |(events, others), dropped| {
        (events + dropped.events, others + dropped.others)
    });
    // An unknown kind is unknown to every output.
    let unknown = streams.iter().map(Stream::unknown).max().unwrap_or(0);
    let of_outputs = [
        ("output_full", events),
        ("output_full_other", others),
        ("undecodable", shared.undecodable + unknown),
    ];
    named_losses(totals).chain(of_outputs).collect()
}

fn output<'a>((stream, name): (&Stream, &'a String)) -> OutputReading<'a> {
    let taken = stream.taken();
    let dropped = taken.dropped.lines();
    OutputReading { name, lines: taken.written, dropped, bytes: taken.bytes }
}

fn namespace((inum, limits): (u32, Limits)) -> NetnsReading {
    let range = u32::from(limits.high.saturating_sub(limits.low)) + 1;
    NetnsReading { inum, range, bound: limits.bound }
}

fn cannot_count(error: std::io::Error) -> Error {
    Error::Failure(format!(
        "the kernel does not count the run times of BPF programs ({}): take bpf_stats out of [metrics]",
        reason(&error)
    ))
}
