//! Compares the ledger with the kernel's sockets, corrects it, and removes tuples that are not needed any more.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use tracer_common::seed::{Command, Op};

use super::{
    Tracer,
    balance::{self, Counters, Reading},
    corrected::Corrected,
    idle::Sweep,
    missing::for_lack_of_room,
    pacing::{ALERT, CALM, LACKING},
};
use crate::{
    error::Error,
    host::netns::Netns,
    ledger::{bound, seed},
    runtime::{clock, memory, shutdown},
};

impl Tracer {
    /// Compares the ledger with the kernel's sockets, twice if they differ, and corrects what both comparisons of this call and
    /// of the previous call found. (Entries that are added because they had found no room in a table, or because their namespace
    /// could not be read, need no previous call.) Then removes tuples that are old or whose room others need, and forgets
    /// namespaces of which the ledger has nothing any more. Returns how many entries and counters it corrected, without the added
    /// ones named before; 0 if the program is asked to stop during the first comparison.
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
        let (mut found, mut refused) = (0, 0);
        let mut corrected = Corrected::default();
        if first.is_empty() {
            self.agreement.agreed(&[], Vec::new(), |_| false);
        } else {
            // A dump is not a snapshot: it can show a socket in the middle of a change.
            let second = self.differences(before_ns, namespaces)?;
            let adds =
                |command: &Command| [Op::AddConn as u32, Op::AddBound as u32].contains(&command.op);
            // Nothing of such a namespace was compared before.
            let was_unread =
                |command: &Command| adds(command) && unread.contains(&command.tuple.netns);
            let is_new = |command: &Command| adds(command) && lacking || was_unread(command);
            for command in self.agreement.agreed(&first, second, was_unread) {
                if shutdown::stop_signal().is_some() {
                    break;
                }
                let changed = self.session.commands.run(&command)?;
                if changed && is_new(&command) {
                    found += 1;
                } else if changed {
                    corrected.add(&command, clock::monotonic_ns());
                }
                refused += u64::from(adds(&command) && !changed);
            }
        }
        if found > 0 {
            tracing::info!(
                "{found} ports that had found no room, or whose namespace could not be read, are counted now"
            );
        }
        if corrected.count > 0 {
            tracing::warn!(
                "{} ports were counted wrong; a comparison with the kernel's sockets corrected them: {}",
                corrected.count,
                corrected.text()
            );
        }
        self.drift += corrected.count;
        if shutdown::stop_signal().is_none() {
            if in_all {
                // What is still to be confirmed has not been retried yet.
                self.missing.retried(lost, refused + self.agreement.waiting_additions());
            }
            self.forget_idle(clock::monotonic_ns())?;
            self.forget_namespaces();
        }
        Ok(corrected.count)
    }

    /// The namespaces to compare: those in which ports are or lately were held, those that could not be read, and at
    /// long intervals (30 s to 5 min) all others that have TCP sockets.
    fn with_sockets(&mut self) -> Result<Vec<Netns>, Error> {
        let mut namespaces = self.busy_namespaces()?;
        let known = namespaces.iter().map(|netns| netns.inum).collect();
        namespaces.extend(self.quiet_namespaces(&known));
        Ok(namespaces)
    }

    /// The commands that would make the ledger agree with the kernel in these namespaces: first removals of entries that the
    /// kernel does not have, then additions and changes. An entry that was made at `before_ns` (CLOCK_MONOTONIC) or later is not
    /// removed. Entries of a namespace that cannot be read stay as they are; counters of tuples are
    /// compared with the entries in all namespaces.
    ///
    /// # Errors
    /// A map cannot be read.
    pub(super) fn differences(
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

    /// Warns of tables that became nearly full. Reconciles if it is time to: 1 to 8 s after the last time if the kernel has
    /// skipped a hook since, or may have skipped one that it does not count, or a difference that was found then is to be
    /// confirmed; 3 to 15 s after it if entries lack room in a table; else 5 to 30 s after it; within these limits, the longer
    /// the last comparison took, the later. Gives freed memory back to the kernel after it.
    ///
    /// # Errors
    /// A map cannot be read, or a command fails.
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

    /// Removes the tuples that [`Sweep`] chooses: without ports, and old or such that others need their room. One that a hook has
    /// used since stays. `now_ns`: CLOCK_MONOTONIC.
    ///
    /// # Errors
    /// A map cannot be read, a command fails, or waiting for running hooks fails.
    pub(super) fn forget_idle(&mut self, now_ns: u64) -> Result<(), Error> {
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
