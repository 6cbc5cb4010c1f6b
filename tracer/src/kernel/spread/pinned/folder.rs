//! Folders of a bpffs that only root can change, by descriptors: whoever else could rename or link in one of
//! them would choose what root opens and removes.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Mode, OFlags, fchmod, fstat, mkdirat, openat, renameat, unlinkat,
    },
    io::Errno,
};

use crate::kernel::sys;

const PRIVATE: Mode = Mode::RWXU;

/// Why a folder is not used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{} {why}", path.display())]
pub struct Refused {
    pub path: PathBuf,
    pub why: String,
}

/// An open folder.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    fd: Arc<OwnedFd>,
    device: u64,
    path: PathBuf,
}

/// What is pinned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Map,
    Link,
}

impl Kind {
    /// What the kernel calls a descriptor of it (`anon_inode_getfd` in kernel/bpf/syscall.c).
    const fn name(self) -> &'static str {
        match self {
            Self::Map => "anon_inode:bpf-map",
            Self::Link => "anon_inode:bpf-link",
        }
    }
}

impl Folder {
    /// The root of a bpffs. That others can make something in it does no harm where they cannot rename or remove
    /// what is ours.
    pub(super) fn root(fd: OwnedFd, path: &Path) -> Result<Self, Refused> {
        let refused = |why: String| Refused { path: path.to_owned(), why };
        let stat = fstat(&fd).map_err(|errno| refused(format!("cannot be looked at: {errno}")))?;
        let mode = Mode::from_raw_mode(stat.st_mode);
        let sticky = mode.contains(Mode::SVTX);
        only_roots(stat.st_uid, if sticky { Mode::empty() } else { mode }).map_err(refused)?;
        Ok(Self { fd: Arc::new(fd), device: stat.st_dev, path: path.to_owned() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A folder in it; `None`: there is none.
    pub(super) fn folder(&self, name: &OsStr) -> Result<Option<Self>, Refused> {
        let path = self.path.join(name);
        let refused = |why: String| Refused { path: path.clone(), why };
        // A name is one part of a path, or it could lead out.
        if name.as_bytes().contains(&b'/') || matches!(name.as_bytes(), b"" | b"." | b"..") {
            return Err(refused("is no name of a folder".into()));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(refused("is a link or a file, not a folder".into()));
            }
            Err(errno) => return Err(refused(format!("cannot be opened: {errno}"))),
        };
        let stat = fstat(&fd).map_err(|errno| refused(format!("cannot be looked at: {errno}")))?;
        if stat.st_dev != self.device {
            return Err(refused("is in another file system, which is mounted there".into()));
        }
        only_roots(stat.st_uid, Mode::from_raw_mode(stat.st_mode)).map_err(refused)?;
        Ok(Some(Self { fd: Arc::new(fd), device: stat.st_dev, path }))
    }

    /// A folder in it, made where there is none: for root only, whatever the umask.
    pub(super) fn make(&self, name: &str) -> Result<Self, Refused> {
        let path = self.path.join(name);
        let made = match mkdirat(&self.fd, name, PRIVATE) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(Refused { path, why: format!("cannot be made: {errno}") }),
        };
        let folder = self.folder(OsStr::new(name))?;
        let folder = folder.ok_or_else(|| Refused { path, why: "is gone again".into() })?;
        if made {
            let failed = |errno| Refused {
                path: folder.path.clone(),
                why: format!("cannot be kept from others: {errno}"),
            };
            fchmod(&folder.fd, PRIVATE).map_err(failed)?;
        }
        Ok(folder)
    }

    /// Names in it.
    pub(super) fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd)? {
            let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// A path to something in it, for calls that take nothing else, as long as this is kept.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd())).join(name)
    }

    /// What is pinned under a name. What is neither a map nor a link, as asked for, is an error.
    pub(super) fn open(&self, name: &OsStr, kind: Kind) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.fd, name, flags, Mode::empty())?;
        let stat = fstat(&file)?;
        let other = || io::Error::new(io::ErrorKind::InvalidData, "it is no pin of tracer's");
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
            || stat.st_dev != self.device
        {
            return Err(other());
        }
        let fd = sys::open_pin(&PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())))?;
        let is = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        // As there are two places in the kernel that name a link, there are two names.
        let is = is.to_string_lossy().replace('_', "-").replace("anon-inode", "anon_inode");
        if is == kind.name() { Ok(fd) } else { Err(other()) }
    }

    pub(super) fn pin(&self, fd: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        sys::pin(fd, &self.path_of(name))
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat(&self.fd, from, &self.fd, to)?)
    }

    /// Removes a pin of this kind, and nothing else.
    pub(super) fn remove(&self, name: &OsStr, kind: Kind) -> io::Result<()> {
        drop(self.open(name, kind)?);
        Ok(unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    /// Removes an empty folder.
    pub(super) fn remove_folder(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.fd, name, AtFlags::REMOVEDIR)?)
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn only_roots(owner: u32, mode: Mode) -> Result<(), String> {
    if owner != 0 {
        return Err(format!("belongs to user {owner}, not to root"));
    }
    if mode.intersects(Mode::WGRP | Mode::WOTH) {
        return Err(format!(
            "can be changed by others than root (mode {:o})",
            mode.as_raw_mode() & 0o7777
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn root(path: &Path) -> Folder {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Folder::root(openat(rustix::fs::CWD, path, flags, Mode::empty()).unwrap(), path).unwrap()
    }

    #[test]
    fn folders_of_others_links_and_ways_out_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = root(dir.path());
        for (name, owner, mode) in
            [("foreign", 65534, 0o700), ("open", 0, 0o770), ("wide", 0, 0o757)]
        {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            if chown(&path, Some(owner), None).is_err() {
                return;
            }
            assert!(folder.folder(OsStr::new(name)).is_err(), "{name}");
            assert!(folder.make(name).is_err(), "{name}");
        }
        symlink("/", dir.path().join("link")).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        for name in ["link", "file", "..", ".", "", "a/b"] {
            assert!(folder.folder(OsStr::new(name)).is_err(), "{name}");
        }
        assert!(folder.folder(OsStr::new("none")).unwrap().is_none());
        let made = folder.make("ours").unwrap();
        assert_eq!(fstat(&made).unwrap().st_mode & 0o7777, 0o700);
    }

    #[test]
    fn what_is_no_pin_is_neither_opened_nor_removed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = root(dir.path());
        fs::write(dir.path().join("connect4@1"), "").unwrap();
        symlink("connect4@1", dir.path().join("connect4@2")).unwrap();
        for name in ["connect4@1", "connect4@2"] {
            for kind in [Kind::Map, Kind::Link] {
                assert!(folder.remove(OsStr::new(name), kind).is_err(), "{name}");
            }
            assert!(fs::symlink_metadata(dir.path().join(name)).is_ok(), "{name}");
        }
    }
}
