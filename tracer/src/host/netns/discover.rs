//! Searches for network namespaces, and for several paths to each.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    fs, io,
    ops::ControlFlow,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process,
    time::{Duration, Instant},
};

use super::{NAMES, Netns, OWN, entries, inum, own, path};
use crate::{
    host::{
        mounts,
        process::{FileKind, ListsFiles, links},
    },
    runtime::{beat::beat, shutdown},
};

/// How long one search may take. A user can have more files open than can be read in time.
const TIME: Duration = Duration::from_millis(1500);
/// How many descriptors of each process are read before the further ones of any process.
const FIRST: usize = 4096;

/// The result of a search.
#[derive(Clone, Debug, Default)]
pub struct Discovery {
    /// The namespaces that were found; this process's own is the first.
    pub found: Vec<Netns>,
    /// Whether the search ended early, because its time was up or the program is asked to stop: namespaces may be
    /// missing. Namespaces with a name or a mount are searched for first, then those that processes are in, then those
    /// that processes only have open.
    pub cut_short: bool,
}

/// How a path leads to a namespace, the longest lasting first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Kind {
    /// Through a mount, which stays until somebody unmounts it.
    Mount,
    /// Through a process that is in the namespace.
    Process,
    /// Through a descriptor that a process has open.
    Descriptor,
    /// Through a thread that is in another namespace than its process. It is likely a visitor (another tracer, a
    /// container engine), which leaves soon.
    Thread,
}

impl Kind {
    /// How many paths of this kind are kept: the first that are found. /proc lists processes by id, so these are mostly of
    /// the oldest ones.
    const fn kept(self) -> usize {
        match self {
            Self::Mount | Self::Descriptor => 2,
            Self::Process => 3,
            Self::Thread => 1,
        }
    }
}

/// The namespaces found so far.
#[derive(Default)]
pub(super) struct Found {
    by_inum: HashMap<u32, usize>,
    all: Vec<One>,
}

/// A namespace with the paths to it.
struct One {
    inum: u32,
    name: Option<String>,
    paths: Vec<(Kind, PathBuf)>,
}

impl Found {
    /// Adds a path to a namespace, and its name if it has none yet. Of each namespace, the first 2 mounts, 3 processes, 2
    /// descriptors and 1 thread are kept, and further paths ignored.
    pub(super) fn add(&mut self, inum: u32, name: Option<String>, kind: Kind, path: PathBuf) {
        let index = *self.by_inum.entry(inum).or_insert(self.all.len());
        if index == self.all.len() {
            self.all.push(One { inum, name: None, paths: Vec::new() });
        }
        let Some(One { name: known_as, paths, .. }) = self.all.get_mut(index) else { return };
        if known_as.is_none() {
            *known_as = name;
        }
        let same = paths.iter().filter(|(known, _)| *known == kind).count();
        if same < kind.kept() && !paths.iter().any(|(_, known)| *known == path) {
            paths.push((kind, path));
        }
    }

    /// Whether no further descriptor of this namespace would be kept.
    fn has_enough(&self, inum: u32) -> bool {
        let paths = self.by_inum.get(&inum).and_then(|index| self.all.get(*index));
        let of_files = paths.into_iter().flat_map(|it| &it.paths);
        of_files.filter(|(kind, _)| *kind == Kind::Descriptor).count() >= Kind::Descriptor.kept()
    }

    /// The namespaces, with their paths in order. A path through a visiting thread is kept only if there is no other.
    pub(super) fn finish(self) -> Vec<Netns> {
        let netns = |One { inum, name, mut paths }| {
            paths.sort_by_key(|(kind, _)| *kind);
            if paths.iter().any(|(kind, _)| *kind != Kind::Thread) {
                paths.retain(|(kind, _)| *kind != Kind::Thread);
            }
            Netns { inum, name, paths: paths.into_iter().map(|(_, path)| path).collect() }
        };
        self.all.into_iter().map(netns).collect()
    }
}

/// Finds every namespace that this thread can: this process's own first, then those with names, those that are mounted elsewhere,
/// those of other processes and their threads, and those that a process has open. Takes at most about 1.5 s, and ends early if a
/// signal asks the program to stop ([`Discovery::cut_short`]); what cannot be read is left out. `files`: the kernel's list of open
/// files, which takes less time than /proc; `None`: there is none.
///
/// # Errors
/// This process's own namespace cannot be read.
pub fn discover(files: Option<&dyn ListsFiles>) -> io::Result<Discovery> {
    let end = Instant::now() + TIME;
    let mut found = Found::default();
    found.add(own()?.inum, None, Kind::Mount, OWN.into());
    for (name, path) in entries(Path::new(NAMES)) {
        // A name on which no namespace is mounted is an ordinary file.
        if let Ok(Some(netns)) = path::open(&path) {
            found.add(netns.inum, Some(name), Kind::Mount, path);
        }
    }
    for (root, path) in mounts::all(mounts::NSFS) {
        if let Some(inum) = path::inum_of_link(&root) {
            found.add(inum, None, Kind::Mount, path);
        }
    }
    let mut processes = Vec::new();
    let this = process::id();
    for (name, path) in entries(Path::new("/proc")) {
        // This process's own threads enter other namespaces, too, and must not lead to them.
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
    // A namespace without processes can still have sockets.
    if !cut_short && files.is_some_and(|files| listed(files, end, &mut found)) {
        return Ok(Discovery { found: found.finish(), cut_short });
    }
    let mut longer = Vec::new();
    for (_, path) in &processes {
        match descriptors(path, 0, FIRST, end, &mut found) {
            Extent::All => {}
            Extent::Part => longer.push(path),
            Extent::Late => cut_short = true,
        }
        if cut_short {
            break;
        }
    }
    for path in longer {
        cut_short =
            cut_short || descriptors(path, FIRST, usize::MAX, end, &mut found) == Extent::Late;
    }
    Ok(Discovery { found: found.finish(), cut_short })
}

/// Whether the search must stop: its time is up, or a signal asked the program to stop.
fn is_over(end: Instant) -> bool {
    end < Instant::now() || shutdown::stop_signal().is_some()
}

/// Adds the namespace of a process, and those of its threads that are in others. It is safe to follow the links of
/// these files: they lead only to namespaces.
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
            found.add(inum, None, Kind::Thread, path);
        }
    }
}

/// Adds the namespaces that processes have open by the kernel's list. Returns false if there is none within half of the time: it has
/// no turns, so that a process with very many files would keep those after it from being read.
fn listed(files: &dyn ListsFiles, end: Instant, found: &mut Found) -> bool {
    let until = Instant::now() + end.saturating_duration_since(Instant::now()) / 2;
    let Ok(Some(files)) = files.list(until) else { return false };
    // The list does not say of which type a namespace is.
    let mut others = HashSet::new();
    let this = process::id();
    for file in files {
        let wanted = file.kind == FileKind::Namespace && file.pid != this;
        if !wanted || others.contains(&file.inode) || found.has_enough(file.inode) {
            continue;
        }
        if is_over(until) {
            return false;
        }
        let path = PathBuf::from(format!("/proc/{}/fd/{}", file.pid, file.fd));
        // It may be closed by now, or be another thread's; another descriptor can lead there.
        let Ok(link) = fs::read_link(&path) else { continue };
        let link = link.as_os_str().as_bytes();
        if let Some(inum) = path::inum_of_link(link) {
            found.add(inum, None, Kind::Descriptor, path);
        } else if link.ends_with(format!(":[{}]", file.inode).as_bytes()) {
            others.insert(file.inode);
        }
    }
    true
}

/// How many of a process's descriptors were read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Extent {
    /// All that follow `skip`.
    All,
    /// `count` of them; there are more.
    Part,
    /// Not all that should be: the search must stop.
    Late,
}

/// Adds the namespaces that a process has open, by `count` of its descriptors after the first `skip`.
fn descriptors(
    process: &Path,
    skip: usize,
    count: usize,
    end: Instant,
    found: &mut Found,
) -> Extent {
    let early = links::each(process, skip, |number, name, link| {
        if number == count {
            return ControlFlow::Break(Extent::Part);
        }
        if number % 256 == 0 {
            beat();
            if is_over(end) {
                return ControlFlow::Break(Extent::Late);
            }
        }
        if let Some(inum) = path::inum_of_link(link) {
            let path = process.join("fd").join(OsStr::from_bytes(name.to_bytes()));
            found.add(inum, None, Kind::Descriptor, path);
        }
        ControlFlow::Continue(())
    });
    early.unwrap_or(Extent::All)
}

#[cfg(test)]
mod tests {
    use std::os::{fd::AsRawFd, unix::fs::MetadataExt};

    use super::*;
    use crate::host::process::{OpenFile, TestFiles};

    fn paths(added: &[(Kind, &str)]) -> Vec<String> {
        let mut found = Found::default();
        for (kind, path) in added {
            found.add(7, None, *kind, path.into());
        }
        let [netns] = &found.finish()[..] else { panic!("one namespace") };
        netns.paths.iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn several_paths_are_kept_the_longest_lasting_first_and_threads_only_alone() {
        use Kind::{Descriptor, Mount, Process, Thread};
        assert_eq!(paths(&[(Thread, "t1"), (Thread, "t2")]), ["t1"]);
        assert_eq!(paths(&[(Thread, "t1"), (Descriptor, "d")]), ["d"]);
        let all = [
            (Descriptor, "d1"),
            (Thread, "t1"),
            (Process, "p1"),
            (Process, "p2"),
            (Process, "p2"),
            (Process, "p3"),
            (Process, "p4"),
            (Mount, "m1"),
        ];
        assert_eq!(paths(&all), ["m1", "p1", "p2", "p3", "d1"]);
    }

    #[test]
    fn a_namespace_that_is_only_open_is_found_by_the_kernels_list() {
        let open = fs::File::open("/proc/self/ns/net").unwrap();
        let other = fs::File::open("/proc/self/ns/uts").unwrap();
        let inum = own().unwrap().inum;
        let file = |file: &fs::File, pid| OpenFile {
            pid,
            fd: file.as_raw_fd().cast_unsigned(),
            inode: u32::try_from(file.metadata().unwrap().ino()).unwrap(),
            kind: FileKind::Namespace,
        };
        // Through one of this process's threads: its own files must not lead to a namespace.
        let thread = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
        assert_ne!(thread, process::id(), "tests run in threads of their own");
        let closed = OpenFile { fd: u32::MAX, ..file(&open, thread) };
        let files =
            vec![file(&other, thread), closed, file(&open, process::id()), file(&open, thread)];
        let find = |files| {
            let mut found = Found::default();
            let whole = listed(&TestFiles(files), Instant::now() + TIME, &mut found);
            let all: Vec<_> = found.finish().into_iter().map(|it| (it.inum, it.paths)).collect();
            (whole, all)
        };
        let path = PathBuf::from(format!("/proc/{thread}/fd/{}", open.as_raw_fd()));
        assert_eq!(find(files), (true, vec![(inum, vec![path])]));
        assert_eq!(find(vec![]), (false, vec![]), "/proc is read");
    }

    #[test]
    fn a_name_is_kept_whichever_path_is_found_first() {
        let mut found = Found::default();
        found.add(7, None, Kind::Process, "/proc/1/ns/net".into());
        found.add(7, Some("blue".into()), Kind::Mount, "/run/netns/blue".into());
        found.add(7, Some("azure".into()), Kind::Mount, "/run/netns/azure".into());
        let [netns] = &found.finish()[..] else { panic!("one namespace") };
        assert_eq!(netns.name.as_deref(), Some("blue"));
        assert_eq!(netns.paths.len(), 3);
    }
}
