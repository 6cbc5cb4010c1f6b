//! Looking for network namespaces, and for several ways to each.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    process,
    time::{Duration, Instant},
};

use super::{NAMES, Netns, OWN, entries, inum, own, way};
use crate::{
    host::mounts,
    runtime::{beat::beat, shutdown},
};

/// How long one search may take. A user can have more files open than can be looked at.
const TIME: Duration = Duration::from_millis(1500);
/// Descriptors of each process that are looked at before the rest of any.
const FIRST: usize = 4096;

/// What a search has found.
#[derive(Clone, Debug, Default)]
pub struct Discovery {
    /// This process's own namespace is the first.
    pub found: Vec<Netns>,
    /// There was more to look at than there was time: namespaces that no process is in can be missing.
    pub cut_short: bool,
}

/// How well a way lasts, best first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Kind {
    /// A mount stays until somebody unmounts it.
    Mount,
    /// A process that is in the namespace.
    Process,
    /// A descriptor that a process holds.
    Held,
    /// A thread that is in another namespace than its process: likely a visitor (another tracer, a
    /// container engine), who is gone in a moment.
    Visit,
}

impl Kind {
    /// Ways of this kind that are kept. Those that /proc lists first are of the oldest processes, mostly.
    const fn kept(self) -> usize {
        match self {
            Self::Mount | Self::Held => 2,
            Self::Process => 3,
            Self::Visit => 1,
        }
    }
}

/// The namespaces found so far.
#[derive(Default)]
pub(super) struct Found {
    by_inum: HashMap<u32, usize>,
    all: Vec<One>,
}

struct One {
    inum: u32,
    name: Option<String>,
    ways: Vec<(Kind, PathBuf)>,
}

impl Found {
    pub(super) fn add(&mut self, inum: u32, name: Option<String>, kind: Kind, path: PathBuf) {
        let index = *self.by_inum.entry(inum).or_insert(self.all.len());
        if index == self.all.len() {
            self.all.push(One { inum, name: None, ways: Vec::new() });
        }
        let Some(One { name: known_as, ways, .. }) = self.all.get_mut(index) else { return };
        if known_as.is_none() {
            *known_as = name;
        }
        let same = ways.iter().filter(|(known, _)| *known == kind).count();
        if same < kind.kept() && !ways.iter().any(|(_, known)| *known == path) {
            ways.push((kind, path));
        }
    }

    /// Best ways first. A visitor's way only where there is no other.
    pub(super) fn finish(self) -> Vec<Netns> {
        let netns = |One { inum, name, mut ways }| {
            ways.sort_by_key(|(kind, _)| *kind);
            if ways.iter().any(|(kind, _)| *kind != Kind::Visit) {
                ways.retain(|(kind, _)| *kind != Kind::Visit);
            }
            Netns { inum, name, ways: ways.into_iter().map(|(_, path)| path).collect() }
        };
        self.all.into_iter().map(netns).collect()
    }
}

/// Every namespace that this thread can find: this process's own first, then those with names, those
/// that are mounted elsewhere, those of other processes and their threads, and those that a process
/// holds open.
pub fn discover() -> io::Result<Discovery> {
    let end = Instant::now() + TIME;
    let mut found = Found::default();
    found.add(own()?.inum, None, Kind::Mount, OWN.into());
    for (name, path) in entries(Path::new(NAMES)) {
        // A name without a namespace mounted on it is an ordinary file.
        if let Ok(Some(place)) = way::look(&path) {
            found.add(place.inum, Some(name), Kind::Mount, path);
        }
    }
    for (root, path) in mounts::all(mounts::NSFS) {
        if let Some(inum) = way::inum_of_link(&root) {
            found.add(inum, None, Kind::Mount, path);
        }
    }
    let mut processes = Vec::new();
    let this = process::id();
    for (name, path) in entries(Path::new("/proc")) {
        // This process's own threads visit, too.
        if let Some(id) = name.parse().ok().filter(|id| *id != this) {
            processes.push((id, path));
        }
    }
    let mut cut_short = false;
    for (id, path) in &processes {
        cut_short |= is_over(end);
        if cut_short {
            break;
        }
        beat();
        threads(*id, path, &mut found);
    }
    // One without processes in it can have sockets all the same.
    let mut longer = Vec::new();
    for (_, path) in &processes {
        match held(path, 0, FIRST, end, &mut found) {
            Looked::All => {}
            Looked::Some => longer.push(path),
            Looked::Late => cut_short = true,
        }
        if cut_short {
            break;
        }
    }
    for path in longer {
        cut_short = cut_short || held(path, FIRST, usize::MAX, end, &mut found) == Looked::Late;
    }
    Ok(Discovery { found: found.finish(), cut_short })
}

/// Whether the search has to stop: its time is up, or the program is to end.
fn is_over(end: Instant) -> bool {
    end < Instant::now() || shutdown::asked().is_some()
}

/// The namespace of a process, and those of its threads that are in others. The links of these files
/// lead nowhere but to namespaces.
fn threads(id: u32, process: &Path, found: &mut Found) {
    let at = |path: &Path| fs::metadata(path).ok().and_then(|metadata| inum(&metadata).ok());
    let path = process.join("ns/net");
    let own = at(&path);
    if let Some(own) = own {
        found.add(own, None, Kind::Process, path);
    }
    for (name, thread) in entries(&process.join("task")) {
        if name.parse() == Ok(id) {
            continue;
        }
        let path = thread.join("ns/net");
        if let Some(inum) = at(&path).filter(|inum| Some(*inum) != own) {
            found.add(inum, None, Kind::Visit, path);
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Looked {
    All,
    Some,
    Late,
}

/// Namespaces that a process holds open, by `count` of its descriptors behind the first `skip`.
fn held(process: &Path, skip: usize, count: usize, end: Instant, found: &mut Found) -> Looked {
    for (looked, (_, path)) in entries(&process.join("fd")).skip(skip).enumerate() {
        if looked == count {
            return Looked::Some;
        }
        if looked % 256 == 0 {
            beat();
            if is_over(end) {
                return Looked::Late;
            }
        }
        if let Some(inum) = way::named_by_link(&path) {
            found.add(inum, None, Kind::Held, path);
        }
    }
    Looked::All
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(added: &[(Kind, &str)]) -> Vec<String> {
        let mut found = Found::default();
        for (kind, path) in added {
            found.add(7, None, *kind, path.into());
        }
        let [netns] = &found.finish()[..] else { panic!("one namespace") };
        netns.ways.iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn several_ways_are_kept_the_lasting_ones_first_and_visitors_only_alone() {
        use Kind::{Held, Mount, Process, Visit};
        assert_eq!(ways(&[(Visit, "v1"), (Visit, "v2")]), ["v1"]);
        assert_eq!(ways(&[(Visit, "v1"), (Held, "h")]), ["h"]);
        let all = [
            (Held, "h1"),
            (Visit, "v1"),
            (Process, "p1"),
            (Process, "p2"),
            (Process, "p2"),
            (Process, "p3"),
            (Process, "p4"),
            (Mount, "m1"),
        ];
        assert_eq!(ways(&all), ["m1", "p1", "p2", "p3", "h1"]);
    }

    #[test]
    fn a_name_is_kept_whichever_way_is_found_first() {
        let mut found = Found::default();
        found.add(7, None, Kind::Process, "/proc/1/ns/net".into());
        found.add(7, Some("blue".into()), Kind::Mount, "/run/netns/blue".into());
        found.add(7, Some("azure".into()), Kind::Mount, "/run/netns/azure".into());
        let [netns] = &found.finish()[..] else { panic!("one namespace") };
        assert_eq!(netns.name.as_deref(), Some("blue"));
        assert_eq!(netns.ways.len(), 3);
    }
}
