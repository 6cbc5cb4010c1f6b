//! The agent of one rule: it activates the rule, and updates it when the host changes. It keeps the ledger right,
//! leaves out addresses that fail, and writes decisions as lines. The hooks spread connections without it, until the
//! lease ends.

mod health_check;
mod keeper;
mod refresh;
mod stream;

use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    time::{Duration, Instant},
};

use tracer_common::{
    Rule, TupleKey,
    spread::{Destination, LeftOut, rule_flag},
};

pub use self::keeper::LEASE_RENEWED;
use self::{
    health_check::TupleBaseline, keeper::Keeper, refresh::RouteReads, stream::StreamCounters,
};
use super::{
    addresses::Host,
    decision_log::DecisionLog,
    health::Health,
    missing_connects::MissingConnects,
    pool,
    start::{self, NetnsView},
    state::{Lock, State},
};
use crate::{
    cli::OnExit,
    config::{KernelConfig, SpreadConfig},
    error::Error,
    export::Sink,
    host::{
        cgroups::Names,
        netns::{Netns, Worker},
    },
    kernel::spread::{
        loaded,
        pinned::Pins,
        programs::{Spreader, Spreading},
    },
    ledger::trace::{self, Tracer},
    runtime::{
        clock,
        shutdown::{self, StopSignals},
    },
};

/// Longest pause between two readings of the hooks' decisions: an address that the kernel refuses can stay in the rule
/// for this long. A change of addresses ends the pause.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Shortest time between two checks of the health of addresses, of cgroups and of losses; the ledger is compared then,
/// too, if that is due.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Size of the ring buffer for the ledger's events, in bytes: one page, the smallest that the kernel takes, because the
/// spreader reads no events.
const RING_SIZE: u32 = 4096;

/// A running spreader, and all that its agent knows.
pub struct Agent {
    config: SpreadConfig,
    tracer: Tracer,
    pins: Pins,
    netns: Netns,
    /// What was last read of the pool's network namespace.
    view: NetnsView,
    /// The only thread that changes the rule.
    keeper: Keeper,
    /// Whether nothing leads to the network namespace any more: neither a name, nor a process, nor an open file.
    namespace_gone: bool,
    destinations: Vec<Destination>,
    health: Health,
    missing: MissingConnects,
    /// Pairs of a source and a destination: the host can reach the destination, but not from that source. Oldest first.
    unrouted: VecDeque<TupleKey>,
    /// Pairs of a source and a destination that the hooks do not use, and why.
    left_out: HashMap<TupleKey, LeftOut>,
    /// The rule as the hooks got it at the last refresh; since then, the keeper may have removed addresses from it.
    rule: Rule,
    /// One bit for each port (bit `port % 64` of word `port / 64`); 1: the hooks must not hand it out.
    excluded: Box<[u64; 1024]>,
    routes: RouteReads,
    random: u64,
    /// The counters at the last health check, of each tuple for which the hooks chose or left out the source.
    baselines: HashMap<TupleKey, TupleBaseline>,
    decision_log: DecisionLog,
    /// Paths of `--cgroup` that could not be opened at the last check.
    cgroups_gone: Vec<PathBuf>,
    stream_counters: StreamCounters,
    /// The state that `tracer status` shows, as last published; the default before that.
    published: State,
    #[expect(dead_code, reason = "held until the agent ends")]
    lock: Option<Lock>,
}

impl Agent {
    /// Checks the configuration, then attaches the programs, or takes over the pins of an earlier agent. When this
    /// returns, connections are spread. `kernel`: its ring size is not used. `sink`: where the stream is written.
    ///
    /// # Errors
    /// Those of `trace::start_spreading`; a pool, cgroup, destination or namespace that cannot be used (exit code 78);
    /// another agent of the same rule is running (75); the namespace or its routes cannot be read; a thread cannot be
    /// started; the lock file cannot be opened or locked; the rule is active with the maps of another version, or cannot
    /// be pinned here; a link of a cgroup that is no longer named cannot be removed; a BPF map cannot be read or written;
    /// the ledger refuses a command; a signal asked to stop.
    pub fn start(
        kernel: &KernelConfig,
        config: SpreadConfig,
        sink: Sink,
        names: Names,
    ) -> Result<Self, Error> {
        let netns = start::namespace(config.netns.as_ref())?;
        let worker = Worker::spawn()
            .map_err(|error| Error::Failure(format!("cannot start a thread: {error}")))?;
        let sockets = start::open_sockets(&worker, &netns).map_err(start::cannot_read_netns)?;
        let mut view =
            start::read_netns(&worker, &netns, &config).map_err(start::cannot_read_netns)?;
        // This worker's threads keep every privilege. The tracer starts another worker, whose threads have fewer.
        drop(worker);
        start::pool(&config, &mut view)?;
        let targets = start::attach_targets(&config.cgroups)?;
        trace::check_privileges()?;
        let pins = Pins::of(&config.rule)?;
        let (rule, early) = (config.rule.clone(), pins.clone());
        shutdown::undo_with(Some(Box::new(move || start::remove_unused_lock(&rule, &early))));
        let taken = Lock::take(&config.rule);
        let gathered = taken.and_then(|lock| loaded::gather(&config.rule, &pins).map(|()| lock));
        let lock = gathered.inspect_err(|_| {
            start::remove_unused_lock(&config.rule, &pins);
            shutdown::undo_with(None);
        })?;
        let adopted = pins.exists();
        let undo = start::Undo::new(&config.rule, &pins, adopted);
        let undone = undo.clone();
        shutdown::undo_with(Some(Box::new(move || undone.run())));
        let spreading = Spreading {
            pins: pins.clone(),
            cgroups: targets,
            fast_ports: config.flags & rule_flag::FAST_PORTS != 0,
            rebind: config.flags & rule_flag::REBIND != 0,
            fail_fast: config.flags & rule_flag::FAIL_FAST != 0,
        };
        let kernel = KernelConfig { ring_size: RING_SIZE, ..*kernel };
        let earlier = State::read(&config.rule).trusted().filter(|_| adopted).unwrap_or_default();
        let begin = || -> Result<Self, Error> {
            shutdown::check_stop()?;
            let mut tracer = trace::start_spreading(&kernel, spreading)?;
            shutdown::check_stop()?;
            let maps = tracer.session.spreader.as_mut().and_then(|spreader| spreader.rule.take());
            let listed = pool::listed(&config.pool).collect();
            let host = view.host.clone();
            let keep = tracer.kept_for_maps;
            let keeper =
                Keeper::start(maps.ok_or_else(bug)?, config.lease, sockets, host, listed, keep)?;
            let mut agent = Self {
                published: State::default(),
                stream_counters: StreamCounters::new(&earlier),
                cgroups_gone: Vec::new(),
                random: clock::wall_ns().wrapping_mul(0x9e37_79b9_7f4a_7c15),
                rule: Rule::default(),
                excluded: Box::new([0; 1024]),
                routes: RouteReads::new(),
                health: Health::default(),
                missing: MissingConnects::default(),
                unrouted: VecDeque::new(),
                left_out: HashMap::new(),
                baselines: HashMap::new(),
                decision_log: DecisionLog::new(sink, names, &config.rule, config.sample)?,
                destinations: config.destinations(),
                config,
                tracer,
                pins: pins.clone(),
                netns,
                view,
                keeper,
                namespace_gone: false,
                lock: None,
            };
            agent.refresh()?;
            shutdown::check_stop()?;
            // The hooks have the new rule, so the links to cgroups that `--cgroup` no longer names can be removed.
            agent.tracer.session.remove_other_links(&pins).map_err(Error::Failure)?;
            trace::enter_to_attach()?;
            Ok(agent)
        };
        match begin() {
            Ok(agent) => Ok(Self { lock: Some(lock), ..agent }),
            Err(error) => {
                undo.run();
                shutdown::undo_with(None);
                // If a signal stopped the start, that is the result, and not the error that followed.
                shutdown::check_stop().and(Err(error))
            }
        }
    }

    /// Updates the rule when the host changes and writes the stream's lines, until a signal asks to stop; with
    /// `--detach`, does neither. After that, removes the rule from the kernel if `--on-exit` is `release` and there is
    /// no `--detach`. Returns when all lines are written, or the reader of the output is gone.
    ///
    /// # Errors
    /// A BPF map cannot be read or written; waiting for running hooks fails; the ledger refuses a command; the keeper's
    /// thread has ended; pins cannot be removed. After an error, the rule can still be pinned and active.
    pub fn run(mut self, signals: &StopSignals) -> Result<(), Error> {
        let releases = self.config.on_exit == OnExit::Release && !self.config.detach;
        let undo = start::Undo::new(&self.config.rule, &self.pins, !releases);
        shutdown::undo_with(
            releases.then(|| -> Box<dyn FnOnce() -> bool + Send> { Box::new(move || undo.run()) }),
        );
        self.begin(signals)?;
        let mut round = Instant::now();
        while !signals.stop() && !self.config.detach {
            self.keeper.wait(POLL_INTERVAL);
            let mut changed = self.addresses_changed()?;
            changed |= self.reread_routes();
            changed |= self.drain_decisions();
            if round.elapsed() >= CHECK_INTERVAL {
                round = Instant::now();
                self.tracer.reconcile_if_due()?;
                self.check_health()?;
                self.reattach();
                self.losses()?;
                changed = true;
            }
            if changed {
                self.refresh()?;
                self.degradation();
            }
            if signals.reopen() {
                self.decision_log.reopen();
            }
            self.tracer.session.flush_log();
        }
        self.end()
    }

    fn end(mut self) -> Result<(), Error> {
        if self.config.on_exit == OnExit::Release && !self.config.detach {
            self.keeper.clear()?;
            self.finish()?;
            self.tracer.session.detach();
            self.pins.remove()?;
            State::remove(&self.config.rule);
        } else {
            self.finish()?;
        }
        // Last: this may wait for the reader of the output, and removing the rule must not wait for it.
        self.decision_log.wait();
        Ok(())
    }

    /// The spreader's maps and links. An error is a bug: an agent's session has them.
    fn spreader(&mut self) -> Result<&mut Spreader, Error> {
        let spreader = self.tracer.session.spreader.as_mut();
        spreader.ok_or_else(bug)
    }

    /// Takes over the keeper's list of addresses, and has the routes read again; true if there was a new list. False,
    /// too, once the namespace is gone. The keeper has removed missing addresses from the rule already. An error: the
    /// keeper's thread has ended.
    fn addresses_changed(&mut self) -> Result<bool, Error> {
        let changed = self.keeper.take_changes()?.filter(|_| !self.namespace_gone);
        let Some(host) = changed else { return Ok(false) };
        let here = |host: &Host, address| host.addresses.iter().any(|it| it.address == address);
        let new = host.addresses.iter().map(|it| it.address);
        for address in new.filter(|address| !here(&self.view.host, *address)) {
            self.health.forget(&pool::to_addr(address));
        }
        // What `--pool auto` chose by the old routes holds until the routes are read again.
        let auto = std::mem::take(&mut self.view.host.auto);
        self.view.host = Host { auto, ..host };
        self.routes.changed = true;
        Ok(true)
    }

    /// Attaches to cgroups that were removed and made again: the kernel removed their links with them. Logs which
    /// cgroups are newly gone, and an error of attaching.
    fn reattach(&mut self) {
        let mut gone: Vec<PathBuf> = Vec::new();
        let mut targets = Vec::new();
        for path in &self.config.cgroups {
            match start::attach_target(path) {
                Ok(target) => targets.push(target),
                Err(_) => gone.push(path.clone()),
            }
        }
        if let Err(error) = self.tracer.session.sync_cgroups(&self.pins, targets) {
            tracing::warn!("cannot attach to a cgroup that came back: {error}");
        }
        for path in gone.iter().filter(|path| !self.cgroups_gone.contains(path)) {
            tracing::warn!(
                "cgroup {} is gone; tracer attaches to it again when it is back",
                path.display()
            );
        }
        self.cgroups_gone = gone;
    }
}

fn bug() -> Error {
    Error::Failure("the session has no spreader; this is a bug".into())
}
