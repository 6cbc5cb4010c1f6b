//! Paths for cgroup ids, kept for cgroups that are gone too.

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

use super::{MAX_DEPTH, container_id};
use crate::mounts::open_dir;

/// Cgroups that are remembered; a host with more of them at once gets no names for the rest.
const MAX_NAMES: usize = 100_000;
/// Ids that are not there are looked for no more often than this.
const PAUSE: Duration = Duration::from_secs(1);

/// What is known of a cgroup.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Name {
    /// From the root of the hierarchy, beginning with a slash; bytes that are not UTF-8 are
    /// replaced.
    pub path: Arc<str>,
    /// Of the container whose cgroup it is.
    pub container: Option<Arc<str>>,
}

impl Name {
    fn new(path: String) -> Self {
        Self { container: container_id(&path).map(Arc::from), path: path.into() }
    }
}

/// A cache of cgroup names by id. Ids are never re-used (`kernfs_node.id`), so a path stays true.
pub struct Names {
    root: OwnedFd,
    by_id: HashMap<u64, Name>,
    walked: Option<Instant>,
    limit: usize,
}

impl Names {
    /// `root` is the root of the hierarchy, [`super::root`]. Nothing is read yet.
    pub fn new(root: OwnedFd) -> Self {
        Self { root, by_id: HashMap::new(), walked: None, limit: MAX_NAMES }
    }

    /// The name of a cgroup. An unknown id makes it read the hierarchy again, at most once a second
    /// by `now`. `None` for one that lived and died in between, and for id 0.
    pub fn get(&mut self, id: u64, now: Instant) -> Option<&Name> {
        if id != 0 && !self.by_id.contains_key(&id) && self.may_walk(now) {
            self.walked = Some(now);
            self.walk();
        }
        self.by_id.get(&id)
    }

    /// Whether cgroup `id` is `above` or lies below it.
    pub fn is_within(&mut self, id: u64, above: u64, now: Instant) -> bool {
        let Some(above) = self.get(above, now).map(|name| name.path.clone()) else { return false };
        self.get(id, now).is_some_and(|name| Path::new(&*name.path).starts_with(&*above))
    }

    fn may_walk(&self, now: Instant) -> bool {
        self.walked.is_none_or(|walked| now.saturating_duration_since(walked) >= PAUSE)
    }

    fn walk(&mut self) {
        if self.by_id.len() >= self.limit {
            self.by_id.clear();
        }
        if let Ok(stat) = fstat(&self.root) {
            self.by_id.insert(stat.st_ino, Name::new("/".to_owned()));
        }
        let mut left = vec![(PathBuf::new(), 0_u32)];
        while let Some((folder, depth)) = left.pop() {
            let at = if folder.as_os_str().is_empty() { Path::new(".") } else { &folder };
            // A cgroup can go at any time.
            let Ok(entries) = open_dir(&self.root, at).map_err(io::Error::from).and_then(children)
            else {
                continue;
            };
            for (id, name) in entries {
                if self.by_id.len() >= self.limit {
                    return;
                }
                let path = folder.join(name);
                let full = format!("/{}", path.to_string_lossy());
                self.by_id.insert(id, Name::new(full));
                if depth < MAX_DEPTH {
                    left.push((path, depth + 1));
                }
            }
        }
    }
}

/// Inode numbers and names of the directories in a directory.
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
