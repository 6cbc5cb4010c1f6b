//! Knows where an output file is: its folder, held open, and the user with whose rights files are opened there.
//!
//! The folder's owner can put anything there under any name, a link too. So files there are opened and renamed with
//! that owner's rights: tracer reaches nothing for them that they could not reach themselves.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, fstat, openat, renameat},
    io::Errno,
};

use crate::{error::Error, runtime::sandbox::User};

/// The place of an output file.
#[derive(Debug)]
pub(super) struct Place {
    /// Held open, so that it stays the same folder when a folder of the path is renamed or replaced.
    folder: OwnedFd,
    name: OsString,
    /// The path as the user gave it, for messages.
    path: PathBuf,
    user: User,
}

impl Place {
    /// Opens the folder of the file at `path`, and finds the folder's owner. The file itself is not opened.
    ///
    /// # Errors
    /// There is no such folder, it cannot be opened or examined, or `path` does not end in a name.
    pub(super) fn find(path: &Path) -> Result<Self, Error> {
        let failed = |errno: Errno| failed("open", path, errno.into());
        let name = path.file_name().ok_or_else(|| failed(Errno::ISDIR))?.to_owned();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(CWD, parent.unwrap_or(Path::new(".")), flags, Mode::empty());
        let folder = folder.map_err(failed)?;
        let user = User::owner(&folder).map_err(|error| self::failed("open", path, error))?;
        Ok(Self { folder, name, path: path.to_owned(), user })
    }

    /// The path of the file as the user gave it, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// User id of the folder's owner, and the folder's mode (`st_mode`).
    ///
    /// # Errors
    /// fstat(2) fails; not after [`Self::find`] has succeeded.
    pub(super) fn folder(&self) -> io::Result<(u32, u32)> {
        let stat = fstat(&self.folder)?;
        Ok((stat.st_uid, stat.st_mode))
    }

    /// The user with whose rights files are opened here: the owner of the folder.
    pub(super) fn user(&self) -> User {
        self.user
    }

    /// Opens the file to append to, or creates it with mode 0600, with the rights of the calling thread.
    ///
    /// # Errors
    /// The file cannot be opened or created (openat(2)): for example for lack of rights, or because it is a folder or a symbolic
    /// link, which is not followed.
    pub(super) fn open(&self) -> Result<File, Error> {
        let flags = OFlags::RDWR
            | OFlags::CREATE
            | OFlags::APPEND
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC
            | OFlags::NOCTTY;
        openat(&self.folder, &self.name, flags, Mode::RUSR | Mode::WUSR)
            .map(File::from)
            .map_err(|errno| failed("open", &self.path, errno.into()))
    }

    /// Whether the calling thread may create and rename files here; an error says why not. `None`: not known, because the test
    /// failed for another reason than a lack of rights (the file system has no `O_TMPFILE`).
    pub(super) fn may_change(&self) -> Option<io::Result<()>> {
        // Creates a file without a name, which is gone when it is closed.
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match openat(&self.folder, ".", flags, Mode::RUSR | Mode::WUSR) {
            Ok(_) => Some(Ok(())),
            Err(errno @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) => Some(Err(errno.into())),
            Err(_) => None,
        }
    }

    /// Renames a file of this folder; a file that has the name `to` is replaced. It is no error if `from` does not exist.
    ///
    /// # Errors
    /// The file cannot be renamed (renameat(2)), for example for lack of rights.
    pub(super) fn rename(&self, from: &OsStr, to: &OsStr) -> Result<(), Error> {
        match renameat(&self.folder, from, &self.folder, to) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed("rename", &self.path.with_file_name(from), errno.into())),
        }
    }

    /// As [`numbered`], of the name in the folder.
    pub(super) fn numbered(&self, number: u32) -> OsString {
        numbered(Path::new(&self.name), number)
    }

    /// The name of the file in its folder.
    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }
}

fn failed(tried: &'static str, path: &Path, source: io::Error) -> Error {
    let do_this = match Errno::from_io_error(&source) {
        Some(Errno::NOENT | Errno::NOTDIR) => "make its folder first",
        Some(Errno::ACCESS | Errno::PERM) => NO_RIGHT,
        Some(Errno::ROFS) => "choose a folder that can be written to",
        Some(Errno::LOOP) => {
            "it is a symbolic link, which is not followed; give the file behind it"
        }
        Some(Errno::ISDIR) => "give the name of a file in it",
        _ => "",
    };
    Error::File { tried, path: path.to_owned(), source, do_this }
}

/// Advice for a file that cannot be opened, created or renamed for lack of rights.
pub(super) const NO_RIGHT: &str = "tracer writes as the owner of the file's folder, without capabilities: \
    give folder and file to one user, or choose a folder that can be written to";

/// The name or path of the rotated file of this number: FILE.1 is the newest. A name that ends in `.zst` keeps that ending.
pub(crate) fn numbered(name: &Path, number: u32) -> OsString {
    let (stem, end) = match name.extension() {
        Some(extension) if extension == "zst" => (name.with_extension(""), ".zst"),
        _ => (name.to_owned(), ""),
    };
    let mut name = OsString::from(stem);
    name.push(format!(".{number}{end}"));
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotated_names_carry_their_number_before_the_end_that_tools_look_at() {
        assert_eq!(numbered(Path::new("ev.jsonl"), 2), "ev.jsonl.2");
        assert_eq!(numbered(Path::new("ev.jsonl.zst"), 2), "ev.jsonl.2.zst");
    }
}
