//! A running tracer, for all live commands: has the attached BPF side and what userspace knows about namespaces, reads tuples and
//! ports, and compares the ledger with the kernel's sockets.

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
use missing::{Missing, for_lack_of_room};
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

/// An attached tracer whose ledger has the older sockets. Dropping it detaches, except what is pinned for a spreader's rule.
pub struct Tracer {
    pub session: Session,
    /// Release of the kernel, as `uname -r` prints it.
    pub release: String,
    /// What this start could not set up, and why.
    degraded: Vec<String>,
    left_out: LeftOut,
    /// How many older sockets the start added to the ledger.
    pub seeded: u64,
    /// When the TIME_WAITs among the older sockets end.
    older: OlderEnds,
    /// How many wrong entries and counters reconciliations have corrected: hooks were missed, or there is a bug. Without entries
    /// that were added because they had found no room in a table before, or because their namespace could not be read.
    pub drift: u64,
    worker: Worker,
    agreement: Agreement,
    /// Capabilities that threads which read maps must keep.
    pub(crate) kept_for_maps: CapabilitySet,
    /// Whether the kernel lists sockets that are bound and idle.
    idle_listed: bool,
    /// Sizes of the ledger's tables, and why they were chosen.
    pub tables: Chosen,
    filling: Filling,
    missing: Missing,
    quiet: Quiet,
    reconciled: Instant,
    /// How long the newest reconciliation took.
    cost: Duration,
    /// How many runs of hooks had been skipped when the newest reconciliation began: what they missed is corrected.
    misses_seen: u64,
    capacities: Capacities,
    holders: Holders,
    ports: Ports,
    tuples: Vec<(TupleKey, TupleCount)>,
    /// Namespaces with a tuple in the newest reading.
    namespaces: HashSet<u32>,
    /// Namespaces with a held port in the newest reading.
    held: HashSet<u32>,
}

impl Tracer {
    /// Adds the older sockets to the ledger.
    fn seed(&mut self) -> Result<(), Error> {
        let namespaces = self.namespaces();
        let dumps = self.dump(namespaces);
        self.older = OlderEnds::of(&dumps, clock::monotonic_ns());
        let owners = process::owners(&seed::inodes(&dumps)).unwrap_or_else(|error| {
            tracing::warn!("cannot find out which processes have the older sockets open: {error}");
            HashMap::new()
        });
        for dump in &dumps {
            shutdown::check_stop()?;
            for command in seed::commands(dump, &owners) {
                self.seeded += u64::from(self.session.commands.run(&command)?);
            }
        }
        self.session.maps.set_seeding(false)?;
        self.correct_unmarked()?;
        self.check_tables()?;
        tracing::info!(
            "{} older sockets in {} namespaces are in the ledger",
            self.seeded,
            dumps.len()
        );
        Ok(())
    }

    /// What does not work as well as it could now, and why, one text each; empty: nothing.
    pub fn degraded(&self) -> Vec<String> {
        let nearly_full = self.filling.reasons(&self.tables.sizes);
        let lasting = self.degraded.iter().cloned().chain(self.left_out.reasons());
        let lasting = lasting.chain(self.capacities.reason()).chain(self.ports.not_noted.reason());
        lasting.chain(nearly_full).collect()
    }

    /// The session, the namespaces' ranges, the worker and the holders together: turning events into lines needs all four.
    pub fn split(&mut self) -> (&mut Session, &mut Capacities, &Worker, &mut Holders) {
        (&mut self.session, &mut self.capacities, &self.worker, &mut self.holders)
    }

    /// Reads all tuples: see [`Self::tuples`].
    ///
    /// # Errors
    /// The map cannot be read. [`Self::tuples`] then has those read until then.
    pub fn read_tuples(&mut self) -> Result<(), Error> {
        let mut tuples = std::mem::take(&mut self.tuples);
        tuples.clear();
        let result = self.each_tuple(|key, count, _| tuples.push((*key, *count)));
        self.tuples = tuples;
        result
    }

    /// Calls `each` for every tuple, with its namespace's limits (`None`: not known). [`Self::tuples`] stays as it is; namespaces
    /// ([`Self::lacks_limits`], [`Self::refresh_ranges`]) are those of this reading from now on.
    ///
    /// # Errors
    /// The map cannot be read.
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
            // There are usually few namespaces, and many tuples of one in a row.
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

    /// The tuples of the newest [`Self::read_tuples`], in no order.
    pub fn tuples(&self) -> &[(TupleKey, TupleCount)] {
        &self.tuples
    }

    /// Exchanges the newest reading with the one in `earlier`. [`Self::tuples`] is out of date until tuples are read again.
    pub fn keep_tuples(&mut self, earlier: &mut Earlier) {
        earlier.replace(&mut self.tuples);
    }

    /// Whether the newest [`Self::read_tuples`] or [`Self::each_tuple`] had a namespace whose [`Self::limits`] are not known.
    pub fn lacks_limits(&self) -> bool {
        self.namespaces.iter().any(|netns| self.limits(*netns).is_none())
    }

    /// Reads all tuples and the bound ports; also the port ranges of namespaces, which change seldom, with `ranges` or
    /// if the limits of a namespace are not known. The bound ports are read first, so that what a tuple holds and what
    /// it can hold fit together.
    ///
    /// # Errors
    /// A map cannot be read, or a command fails.
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

    /// What net.ipv4.tcp_tw_reuse and the settings that belong to it allow, by namespace; absent: not known.
    pub const fn reuses(&self) -> &BTreeMap<u32, Reuse> {
        self.capacities.reuses()
    }

    /// Capacity of a tuple of the newest reading, and which of its TIME_WAITs can be reused.
    pub fn holds(&self, key: &TupleKey, count: &TupleCount) -> Holds {
        Holds {
            capacity: self.limits(key.netns).map(|limits| limits.capacity_of(key, count)),
            reuse: self.reuses().get(&key.netns).and_then(|reuse| reuse.of(key, count)),
        }
    }

    /// When the TIME_WAITs among the older sockets end. Only the first call returns it; later ones return an empty
    /// value.
    pub fn take_older(&mut self) -> OlderEnds {
        std::mem::take(&mut self.older)
    }

    /// The totals that the BPF programs counted.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn totals(&self) -> Result<Totals, Error> {
        self.session.totals()
    }

    /// Compares the ledger with the kernel's sockets, corrects what the previous call has found, too, removes tuples that are old or whose room others
    /// need, and forgets namespaces of which the ledger has nothing any more. Returns how many entries and counters
    /// were wrong, without entries that were added because they had found no room in a table before, or because their
    /// namespace could not be read; 0 if the program is asked to stop during the first comparison.
    ///
    /// # Errors
    /// A map cannot be read, or a command fails.
    pub fn reconcile(&mut self) -> Result<u64, Error> {
        let before_ns = clock::monotonic_ns();
        let lost = for_lack_of_room(&self.totals()?);
        let lacking = self.missing.is_any(lost);
        // Sockets of a namespace that could not be read before are new, and no drift.
        let unread: HashSet<u32> = self.left_out.unread().collect();
        let in_all = lacking && self.can_make_room(before_ns)?;
        let namespaces = if in_all { self.namespaces() } else { self.with_sockets()? };
        let first = self.differences(before_ns, namespaces.clone())?;
        // A stop ends the reading early, so sockets of some namespaces are missing.
        if shutdown::stop_signal().is_some() {
            return Ok(0);
        }
        let (mut corrected, mut found, mut refused) = (0, 0, 0);
        if first.is_empty() {
            self.agreement.agreed(&[], Vec::new(), |_| false);
        } else {
            // A dump is not a snapshot: it can show a socket in the middle of a change.
            let second = self.differences(before_ns, namespaces)?;
            let adds =
                |command: &Command| [Op::AddConn as u32, Op::AddBound as u32].contains(&command.op);
            // No hook will report these any more.
            let is_new = |command: &Command| {
                adds(command) && (lacking || unread.contains(&command.tuple.netns))
            };
            for command in self.agreement.agreed(&first, second, is_new) {
                if shutdown::stop_signal().is_some() {
                    break;
                }
                let changed = u64::from(self.session.commands.run(&command)?);
                *if is_new(&command) { &mut found } else { &mut corrected } += changed;
                refused += u64::from(adds(&command) && changed == 0);
            }
        }
        if found > 0 {
            tracing::info!(
                "{found} ports that had found no room, or whose namespace could not be read, are counted now"
            );
        }
        if corrected > 0 {
            tracing::warn!(
                "{corrected} ports were counted wrong; a comparison with the kernel's sockets corrected them"
            );
        }
        self.drift += corrected;
        if shutdown::stop_signal().is_none() {
            if in_all {
                self.missing.retried(lost, refused);
            }
            self.forget_idle(clock::monotonic_ns())?;
            self.forget_namespaces();
        }
        Ok(corrected)
    }

    /// The namespaces to compare: those in which ports are or lately were held, those that could not be read, and at
    /// long intervals (30 s to 5 min) all others that have TCP sockets.
    fn with_sockets(&mut self) -> Result<Vec<Netns>, Error> {
        let mut namespaces = self.busy_namespaces()?;
        let known = namespaces.iter().map(|netns| netns.inum).collect();
        namespaces.extend(self.quiet_namespaces(&known));
        Ok(namespaces)
    }

    /// The commands that would make the ledger agree with the kernel in these namespaces: first removals of entries
    /// that the kernel does not have, then additions and changes.
    fn differences(
        &mut self,
        before_ns: u64,
        namespaces: Vec<Netns>,
    ) -> Result<Vec<Command>, Error> {
        let mut before = foldhash::HashSet::default();
        self.session.maps.conns(|key, _| {
            before.insert(key);
        })?;
        let dumps = self.dump(namespaces);
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

    /// How many fast ports are held now; `None`: this is not a spreader.
    fn fast(&self) -> Result<Option<u32>, Error> {
        self.session.spreader.as_ref().map(|spreader| spreader.maps.fast()).transpose()
    }

    /// The counters of all tuples.
    fn counters(&mut self) -> Result<Reading, Error> {
        let mut counters = Reading::default();
        self.session.maps.tuples(|key, count| {
            counters.insert(key, Counters::from(&count));
        })?;
        Ok(counters)
    }

    /// Warns of tables that became nearly full. Reconciles if it is time to: 1 to 8 s after the last time if the kernel has skipped
    /// a hook since, or may have skipped one that it does not count, or a difference that was found then is to be confirmed; 3 to 15 s after it if entries lack room in a table; else 5 to
    /// 30 s after it; within these limits, the longer the last comparison took, the later.
    ///
    /// # Errors
    /// As [`Self::reconcile`].
    pub fn reconcile_if_due(&mut self) -> Result<(), Error> {
        self.check_tables()?;
        let missed = self.session.missed_hooks();
        let alert = missed.partial
            || missed.counted > self.misses_seen
            || self.agreement.lacks_confirmation();
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

    /// Removes tuples without ports that are old, or whose room others need.
    fn forget_idle(&mut self, now_ns: u64) -> Result<(), Error> {
        let mut sweep = Sweep::default();
        self.each_tuple(|key, count, _| sweep.add(key, count, now_ns))?;
        let commands = &self.session.commands;
        let mut marked = Vec::new();
        for idle in sweep.chosen(self.tables.sizes.tuples) {
            if commands.run(&seed::marking(idle.key, idle.last_ns))? {
                marked.push(idle);
            }
        }
        if !marked.is_empty() {
            // A hook that began before the marking may still use one of them.
            commands.wait_for_hooks()?;
        }
        for idle in marked {
            commands.run(&seed::removing(idle.key, idle.last_ns))?;
        }
        Ok(())
    }
}
