//! The agent of one rule: keeps the pool true to the host while the hooks work by themselves.

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

pub use self::keeper::BEAT;
use self::{health_check::Seen, keeper::Keeper, refresh::RouteReads, stream::Counted};
use super::{
    addresses::Host,
    decision_log::DecisionLog,
    health::Health,
    missing_connects::MissingConnects,
    pool,
    start::{self, Inside},
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

/// How soon a refusal is acted upon.
const LOOK: Duration = Duration::from_millis(50);
/// How often everything else is looked at.
const ROUND: Duration = Duration::from_secs(1);
/// The spreader does not listen to events of the ledger.
const NO_RING: u32 = 4096;

/// A running spreader and what keeps it.
pub struct Agent {
    config: SpreadConfig,
    tracer: Tracer,
    pins: Pins,
    netns: Netns,
    inside: Inside,
    /// The only one that changes the rule.
    keeper: Keeper,
    /// The namespace is gone.
    namespace_gone: bool,
    destinations: Vec<Destination>,
    health: Health,
    missing: MissingConnects,
    /// Addresses without a route to a destination that has one without them, oldest first.
    unrouted: VecDeque<TupleKey>,
    /// What the hooks leave out towards single destinations.
    left_out: HashMap<TupleKey, LeftOut>,
    /// What the hooks went by when it was last made.
    rule: Rule,
    taken: Box<[u64; 1024]>,
    routes: RouteReads,
    random: u64,
    before: HashMap<TupleKey, Seen>,
    decision_log: DecisionLog,
    cgroups_gone: Vec<PathBuf>,
    counted: Counted,
    said: State,
    #[expect(dead_code, reason = "held, not used")]
    lock: Option<Lock>,
}

impl Agent {
    /// Finds out whether everything is right, then attaches, or takes over what an earlier agent left
    /// behind; spreading has begun when this returns.
    ///
    /// # Errors
    /// As `trace::start`; a pool, cgroup, destination or namespace that cannot be (78); another agent
    /// of the same rule (75).
    pub fn start(
        kernel: &KernelConfig,
        config: SpreadConfig,
        sink: Sink,
        names: Names,
    ) -> Result<Self, Error> {
        let netns = start::namespace(config.netns.as_ref())?;
        let worker = Worker::spawn()
            .map_err(|error| Error::Failure(format!("cannot start a thread: {error}")))?;
        let ears = start::ears(&worker, &netns).map_err(start::cannot_look)?;
        let mut inside = start::look(&worker, &netns, &config).map_err(start::cannot_look)?;
        // Its threads have every privilege; the tracer has threads of its own.
        drop(worker);
        start::pool(&config, &mut inside)?;
        let places = start::places(&config.cgroups)?;
        trace::check_privileges()?;
        let pins = Pins::of(&config.rule)?;
        let (rule, early) = (config.rule.clone(), pins.clone());
        shutdown::undo_with(Some(Box::new(move || start::withdraw(&rule, &early))));
        let taken = Lock::take(&config.rule);
        let gathered = taken.and_then(|lock| loaded::gather(&config.rule, &pins).map(|()| lock));
        let lock = gathered.inspect_err(|_| {
            start::withdraw(&config.rule, &pins);
            shutdown::undo_with(None);
        })?;
        let adopted = pins.exists();
        let undo = start::Undo::new(&config.rule, &pins, adopted);
        let undone = undo.clone();
        shutdown::undo_with(Some(Box::new(move || undone.run())));
        let spreading = Spreading {
            pins: pins.clone(),
            cgroups: places,
            fast_ports: config.flags & rule_flag::FAST_PORTS != 0,
            fail_fast: config.flags & rule_flag::FAIL_FAST != 0,
        };
        let kernel = KernelConfig { ring_size: NO_RING, ..*kernel };
        let earlier = State::read(&config.rule).believed().filter(|_| adopted).unwrap_or_default();
        let begin = || -> Result<Self, Error> {
            shutdown::go_on()?;
            let mut tracer = trace::start_spreading(&kernel, spreading)?;
            shutdown::go_on()?;
            let maps = tracer.session.spreader.as_mut().and_then(|spreader| spreader.rule.take());
            let listed = pool::listed(&config.pool).collect();
            let host = inside.host.clone();
            let keep = tracer.kept_for_maps;
            let keeper =
                Keeper::start(maps.ok_or_else(bug)?, config.lease, ears, host, listed, keep)?;
            let mut agent = Self {
                said: State::default(),
                counted: Counted::new(&earlier),
                cgroups_gone: Vec::new(),
                random: clock::wall_ns().wrapping_mul(0x9e37_79b9_7f4a_7c15),
                rule: Rule::default(),
                taken: Box::new([0; 1024]),
                routes: RouteReads::new(),
                health: Health::default(),
                missing: MissingConnects::default(),
                unrouted: VecDeque::new(),
                left_out: HashMap::new(),
                before: HashMap::new(),
                decision_log: DecisionLog::new(sink, names, &config.rule, config.sample)?,
                destinations: config.destinations(),
                config,
                tracer,
                pins: pins.clone(),
                netns,
                inside,
                keeper,
                namespace_gone: false,
                lock: None,
            };
            agent.refresh()?;
            shutdown::go_on()?;
            // From here on it is as it was asked for.
            agent.tracer.session.remove_other_links(&pins).map_err(Error::Failure)?;
            trace::enter_to_attach()?;
            Ok(agent)
        };
        match begin() {
            Ok(agent) => Ok(Self { lock: Some(lock), ..agent }),
            Err(error) => {
                undo.run();
                shutdown::undo_with(None);
                // What else went wrong on the way is of no interest then.
                shutdown::go_on().and(Err(error))
            }
        }
    }

    /// Follows the host until asked to stop.
    ///
    /// # Errors
    /// BPF maps that cannot be used; a stdout that cannot be written, but for a closed one.
    pub fn run(mut self, asked: &StopSignals) -> Result<(), Error> {
        let releases = self.config.on_exit == OnExit::Release && !self.config.detach;
        let undo = start::Undo::new(&self.config.rule, &self.pins, !releases);
        shutdown::undo_with(
            releases.then(|| -> Box<dyn FnOnce() -> bool + Send> { Box::new(move || undo.run()) }),
        );
        self.begin(asked)?;
        let mut round = Instant::now();
        while !asked.stop() && !self.config.detach {
            self.keeper.wait(LOOK);
            let mut changed = self.addresses_changed()?;
            changed |= self.follow_routes();
            changed |= self.hear();
            if round.elapsed() >= ROUND {
                round = Instant::now();
                self.tracer.reconcile_if_due()?;
                self.look_at_health()?;
                self.reattach();
                self.losses()?;
                changed = true;
            }
            if changed {
                self.refresh()?;
                self.degradation();
            }
            if asked.reopen() {
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
        // Last: nothing of the rule waits for a reader.
        self.decision_log.wait();
        Ok(())
    }

    fn spreader(&mut self) -> Result<&mut Spreader, Error> {
        let spreader = self.tracer.session.spreader.as_mut();
        spreader.ok_or_else(bug)
    }

    /// True if addresses have come or gone. From the rule the keeper has taken them already.
    fn addresses_changed(&mut self) -> Result<bool, Error> {
        let news = self.keeper.news()?.filter(|_| !self.namespace_gone);
        let Some(host) = news else { return Ok(false) };
        let here = |host: &Host, address| host.addresses.iter().any(|it| it.address == address);
        let new = host.addresses.iter().map(|it| it.address);
        for address in new.filter(|address| !here(&self.inside.host, *address)) {
            self.health.forget(&pool::to_addr(address));
        }
        // By the routes as they were; they are looked at again.
        let ways = std::mem::take(&mut self.inside.host.ways);
        self.inside.host = Host { ways, ..host };
        self.routes.changed = true;
        Ok(true)
    }

    /// A cgroup that was removed takes its links' effect with it; one of the same name may be back.
    fn reattach(&mut self) {
        let mut gone: Vec<PathBuf> = Vec::new();
        let mut places = Vec::new();
        for path in &self.config.cgroups {
            match start::place(path) {
                Ok(place) => places.push(place),
                Err(_) => gone.push(path.clone()),
            }
        }
        if let Err(error) = self.tracer.session.sync_cgroups(&self.pins, places) {
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
