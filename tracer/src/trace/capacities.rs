//! Which ports a tuple can hold, by network namespace.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use foldhash::HashMap;
use tracer_common::{Bound, ConnKey};

use crate::{
    capacity::{Limits, PortRange, PortSet, Reuse, Usable},
    netns::{Netns, Worker},
};

/// All namespaces are looked for no more often than this...
const DISCOVER_INTERVAL: Duration = Duration::from_millis(300);
/// ...and for no more than one part in so many of the time: a host can have a million open files.
const DISCOVER_SHARE: u32 = 50;

/// What is known of the namespaces that are in use.
#[derive(Debug, Default)]
pub struct Capacities {
    /// Where each namespace was found, until it cannot be entered there any more.
    places: HashMap<u32, Netns>,
    /// When all namespaces may be looked for again.
    discover_at: Option<Instant>,
    ranges: HashMap<u32, PortRange>,
    /// What net.ipv4.tcp_tw_reuse lets each namespace do.
    reuses: BTreeMap<u32, Reuse>,
    /// Of the namespaces in `ranges`, as of the newest look at bound ports.
    usable: HashMap<u32, Usable>,
    /// The same in numbers. Few, and asked for every tuple.
    by_netns: BTreeMap<u32, Limits>,
    /// Ports that no connect() is given although the socket that bound them is gone: see [`crate::capacity::apart`].
    left_over: HashMap<u32, PortSet>,
    /// Namespaces that were looked for in vain.
    missed: HashSet<u32>,
}

/// What came of looking into the namespaces.
#[derive(Debug, Default)]
pub struct Looked {
    /// Those whose range was read.
    pub read: Vec<u32>,
    /// Those that did not answer, or could not be read.
    pub failed: Vec<(Netns, io::Error)>,
    /// The newest search for namespaces, if there was one: whether it was cut short.
    pub search: Option<io::Result<bool>>,
    /// To these no way leads; `None`: that is not sure, or as it was.
    pub unknown: Option<HashSet<u32>>,
}

impl Capacities {
    /// What this namespace has to give; `None`: it could not be read.
    pub fn get(&self, netns: u32) -> Option<Limits> {
        self.by_netns.get(&netns).copied()
    }

    /// What net.ipv4.tcp_tw_reuse and the settings that belong to it are, by namespace; absent: not known.
    pub const fn reuses(&self) -> &BTreeMap<u32, Reuse> {
        &self.reuses
    }

    /// The ports of each namespace that is known.
    pub fn usable(&self) -> &HashMap<u32, Usable> {
        &self.usable
    }

    /// Ports of this namespace that no connect() is given because of bind() or listen().
    pub fn blocked(&self, netns: u32) -> Option<&PortSet> {
        self.usable.get(&netns).map(Usable::blocked)
    }

    /// A namespace was found, and its range read.
    pub fn know(&mut self, place: Netns, range: PortRange) {
        self.by_netns
            .entry(place.inum)
            .or_insert_with(|| Usable::new(&range, PortSet::default()).limits());
        self.ranges.insert(place.inum, range);
        self.places.insert(place.inum, place);
    }

    /// Where a namespace was found.
    pub fn place(&self, netns: u32) -> Option<Netns> {
        self.places.get(&netns).cloned()
    }

    /// No way leads any more to where a namespace was found.
    pub fn forget_place(&mut self, netns: u32) {
        self.places.remove(&netns);
    }

    /// Where these namespaces are, and whether one of them is not known.
    pub fn places(&self, wanted: &HashSet<u32>) -> (Vec<Netns>, bool) {
        let known: Vec<Netns> =
            wanted.iter().filter_map(|netns| self.places.get(netns).cloned()).collect();
        let unknown = known.len() < wanted.len();
        (known, unknown)
    }

    /// As [`Self::get`], and where the namespace is new, looks for it through a thread that was
    /// just seen in it.
    pub fn learn(&mut self, worker: &Worker, netns: u32, pid: u32, tid: u32) -> Option<Limits> {
        if let Some(known) = self.get(netns) {
            return Some(known);
        }
        if !self.missed.insert(netns) {
            return None;
        }
        let ways = [format!("/proc/{pid}/ns/net"), format!("/proc/{pid}/task/{tid}/ns/net")];
        let place = Netns { inum: netns, name: None, ways: ways.map(PathBuf::from).into() };
        let range = worker.run_in(&place, PortRange::read).and_then(|range| range).ok()?;
        self.missed.remove(&netns);
        self.know(place, range);
        self.get(netns)
    }

    /// Takes off the ranges what is bound now. Returns whether the ports of a namespace are others than before.
    pub fn bound(&mut self, binds: &[(ConnKey, Bound)]) -> bool {
        let mut blocked: HashMap<u32, PortSet> = self.left_over.clone();
        for (key, bound) in binds {
            blocked.entry(bound.place.netns).or_default().insert(key.port);
        }
        let usable: HashMap<u32, Usable> = (self.ranges.iter())
            .map(|(netns, range)| {
                (*netns, Usable::new(range, blocked.remove(netns).unwrap_or_default()))
            })
            .collect();
        self.by_netns = usable.iter().map(|(netns, it)| (*netns, it.limits())).collect();
        let changed = usable != self.usable;
        self.usable = usable;
        changed
    }

    /// Ports that are blocked from now on, until the next call, beside those that are bound.
    pub fn left_over(&mut self, left_over: HashMap<u32, PortSet>) {
        self.left_over = left_over;
    }

    /// Whether [`Self::left_over`] ports are blocked, in this namespace or in any.
    pub fn has_left_over(&self, netns: Option<u32>) -> bool {
        match netns {
            Some(netns) => self.left_over.contains_key(&netns),
            None => !self.left_over.is_empty(),
        }
    }

    /// Reads the port ranges of the wanted namespaces anew.
    pub fn refresh(&mut self, worker: &Worker, wanted: &HashSet<u32>) -> Looked {
        let mut looked = Looked::default();
        self.ranges.retain(|netns, _| wanted.contains(netns));
        self.reuses.retain(|netns, _| wanted.contains(netns));
        self.places.retain(|netns, _| wanted.contains(netns));
        self.missed.clear();
        self.discover(worker, wanted, &mut looked);
        let places: Vec<Netns> = self.places.values().cloned().collect();
        let gone = self.read_ranges(worker, places, &mut looked);
        if !gone.is_empty() {
            // No way leads there any more: there may be others.
            self.discover(worker, wanted, &mut looked);
            let found = gone.iter().filter_map(|netns| self.places.get(netns).cloned()).collect();
            self.read_ranges(worker, found, &mut looked);
        }
        looked
    }

    /// Returns those to which no way leads where they were found, and forgets where that was.
    fn read_ranges(
        &mut self,
        worker: &Worker,
        places: Vec<Netns>,
        looked: &mut Looked,
    ) -> HashSet<u32> {
        let mut gone = HashSet::new();
        for place in places {
            let both = worker.run_in(&place, || Ok((PortRange::read()?, Reuse::read())));
            match both.and_then(|both| both) {
                Ok((range, reuse)) => {
                    looked.read.push(place.inum);
                    self.reuses.insert(place.inum, reuse);
                    self.ranges.insert(place.inum, range);
                }
                Err(error) => {
                    tracing::debug!("port range of a namespace: {error}");
                    // One that does not answer is where it was.
                    let stuck = [io::ErrorKind::TimedOut, io::ErrorKind::BrokenPipe];
                    if !stuck.contains(&error.kind()) {
                        self.places.remove(&place.inum);
                        gone.insert(place.inum);
                    }
                    if error.kind() != io::ErrorKind::NotFound {
                        looked.failed.push((place, error));
                    }
                }
            }
        }
        gone
    }

    fn discover(&mut self, worker: &Worker, wanted: &HashSet<u32>, looked: &mut Looked) {
        let unknown = |places: &HashMap<u32, Netns>| -> HashSet<u32> {
            wanted.iter().filter(|netns| !places.contains_key(netns)).copied().collect()
        };
        let began = Instant::now();
        if unknown(&self.places).is_empty() {
            looked.unknown = Some(HashSet::new());
            return;
        }
        looked.unknown = None;
        if self.discover_at.is_some_and(|at| began < at) {
            return;
        }
        let found = worker.discover();
        let pause = DISCOVER_INTERVAL.max(began.elapsed() * DISCOVER_SHARE);
        self.discover_at = Some(Instant::now() + pause);
        looked.search = Some(found.map(|all| {
            let found = all.found.into_iter().filter(|place| wanted.contains(&place.inum));
            self.places.extend(found.map(|place| (place.inum, place)));
            looked.unknown = (!all.cut_short).then(|| unknown(&self.places));
            all.cut_short
        }));
    }
}
