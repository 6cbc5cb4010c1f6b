//! A running tracer, for all live commands: attaches the BPF side, adds sockets that are older to the ledger, then reads tuples
//! and ports, and compares the ledger with the kernel's sockets.

mod agreement;
mod balance;
mod capacities;
mod corrected;
mod filling;
mod idle;
mod left_out;
mod missing;
mod namespaces;
mod older;
mod pacing;
mod ports;
mod quiet;
mod reconcile;
mod rows;
mod sizing;
mod start;
mod touched;
mod unmarked;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use agreement::Agreement;
pub use capacities::Capacities;
use filling::Filling;
use left_out::LeftOut;
use missing::Missing;
pub use older::OlderEnds;
use ports::Ports;
use quiet::Quiet;
pub(crate) use rows::passes;
pub use rows::{named_losses, visible, visible_to};
use rustix::thread::CapabilitySet;
pub use start::{cgroup_names, check_privileges, resolve, start_spreading};
pub(crate) use start::{enter_to_attach, enter_to_read, start};
use tracer_common::{TupleCount, TupleKey};

use crate::{
    error::Error,
    host::{
        capacity::{Holds, Limits, Reuse},
        holder::Holders,
        netns::Worker,
        process::{self, ListsFiles},
    },
    kernel::{attach::Session, maps::Totals},
    ledger::{seed, sizes::Chosen, stats::Earlier},
    runtime::{clock, shutdown},
};

/// An attached tracer whose ledger has the older sockets. Dropping it detaches, except what is pinned for a spreader's rule.
pub struct Tracer {
    pub session: Session,
    /// Release of the kernel, as `uname -r` prints it.
    pub release: String,
    /// What this start could not set up, and why.
    degraded: Vec<String>,
    left_out: LeftOut,
    /// How many older sockets the start added to the ledger: outgoing connections, listeners, and sockets that are bound and
    /// idle.
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
        let files = self.worker.list();
        let found = process::owners(&seed::inodes(&dumps), files.as_deref());
        let owners = found.unwrap_or_else(|error| {
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

    /// The kernel's list of open files; `None`: it has none, or this program may not read it.
    pub fn list(&self) -> Option<Arc<dyn ListsFiles>> {
        self.worker.list()
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

    /// Calls `each` for every tuple, in no order, with its namespace's limits (`None`: not known). [`Self::tuples`] stays as it
    /// is; namespaces ([`Self::lacks_limits`], [`Self::refresh_ranges`]) are those of this reading from now on.
    ///
    /// # Errors
    /// The map cannot be read; `each` was called for the tuples that were read until then.
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

    /// Exchanges the newest reading with the one in `earlier`: until tuples are read again, [`Self::tuples`] returns that one.
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

    /// What net.ipv4.tcp_tw_reuse and the settings that belong to it allow, by the namespace's inode number; absent: not known.
    pub const fn reuses(&self) -> &BTreeMap<u32, Reuse> {
        self.capacities.reuses()
    }

    /// Capacity of a tuple with these counters, and which of its TIME_WAITs can be reused, by what is known about its namespace
    /// now; of either, `None`: see [`Holds`].
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
}
