//! A running tracer: the attached BPF side, the sockets that were there before it, and what each
//! network namespace has to give. `tracer record` and `tracer tuples` both stand on it.

mod capacities;
mod left_out;
mod missing;
mod rhythm;
mod start;

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

pub use capacities::Capacities;
use left_out::LeftOut;
use missing::{Missing, for_lack_of_room, has_room};
use rhythm::{ALERT, CALM};
use rustix::thread::CapabilitySet;
pub use start::{cgroup_names, check_privileges, resolve, start_spreading};
pub(crate) use start::{enter_to_attach, enter_to_read, start};
use tracer_common::{
    ConnKey, Filter, Loss, TupleCount, TupleKey,
    seed::{Command, Op},
};

use crate::{
    bound,
    capacity::PortRange,
    cgroups::Names,
    clock,
    config::RowFilter,
    error::Error,
    kernel::{attach::Session, maps::Totals},
    memory,
    netns::{Netns, Worker},
    process,
    seed::{self, Dump},
    shutdown, sockdiag,
    stats::Earlier,
};

/// A tuple without ports is kept so long, for its history...
const KEEP: Duration = Duration::from_mins(10);
/// ...and so long when the table is more than half full.
const KEEP_WHEN_TIGHT: Duration = Duration::from_mins(1);

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
    /// Corrections that the reconciliation had to make: 0, or hooks were missed, or there is a bug.
    pub drift: u64,
    worker: Worker,
    /// What threads that read maps must keep.
    pub(crate) kept_for_maps: CapabilitySet,
    /// The kernel lists sockets that are bound and idle.
    idle_listed: bool,
    max_tuples: u32,
    max_conns: u32,
    max_binds: u32,
    missing: Missing,
    reconciled: Instant,
    /// How long the newest reconciliation took.
    cost: Duration,
    /// Missed hooks that a reconciliation has made good.
    misses_seen: u64,
    capacities: Capacities,
    tuples: Vec<(TupleKey, TupleCount)>,
    /// The namespaces in the newest reading.
    namespaces: HashSet<u32>,
}

impl Tracer {
    /// Brings the sockets that are older than the tracer into the ledger.
    fn seed(&mut self) -> Result<(), Error> {
        let namespaces = self.namespaces();
        let dumps = self.dump(namespaces);
        let owners = process::owners(&seed::inodes(&dumps)).unwrap_or_else(|error| {
            tracing::warn!("who owns the sockets that are open already is not known: {error}");
            HashMap::new()
        });
        for dump in &dumps {
            shutdown::go_on()?;
            for command in seed::commands(dump, &owners) {
                self.seeded += u64::from(self.session.commands.run(&command)?);
            }
        }
        self.session.maps.set_seeding(false)?;
        tracing::info!("{} sockets in {} namespaces were open already", self.seeded, dumps.len());
        Ok(())
    }

    /// What does not work here as well as it could now, and why.
    pub fn degraded(&self) -> Vec<String> {
        self.degraded.iter().cloned().chain(self.left_out.reasons()).collect()
    }

    /// All TCP sockets of these namespaces. One that cannot be read is said on the log, and in
    /// [`Self::degraded`].
    fn dump(&mut self, namespaces: Vec<Netns>) -> Vec<Dump> {
        let mut dumps = Vec::new();
        let gone = self.dump_each(namespaces, &mut dumps);
        if !gone.is_empty() {
            // The processes that were the ways to them have ended. Others may be in them.
            let found = self.namespaces().into_iter();
            let found = found.filter(|netns| gone.contains(&netns.inum)).collect();
            for netns in self.dump_each(found, &mut dumps) {
                tracing::debug!("network namespace {netns} has vanished");
            }
        }
        dumps
    }

    /// Returns those that no way leads to any more.
    fn dump_each(&mut self, namespaces: Vec<Netns>, dumps: &mut Vec<Dump>) -> HashSet<u32> {
        let mut gone = HashSet::new();
        for netns in namespaces {
            if shutdown::asked().is_some() {
                break;
            }
            // No namespace can take the room of all others.
            let read: usize = dumps.iter().map(|dump| dump.sockets.len()).sum();
            let limit = sockdiag::MAX_SOCKETS.saturating_sub(read) / 2;
            let read = move || -> std::io::Result<(PortRange, Vec<sockdiag::DiagSocket>)> {
                let sockets = sockdiag::dump_all_up_to(limit, sockdiag::ALL_STATES)?;
                Ok((PortRange::read()?, sockets))
            };
            let inum = netns.inum;
            match self.worker.run_in(&netns, read).and_then(|result| result) {
                Ok((range, sockets)) => {
                    dumps.push(Dump { netns: inum, range: range.clone(), sockets });
                    self.left_out.forget(inum);
                    self.capacities.know(netns, range);
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    tracing::debug!("sockets of network namespace {netns}: {error}");
                    self.left_out.forget(inum);
                    gone.insert(inum);
                }
                // That there is no time any more is no fault of the namespace.
                Err(_) if shutdown::asked().is_some() => break,
                Err(error) => {
                    tracing::warn!("sockets of network namespace {netns}: {error}");
                    self.left_out.add(&netns, &error);
                }
            }
        }
        gone
    }

    fn namespaces(&mut self) -> Vec<Netns> {
        match self.worker.discover() {
            Ok(all) => {
                // A search that was cut short because the program is to end says nothing.
                if shutdown::asked().is_none() {
                    self.left_out.cut_short = all.cut_short;
                }
                all.found
            }
            Err(error) => {
                tracing::warn!("the network namespaces cannot be listed: {error}");
                Vec::new()
            }
        }
    }

    /// The parts that turning events into lines needs, to be used together.
    pub fn split(&mut self) -> (&mut Session, &mut Capacities, &Worker) {
        (&mut self.session, &mut self.capacities, &self.worker)
    }

    /// Reads the tuple table.
    pub fn read_tuples(&mut self) -> Result<(), Error> {
        let mut tuples = std::mem::take(&mut self.tuples);
        tuples.clear();
        let result = self.each_tuple(|key, count, _| tuples.push((*key, *count)));
        self.tuples = tuples;
        result
    }

    /// Hands every tuple over, with what it can hold; keeps none of them.
    pub fn each_tuple(
        &mut self,
        mut each: impl FnMut(&TupleKey, &TupleCount, Option<u32>),
    ) -> Result<(), Error> {
        let Self { session, capacities, namespaces, .. } = self;
        namespaces.clear();
        let mut newest = (None, None);
        session.maps.tuples(|key, count| {
            // Mostly there are few namespaces, and the same one over and over.
            if newest.0 != Some(key.netns) {
                newest = (Some(key.netns), capacities.get(key.netns));
                namespaces.insert(key.netns);
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

    /// Whether there is a namespace in the newest reading of which [`Self::capacity`] knows nothing.
    pub fn lacks_capacities(&self) -> bool {
        self.namespaces.iter().any(|netns| self.capacity(*netns).is_none())
    }

    /// Ports that a tuple of this namespace can hold; `None`: the namespace could not be read.
    pub fn capacity(&self, netns: u32) -> Option<u32> {
        self.capacities.get(netns)
    }

    /// Learns what the namespaces in the newest reading have to give, less the ports that bind() and
    /// listen() took.
    pub fn refresh_capacities(&mut self) -> Result<(), Error> {
        let mut binds = Vec::new();
        self.session.maps.binds(|key, bound| binds.push((key, bound)))?;
        self.capacities.refresh(&self.worker, &self.namespaces, &binds);
        Ok(())
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
        let everywhere = lacking && self.has_room()?;
        let first = self.differences(before_ns, everywhere)?;
        // What was read by then is of a part of the namespaces.
        if shutdown::asked().is_some() {
            return Ok(0);
        }
        let (mut corrected, mut found, mut refused) = (0, 0, 0);
        if !first.is_empty() {
            // A dump is no snapshot: what one dump says can be a socket on its way.
            let first: HashSet<(u32, ConnKey)> =
                first.iter().map(|command| (command.op, command.key)).collect();
            for command in self.differences(before_ns, everywhere)? {
                if shutdown::asked().is_some() {
                    break;
                }
                if first.contains(&(command.op, command.key)) {
                    let changed = u64::from(self.session.commands.run(&command)?);
                    let adds = [Op::AddConn as u32, Op::AddBound as u32].contains(&command.op);
                    *if lacking && adds { &mut found } else { &mut corrected } += changed;
                    refused += u64::from(adds && changed == 0);
                }
            }
        }
        if found > 0 {
            tracing::info!("{found} ports for which there had been no room are in the ledger now");
        }
        if corrected > 0 {
            tracing::warn!("{corrected} ports in the ledger were not as the kernel has them");
        }
        self.drift += corrected;
        if shutdown::asked().is_none() {
            if everywhere {
                self.missing.looked_for(lost, refused);
            }
            self.forget_idle(before_ns)?;
        }
        Ok(corrected)
    }

    /// Whether all tables have room for what was missed.
    fn has_room(&mut self) -> Result<bool, Error> {
        let (mut tuples, mut conns, mut binds) = (0, 0, 0);
        self.session.maps.tuples(|_, _| tuples += 1)?;
        self.session.maps.conns(|_, _| conns += 1)?;
        self.session.maps.binds(|_, _| binds += 1)?;
        Ok(has_room(tuples, self.max_tuples)
            && has_room(conns, self.max_conns)
            && has_room(binds, self.max_binds))
    }

    /// The namespaces in which a port is held, or was since shortly before the last comparison.
    fn busy_namespaces(&mut self) -> Result<Vec<Netns>, Error> {
        let since = self.reconciled.elapsed() + CALM.latest;
        let since_ns = clock::monotonic_ns().saturating_sub(clock::as_ns(since));
        let mut wanted = HashSet::new();
        self.each_tuple(|key, count, _| {
            if count.in_use() > 0 || count.last_ns >= since_ns {
                wanted.insert(key.netns);
            }
        })?;
        let (mut known, unknown): (Vec<Netns>, bool) = self.capacities.places(&wanted);
        if unknown {
            let found = self.namespaces().into_iter();
            known = found.filter(|netns| wanted.contains(&netns.inum)).collect();
        }
        Ok(known)
    }

    /// What would make the ledger and the bound ports agree with the kernel: what is stale first,
    /// then what was missed. `everywhere`: not only in namespaces of which the ledger has something.
    fn differences(&mut self, before_ns: u64, everywhere: bool) -> Result<Vec<Command>, Error> {
        let places = if everywhere { self.namespaces() } else { self.busy_namespaces()? };
        let mut before = foldhash::HashSet::default();
        self.session.maps.conns(|key, _| {
            before.insert(key);
        })?;
        let dumps = self.dump(places);
        let (mut conns, mut binds) = (Vec::new(), Vec::new());
        self.session.maps.conns(|key, conn| conns.push((key, conn)))?;
        self.session.maps.binds(|key, bound| binds.push((key, bound)))?;
        let unknown = HashMap::new();
        let mut commands = seed::stale(&conns, &dumps, before_ns);
        commands.extend(bound::stale(&binds, &dumps, before_ns, self.idle_listed));
        commands.extend(seed::missed(&before, &conns, &dumps, &unknown));
        commands.extend(bound::missed(&binds, &dumps, &unknown));
        Ok(commands)
    }

    /// Reconciles when it is time to: soon after the kernel passed over a hook, else now and then.
    /// Where passed-over hooks cannot be counted, as often as a small part of a core allows.
    pub fn reconcile_if_due(&mut self) -> Result<(), Error> {
        let missed = self.session.missed_hooks();
        let alert = missed.partial || missed.counted > self.misses_seen;
        let rhythm = if alert { &ALERT } else { &CALM };
        let pause = rhythm.pause(self.cost);
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

    fn forget_idle(&mut self, now_ns: u64) -> Result<(), Error> {
        let mut idle = Vec::new();
        let mut all = 0;
        let tight_before_ns = now_ns.saturating_sub(clock::as_ns(KEEP_WHEN_TIGHT));
        self.each_tuple(|key, count, _| {
            all += 1;
            if count.in_use() == 0 && count.last_ns < tight_before_ns {
                idle.push((*key, count.last_ns));
            }
        })?;
        let keep = if all > self.max_tuples / 2 { KEEP_WHEN_TIGHT } else { KEEP };
        let before_ns = now_ns.saturating_sub(clock::as_ns(keep));
        for (key, _) in idle.iter().filter(|(_, last_ns)| *last_ns < before_ns) {
            self.session.commands.run(&seed::forgetting(*key, before_ns))?;
        }
        Ok(())
    }
}

/// Losses on the kernel side by name: those that the BPF programs counted, and the hooks that never
/// reached them.
pub fn named_losses(totals: &Totals) -> impl Iterator<Item = (&'static str, u64)> {
    let counted = Loss::ALL.into_iter().zip(totals.lost).map(|(loss, count)| (loss.name(), count));
    counted.chain([("hook_missed", totals.hook_missed)])
}

/// Whether a row of the tuple table passes a filter: by its key, and by who connected there last.
pub fn visible(
    filter: &Filter,
    key: &TupleKey,
    count: &TupleCount,
    names: &mut Names,
    now: Instant,
) -> bool {
    if filter.active == 0 {
        return true;
    }
    let wanted = filter.cgroups.iter().take(usize::from(filter.cgroup_count));
    let within: Vec<u64> = wanted
        .map(|one| one.id)
        .filter(|above| names.is_within(count.cgroup, *above, now))
        .collect();
    let rows = RowFilter(filter);
    rows.matches(key) && rows.matches_owner(count, &within)
}
