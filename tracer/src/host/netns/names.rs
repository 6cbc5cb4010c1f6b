//! Keeps the names of network namespaces, from the folder of ip-netns(8).

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use foldhash::{HashMap, HashMapExt as _};

use super::{NAMES, entries, path};

/// Shortest time between two readings of the folder.
const PAUSE: Duration = Duration::from_millis(100);
/// For this long after the folder changed, it is read again and again: a name is made before the namespace is mounted on it.
const UNSETTLED: Duration = Duration::from_secs(2);

/// The names in /run/netns. Checking whether they have changed takes one stat(2).
#[derive(Clone, Debug)]
pub struct Names {
    folder: PathBuf,
    by_inum: HashMap<u32, Arc<str>>,
    /// When the folder had last changed, at the newest reading; `None`: it did not exist.
    changed: Option<SystemTime>,
    /// When the folder was last read; `None`: never.
    read: Option<Instant>,
}

impl Default for Names {
    fn default() -> Self {
        let (by_inum, changed, read) = (HashMap::new(), None, None);
        Self { folder: NAMES.into(), by_inum, changed, read }
    }
}

impl Names {
    /// The name of a namespace as of the newest [`Self::refresh`]; of several, the first in the alphabet. `None`: it has none.
    pub fn get(&self, netns: u32) -> Option<&Arc<str>> {
        self.by_inum.get(&netns)
    }

    /// All names, each with the inode number of its namespace, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        self.by_inum.iter().map(|(inum, name)| (*inum, &**name))
    }

    /// Reads the names again if they can have changed, at most once in 100 ms. Returns whether it found other names.
    pub fn refresh(&mut self, now: Instant) -> bool {
        let changed = fs::metadata(&self.folder).and_then(|folder| folder.modified()).ok();
        if changed.is_none() && self.by_inum.is_empty() {
            return false;
        }
        let settled = |at: SystemTime| at.elapsed().is_ok_and(|age| age > UNSETTLED);
        let same = changed == self.changed && changed.is_some_and(settled);
        let paused = self.read.is_some_and(|at| now.saturating_duration_since(at) < PAUSE);
        if paused || (same && self.read.is_some()) {
            return false;
        }
        self.read = Some(now);
        self.changed = changed;
        let found = read(&self.folder);
        let new = found != self.by_inum;
        self.by_inum = found;
        new
    }
}

fn read(folder: &Path) -> HashMap<u32, Arc<str>> {
    let mut found: HashMap<u32, Arc<str>> = HashMap::new();
    for (name, path) in entries(folder) {
        // A name on which no namespace is mounted is an ordinary file.
        let Ok(Some(netns)) = path::open(&path) else { continue };
        let first = found.entry(netns.inum).or_insert_with(|| name.as_str().into());
        if name.as_str() < &**first {
            *first = name.into();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{
        super::{OWN, inum},
        *,
    };

    #[test]
    fn a_folder_that_does_not_exist_has_no_names_and_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("netns");
        let mut names = Names { folder: missing.clone(), ..Names::default() };
        let now = Instant::now();
        assert!(!names.refresh(now));
        fs::create_dir(&missing).unwrap();
        // An ordinary file is not a namespace; a link to one is.
        fs::write(missing.join("plain"), "").unwrap();
        let own = inum(&fs::metadata(OWN).unwrap()).unwrap();
        for name in ["blue", "azure"] {
            std::os::unix::fs::symlink(OWN, missing.join(name)).unwrap();
        }
        assert!(names.refresh(now));
        assert_eq!(names.iter().collect::<Vec<_>>(), [(own, "azure")]);
        // It is not read again so soon.
        fs::remove_file(missing.join("azure")).unwrap();
        assert!(!names.refresh(now));
        assert!(names.refresh(now + PAUSE));
        assert_eq!(names.get(own).map(|name| &**name), Some("blue"));
        fs::remove_dir_all(&missing).unwrap();
        assert!(names.refresh(now + 2 * PAUSE));
        assert_eq!(names.get(own), None);
    }
}
