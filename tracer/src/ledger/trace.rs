//! A running tracer: the attached BPF side, the sockets that were there before it, and what each
//! network namespace has to give. `tracer record` and `tracer tuples` both stand on it.

mod agreement;
mod balance;
mod capacities;
mod filling;
mod idle;
mod left_out;
mod missing;
mod namespaces;
mod older;
mod pacing;
mod ports;
mod quiet;
mod rows;
mod sizing;
mod start;
mod touched;
mod unmarked;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use agreement::Agreement;
use balance::{Counters, Reading};
pub use capacities::Capacities;
use filling::Filling;
use idle::Sweep;
use left_out::LeftOut;
use missing::{Missing, for_lack_of_room, has_room};
pub use older::OlderEnds;
use pacing::{ALERT, CALM, LACKING};
use ports::Ports;
use quiet::Quiet;
pub use rows::{named_losses, visible, visible_to};
use rustix::thread::CapabilitySet;
pub use start::{cgroup_names, check_privileges, resolve, start_spreading};
pub(crate) use start::{enter_to_attach, enter_to_read, start};
use tracer_common::{
    TupleCount, TupleKey,
    seed::{Command, Op},
};

use crate::{
    error::Error,
    host::{
        capacity::{Holds, Limits, Reuse},
        holder::Holders,
        netns::{Netns, Worker},
        process,
    },
    kernel::{attach::Session, maps::Totals},
    ledger::{bound, seed, sizes::Chosen, stats::Earlier},
    runtime::{clock, memory, shutdown},
};

/// An attached and seeded tracer. Dropping it detaches.
pub struct Tracer {
    pub session: Session,
    /// Kernel release.
    pub release: String,
    /// What did not work at the start as well as it could, and why.
    degraded: Vec<String>,
    left_out: LeftOut,
    /// Sockets older than the tracer that are in the ledger.
    pub seeded: u64,
    /// When their TIME_WAITs end.
    older: OlderEnds,
    /// Corrections that the reconciliation had to make: 0, or hooks were missed, or there is a bug.
    pub drift: u64,
    worker: Worker,
    /// What threads that read maps must keep.
    agreement: Agreement,
    pub(crate) kept_for_maps: CapabilitySet,
    /// The kernel lists sockets that are bound and idle.
    idle_listed: bool,
    /// How large the tables are, and why.
    pub tables: Chosen,
    filling: Filling,
    missing: Missing,
    quiet: Quiet,
    reconciled: Instant,
    /// How long the newest reconciliation took.
    cost: Duration,
    /// Missed hooks that a reconciliation has made good.
    misses_seen: u64,
    capacities: Capacities,
    holders: Holders,
    ports: Ports,
    tuples: Vec<(TupleKey, TupleCount)>,
    /// The namespaces in the newest reading.
    namespaces: HashSet<u32>,
    /// Of these, those in which ports are held.
    held: HashSet<u32>,
}

impl Tracer {
    /// Brings the sockets that are older than the tracer into the ledger.
    fn seed(&mut self) -> Result<(), Error> {
        let namespaces = self.namespaces();
        let dumps = self.dump(namespaces);
        self.older = OlderEnds::of(&dumps, clock::monotonic_ns());
        let owners = process::owners(&seed::inodes(&dumps)).unwrap_or_else(|error| {
            tracing::warn!("cannot find out who owns the sockets that are open already: {error}");
            HashMap::new()
        });
        for dump in &dumps {
            shutdown::go_on()?;
            for command in seed::commands(dump, &owners) {
                self.seeded += u64::from(self.session.commands.run(&command)?);
            }
        }
        self.session.maps.set_seeding(false)?;
        self.correct_unmarked()?;
        self.look_at_tables()?;
        tracing::info!("{} sockets in {} namespaces were open already", self.seeded, dumps.len());
        Ok(())
    }

    /// What does not work here as well as it could now, and why.
    pub fn degraded(&self) -> Vec<String> {
        let nearly_full = self.filling.reasons(&self.tables.sizes);
        let lasting = self.degraded.iter().cloned().chain(self.left_out.reasons());
        let lasting = lasting.chain(self.capacities.reason()).chain(self.ports.not_noted.reason());
        lasting.chain(nearly_full).collect()
    }

    /// The parts that turning events into lines needs, to be used together.
    pub fn split(&mut self) -> (&mut Session, &mut Capacities, &Worker, &mut Holders) {
        (&mut self.session, &mut self.capacities, &self.worker, &mut self.holders)
    }

    /// Reads the tuple table.
    pub fn read_tuples(&mut self) -> Result<(), Error> {
        let mut tuples = std::mem::take(&mut self.tuples);
        tuples.clear();
        let result = self.each_tuple(|key, count, _| tuples.push((*key, *count)));
        self.tuples = tuples;
        result
    }

    /// Hands every tuple over, with what its namespace has to give; keeps none of them.
    pub fn each_tuple(
        &mut self,
        mut each: impl FnMut(&TupleKey, &TupleCount, Option<Limits>),
    ) -> Result<(), Error> {
        let Self { session, capacities, namespaces, held, .. } = self;
        namespaces.clear();
        held.clear();
        let mut newest = (None, None);
        let mut newest_held = None;
        session.maps.tuples(|key, count| {
            // Mostly there are few namespaces, and the same one over and over.
            if newest.0 != Some(key.netns) {
                newest = (Some(key.netns), capacities.get(key.netns));
                namespaces.insert(key.netns);
            }
            if newest_held != Some(key.netns) && count.in_use() > 0 {
                newest_held = Some(key.netns);
                held.insert(key.netns);
            }
            each(&key, &count, newest.1);
        })
    }

    /// The newest reading.
    pub fn tuples(&self) -> &[(TupleKey, TupleCount)] {
        &self.tuples
    }

    /// Gives the newest reading away; the memory of an older one is used for the next.
    pub fn keep_tuples(&mut self, earlier: &mut Earlier) {
        earlier.replace(&mut self.tuples);
    }

    /// Whether there is a namespace in the newest reading of which [`Self::limits`] knows nothing.
    pub fn lacks_limits(&self) -> bool {
        self.namespaces.iter().any(|netns| self.limits(*netns).is_none())
    }

    /// Reads the tuple table, and what namespaces have to give; `ranges`: their port ranges, too, which changes seldom.
    /// In this order, so that what a tuple holds and what it can hold fit together.
    pub fn read(&mut self, ranges: bool) -> Result<(), Error> {
        if ranges {
            self.refresh_ranges();
        }
        self.refresh_ports()?;
        self.read_tuples()?;
        if self.lacks_limits() {
            self.refresh_ranges();
            self.refresh_ports()?;
            self.read_tuples()?;
        }
        Ok(())
    }

    /// What net.ipv4.tcp_tw_reuse lets each namespace do; absent: not known.
    pub const fn reuses(&self) -> &BTreeMap<u32, Reuse> {
        self.capacities.reuses()
    }

    /// What a tuple of the newest reading holds beside its counters.
    pub fn holds(&self, key: &TupleKey, count: &TupleCount) -> Holds {
        Holds {
            capacity: self.limits(key.netns).map(|limits| limits.capacity_of(key, count)),
            reuse: self.reuses().get(&key.netns).and_then(|reuse| reuse.of(key, count)),
        }
    }

    /// When the TIME_WAITs end that are older than the tracer: for the first reading, after which it is forgotten.
    pub fn take_older(&mut self) -> OlderEnds {
        std::mem::take(&mut self.older)
    }

    /// What the kernel side counted.
    pub fn totals(&self) -> Result<Totals, Error> {
        self.session.totals()
    }

    /// Compares the ledger with what the kernel itself says, corrects it, and forgets tuples that
    /// nobody uses. Returns how many entries were wrong: not those that had found no room, which are losses.
    pub fn reconcile(&mut self) -> Result<u64, Error> {
        let before_ns = clock::monotonic_ns();
        let lost = for_lack_of_room(&self.totals()?);
        let lacking = self.missing.is_any(lost);
        // What nobody could look at before is no drift.
        let unread: HashSet<u32> = self.left_out.unread().collect();
        let everywhere = lacking && self.makes_room(before_ns)?;
        let places = if everywhere { self.namespaces() } else { self.places_with_sockets()? };
        let first = self.differences(before_ns, places.clone())?;
        // What was read by then is of a part of the namespaces.
        if shutdown::asked().is_some() {
            return Ok(0);
        }
        let (mut corrected, mut found, mut refused) = (0, 0, 0);
        if first.is_empty() {
            self.agreement.of(&[], Vec::new());
        } else {
            // A dump is no snapshot: what one dump says can be a socket on its way.
            let second = self.differences(before_ns, places)?;
            for command in self.agreement.of(&first, second) {
                if shutdown::asked().is_some() {
                    break;
                }
                let changed = u64::from(self.session.commands.run(&command)?);
                let adds = [Op::AddConn as u32, Op::AddBound as u32].contains(&command.op);
                let new = adds && (lacking || unread.contains(&command.tuple.netns));
                *if new { &mut found } else { &mut corrected } += changed;
                refused += u64::from(adds && changed == 0);
            }
        }
        if found > 0 {
            tracing::info!("{found} ports that were not counted are counted now");
        }
        if corrected > 0 {
            tracing::warn!(
                "{corrected} ports were counted wrong; a comparison with the kernel's sockets corrected them"
            );
        }
        self.drift += corrected;
        if shutdown::asked().is_none() {
            if everywhere {
                self.missing.looked_for(lost, refused);
            }
            self.forget_idle(clock::monotonic_ns())?;
            self.forget_namespaces();
        }
        Ok(corrected)
    }

    /// Whether all tables have room for what was missed, or have it now without the tuples that nobody uses.
    fn makes_room(&mut self, now_ns: u64) -> Result<bool, Error> {
        if self.has_room()? {
            return Ok(true);
        }
        self.forget_idle(now_ns)?;
        self.has_room()
    }

    /// Whether all tables have room for what was missed.
    fn has_room(&mut self) -> Result<bool, Error> {
        let (mut tuples, mut conns, mut binds) = (0, 0, 0);
        self.session.maps.tuples(|_, _| tuples += 1)?;
        self.session.maps.conns(|_, _| conns += 1)?;
        self.session.maps.binds(|_, _| binds += 1)?;
        let sizes = &self.tables.sizes;
        Ok(has_room(tuples, sizes.tuples)
            && has_room(conns, sizes.conns)
            && has_room(binds, sizes.binds))
    }

    /// Namespaces of which the ledger has something, and now and then the others that have sockets.
    fn places_with_sockets(&mut self) -> Result<Vec<Netns>, Error> {
        let mut places = self.busy_namespaces()?;
        let known = places.iter().map(|netns| netns.inum).collect();
        places.extend(self.quiet_namespaces(&known));
        Ok(places)
    }

    /// What would make the ledger and the bound ports agree with the kernel: what is stale first,
    /// then what was missed, in these namespaces.
    fn differences(&mut self, before_ns: u64, places: Vec<Netns>) -> Result<Vec<Command>, Error> {
        let mut before = foldhash::HashSet::default();
        self.session.maps.conns(|key, _| {
            before.insert(key);
        })?;
        let dumps = self.dump(places);
        let (mut conns, mut binds) = (Vec::new(), Vec::new());
        let (counted_before, fast_before) = (self.counters()?, self.fast()?);
        self.session.maps.conns(|key, conn| conns.push((key, conn)))?;
        let (counted_after, fast_after) = (self.counters()?, self.fast()?);
        self.session.maps.binds(|key, bound| binds.push((key, bound)))?;
        let unknown = HashMap::new();
        let mut commands = seed::stale(&conns, &dumps, before_ns);
        commands.extend(bound::stale(&binds, &dumps, before_ns, self.idle_listed));
        commands.extend(seed::missed(&before, &conns, &dumps, &unknown));
        commands.extend(bound::missed(&binds, &dumps, &unknown));
        commands.extend(balance::corrections(&counted_before, &conns, &counted_after));
        commands.extend(balance::fast(fast_before, &conns, fast_after));
        Ok(commands)
    }

    /// Ports that the spreader bound and that are held now; `None`: this is no spreader.
    fn fast(&self) -> Result<Option<u32>, Error> {
        self.session.spreader.as_ref().map(|spreader| spreader.maps.fast()).transpose()
    }

    fn counters(&mut self) -> Result<Reading, Error> {
        let mut counters = Reading::default();
        self.session.maps.tuples(|key, count| {
            counters.insert(key, Counters::from(&count));
        })?;
        Ok(counters)
    }

    /// Reconciles when it is time to: soon after the kernel passed over a hook or a table was full, else now and then.
    /// Where passed-over hooks cannot be counted, as often as a small part of a core allows.
    pub fn reconcile_if_due(&mut self) -> Result<(), Error> {
        self.look_at_tables()?;
        let missed = self.session.missed_hooks();
        let alert = missed.partial || missed.counted > self.misses_seen;
        let lacking = self.missing.is_any(for_lack_of_room(&self.totals()?));
        let pacing = match (alert, lacking) {
            (true, _) => &ALERT,
            (false, true) => &LACKING,
            (false, false) => &CALM,
        };
        let pause = pacing.pause(self.cost);
        if self.reconciled.elapsed() < pause {
            return Ok(());
        }
        self.misses_seen = missed.counted;
        let began = Instant::now();
        self.reconcile()?;
        self.cost = began.elapsed();
        memory::trim();
        self.reconciled = Instant::now();
        Ok(())
    }

    /// Removes tuples without ports that are old, or that others need the room of.
    fn forget_idle(&mut self, now_ns: u64) -> Result<(), Error> {
        let mut sweep = Sweep::default();
        self.each_tuple(|key, count, _| sweep.add(key, count, now_ns))?;
        let commands = &self.session.commands;
        let mut doomed = Vec::new();
        for idle in sweep.chosen(self.tables.sizes.tuples) {
            if commands.run(&seed::dooming(idle.key, idle.last_ns))? {
                doomed.push(idle);
            }
        }
        if !doomed.is_empty() {
            // A hook that began before can be about to use one of them.
            commands.wait_for_hooks()?;
        }
        for idle in doomed {
            commands.run(&seed::forgetting(idle.key, idle.last_ns))?;
        }
        Ok(())
    }
}
