//! Finds the container, pod or systemd unit of each finding's subject. Reads /proc, the cgroup hierarchy, and the names that kubelet
//! and Docker give to files.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    time::Instant,
};

use super::{
    finding::{Finding, Home, Place, Subject},
    judge::{Seen, listeners::Owner},
    logs::pods::{self, pod_uid},
    tuples::ip,
    window::Watched,
};
use crate::{
    host::{
        cgroups::{self, Name, Names},
        files::Files,
        inside::Inside,
        netns::Worker,
    },
    runtime::beat,
};

/// How many homes are kept; before one more is added, all are forgotten.
const MOST: usize = 4_096;
/// How many containers are looked up by their files in a round.
const MOST_LOOKUPS: usize = 256;

/// The containers, pods and systemd units of the cgroups that were looked up so far, at most 4,096. A cgroup's id is never used
/// again, so what was found out stays true.
pub struct Homes {
    /// `None`: the cgroup hierarchy cannot be opened.
    names: Option<Names>,
    known: HashMap<u64, Option<Home>>,
}

/// What a round of `tracer doctor` saw, by which the processes of a finding are found.
#[derive(Clone, Copy, Debug)]
pub struct Round<'a> {
    /// The namespaces whose sockets were listed.
    pub seen: &'a [Seen],
    /// Processes by the inodes of their sockets; without those that were not found.
    pub owners: &'a HashMap<u32, Owner>,
    /// What happened during the window; `None`: the hooks were not attached.
    pub watched: Option<&'a Watched>,
}

/// Who a finding is about. Empty: nobody, or it is not known.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct About {
    pids: BTreeSet<u32>,
    cgroups: BTreeSet<u64>,
}

impl Homes {
    /// Opens the cgroup hierarchy; if that fails, no home is found. To be called before privileges are given up.
    pub fn open() -> Self {
        let names = cgroups::root().map(Names::new);
        let names = names.inspect_err(|error| {
            tracing::debug!("containers and units are not named: {error}");
        });
        Self { names: names.ok(), known: HashMap::new() }
    }

    /// Sets [`Finding::home`]; `None`: not known, or the processes are neither in the same container or unit nor in the same pod.
    /// At most 256 cgroups are looked up in a call; of the others, nothing is known in this round. `worker`: its threads may read
    /// other processes' files.
    pub fn name(&mut self, findings: &mut [Finding], round: &Round<'_>, worker: &Worker) {
        let about: Vec<About> = findings.iter().map(|it| round.about(it)).collect();
        let pids: BTreeSet<u32> = about.iter().flat_map(|it| &it.pids).copied().collect();
        let of_pids = worker.run(move || Ok(cgroups_of(&pids))).unwrap_or_default();
        let ids = |about: &About| -> BTreeSet<u64> {
            let of_pids = about.pids.iter().filter_map(|pid| of_pids.get(pid));
            about.cgroups.iter().chain(of_pids).copied().collect()
        };
        let ids: Vec<BTreeSet<u64>> = about.iter().map(ids).collect();
        self.learn(ids.iter().flatten().copied().collect(), worker);
        for (finding, ids) in findings.iter_mut().zip(ids) {
            let homes = ids.iter().map(|id| self.known.get(id).cloned().flatten());
            finding.home = Home::common(homes).or_else(|| match &finding.subject {
                Subject::Process(process) => process.container.as_deref().map(Home::of),
                _ => None,
            });
        }
    }

    /// Finds out the homes of these cgroups that are not known yet.
    fn learn(&mut self, ids: BTreeSet<u64>, worker: &Worker) {
        let Some(names) = &mut self.names else { return };
        let now = Instant::now();
        let unknown = ids.into_iter().filter(|id| !self.known.contains_key(id));
        let found: Vec<(u64, Home)> = unknown
            .take(MOST_LOOKUPS)
            .filter_map(|id| Some((id, home(names.get(id, now)?))))
            .collect();
        let homes = found.clone();
        let homes = worker.run(move || Ok(with_names(homes))).unwrap_or(found);
        if self.known.len() + homes.len() > MOST {
            self.known.clear();
        }
        let some = |home: Home| (home != Home::default()).then_some(home);
        self.known.extend(homes.into_iter().map(|(id, home)| (id, some(home))));
    }
}

impl Round<'_> {
    /// Who a finding is about: for a tuple, who has its sockets open, else who connected last.
    fn about(&self, finding: &Finding) -> About {
        let of_inode = |inode: &u32| self.owners.get(inode).map(|it| it.process.pid);
        let of_place = |place: &Place| self.seen.iter().find(|it| it.place.inum == place.inum);
        match &finding.subject {
            Subject::Host => About::default(),
            Subject::Process(process) => {
                About { pids: BTreeSet::from([process.pid]), ..About::default() }
            }
            Subject::Netns(place) => {
                let tuples = of_place(place).into_iter().flat_map(|it| it.now.by_ends.values());
                let cgroups = tuples.flat_map(|tuple| &tuple.cgroups).copied().collect();
                About { cgroups, ..About::default() }
            }
            Subject::Tuple { place, source, destination } => {
                let seen = of_place(place);
                let mut all = seen.into_iter().flat_map(|it| &it.now.by_ends);
                let is_it = |from, peer| from == *source && peer == *destination;
                let tuple = all.find(|(ends, _)| is_it(ends.from(), ends.peer()));
                let mut about = About::default();
                if let Some((_, tuple)) = tuple {
                    about.cgroups.extend(&tuple.cgroups);
                    if about.cgroups.is_empty() {
                        about.pids.extend(tuple.inodes.iter().filter_map(of_inode));
                    }
                }
                if about == About::default()
                    && let Some(here) = self.watched.and_then(|it| it.namespaces.get(&place.inum))
                {
                    let mut last = here.cgroups.iter();
                    let caller = last.find(|(ends, _)| is_it(ends.from(), ends.peer()));
                    about.cgroups.extend(caller.map(|(_, cgroup)| *cgroup));
                }
                about
            }
            Subject::Address { place, address } => {
                let listeners = of_place(place).into_iter().flat_map(|it| &it.now.listeners);
                let here =
                    listeners.filter(|it| SocketAddr::new(ip(it.address), it.port) == *address);
                let pids = here.filter_map(|it| of_inode(&it.inode)).collect();
                About { pids, ..About::default() }
            }
        }
    }
}

/// The cgroups of these processes, without those that are not known.
fn cgroups_of(pids: &BTreeSet<u32>) -> BTreeMap<u32, u64> {
    let of_one = |pid: &u32| {
        beat::beat();
        Some((*pid, cgroups::of_process(*pid)?))
    };
    pids.iter().filter_map(of_one).collect()
}

/// The home of a cgroup, without the names of containers and pods. Only what root can have named counts: [`Name::container`].
fn home(name: &Name) -> Home {
    let text = |it: &std::sync::Arc<str>| it.to_string();
    let pod_uid = name.container.as_ref().and_then(|_| pod_uid(&name.path));
    Home {
        container: name.container.as_ref().map(text),
        pod_uid,
        unit: name.unit.as_ref().map(text),
        ..Home::default()
    }
}

/// These with the names of containers and pods, by the files of the host: process 1 sees these also if this process is in a
/// container.
fn with_names(homes: Vec<(u64, Home)>) -> Vec<(u64, Home)> {
    if homes.iter().all(|(_, home)| home.container.is_none()) {
        return homes;
    }
    let files = Inside::of(1).or_else(|_| Inside::of(std::process::id()));
    let Ok(files) = files else { return homes };
    let named = homes.into_iter().map(|(id, home)| {
        beat::beat();
        (id, named(&files, home))
    });
    named.collect()
}

fn named(files: &dyn Files, home: Home) -> Home {
    let Some(id) = &home.container else { return home };
    match pods::find(files, id, home.pod_uid.as_deref()) {
        Some(found) => Home { container_name: found.name, pod: found.pod, ..home },
        None => home,
    }
}

#[cfg(test)]
mod tests;
