//! Finds the bpffs in which rules are pinned, and the others in which rules could be.
//!
//! Each `mount -t bpf` makes another file system, and what is pinned in it ends with its last mount. `ip netns exec`
//! and containers have mounts of their own, which end with them. So rules are pinned in one place: a bpffs in the
//! mount namespace that the host began with.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    panic,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use rustix::{
    fs::{CWD, Mode, OFlags, fstat, openat},
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

use crate::{
    error::Error,
    host::{
        mounts::{self, BPFFS, MountPoint},
        process,
    },
};

/// Where bpffs is usually mounted. It is mounted here if it is mounted nowhere.
pub(super) const USUAL_PATH: &str = "/sys/fs/bpf";
/// Inode of the first mount namespace: `MNT_NS_INIT_INO` of the kernel, since Linux 6.18.
const FIRST_MOUNT_NAMESPACE: u64 = 0xEFFF_FFF8;
/// How many mounts are at most unmounted, in a private copy, to find a bpffs below them.
const MAX_UNMOUNTS: usize = 64;

/// An open bpffs.
#[derive(Clone, Debug)]
pub(super) struct Bpffs {
    /// Its root directory, open for reading.
    pub root: Arc<OwnedFd>,
    /// Where it is mounted: a path in the mount namespace in which it was found.
    pub path: PathBuf,
    /// Its device number, as `st_dev` of its files: each bpffs has its own.
    pub device: u64,
}

/// The bpffs in which rules are pinned, of the host's mount namespace: of several, that at /sys/fs/bpf, or else the first one in
/// mountinfo. Mounts one at /sys/fs/bpf if there is none.
///
/// # Errors
/// The host's mount namespace cannot be entered, or it has no bpffs and none can be mounted.
pub(super) fn for_rules() -> Result<Bpffs, Error> {
    let host = host_mounts().map_err(|why| {
        Error::Failure(format!(
            "the rule would end with this command or container, because {why}: run tracer on the host itself, or \
             with its process namespace and privileges (`--pid=host --privileged`, in Kubernetes `hostPID: true`)"
        ))
    })?;
    let failed = |error: io::Error| {
        Error::Failure(format!(
            "there is no bpffs to pin the spreader in, and none can be mounted: {error}; mount one with `{}`",
            BPFFS.mount_command
        ))
    };
    let find = || -> io::Result<Bpffs> {
        if let Some(found) = visible()?.into_iter().next() {
            return Ok(found);
        }
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("bpf", USUAL_PATH, "bpf", flags, Some(c"mode=0700"))?;
        visible()?.into_iter().next().ok_or_else(|| {
            io::Error::other("it is mounted, but not listed in /proc/thread-self/mountinfo")
        })
    };
    in_mounts(host, find).and_then(|found| found).map_err(failed)
}

/// Every bpffs that can be opened, in the host's mount namespace and in this process's, also those that another mount
/// covers. The first is the one in which rules are pinned, if the host's mount namespace can be entered. Mounts none. What cannot
/// be read is logged and left out; empty: no bpffs is found.
pub(super) fn all() -> Vec<Bpffs> {
    let mut found: Vec<Bpffs> = Vec::new();
    let mut add = |more: io::Result<Vec<Bpffs>>| match more {
        Ok(more) => {
            for one in more {
                if found.iter().all(|it| it.device != one.device) {
                    found.push(one);
                }
            }
        }
        Err(error) => tracing::debug!("cannot look for a bpffs: {error}"),
    };
    match host_mounts() {
        Ok(Some(host)) => {
            add(in_mounts(Some(host), visible_and_covered).and_then(|found| found));
            add(in_mounts(None, visible_and_covered).and_then(|found| found));
        }
        Ok(None) => add(in_mounts(None, visible_and_covered).and_then(|found| found)),
        Err(why) => {
            tracing::debug!("{why}");
            add(in_mounts(None, visible_and_covered).and_then(|found| found));
        }
    }
    found
}

/// The mount namespace that the host began with; `None`: it is this process's own. The error says why it cannot be
/// entered, for people.
fn host_mounts() -> Result<Option<File>, String> {
    let inode = |path: &str| fs::metadata(path).map(|metadata| metadata.ino());
    let own =
        inode("/proc/self/ns/mnt").map_err(|error| format!("/proc cannot be read: {error}"))?;
    if !process::in_first_pids() {
        return Err("it runs in a container, with a process namespace of its own".into());
    }
    let mut reason = String::new();
    // Process 1 can be protected from inspection; process 2, a kernel thread, has the same mounts.
    for process in [1, 2] {
        let opened = File::open(format!("/proc/{process}/ns/mnt"));
        match opened.and_then(|file| Ok((file.metadata()?.ino(), file))) {
            Ok((ino, _)) if ino == own => return Ok(None),
            Ok((_, file)) => return Ok(Some(file)),
            Err(error) => reason = format!("the host's mounts cannot be reached ({error})"),
        }
    }
    if own == FIRST_MOUNT_NAMESPACE { Ok(None) } else { Err(reason) }
}

/// Runs `work` in a new thread, in this mount namespace; `None`: in this process's own.
fn in_mounts<T: Send>(mounts: Option<File>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let visit = || -> io::Result<T> {
        if let Some(mounts) = mounts {
            #[expect(unsafe_code, reason = "unshare(CLONE_FS) is an unsafe call in rustix")]
            // SAFETY: only this new thread gets a root and a working directory of its own.
            unsafe { unshare_unsafe(UnshareFlags::FS) }?;
            move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
        }
        Ok(work())
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("mounts".into()).spawn_scoped(scope, visit)?;
        thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}

/// The mount points of the calling thread.
fn mount_points() -> io::Result<Vec<MountPoint>> {
    Ok(mounts::parse(&fs::read("/proc/thread-self/mountinfo")?))
}

/// Every bpffs whose root a path leads to; the one at the usual place first.
fn visible() -> io::Result<Vec<Bpffs>> {
    let mut found: Vec<Bpffs> = Vec::new();
    for point in mount_points()?.into_iter().filter(|point| point.is_root_of(BPFFS)) {
        let known = found.iter().any(|it| it.device == point.device);
        match open(&point) {
            Some(bpffs) if !known => found.push(bpffs),
            _ => {}
        }
    }
    found.sort_by_key(|bpffs| bpffs.path != Path::new(USUAL_PATH));
    Ok(found)
}

/// Opens the bpffs at a mount point; `None`: it cannot be opened, for example because another mount covers it.
fn open(point: &MountPoint) -> Option<Bpffs> {
    let root = mounts::open_dir(CWD, &point.path).ok()?;
    let device = fstat(&root).ok()?.st_dev;
    (mounts::is(&root, BPFFS) && device == point.device).then(|| Bpffs {
        root: Arc::new(root),
        path: point.path.clone(),
        device,
    })
}

/// Every bpffs, also those that another mount covers, as far as they can be opened.
fn visible_and_covered() -> io::Result<Vec<Bpffs>> {
    let mut found = visible()?;
    let points = mount_points()?.into_iter().filter(|point| point.is_root_of(BPFFS));
    let is_hidden = |point: &MountPoint| found.iter().all(|it| it.device != point.device);
    let hidden: Vec<MountPoint> = points.filter(is_hidden).collect();
    if !hidden.is_empty() {
        match open_covered(hidden) {
            Ok(more) => found.extend(more),
            Err(error) => tracing::debug!("a bpffs is below another mount: {error}"),
        }
    }
    Ok(found)
}

/// Opens covered mount points in a private copy of the mounts, by unmounting there what covers them.
fn open_covered(mut hidden: Vec<MountPoint>) -> io::Result<Vec<Bpffs>> {
    #[expect(unsafe_code, reason = "unshare(CLONE_NEWNS) is an unsafe call in rustix")]
    // SAFETY: only the mounts, the root and the working directory of this thread change.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }?;
    // Unmounts in this copy must not propagate to other namespaces: if this fails, nothing is unmounted.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let mut found: Vec<Bpffs> = Vec::new();
    for _ in 0..MAX_UNMOUNTS {
        hidden.retain(|point| match open(point) {
            Some(bpffs) => {
                found.push(bpffs);
                false
            }
            None => true,
        });
        hidden.retain(|point| found.iter().all(|it| it.device != point.device));
        let Some(wanted) = hidden.first() else { break };
        match covering_mount(&wanted.path)? {
            Some(cover) => unmount(&cover, UnmountFlags::DETACH)?,
            None => _ = hidden.remove(0),
        }
    }
    Ok(found)
}

/// The mount point that covers a path or its nearest existing ancestor; `None`: it is the root, or none is found.
fn covering_mount(path: &Path) -> io::Result<Option<PathBuf>> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let mut opened =
        path.ancestors().filter_map(|path| openat(CWD, path, flags, Mode::empty()).ok());
    let Some(file) = opened.next() else { return Ok(None) };
    let info = fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", file.as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    let id = id.and_then(|id| id.trim().parse::<u64>().ok());
    let point = mount_points()?.into_iter().find(|point| Some(point.id) == id);
    Ok(point.map(|point| point.path).filter(|path| path != Path::new("/")))
}
