//! Opens kernel file systems wherever they are mounted, and if they are not mounted at all.
//!
//! `ip netns exec` mounts a new /sys, which hides cgroup2, tracefs and bpffs; containers and hosts with both cgroup
//! versions have them elsewhere. So any mount in mountinfo is tried that really is of this type, else a new mount
//! without a path is made (fsopen(2), Linux 5.2).

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{CWD, Mode, OFlags, fstatfs, openat},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

/// A type of file system.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FileSystem {
    /// Its name, as for `mount -t`.
    pub name: &'static str,
    /// `f_type` of statfs(2), from `include/uapi/linux/magic.h`.
    magic: u32,
    /// The command that mounts it in its usual place.
    pub mount_command: &'static str,
}

pub const CGROUP2: FileSystem = FileSystem {
    name: "cgroup2",
    magic: 0x6367_7270,
    mount_command: "mount -t cgroup2 cgroup2 /sys/fs/cgroup",
};
pub const TRACEFS: FileSystem = FileSystem {
    name: "tracefs",
    magic: 0x7472_6163,
    mount_command: "mount -t tracefs tracefs /sys/kernel/tracing",
};
pub const BPFFS: FileSystem = FileSystem {
    name: "bpf",
    magic: 0xcafe_4a11,
    // Without a mode, every user can make folders in it.
    mount_command: "mount -t bpf -o mode=0700 bpf /sys/fs/bpf",
};

/// The file system of namespaces: each namespace is mounted by itself, so there is no command that mounts all.
pub const NSFS: FileSystem = FileSystem { name: "nsfs", magic: 0x6e73_6673, mount_command: "" };

/// Opens the root directory of tracefs, mounted or not ([`open_root`]).
///
/// # Errors
/// It is not mounted, and cannot be mounted; the text says what to do.
pub fn tracefs() -> io::Result<OwnedFd> {
    open_root(TRACEFS)
}

/// Opens the root directory of a file system: that of an existing mount, else that of a new mount without a path,
/// which ends with the descriptor.
///
/// # Errors
/// It is not mounted, and cannot be mounted; the text says what to do.
pub fn open_root(fs: FileSystem) -> io::Result<OwnedFd> {
    if let Some(fd) = mounted(fs) {
        return Ok(fd);
    }
    detached(fs).map_err(|errno| {
        let error = io::Error::from(errno);
        let FileSystem { name, mount_command, .. } = fs;
        io::Error::new(
            error.kind(),
            format!(
                "{name} is not mounted, and tracer cannot mount it for itself: {error}; mount it \
                 with `{mount_command}`"
            ),
        )
    })
}

/// Every mount of a file system that this thread can see, newest first: the mounted part, as in mountinfo, and the
/// mount point. Another mount may cover it. Empty if mountinfo cannot be read.
pub fn all(fs: FileSystem) -> Vec<(Vec<u8>, PathBuf)> {
    let mountinfo = fs::read("/proc/thread-self/mountinfo").unwrap_or_default();
    let points = parse(&mountinfo).into_iter().rev();
    let of_it = points.filter(|point| point.kind == fs.name.as_bytes());
    of_it.map(|point| (point.root.into_os_string().into_vec(), point.path)).collect()
}

fn mounted(fs: FileSystem) -> Option<OwnedFd> {
    let mountinfo = fs::read("/proc/self/mountinfo").unwrap_or_default();
    // The newest mount comes first.
    let points = parse(&mountinfo).into_iter().rev().filter(|point| point.is_root_of(fs));
    points.into_iter().find_map(|point| {
        let fd = open_dir(CWD, &point.path).ok()?;
        // Another mount may cover it.
        is(&fd, fs).then_some(fd)
    })
}

/// Whether the descriptor is that of a file in this type of file system; false if fstatfs(2) fails.
pub fn is(fd: impl AsFd, fs: FileSystem) -> bool {
    fstatfs(fd).is_ok_and(|stat| u32::try_from(stat.f_type & 0xffff_ffff) == Ok(fs.magic))
}

/// Opens a directory for reading; a relative path begins at the directory `at`.
///
/// # Errors
/// As openat(2).
pub fn open_dir(at: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    openat(at, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// The root directory of a new mount without a path, which ends with the descriptor.
///
/// # Errors
/// As fsopen(2), fsconfig(2) and fsmount(2): EPERM without CAP_SYS_ADMIN.
pub(crate) fn detached(fs: FileSystem) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(fs.name, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    // The descriptor of fsmount(2) is O_PATH: it cannot be read, nor given to bpf(2).
    open_dir(&mount, Path::new("."))
}

/// A line of /proc/PID/mountinfo (proc(5)).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MountPoint {
    /// Its mount id, as `mnt_id` in /proc/PID/fdinfo.
    pub id: u64,
    /// Its device, as `st_dev` of its files.
    pub device: u64,
    /// Which part of the file system is mounted.
    root: PathBuf,
    /// Where it is mounted.
    pub path: PathBuf,
    kind: Vec<u8>,
}

impl MountPoint {
    /// Whether the whole of a file system of this type is mounted here.
    pub fn is_root_of(&self, fs: FileSystem) -> bool {
        self.root == Path::new("/") && self.kind == fs.name.as_bytes()
    }
}

/// The mounts in the order of the file, in which one that covers another comes later; without lines that cannot be parsed.
pub fn parse(mountinfo: &[u8]) -> Vec<MountPoint> {
    mountinfo.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// Parses `36 35 98:0 ROOT MOUNTPOINT rw,noatime tag:1 - TYPE SOURCE rw`; `None`: a line of another form.
fn parse_line(line: &[u8]) -> Option<MountPoint> {
    let mut fields = line.split(|byte| *byte == b' ');
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let id = text(fields.next()?).parse().ok()?;
    let device = text(fields.nth(1)?);
    let (major, minor) = device.split_once(':')?;
    let path = |field| PathBuf::from(OsString::from_vec(unescape(field)));
    let root = path(fields.next()?);
    let at = path(fields.next()?);
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?.to_vec();
    let device = rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?);
    Some(MountPoint { id, device, root, path: at, kind })
}

/// Replaces the `\ooo` that the kernel writes for space, tab, newline and backslash.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let octal = match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        out.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { rest.get(4..).unwrap_or_default() } else { tail };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &[u8] = b"\
        31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n\
        42 31 0:38 /some /mnt/part rw,relatime - cgroup2 cgroup2 rw\n\
        43 31 0:38 / /mnt/with\\040space rw - cgroup2 none rw\n\
        44 31 0:38 /\n";

    #[test]
    fn mounts_of_the_root_are_found_in_order_and_parts_are_not() {
        let roots = |fs| parse(HYBRID).into_iter().filter(move |point| point.is_root_of(fs));
        let paths: Vec<PathBuf> = roots(CGROUP2).map(|point| point.path).collect();
        assert_eq!(paths, [Path::new("/sys/fs/cgroup/unified"), Path::new("/mnt/with space")]);
        assert_eq!(roots(CGROUP2).map(|point| point.id).collect::<Vec<_>>(), [41, 43]);
        assert!(roots(CGROUP2).all(|point| point.device == rustix::fs::makedev(0, 38)));
        assert_eq!(roots(TRACEFS).count(), 0);
        assert!(parse(b"").is_empty());
    }

    #[test]
    fn octal_escapes_are_undone_and_nothing_else() {
        for (text, expected) in [
            (&b"a\\040b"[..], &b"a b"[..]),
            (b"\\134\\012", b"\\\n"),
            (b"\\0", b"\\0"),
            (b"\\999", b"\\999"),
            (b"end\\", b"end\\"),
        ] {
            assert_eq!(unescape(text), expected);
        }
    }

    #[test]
    fn cgroup2_and_tracefs_are_reached_mounted_or_not() {
        for fs in [CGROUP2, TRACEFS] {
            assert!(is(open_root(fs).unwrap(), fs), "{}", fs.name);
            assert!(is(detached(fs).unwrap(), fs), "{}", fs.name);
        }
        let id = OFlags::RDONLY | OFlags::CLOEXEC;
        let path = "events/syscalls/sys_exit_connect/id";
        let file = fs::File::from(openat(tracefs().unwrap(), path, id, Mode::empty()).unwrap());
        let text = io::read_to_string(file).unwrap();
        assert!(text.trim().parse::<u32>().is_ok(), "{text}");
    }
}
