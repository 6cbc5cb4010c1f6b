//! Knows, by network namespace, which ports connect() can be given: the namespace's port range, without reserved and bound ports,
//! and without those that stay blocked after the socket that bound them is gone. Also finds the namespaces and reads their
//! settings.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use foldhash::HashMap;

use crate::{
    host::{
        capacity::{BoundPorts, Limits, PackedPorts, PortRange, Reuse, Usable},
        netns::{Netns, Worker},
    },
    runtime::turns::Turns,
};

/// Shortest time between two searches for namespaces.
const DISCOVER_INTERVAL: Duration = Duration::from_millis(300);
/// N, if searches for namespaces may take 1/N of the time: they look at all open files, and a host can have a million.
const DISCOVER_SHARE: u32 = 50;
/// N, if reading the settings of namespaces may take 1/N of the time.
const READ_SHARE: u32 = 50;
/// How long one refresh reads settings at most, if it has read those of [`READ_LEAST`] namespaces.
const READ_AT_ONCE: Duration = Duration::from_millis(100);
/// How many namespaces' settings a refresh reads however long it takes. (Not those of all: any user can make thousands
/// of namespaces.)
const READ_LEAST: usize = 8;
/// How many namespaces that reserve ports in many pieces may be known: each of these namespaces takes 8 KiB.
const MOST_LARGE: usize = 1_000;

/// What is known about the namespaces in use.
#[derive(Debug, Default)]
pub struct Capacities {
    /// Where each namespace was found; without those that cannot be entered there any more.
    places: HashMap<u32, Netns>,
    /// When the next search for namespaces is allowed; `None`: at once, as there was none yet.
    discover_at: Option<Instant>,
    /// When settings were last read; `None`: never.
    read_at: Option<Instant>,
    /// Whose settings are read next: index 0 is for namespaces whose settings are not known yet, index 1 for the others.
    turns: [Turns<u32>; 2],
    /// What net.ipv4.tcp_tw_reuse allows, by namespace.
    reuses: BTreeMap<u32, Reuse>,
    /// Ports that connect() can be given, by namespace.
    usable: HashMap<u32, Usable>,
    /// Whether `usable` has changed since the last [`Self::take_changed`].
    changed: bool,
    /// All bound ports, as of the newest reading.
    binds: BoundPorts,
    /// Ports that connect() is not given although the socket that bound them may be gone: see
    /// [`crate::host::capacity::apart`].
    left_over: BoundPorts,
    /// Namespaces that are not in `usable` because of [`MOST_LARGE`].
    too_large: HashSet<u32>,
    /// Namespace of a spreader's rule, for which [`MOST_LARGE`] is no limit: the spreader needs its ports. `None`: no rule.
    of_rule: Option<u32>,
    /// Namespaces that [`Self::learn`] could not read: it does not try again before the next refresh.
    missed: HashSet<u32>,
}

/// What a refresh read, and what it could not read.
#[derive(Debug, Default)]
pub struct Refreshed {
    /// Inode numbers of the namespaces whose settings were read: the port range, and those of reuse.
    pub read: Vec<u32>,
    /// Namespaces that did not answer, or whose settings could not be read; without those that are gone.
    pub failed: Vec<(Netns, io::Error)>,
    /// The result of the refresh's newest search for namespaces. `Ok(true)`: it was cut short, and did not see all; `None`: there
    /// was no search.
    pub search: Option<io::Result<bool>>,
    /// Inode numbers of the wanted namespaces that were not found; `None`: not known, because no search was allowed, or it failed
    /// or was cut short.
    pub unknown: Option<HashSet<u32>>,
}

impl Capacities {
    /// The limits of the namespace with this inode number; `None`: not known.
    pub fn get(&self, netns: u32) -> Option<Limits> {
        self.usable.get(&netns).map(Usable::limits)
    }

    /// What net.ipv4.tcp_tw_reuse and the settings that belong to it allow, by the namespace's inode number; absent: not known.
    pub const fn reuses(&self) -> &BTreeMap<u32, Reuse> {
        &self.reuses
    }

    /// The ports that connect() can be given, by the inode number of the namespace; absent: not known.
    pub fn usable(&self) -> &HashMap<u32, Usable> {
        &self.usable
    }

    /// Ports of this namespace that connect() is not given because of bind() or listen(); `None`: it is not known.
    pub fn blocked(&self, netns: u32) -> Option<&PackedPorts> {
        self.usable.get(&netns).map(Usable::blocked)
    }

    /// Whether the ports that connect() can be given in any namespace have changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Adds a namespace that was found, with its range, in place of the place and the range that were known. If it reserves ports
    /// in more than about 128 pieces and 1,000 others (`MOST_LARGE`) do, its ports are not known from then on ([`Self::reason`]).
    pub fn know(&mut self, place: Netns, range: &PortRange) {
        self.set_range(place.inum, range);
        self.places.insert(place.inum, place);
    }

    /// Adds the namespace of a spreader's rule, with its range, as [`Self::know`] does, but without a limit: it is known whatever
    /// it reserves. Only one namespace is the rule's: the newest that this was called for.
    pub fn know_of_rule(&mut self, place: Netns, range: &PortRange) {
        self.of_rule = Some(place.inum);
        self.know(place, range);
    }

    fn set_range(&mut self, netns: u32, range: &PortRange) {
        let usable = Usable::new(range, self.blocked_by_all(netns));
        let known = self.usable.get(&netns);
        if known == Some(&usable) {
            return;
        }
        let is_large = |usable: &Usable| usable.unreserved().is_large();
        let is_limited = self.of_rule != Some(netns);
        let more = is_limited && is_large(&usable) && !known.is_some_and(is_large);
        if more && self.usable.values().filter(|it| is_large(it)).count() >= MOST_LARGE {
            self.usable.remove(&netns);
            self.too_large.insert(netns);
        } else {
            self.too_large.remove(&netns);
            self.usable.insert(netns, usable);
        }
        self.changed = true;
    }

    /// A text for people if the ports of some namespaces are not known because they would take too much memory ([`Self::know`]);
    /// `None`: there are no such namespaces.
    pub fn reason(&self) -> Option<String> {
        let number = self.too_large.len();
        (number > 0).then(|| {
            format!(
                "how many ports connect() can be given is not known for {number} network namespaces: more than {MOST_LARGE} \
                 of them reserve ports in many pieces (net.ipv4.ip_local_reserved_ports)"
            )
        })
    }

    /// Removes what is known about namespaces, except the `wanted` ones and those with bound ports. From then on,
    /// [`Self::learn`] tries all namespaces again.
    pub fn keep(&mut self, wanted: &HashSet<u32>) {
        let Self { binds, .. } = self;
        let is_kept = |netns: u32| wanted.contains(&netns) || binds.has_any_of(netns);
        self.usable.retain(|netns, _| is_kept(*netns));
        self.reuses.retain(|netns, _| is_kept(*netns));
        self.places.retain(|netns, _| is_kept(*netns));
        self.too_large.retain(|netns| is_kept(*netns));
        self.missed.clear();
        // `retain` keeps the memory.
        if self.usable.len() < self.usable.capacity() / 4 {
            self.usable.shrink_to_fit();
            self.places.shrink_to_fit();
        }
    }

    /// Where a namespace was found; `None`: it is not known.
    pub fn place(&self, netns: u32) -> Option<Netns> {
        self.places.get(&netns).cloned()
    }

    /// Forgets where a namespace was found: it cannot be entered there any more. Its limits and settings stay known.
    pub fn forget_place(&mut self, netns: u32) {
        self.places.remove(&netns);
    }

    /// Where those of the `wanted` namespaces that are known were found, in no order; true: at least one of them is not known.
    pub fn places(&self, wanted: &HashSet<u32>) -> (Vec<Netns>, bool) {
        let known: Vec<Netns> =
            wanted.iter().filter_map(|netns| self.places.get(netns).cloned()).collect();
        let unknown = known.len() < wanted.len();
        (known, unknown)
    }

    /// The limits of this namespace. If they are not known, its port range is read: `worker` enters it through the process `pid`,
    /// or else its thread `tid`, which was just seen in it. `None`: that fails, or has failed since the last [`Self::keep`] or
    /// [`Self::refresh`], or the ports stay unknown as in [`Self::know`].
    pub fn learn(&mut self, worker: &Worker, netns: u32, pid: u32, tid: u32) -> Option<Limits> {
        if let Some(known) = self.get(netns) {
            return Some(known);
        }
        if !self.missed.insert(netns) {
            return None;
        }
        let paths = [format!("/proc/{pid}/ns/net"), format!("/proc/{pid}/task/{tid}/ns/net")];
        let place = Netns { inum: netns, name: None, paths: paths.map(PathBuf::from).into() };
        let range = worker.run_in(&place, PortRange::read).ok()?;
        self.missed.remove(&netns);
        self.know(place, &range);
        self.get(netns)
    }

    /// Sets the bound ports of all namespaces, which connect() is not given. Replaces the earlier ones.
    pub fn bound(&mut self, binds: BoundPorts) {
        if self.binds != binds {
            self.binds = binds;
            self.block();
        }
    }

    /// Sets ports that connect() is not given in addition to bound ones, because the socket that bound them may be gone (see
    /// [`crate::host::capacity::apart`]). Replaces the earlier ones.
    pub fn left_over(&mut self, left_over: BoundPorts) {
        if self.left_over != left_over {
            self.left_over = left_over;
            self.block();
        }
    }

    /// Removes the bound and left-over ports from what connect() can be given, in all namespaces.
    fn block(&mut self) {
        let mut usable = std::mem::take(&mut self.usable);
        for (netns, one) in &mut usable {
            self.changed |= one.block(self.blocked_by_all(*netns));
        }
        self.usable = usable;
    }

    fn blocked_by_all(&self, netns: u32) -> PackedPorts {
        if !self.left_over.has_any_of(netns) {
            return PackedPorts::of_sorted(self.binds.of(netns));
        }
        self.binds.of(netns).chain(self.left_over.of(netns)).collect()
    }

    /// Whether there are [`Self::left_over`] ports in this namespace; `netns` is `None`: in any.
    pub fn has_left_over(&self, netns: Option<u32>) -> bool {
        match netns {
            Some(netns) => self.left_over.has_any_of(netns),
            None => !self.left_over.is_empty(),
        }
    }

    /// Calls [`Self::keep`], searches for those of the `wanted` namespaces whose place is not known, and reads the settings (port
    /// range, and those of reuse) of every namespace whose place is known. `worker` enters them.
    ///
    /// After a search, calls do not search for 50 times as long as it took, at least 300 ms. A call reads settings for at most
    /// 1/50 of the time since the call before, and at most 100 ms, but of at least 8 namespaces; later calls go on with the
    /// others, in turns.
    pub fn refresh(&mut self, worker: &Worker, wanted: &HashSet<u32>) -> Refreshed {
        let mut refreshed = Refreshed::default();
        self.keep(wanted);
        self.discover(worker, wanted, &mut refreshed);
        let began = Instant::now();
        let allowed = self.read_at.map_or(READ_AT_ONCE, |at| (began - at) / READ_SHARE);
        let until = began + allowed.min(READ_AT_ONCE);
        self.read_at = Some(began);
        let due = self.due();
        let gone = self.read_settings(worker, &due, until, &mut refreshed);
        if !gone.is_empty() {
            // These cannot be entered where they were found: there may be another way.
            self.discover(worker, wanted, &mut refreshed);
            self.read_settings(worker, &gone, until, &mut refreshed);
        }
        refreshed
    }

    /// The namespaces whose settings are read, in order: alternately one that is not known yet and one that is.
    fn due(&mut self) -> Vec<u32> {
        let (mut known, mut new): (Vec<u32>, Vec<u32>) =
            self.places.keys().partition(|netns| self.reuses.contains_key(netns));
        self.turns[0].sort(&mut new);
        self.turns[1].sort(&mut known);
        let (mut known, mut new) = (known.into_iter(), new.into_iter());
        let mut due = Vec::with_capacity(self.places.len());
        while due.len() < self.places.len() {
            due.extend(new.next());
            due.extend(known.next());
        }
        due
    }

    /// Reads the settings of these namespaces, until `until` but of at least [`READ_LEAST`]. Returns those that cannot
    /// be entered where they were found; where that was is forgotten.
    fn read_settings(
        &mut self,
        worker: &Worker,
        due: &[u32],
        until: Instant,
        refreshed: &mut Refreshed,
    ) -> Vec<u32> {
        let mut gone = Vec::new();
        for (number, netns) in due.iter().enumerate() {
            if number >= READ_LEAST && Instant::now() >= until {
                break;
            }
            let Some(place) = self.place(*netns) else { continue };
            self.turns[usize::from(self.reuses.contains_key(netns))].had(*netns);
            let both = worker.run_in(&place, || Ok((PortRange::read()?, Reuse::read())));
            match both {
                Ok((range, reuse)) => {
                    refreshed.read.push(place.inum);
                    self.reuses.insert(place.inum, reuse);
                    self.set_range(place.inum, &range);
                }
                Err(error) => {
                    tracing::debug!("cannot read the settings of a network namespace: {error}");
                    // One that does not answer in time is still where it was found.
                    let stuck = [io::ErrorKind::TimedOut, io::ErrorKind::BrokenPipe];
                    if !stuck.contains(&error.kind()) {
                        self.places.remove(&place.inum);
                        gone.push(place.inum);
                    }
                    if error.kind() != io::ErrorKind::NotFound {
                        refreshed.failed.push((place, error));
                    }
                }
            }
        }
        gone
    }

    /// Searches for the wanted namespaces that are not known, if the next search is allowed.
    fn discover(&mut self, worker: &Worker, wanted: &HashSet<u32>, refreshed: &mut Refreshed) {
        let unknown = |places: &HashMap<u32, Netns>| -> HashSet<u32> {
            wanted.iter().filter(|netns| !places.contains_key(netns)).copied().collect()
        };
        let began = Instant::now();
        if unknown(&self.places).is_empty() {
            refreshed.unknown = Some(HashSet::new());
            return;
        }
        refreshed.unknown = None;
        if self.discover_at.is_some_and(|at| began < at) {
            return;
        }
        let found = worker.discover();
        let pause = DISCOVER_INTERVAL.max(began.elapsed() * DISCOVER_SHARE);
        self.discover_at = Some(Instant::now() + pause);
        refreshed.search = Some(found.map(|all| {
            let found = all.found.into_iter().filter(|place| wanted.contains(&place.inum));
            self.places.extend(found.map(|place| (place.inum, place)));
            refreshed.unknown = (!all.cut_short).then(|| unknown(&self.places));
            all.cut_short
        }));
    }
}

#[cfg(test)]
mod tests;
