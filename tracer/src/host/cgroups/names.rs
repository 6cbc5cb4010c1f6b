//! Keeps the names of cgroup ids, also after their cgroup is removed.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use foldhash::{HashMap, HashMapExt as _};
use rustix::fs::{Dir, FileType, fstat};

use super::{
    MAX_DEPTH,
    container::{id_of, is_roots, unit_of},
};
use crate::host::mounts::open_dir;

/// How many cgroups are kept; on a host with more, the others have no names.
const MAX_NAMES: usize = 100_000;
/// Shortest time between two readings of the hierarchy for ids that are not known.
const PAUSE: Duration = Duration::from_secs(1);
/// N, if these readings may take 1/N of the time; more if the pause after one would be longer than [`LONGEST`].
const SHARE: u32 = 50;
/// Longest pause after such a reading.
const LONGEST: Duration = Duration::from_secs(15);
/// How many ids that were not found are remembered, so that they cause no other reading: an id is never reused, so most of their
/// cgroups are gone. Before one more is added, all are forgotten.
const MAX_GONE: usize = 65_536;
/// After this time such an id is searched for again, because the hierarchy may not have been readable.
const AGAIN: Duration = Duration::from_mins(5);

/// What is known about a cgroup.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Name {
    /// Path from the root of the hierarchy, beginning with a slash; bytes that are not UTF-8 are replaced.
    pub path: Arc<str>,
    /// Id of the container whose cgroup it is. `None`: there is none, or other users than root could have made a
    /// cgroup of that name, as in a cgroup that is delegated to a user.
    pub container: Option<Arc<str>>,
    /// The innermost systemd unit. `None`: there is a container or no unit, or other users than root could have made a
    /// cgroup of that name.
    pub unit: Option<Arc<str>>,
}

impl Name {
    /// The container's id, or else the unit: see [`super::is_unit`]. `None`: neither is known.
    pub fn place(&self) -> Option<&Arc<str>> {
        self.container.as_ref().or(self.unit.as_ref())
    }
}

/// A directory that is to be read.
struct Folder {
    /// Path from the root, without a slash before it.
    path: PathBuf,
    depth: u32,
    /// Whether only root can change all directories above it.
    trusted: bool,
    container: Option<Arc<str>>,
    unit: Option<Arc<str>>,
}

/// A cache of cgroup names by id. Ids are never reused (`kernfs_node.id`), so a name stays true.
pub struct Names {
    root: OwnedFd,
    by_id: HashMap<u64, Name>,
    /// Ids that were not found, and when they were searched for.
    gone: HashMap<u64, Instant>,
    /// When the next reading is allowed; `None`: at once, as there was none yet.
    may_walk_at: Option<Instant>,
    limit: usize,
    walks: u64,
}

impl Names {
    /// An empty cache. `root`: the root of the hierarchy, [`super::root()`]. Nothing is read until [`Self::get`].
    pub fn new(root: OwnedFd) -> Self {
        let (by_id, gone) = (HashMap::new(), HashMap::new());
        Self { root, by_id, gone, may_walk_at: None, limit: MAX_NAMES, walks: 0 }
    }

    /// The name of a cgroup. If the id is not known, the hierarchy is read again: by `now` at most once a second, less
    /// often if that takes long, and for the same id once in five minutes. `None`: the id is 0, or no reading has
    /// found it: none is due yet, the cgroup existed only between two readings, or there are more than 100,000 cgroups.
    pub fn get(&mut self, id: u64, now: Instant) -> Option<&Name> {
        if id != 0 && !self.by_id.contains_key(&id) && self.may_walk(id, now) {
            let began = Instant::now();
            self.walk();
            self.may_walk_at = Some(now + pause(began.elapsed()));
            if !self.by_id.contains_key(&id) {
                if self.gone.len() >= MAX_GONE {
                    self.gone.clear();
                }
                self.gone.insert(id, now);
            }
        }
        self.by_id.get(&id)
    }

    /// How often the hierarchy was read.
    pub fn walks(&self) -> u64 {
        self.walks
    }

    /// Whether cgroup `id` is `above` or is below it, by their paths. False if one of them is not known. `now`: as for
    /// [`Self::get`], which this calls for both.
    pub fn is_within(&mut self, id: u64, above: u64, now: Instant) -> bool {
        let Some(above) = self.get(above, now).map(|name| name.path.clone()) else { return false };
        self.get(id, now).is_some_and(|name| Path::new(&*name.path).starts_with(&*above))
    }

    fn may_walk(&self, id: u64, now: Instant) -> bool {
        let searched_at = self.gone.get(&id);
        self.may_walk_at.is_none_or(|at| now >= at)
            && searched_at.is_none_or(|at| now.saturating_duration_since(*at) >= AGAIN)
    }

    /// Reads the names of all cgroups, up to `limit`. Names that are known already stay, unless these are `limit` in
    /// number: then all of them are forgotten first.
    fn walk(&mut self) {
        self.walks += 1;
        if self.by_id.len() >= self.limit {
            self.by_id.clear();
        }
        if let Ok(stat) = fstat(&self.root) {
            let name = Name { path: "/".into(), ..Name::default() };
            self.by_id.insert(stat.st_ino, name);
        }
        let top =
            Folder { path: PathBuf::new(), depth: 0, trusted: true, container: None, unit: None };
        let mut left = vec![top];
        while let Some(folder) = left.pop() {
            let at = if folder.path.as_os_str().is_empty() { Path::new(".") } else { &folder.path };
            // A cgroup can be removed at any time.
            let Ok(directory) = open_dir(&self.root, at) else { continue };
            let trusted = folder.trusted && fstat(&directory).is_ok_and(|stat| is_roots(&stat));
            let Ok(entries) = children(directory) else { continue };
            for (id, name) in entries {
                if self.by_id.len() >= self.limit {
                    return;
                }
                // The innermost container counts.
                let container = id_of(&name.to_string_lossy()).filter(|_| trusted).map(Arc::from);
                let container = container.or_else(|| folder.container.clone());
                let unit = unit_of(&name.to_string_lossy()).filter(|_| trusted).map(Arc::from);
                let unit = unit.or_else(|| folder.unit.clone()).filter(|_| container.is_none());
                let path = folder.path.join(name);
                let full = format!("/{}", path.to_string_lossy());
                let (container_too, unit_too) = (container.clone(), unit.clone());
                let name = Name { path: full.into(), container: container_too, unit: unit_too };
                self.by_id.insert(id, name);
                if folder.depth < MAX_DEPTH {
                    left.push(Folder { path, depth: folder.depth + 1, trusted, container, unit });
                }
            }
        }
    }
}

/// How long to wait after a reading that took `cost`.
fn pause(cost: Duration) -> Duration {
    (cost * SHARE).clamp(PAUSE, LONGEST)
}

/// Inode numbers and names of the directories in a directory, in no order; without those that cannot be read.
///
/// # Errors
/// The directory cannot be opened for reading.
pub(super) fn children(directory: impl AsFd) -> io::Result<impl Iterator<Item = (u64, PathBuf)>> {
    let entries = Dir::read_from(directory)?.flatten();
    let folders = entries.filter(|entry| entry.file_type() == FileType::Directory);
    Ok(folders.filter_map(|entry| {
        let name = entry.file_name().to_bytes();
        let named = name != b"." && name != b"..";
        named.then(|| (entry.ino(), PathBuf::from(OsStr::from_bytes(name))))
    }))
}

#[cfg(test)]
impl Names {
    pub(super) fn with_limit(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }
}
