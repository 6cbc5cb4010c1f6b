//! The agent of one rule: keeps the pool true to the host while the hooks work by themselves.

mod stream;

use std::{
    collections::HashMap,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracer_common::{
    Addr, Rule, TupleKey,
    spread::{Decision, Destination, rule_flag},
};

use stream::Counted;

use super::{
    addresses::Watch,
    health::{Health, Outcome, Reason},
    pool::{self, PoolAddress},
    ports,
    rule::{self, Inputs},
    start::{self, Inside},
    state::{Lock, State},
    tell::Teller,
};
use crate::{
    capacity::PortRange,
    cgroups::Names,
    cli::OnExit,
    clock,
    config::{KernelConfig, SpreadConfig},
    error::Error,
    export::Sink,
    kernel::{
        pins::Pins,
        spreader::{Spreader, Spreading},
    },
    netns::{Netns, Worker},
    shutdown::Asked,
    trace::{self, Tracer},
};

/// How soon a change of addresses or a refusal is acted upon.
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
    watch: Watch,
    destinations: Vec<Destination>,
    health: Health,
    /// What the hooks go by now.
    rule: Rule,
    taken: Box<[u64; 1024]>,
    random: u64,
    before: HashMap<TupleKey, (u64, u64)>,
    teller: Teller,
    cgroups_gone: Vec<PathBuf>,
    counted: Counted,
    said: State,
    #[expect(dead_code, reason = "held, not used")]
    lock: Lock,
}

impl Agent {
    /// Finds out whether everything is right, then attaches, or takes over what an earlier agent left
    /// behind; spreading has begun when this returns.
    ///
    /// # Errors
    /// As [`trace::start`]; a pool, cgroup, destination or namespace that cannot be (78); another agent
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
        let watch = start::watch(&worker, &netns).map_err(start::cannot_look)?;
        let inside = start::look(&worker, &netns, &config.pool).map_err(start::cannot_look)?;
        start::pool(&config, &inside)?;
        let places = start::places(&config.cgroups)?;
        trace::check_privileges()?;
        let lock = Lock::take(&config.rule)?;
        let pins = Pins::of(&config.rule)?;
        let adopted = pins.exists();
        let spreading = Spreading {
            pins: pins.clone(),
            places,
            fast_ports: config.flags & rule_flag::FAST_PORTS != 0,
        };
        let kernel = KernelConfig { ring_size: NO_RING, ..*kernel };
        let tracer = match trace::start_spreading(&kernel, spreading) {
            Ok(tracer) => tracer,
            Err(error) => {
                // What an earlier agent left goes on as it was.
                if !adopted {
                    pins.remove()?;
                }
                return Err(error);
            }
        };
        let earlier = State::read(&config.rule).filter(|_| adopted).unwrap_or_default();
        let mut agent = Self {
            said: State::default(),
            counted: Counted::new(&earlier),
            cgroups_gone: Vec::new(),
            random: clock::wall_ns().wrapping_mul(0x9e37_79b9_7f4a_7c15),
            rule: Rule::default(),
            taken: Box::new([0; 1024]),
            health: Health::default(),
            before: HashMap::new(),
            teller: Teller::new(sink, names, config.sample),
            destinations: config.destinations(),
            config,
            tracer,
            pins,
            netns,
            inside,
            watch,
            lock,
        };
        agent.renew_lease()?;
        agent.refresh()?;
        Ok(agent)
    }

    /// Follows the host until asked to stop.
    ///
    /// # Errors
    /// BPF maps that cannot be used; a stdout that cannot be written, but for a closed one.
    pub fn run(mut self, asked: &Asked) -> Result<(), Error> {
        self.begin(asked)?;
        let mut round = Instant::now();
        while !asked.stop() && !self.config.detach {
            self.wait();
            self.renew_lease()?;
            let mut changed = self.addresses_changed();
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
            }
            if asked.reopen() {
                self.teller.reopen()?;
            }
            self.teller.flush();
            self.tracer.session.flush_log();
        }
        self.end()
    }

    fn end(mut self) -> Result<(), Error> {
        if self.config.on_exit == OnExit::Release && !self.config.detach {
            self.spreader()?.maps.clear_rule()?;
            self.finish()?;
            self.tracer.session.detach();
            self.pins.remove()?;
            State::remove(&self.config.rule);
            return Ok(());
        }
        self.finish()
    }

    fn spreader(&mut self) -> Result<&mut Spreader, Error> {
        let spreader = self.tracer.session.spreader.as_mut();
        spreader.ok_or_else(|| Error::Failure("the session has no spreader; this is a bug".into()))
    }

    fn wait(&self) {
        let timeout =
            Timespec::try_from(LOOK).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 50_000_000 });
        // A signal ends the wait early, which is as good as its end.
        _ = poll(&mut [PollFd::new(&self.watch, PollFlags::IN)], Some(&timeout));
    }

    fn renew_lease(&mut self) -> Result<(), Error> {
        let until = match self.config.lease {
            Some(lease) => clock::monotonic_ns().saturating_add(clock::as_ns(lease)),
            None => u64::MAX,
        };
        self.spreader()?.maps.set_lease(until)
    }

    fn addresses_changed(&mut self) -> bool {
        match self.watch.drain() {
            Ok(false) => return false,
            Ok(true) => {}
            Err(error) => tracing::warn!("{error}"),
        }
        let (_, _, worker) = self.tracer.split();
        match start::look(worker, &self.netns, &self.config.pool) {
            Ok(inside) => self.inside = inside,
            // The namespace is gone, and with it whoever could connect in it.
            Err(error) => tracing::warn!("{error}"),
        }
        true
    }

    /// Takes in what the hooks tell; true if an address was refused.
    fn hear(&mut self) -> bool {
        let now = Instant::now();
        let Some(spreader) = &mut self.tracer.session.spreader else { return false };
        let mut refused = false;
        spreader.maps.told(|told| {
            if told.decision == Decision::Refused as u32 {
                refused = true;
                self.health.quarantine(told.chosen, Reason::Refused, now);
            }
            self.teller.add(&self.config.rule, told);
        });
        refused
    }

    /// Compares how the addresses of the pool fare, destination by destination.
    fn look_at_health(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        self.health.tidy(now);
        let netns = self.netns.inum;
        let mut by_destination: HashMap<_, Vec<_>> = HashMap::new();
        let mut counts = HashMap::new();
        self.tracer.read_tuples()?;
        for (key, count) in self.tracer.tuples().iter().filter(|(key, _)| key.netns == netns) {
            let newest = (count.opened, ports::nowhere(count));
            if let Some(before) = self.before.get(key) {
                let outcome = Outcome {
                    opened: newest.0.saturating_sub(before.0),
                    failed: newest.1.saturating_sub(before.1),
                };
                let destination = (key.destination, key.destination_port);
                by_destination.entry(destination).or_default().push((key.source, outcome));
            }
            counts.insert(*key, newest);
        }
        self.before = counts;
        let members = pool::members(&self.config.pool, &self.inside.host);
        let ours =
            |address: &Addr| members.iter().any(|member| pool::to_addr(member.address) == *address);
        for outcomes in by_destination.values_mut() {
            outcomes.retain(|(address, _)| ours(address));
            self.health.judge(outcomes, now);
        }
        Ok(())
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
        if let Err(error) = self.tracer.session.respread(&self.pins, places) {
            tracing::warn!("cannot attach to a cgroup that came back: {error}");
        }
        for path in gone.iter().filter(|path| !self.cgroups_gone.contains(path)) {
            tracing::warn!("cgroup {} is gone; its rule waits for it to come back", path.display());
        }
        self.cgroups_gone = gone;
    }

    /// Makes the rule anew from what the host has now, and hands it to the hooks if it differs.
    fn refresh(&mut self) -> Result<(), Error> {
        self.range_changed();
        let now = Instant::now();
        let blocked = self.blocked(now)?;
        let (usable, left_out) = self.usable(now);
        let taken = ports::taken(&self.inside.range, &blocked);
        let rule = rule::build(&Inputs {
            netns: self.netns.inum,
            netns_cookie: self.inside.cookie,
            flags: self.config.flags,
            addresses: &usable,
            destinations: &self.destinations,
            low: self.inside.range.low,
            high: self.inside.range.high,
            capacity: ports::capacity(&self.inside.range, &blocked),
            other_capacity: ports::other_capacity(&self.inside.range, &taken),
            sample: self.config.sample,
            random: self.random,
        });
        if *taken != *self.taken {
            self.spreader()?.maps.set_taken(&taken)?;
            self.taken = taken;
        }
        if rule != self.rule {
            self.spreader()?.maps.set_rule(&rule)?;
            self.rule = rule;
        }
        self.say(left_out);
        Ok(())
    }

    /// The range is a sysctl, of which nobody tells when it changes.
    fn range_changed(&mut self) {
        let (_, _, worker) = self.tracer.split();
        match worker.run_in(&self.netns, PortRange::read).and_then(|range| range) {
            Ok(range) => self.inside.range = range,
            Err(error) => tracing::debug!("{error}"),
        }
    }

    /// The addresses that can be used now, and why the others cannot.
    fn usable(&self, now: Instant) -> (Vec<PoolAddress>, Vec<(IpAddr, String)>) {
        let mut usable = Vec::new();
        let mut left_out = Vec::new();
        for member in pool::members(&self.config.pool, &self.inside.host) {
            let ill = self.health.reason(&pool::to_addr(member.address), now);
            match (member.usable(), member.trouble, ill) {
                (Some(address), _, None) => usable.push(address),
                (_, Some(trouble), _) => {
                    left_out.push((member.address, trouble.name().to_owned()));
                }
                (_, None, Some(reason)) => {
                    left_out.push((member.address, reason.name().to_owned()));
                }
                (None, None, None) => {}
            }
        }
        (usable, left_out)
    }

    /// Ports of the namespace that bind() or listen() took. An address that has hardly any left is left out.
    fn blocked(&mut self, now: Instant) -> Result<Vec<u16>, Error> {
        let mut bound = Vec::new();
        let netns = self.netns.inum;
        self.tracer.session.maps.binds(|key, at| {
            if at.place.netns == netns {
                bound.push((at.place.source, key.port));
            }
        })?;
        for address in ports::crowded(&self.inside.range, &bound) {
            self.health.quarantine(address, Reason::Bound, now);
        }
        Ok(bound.into_iter().map(|(_, port)| port).collect())
    }

    /// For `tracer status`, and on the log what changed of the pool.
    fn say(&mut self, left_out: Vec<(IpAddr, String)>) {
        for (address, why) in left_out.iter().filter(|it| !self.said.left_out.contains(it)) {
            tracing::warn!("{address} is left out: {why}");
        }
        let back = |it: &&(IpAddr, String)| !left_out.iter().any(|other| other.0 == it.0);
        for (address, _) in self.said.left_out.iter().filter(back) {
            tracing::warn!("{address} is used again");
        }
        let spreader = self.tracer.session.spreader.as_ref();
        let members = pool::members(&self.config.pool, &self.inside.host);
        let state = State {
            cgroups: self.config.cgroups.clone(),
            netns: self.netns.path.clone(),
            backend: self.tracer.session.backend.name().to_owned(),
            range: (self.inside.range.low, self.inside.range.high),
            pool: members.iter().map(|member| (member.address, member.weight)).collect(),
            left_out,
            cgroups_gone: self.cgroups_gone.clone(),
            no_fast_ports: spreader.and_then(|spreader| spreader.no_fast_ports.clone()),
            degraded: self.tracer.degraded.clone(),
            ..self.troubles()
        };
        if state != self.said {
            if let Err(error) = state.write(&self.config.rule) {
                tracing::warn!("what `tracer status` shows cannot be written: {error}");
            }
            self.said = state;
        }
    }
}
