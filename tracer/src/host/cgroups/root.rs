//! Finds the root of the hierarchy: the host's, and not that of a cgroup namespace.
//!
//! In a cgroup namespace (most containers have one), mounts and paths begin at the namespace's own root. Hooks that are
//! attached there see only the cgroups of the namespace.

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

/// The inode number of the hierarchy's root directory (`kernfs_create_root` in the kernel), however it is mounted.
const TOP: u64 = 1;

/// The root of the hierarchy, as far up as it can be opened.
#[derive(Debug)]
pub struct Root {
    /// Its directory, open for reading.
    pub directory: OwnedFd,
    /// Whether it is the host's own root. Else it is that of a cgroup namespace.
    pub whole: bool,
}

/// What is missing if the host's own root cannot be opened, and what to do.
pub const NOT_WHOLE: &str = "cgroup namespace: the root of the host's cgroup2 cannot be opened, so \
    connect() is seen in this namespace's own cgroups only; run with the host's cgroup namespace \
    (docker: --cgroupns=host) or mount the host's cgroup2 where it can be found";

/// The root that the first successful search found. It is kept because the privileges that another search would need are
/// given up soon.
static FOUND: OnceLock<Root> = OnceLock::new();

/// Opens the root of the hierarchy: through any mount, whichever part it claims to show; through a new mount without
/// a path; or through one in the cgroup namespace of process 1, which is the host's if the host's processes are
/// visible. Once a root was found, every further call returns that one.
///
/// # Errors
/// There is no mount, and cgroup2 cannot be mounted.
pub fn find() -> io::Result<Root> {
    let found = if let Some(found) = FOUND.get() {
        found
    } else {
        let found = search()?;
        FOUND.get_or_init(|| found)
    };
    Ok(Root { directory: found.directory.try_clone()?, whole: found.whole })
}

fn search() -> io::Result<Root> {
    for (_, path) in mounts::all(CGROUP2) {
        // Another mount may cover it.
        let opened = open_dir(CWD, &path).ok().filter(|fd| mounts::is(fd, CGROUP2));
        if let Some(directory) = opened.filter(is_top) {
            return Ok(Root { directory, whole: true });
        }
    }
    // The root of this process's own cgroup namespace.
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

/// Opens the root in the cgroup namespace of process 1, in a new thread, which stays in that namespace. `None`: it is
/// not the host's root, or cannot be opened.
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
