//! Reads sockets and port ranges of the network namespaces in use, and notes which of them cannot be read.

use std::{collections::HashSet, io, time::Instant};

use super::{Tracer, left_out::Depth, pacing::CALM};
use crate::{
    error::Error,
    host::{
        capacity::PortRange,
        netns::{Discovery, Netns},
        sockdiag,
    },
    ledger::seed::Dump,
    runtime::{clock, shutdown},
};

impl Tracer {
    /// Reads all TCP sockets of these namespaces; only of the first ones if the program is asked to stop meanwhile. A
    /// namespace that exists and cannot be read is in the log, and in [`Self::degraded`] until it can be read (for lack
    /// of a privilege, only in the log: the start reports that once for all). One that has more sockets than half of what the
    /// namespaces before it left of [`sockdiag::MAX_SOCKETS`] cannot be read.
    pub(super) fn dump(&mut self, namespaces: Vec<Netns>) -> Vec<Dump> {
        let mut dumps = Vec::new();
        let gone = self.dump_each(namespaces, &mut dumps);
        if !gone.is_empty() {
            // The processes through which these were entered have ended. Other processes may be in them.
            let found = self.namespaces().into_iter();
            let found = found.filter(|netns| gone.contains(&netns.inum)).collect();
            for netns in self.dump_each(found, &mut dumps) {
                tracing::debug!("network namespace {netns} is gone");
            }
        }
        dumps
    }

    /// Reads these namespaces into `dumps`. Returns those that cannot be entered any more.
    fn dump_each(&mut self, namespaces: Vec<Netns>, dumps: &mut Vec<Dump>) -> HashSet<u32> {
        let mut gone = HashSet::new();
        for netns in namespaces {
            if shutdown::stop_signal().is_some() {
                break;
            }
            // The sockets of one namespace must not take the memory for all others.
            let read: usize = dumps.iter().map(|dump| dump.sockets.len()).sum();
            let limit = sockdiag::MAX_SOCKETS.saturating_sub(read) / 2;
            let read = move || -> io::Result<(PortRange, Vec<sockdiag::DiagSocket>)> {
                let sockets = sockdiag::dump_all_up_to(limit, sockdiag::ALL_STATES)?;
                Ok((PortRange::read()?, sockets))
            };
            let inum = netns.inum;
            match self.worker.run_in(&netns, read) {
                Ok((range, sockets)) => {
                    self.left_out.read(inum, Depth::Sockets);
                    self.capacities.know(netns, &range);
                    dumps.push(Dump { netns: inum, range, sockets });
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    tracing::debug!(
                        "cannot read the sockets of network namespace {netns}: {error}"
                    );
                    self.left_out.forget(inum);
                    self.capacities.forget_place(inum);
                    gone.insert(inum);
                }
                // The program is asked to stop, which is not an error of the namespace.
                Err(_) if shutdown::stop_signal().is_some() => break,
                Err(error) => {
                    tracing::warn!("cannot read the sockets of network namespace {netns}: {error}");
                    self.left_out.add(&netns, Depth::Sockets, &error);
                }
            }
        }
        gone
    }

    /// All namespaces that a search finds; none if it fails, which [`Self::degraded`] then names; some are missing if it was cut
    /// short.
    pub(super) fn namespaces(&mut self) -> Vec<Netns> {
        self.search(&HashSet::new()).unwrap_or_default().found
    }

    /// Searches for all namespaces; `None`: that failed. `wanted`: the namespaces that the caller needs, which are noted
    /// as left out if the search fails.
    fn search(&mut self, wanted: &HashSet<u32>) -> Option<Discovery> {
        match self.worker.discover() {
            Ok(all) => {
                // That a search was cut short because the program is asked to stop is not reported.
                if shutdown::stop_signal().is_none() {
                    self.left_out.searched(all.cut_short);
                }
                Some(all)
            }
            Err(error) => {
                self.not_searched(wanted, &error);
                None
            }
        }
    }

    fn not_searched(&mut self, wanted: &HashSet<u32>, error: &io::Error) {
        if shutdown::stop_signal().is_none() && self.left_out.not_searched(wanted, error) {
            tracing::warn!("cannot list the network namespaces: {error}");
        }
    }

    /// Notes the result of entering this namespace. An error is in [`Self::degraded`] until the namespace can be entered; but it
    /// is ignored if the namespace is gone, a privilege is missing, or the program was asked to stop.
    pub(crate) fn visited<T>(&mut self, netns: &Netns, result: &io::Result<T>) {
        match result {
            Ok(_) => self.left_out.read(netns.inum, Depth::Range),
            // A namespace that is gone is not left out.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if shutdown::stop_signal().is_none() => {
                self.left_out.add(netns, Depth::Range, error);
            }
            Err(_) => {}
        }
    }

    /// Reads the port ranges of the namespaces in the newest reading, within the time that [`super::Capacities::refresh`] allows.
    /// [`Self::refresh_ports`] must follow: it corrects which held ports take room in the new ranges.
    pub fn refresh_ranges(&mut self) {
        let refreshed = self.capacities.refresh(&self.worker, &self.namespaces);
        for inum in refreshed.read {
            self.left_out.read(inum, Depth::Range);
        }
        for (netns, error) in refreshed.failed {
            self.visited::<()>(&netns, &Err(error));
        }
        match refreshed.search {
            Some(Ok(cut_short)) if shutdown::stop_signal().is_none() => {
                self.left_out.searched(cut_short);
            }
            Some(Err(error)) => {
                let (known, _) = self.capacities.places(&self.held);
                let known: HashSet<u32> = known.iter().map(|netns| netns.inum).collect();
                self.not_searched(&self.held.difference(&known).copied().collect(), &error);
            }
            _ => {}
        }
        self.left_out.held(&self.held, refreshed.unknown, Instant::now());
    }

    /// The namespaces that have a tuple with a held port, or one that has changed since 30 s before the last comparison; also
    /// those that could not be read, and those with differences that are to be confirmed. Without those that cannot be found.
    ///
    /// # Errors
    /// The map of the tuples cannot be read.
    pub(super) fn busy_namespaces(&mut self) -> Result<Vec<Netns>, Error> {
        let since = self.reconciled.elapsed() + CALM.latest;
        let since_ns = clock::monotonic_ns().saturating_sub(clock::as_ns(since));
        let mut wanted = HashSet::new();
        self.each_tuple(|key, count, _| {
            if count.in_use() > 0 || count.last_ns >= since_ns {
                wanted.insert(key.netns);
            }
        })?;
        // A namespace that could not be read is tried again, even if the ledger has nothing of it.
        wanted.extend(self.left_out.closed());
        // What was found in a namespace of which the ledger has nothing is corrected only if it is found again.
        wanted.extend(self.agreement.namespaces());
        let (mut known, lacking): (Vec<Netns>, bool) = self.capacities.places(&wanted);
        let inums = |known: &[Netns]| known.iter().map(|it| it.inum).collect::<HashSet<u32>>();
        let mut unknown = wanted.difference(&inums(&known)).copied().collect::<HashSet<u32>>();
        let mut is_sure = true;
        if lacking {
            let all = self.search(&unknown);
            is_sure = all.as_ref().is_some_and(|all| !all.cut_short);
            let found = all.unwrap_or_default().found.into_iter();
            known.extend(found.filter(|netns| unknown.remove(&netns.inum)));
            if is_sure {
                for inum in &unknown {
                    self.left_out.forget_closed(*inum);
                }
            }
        }
        self.left_out.held(&self.held, is_sure.then_some(unknown), Instant::now());
        Ok(known)
    }
}
