//! cgroup v2: finds the root to attach to, the cgroups of `--cgroup` values and of processes, their members, and the names of
//! cgroup ids.

mod container;
mod members;
mod names;
mod root;
#[cfg(test)]
mod tests;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
    time::Instant,
};

use rustix::fs::{CWD, Stat, fstat};

pub use container::is_unit;
pub use members::{Members, Opened, of_process};
pub use names::{Name, Names};
pub use root::{NOT_WHOLE, Root, find};

use crate::host::mounts::{self, CGROUP2, open_dir};

/// How deep nested cgroups are read; the kernel itself has no limit, systemd needs about ten.
const MAX_DEPTH: u32 = 128;

/// One cgroup of the v2 hierarchy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cgroup {
    /// Its id, as `bpf_get_current_cgroup_id` returns it: the inode number of its directory.
    pub id: u64,
    /// How many levels it is below the root of the hierarchy; 0: it is the root. In a cgroup namespace from which the host's
    /// root cannot be opened, the root is that of the namespace, and the kernel's own count is higher.
    pub level: u32,
    /// Path from the root, beginning with a slash.
    pub path: PathBuf,
}

/// Why a `--cgroup` value cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// cgroup2 is not mounted and cannot be mounted.
    #[error("{0}")]
    NoHierarchy(#[source] io::Error),
    /// This value is no directory, neither in the file system nor below the cgroup2 root; or it is empty.
    #[error(
        "there is no cgroup {0}: give the path of a directory of the cgroup2 file system, or its \
         path below the cgroup2 root (as in the `0::` line of /proc/PID/cgroup)"
    )]
    NotFound(String),
    /// This value is a directory, but not of cgroup2.
    #[error("{0} is not in the cgroup2 file system: a cgroup v1 directory cannot be used")]
    NotCgroup2(String),
    /// The directory of this value cannot be opened, or is not below the root of the hierarchy.
    #[error("cannot open cgroup {path}: {source}")]
    Open { path: String, source: io::Error },
}

/// Opens the root directory of the cgroup2 hierarchy, mounted or not, as far up as it can be opened: see [`find`].
///
/// # Errors
/// There is no mount, and cgroup2 cannot be mounted.
pub fn root() -> io::Result<OwnedFd> {
    Ok(find()?.directory)
}

/// Finds the cgroup of a `--cgroup` value: an absolute path of a directory of cgroup2, or if there is none, a path below the
/// cgroup2 root, with or without a slash before it and without `..`. `/` is that root.
///
/// # Errors
/// There is no such cgroup; the path is not in cgroup2; it or the root of the hierarchy cannot be opened, or the cgroup is
/// not below that root.
pub fn resolve_arg(value: &str) -> Result<Cgroup, CgroupError> {
    let root = root().map_err(CgroupError::NoHierarchy)?;
    let opened = open_value(&root, value)?;
    locate(&root, opened).map_err(|source| CgroupError::Open { path: value.to_owned(), source })
}

/// Opens the directory of a `--cgroup` value: see [`resolve_arg`].
fn open_value(root: &OwnedFd, value: &str) -> Result<OwnedFd, CgroupError> {
    let given = Path::new(value);
    let below = given.strip_prefix("/").unwrap_or(given);
    let clean = below.components().all(|part| matches!(part, Component::Normal(_)));
    let inside = if below == Path::new("") {
        open_dir(root, Path::new(".")).ok()
    } else {
        clean.then(|| open_dir(root, below).ok()).flatten()
    };
    // A path in the file system comes first, except `/`, which is the root of the hierarchy.
    let outside = (given.is_absolute() && given != Path::new("/")).then(|| open_dir(CWD, given));
    match outside {
        Some(Ok(fd)) if mounts::is(&fd, CGROUP2) => Ok(fd),
        Some(Ok(_)) => inside.ok_or_else(|| CgroupError::NotCgroup2(value.to_owned())),
        Some(Err(errno)) if errno != rustix::io::Errno::NOENT && inside.is_none() => {
            Err(CgroupError::Open { path: value.to_owned(), source: errno.into() })
        }
        _ if value.is_empty() => Err(CgroupError::NotFound(value.to_owned())),
        _ => inside.ok_or_else(|| CgroupError::NotFound(value.to_owned())),
    }
}

/// The id of the cgroup whose directory this is.
fn id_of_directory(directory: &OwnedFd) -> io::Result<u64> {
    Ok(fstat(directory)?.st_ino)
}

/// Finds level and path of a directory by its parents up to the root, so that links and mounts in the given path do
/// not matter.
fn locate(root: &OwnedFd, directory: OwnedFd) -> io::Result<Cgroup> {
    let top = fstat(root)?;
    let same = |a: &Stat, b: &Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
    let id = fstat(&directory)?.st_ino;
    let (mut level, mut names, mut here) = (0, Vec::new(), directory);
    loop {
        let stat = fstat(&here)?;
        if same(&stat, &top) {
            break;
        }
        let parent = open_dir(&here, Path::new(".."))?;
        let up = fstat(&parent)?;
        if up.st_dev != top.st_dev {
            // This mount shows only a part of the hierarchy: that of a cgroup namespace.
            return search(root, id);
        }
        if level == MAX_DEPTH || same(&up, &stat) {
            return Err(io::Error::other("it is not below the root of the cgroup2 hierarchy"));
        }
        names.push(name_in(&parent, stat.st_ino)?);
        level += 1;
        here = parent;
    }
    let mut path = PathBuf::from("/");
    path.extend(names.iter().rev());
    Ok(Cgroup { id, level, path })
}

/// Finds a cgroup by its id, from the root down.
fn search(root: &OwnedFd, id: u64) -> io::Result<Cgroup> {
    let mut names = Names::new(root.try_clone()?);
    let below = || {
        io::Error::other(
            "it is not below the root of the cgroup2 hierarchy that this process can open",
        )
    };
    let path = PathBuf::from(&*names.get(id, Instant::now()).ok_or_else(below)?.path);
    let level = u32::try_from(path.components().count().saturating_sub(1)).unwrap_or(u32::MAX);
    Ok(Cgroup { id, level, path })
}

/// The name of the directory with this inode number in `directory`; without one, the error is `NotFound`.
fn name_in(directory: impl AsFd, inode: u64) -> io::Result<PathBuf> {
    let found = names::children(directory)?.find(|(id, _)| *id == inode);
    found.map(|(_, name)| name).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}
