//! How many ports a tuple can hold, by network namespace.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use foldhash::{HashMap, HashMapExt as _};
use tracer_common::{Bound, ConnKey};

use crate::{
    capacity::{PortRange, Reuse, capacity},
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
    /// Few, and asked for every tuple.
    by_netns: BTreeMap<u32, u32>,
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
    /// Ports that a tuple of this namespace can hold; `None`: the namespace could not be read.
    pub fn get(&self, netns: u32) -> Option<u32> {
        self.by_netns.get(&netns).copied()
    }

    /// What net.ipv4.tcp_tw_reuse and the settings that belong to it are, by namespace; absent: not known.
    pub const fn reuses(&self) -> &BTreeMap<u32, Reuse> {
        &self.reuses
    }

    /// A namespace was found, and its range read.
    pub fn know(&mut self, place: Netns, range: PortRange) {
        let known = capacity(&range, std::iter::empty());
        self.by_netns.entry(place.inum).or_insert(known);
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
    pub fn learn(&mut self, worker: &Worker, netns: u32, pid: u32, tid: u32) -> Option<u32> {
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

    /// Reads the port ranges of the wanted namespaces anew, and takes off them what is bound.
    pub fn refresh(
        &mut self,
        worker: &Worker,
        wanted: &HashSet<u32>,
        binds: &[(ConnKey, Bound)],
    ) -> Looked {
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
        let mut blocked: HashMap<u32, Vec<u16>> = HashMap::new();
        for (key, bound) in binds {
            blocked.entry(bound.place.netns).or_default().push(key.port);
        }
        let ranges = self.ranges.iter();
        self.by_netns = ranges
            .map(|(netns, range)| {
                let blocked = blocked.get(netns).into_iter().flatten().copied();
                (*netns, capacity(range, blocked))
            })
            .collect();
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
