//! Finds the processes in a cgroup and below it, and the cgroup of a process.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read as _},
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Component, Path, PathBuf},
    time::Instant,
};

use rustix::fs::{Mode, OFlags, openat};

use super::{CgroupError, MAX_DEPTH, find, id_of_directory, locate, names, open_value};
use crate::host::mounts::open_dir;

/// How many cgroups below one are read.
const MOST: usize = 100_000;
/// The most bytes of a list of processes that are read: more than half a million of them.
const LIST: u64 = 4 << 20;
/// How many bytes of /proc/PID/cgroup are read: a path in cgroup2 has 4 KiB at most, and each hierarchy of v1 another one.
const PATHS: u64 = 64 << 10;

/// A cgroup that stays the same one: its folder is open. Once it is removed, nothing is found there, even if another one is made
/// with the same name.
#[derive(Debug)]
pub struct Opened {
    /// Path from the root of the hierarchy, beginning with a slash.
    pub path: PathBuf,
    directory: OwnedFd,
}

/// The cgroups and processes in a cgroup and below it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Members {
    /// The ids of the cgroup and of those at most 129 levels below it.
    pub cgroups: BTreeSet<u64>,
    /// The processes in these. Processes that this process cannot see, because they are in another process namespace, are
    /// missing, and so are those after the first 4 MiB of a cgroup's list (half a million).
    pub pids: BTreeSet<u32>,
    /// Whether there are more than 100,000 cgroups, or there was no time for all of them: then some are missing.
    pub cut_short: bool,
}

impl Opened {
    /// Opens the cgroup of a `--cgroup` value: see [`super::resolve_arg`].
    ///
    /// # Errors
    /// There is no such cgroup; the path is not in cgroup2; it or the root of the hierarchy cannot be opened, or the cgroup is
    /// not below that root.
    pub fn open(value: &str) -> Result<Self, CgroupError> {
        let root = super::root().map_err(CgroupError::NoHierarchy)?;
        let failed = |source| CgroupError::Open { path: value.to_owned(), source };
        let directory = open_value(&root, value)?;
        let path = locate(&root, directory.try_clone().map_err(failed)?).map_err(failed)?.path;
        Ok(Self { path, directory })
    }

    /// The cgroups and processes in it and below it now. `until`: when reading ends even if cgroups are left
    /// ([`Members::cut_short`]).
    ///
    /// # Errors
    /// It was removed (`NotFound`), or cannot be read.
    pub fn members(&self, until: Instant) -> io::Result<Members> {
        let mut members = Members::default();
        members.cgroups.insert(id_of_directory(&self.directory)?);
        members.pids = processes(&self.directory, Path::new("."))?;
        let mut left = vec![(PathBuf::from("."), 0)];
        while let Some((path, depth)) = left.pop() {
            // A cgroup below can be removed at any time.
            let Ok(directory) = open_dir(&self.directory, &path) else { continue };
            for (id, name) in names::children(directory)? {
                if members.cgroups.len() >= MOST || until < Instant::now() {
                    return Ok(Members { cut_short: true, ..members });
                }
                members.cgroups.insert(id);
                let path = path.join(name);
                if let Ok(pids) = processes(&self.directory, &path) {
                    members.pids.extend(pids);
                }
                if depth < MAX_DEPTH {
                    left.push((path, depth + 1));
                }
            }
        }
        Ok(members)
    }
}

/// The processes in the cgroup at a path below a directory. 0 stands for one in another process namespace: it is left out.
fn processes(directory: &OwnedFd, path: &Path) -> io::Result<BTreeSet<u32>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = File::from(openat(directory, path.join("cgroup.procs"), flags, Mode::empty())?);
    let mut text = Vec::new();
    file.take(LIST).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0).collect())
}

/// The id of the cgroup v2 that a process is in. `None`: it has ended or is hidden; its cgroup is outside of the hierarchy that
/// this process sees; or tracer itself is in a cgroup namespace of its own and has the host's root open, so that the paths in
/// /proc do not begin at that root.
pub fn of_process(pid: u32) -> Option<u64> {
    /// Inode number of the first cgroup namespace (PROC_CGROUP_INIT_INO).
    const FIRST: u64 = 0xEFFF_FFFB;
    let root = find().ok()?;
    // Paths begin at the root of this process's cgroup namespace. The root that is open can be the one above that.
    let first = fs::metadata("/proc/self/ns/cgroup").is_ok_and(|it| it.ino() == FIRST);
    if root.whole && !first {
        return None;
    }
    let mut text = Vec::new();
    let file = File::open(format!("/proc/{pid}/cgroup")).ok()?;
    file.take(PATHS).read_to_end(&mut text).ok()?;
    id_of_directory(&open_dir(&root.directory, &path_of(&text)?).ok()?).ok()
}

/// The path of cgroup v2 in the text of /proc/PID/cgroup (`0::/PATH`), without a slash before it; the root is `.`. `None`: there
/// is none, or it leads out of the hierarchy.
fn path_of(text: &[u8]) -> Option<PathBuf> {
    let text = str::from_utf8(text).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let path = Path::new(if path.is_empty() { "." } else { path });
    let inside = path.components().all(|it| matches!(it, Component::Normal(_) | Component::CurDir));
    inside.then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_process_is_that_of_version_2_and_stays_inside() {
        let of = |text: &str| path_of(text.as_bytes());
        assert_eq!(of("2:cpu:/a\n0::/b/c\n"), Some("b/c".into()));
        assert_eq!(of("0::/\n"), Some(".".into()));
        for none in ["", "0::", "1:name=systemd:/a\n", "0::/../a\n", "0::/a/../../b\n"] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
