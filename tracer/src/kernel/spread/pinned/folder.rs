//! Opens folders of a bpffs by descriptor, and refuses those that others than root can change. Whoever else could rename or link
//! something in one of them could choose what root opens and removes.

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

/// A folder that is not used, and why. Read as a sentence: path, then reason.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{} {why}", path.display())]
pub struct Refused {
    pub path: PathBuf,
    /// The end of the sentence, for people.
    pub why: String,
}

/// An open folder of a bpffs that only root can change (in a sticky root folder, others can make files).
#[derive(Clone, Debug)]
pub(super) struct Folder {
    fd: Arc<OwnedFd>,
    device: u64,
    path: PathBuf,
}

/// A kind of pinned object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Map,
    Link,
}

impl Kind {
    /// The kernel's name of a descriptor of this kind (`anon_inode_getfd` in kernel/bpf/syscall.c).
    const fn name(self) -> &'static str {
        match self {
            Self::Map => "anon_inode:bpf-map",
            Self::Link => "anon_inode:bpf-link",
        }
    }
}

impl Folder {
    /// The root folder of a bpffs. Other users may be able to make files in it only if it is sticky: then they cannot
    /// rename or remove root's.
    ///
    /// # Errors
    /// The folder does not belong to root, other users can change what is in it, or it cannot be examined.
    pub(super) fn root(fd: OwnedFd, path: &Path) -> Result<Self, Refused> {
        let refused = |why: String| Refused { path: path.to_owned(), why };
        let stat = fstat(&fd).map_err(|errno| refused(format!("cannot be examined: {errno}")))?;
        let mode = Mode::from_raw_mode(stat.st_mode);
        let sticky = mode.contains(Mode::SVTX);
        only_roots(stat.st_uid, if sticky { Mode::empty() } else { mode }).map_err(refused)?;
        Ok(Self { fd: Arc::new(fd), device: stat.st_dev, path: path.to_owned() })
    }

    /// Its path, for people.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the folder `name` in this one; `None`: there is none.
    ///
    /// # Errors
    /// The name is not one component, or what has the name is not a folder, cannot be opened or examined, is on another
    /// file system, does not belong to root, or can be changed by other users.
    pub(super) fn folder(&self, name: &OsStr) -> Result<Option<Self>, Refused> {
        let path = self.path.join(name);
        let refused = |why: String| Refused { path: path.clone(), why };
        // The name must be one component and neither `.` nor `..`: a path could lead out of this folder.
        if name.as_bytes().contains(&b'/') || matches!(name.as_bytes(), b"" | b"." | b"..") {
            return Err(refused("is not the name of a folder".into()));
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
        let stat = fstat(&fd).map_err(|errno| refused(format!("cannot be examined: {errno}")))?;
        if stat.st_dev != self.device {
            return Err(refused("is in another file system, which is mounted there".into()));
        }
        only_roots(stat.st_uid, Mode::from_raw_mode(stat.st_mode)).map_err(refused)?;
        Ok(Some(Self { fd: Arc::new(fd), device: stat.st_dev, path }))
    }

    /// Opens the folder `name` in this one, or makes it with mode 0700, whatever the umask.
    ///
    /// # Errors
    /// It cannot be made or given that mode; or what has the name is not a folder, cannot be opened or examined, is on another
    /// file system, does not belong to root, or can be changed by other users.
    pub(super) fn make(&self, name: &str) -> Result<Self, Refused> {
        let path = self.path.join(name);
        let made = match mkdirat(&self.fd, name, PRIVATE) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(Refused { path, why: format!("cannot be made: {errno}") }),
        };
        let folder = self.folder(OsStr::new(name))?;
        let folder = folder
            .ok_or_else(|| Refused { path, why: "was removed while it was being made".into() })?;
        if made {
            let failed = |errno| Refused {
                path: folder.path.clone(),
                why: format!("cannot be set to mode 0700: {errno}"),
            };
            fchmod(&folder.fd, PRIVATE).map_err(failed)?;
        }
        Ok(folder)
    }

    /// Names of the entries of this folder, in no order.
    ///
    /// # Errors
    /// The folder cannot be read.
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

    /// A path to an entry, for calls that take only paths. It is valid as long as this folder is open.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd())).join(name)
    }

    /// Opens what is pinned under this name.
    ///
    /// # Errors
    /// There is no such pin, it cannot be opened, or it is not of this kind (`InvalidData`).
    pub(super) fn open(&self, name: &OsStr, kind: Kind) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.fd, name, flags, Mode::empty())?;
        let stat = fstat(&file)?;
        let other = || io::Error::new(io::ErrorKind::InvalidData, "it is not a pin of tracer");
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
            || stat.st_dev != self.device
        {
            return Err(other());
        }
        let fd = sys::open_pin(&PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())))?;
        let is = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        // Kernels name the descriptor of a link in one of two ways: anon_inode:bpf-link, anon_inode:bpf_link.
        let is = is.to_string_lossy().replace('_', "-").replace("anon-inode", "anon_inode");
        if is == kind.name() { Ok(fd) } else { Err(other()) }
    }

    /// Pins a map or a link under this name.
    ///
    /// # Errors
    /// As bpf(2); `AlreadyExists`: the name is taken.
    pub(super) fn pin(&self, fd: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        sys::pin(fd, &self.path_of(name))
    }

    /// Renames an entry; one that has the name `to` is replaced.
    ///
    /// # Errors
    /// As renameat(2).
    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat(&self.fd, from, &self.fd, to)?)
    }

    /// Removes a pin of this kind.
    ///
    /// # Errors
    /// There is no such pin, it cannot be opened, or it is not of this kind (`InvalidData`); else as unlinkat(2).
    pub(super) fn remove(&self, name: &OsStr, kind: Kind) -> io::Result<()> {
        drop(self.open(name, kind)?);
        Ok(unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    /// Removes the empty folder `name` in this one.
    ///
    /// # Errors
    /// As unlinkat(2): there is none, or it is not empty.
    pub(super) fn remove_folder(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.fd, name, AtFlags::REMOVEDIR)?)
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Checks that only root can change a folder. The error is the reason, as the end of a sentence.
fn only_roots(owner: u32, mode: Mode) -> Result<(), String> {
    if owner != 0 {
        return Err(format!("belongs to user {owner}, not to root"));
    }
    if mode.intersects(Mode::WGRP | Mode::WOTH) {
        return Err(format!(
            "can be changed by other users (mode {:o})",
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
        let made = folder.make("made").unwrap();
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
