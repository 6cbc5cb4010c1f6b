//! The root of the hierarchy: the host's, and not that of a cgroup namespace.
//!
//! In a cgroup namespace (that of any container) the mounts and the paths begin at the namespace's own root. What is
//! attached there sees nothing of the host.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::OnceLock,
    thread,
};

use rustix::{
    fs::{CWD, Mode, OFlags, fstat, openat},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::host::mounts::{self, CGROUP2, open_dir};

/// The inode number of the topmost directory (`kernfs_create_root` in the kernel), however it is mounted.
const TOP: u64 = 1;

/// What of the hierarchy can be reached.
#[derive(Debug)]
pub struct Root {
    pub directory: OwnedFd,
    /// It is the host's own root. Else it is that of a cgroup namespace, and nothing above it can be seen.
    pub whole: bool,
}

/// What is missing where the host's own root cannot be reached, and what to do.
pub const NOT_WHOLE: &str = "cgroup namespace: the root of the host's cgroup2 cannot be reached, so \
    connect() is seen in this namespace's own cgroups only; run with the host's cgroup namespace \
    (docker: --cgroupns=host) or mount the host's cgroup2 where it can be found";

/// What was found first: the privileges that finding it again would take are given up soon.
static FOUND: OnceLock<Root> = OnceLock::new();

/// The topmost directory that can be reached: of a mount, whichever part of the hierarchy it says that it shows; of
/// a mount of our own; of one that is made where process 1 is, which is the host's own where its processes can
/// be seen. Looked for once.
pub fn find() -> io::Result<Root> {
    let found = if let Some(found) = FOUND.get() {
        found
    } else {
        let found = look()?;
        FOUND.get_or_init(|| found)
    };
    Ok(Root { directory: found.directory.try_clone()?, whole: found.whole })
}

fn look() -> io::Result<Root> {
    for (_, path) in mounts::all(CGROUP2) {
        // Something else may be mounted over it.
        let opened = open_dir(CWD, &path).ok().filter(|fd| mounts::is(fd, CGROUP2));
        if let Some(directory) = opened.filter(is_top) {
            return Ok(Root { directory, whole: true });
        }
    }
    // This namespace's own root.
    let directory = mounts::open_root(CGROUP2)?;
    if is_top(&directory) {
        return Ok(Root { directory, whole: true });
    }
    Ok(match at_process_1() {
        Some(directory) => Root { directory, whole: true },
        None => Root { directory, whole: false },
    })
}

fn is_top(directory: &OwnedFd) -> bool {
    fstat(directory).is_ok_and(|stat| stat.st_ino == TOP)
}

/// On a thread of its own, which is in another cgroup namespace from then on.
fn at_process_1() -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace = openat(CWD, "/proc/1/ns/cgroup", flags, Mode::empty()).ok()?;
    let visit = || {
        let kind = Some(LinkNameSpaceType::ControlGroup);
        move_into_link_name_space(namespace.as_fd(), kind).ok()?;
        mounts::detached(CGROUP2).ok().filter(is_top)
    };
    thread::scope(|scope| scope.spawn(visit).join().ok().flatten())
}
