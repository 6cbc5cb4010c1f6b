//! The file or stdout beneath a sink.

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use super::{
    frame,
    output::{Append, Output},
    planted, repair,
};
use crate::error::Error;

/// An open file or stdout.
#[derive(Debug)]
pub(super) struct Medium {
    file: File,
    size: u64,
    /// A regular file that this program opened: only such a one may be cut, because nobody else
    /// is expected to write to it.
    own: bool,
}

impl Medium {
    pub(super) fn stdout() -> Result<Self, Error> {
        let fd = io::stdout().as_fd().try_clone_to_owned().map_err(|source| Error::File {
            tried: "use",
            path: "stdout".into(),
            source,
            do_this: "write to a file with -o FILE",
        })?;
        Ok(Self::over(fd.into()))
    }

    /// A descriptor that others may write to as well.
    pub(super) const fn over(file: File) -> Self {
        Self { file, size: 0, own: false }
    }

    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let error = |source: io::Error| {
            let do_this = match Errno::from_io_error(&source) {
                Some(Errno::NOENT | Errno::NOTDIR) => "make its folder first",
                Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => {
                    "choose a folder that can be written to"
                }
                Some(Errno::LOOP) => {
                    "it is a symbolic link, which is not followed; give the file behind it"
                }
                Some(Errno::ISDIR) => "give the name of a file in it",
                _ => "",
            };
            Error::File { tried: "open", path: path.to_owned(), source, do_this }
        };
        let flags = OFlags::RDWR
            | OFlags::CREATE
            | OFlags::APPEND
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC
            | OFlags::NOCTTY;
        let fd = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| error(errno.into()))?;
        let file = File::from(fd);
        let metadata = file.metadata().map_err(error)?;
        planted::refuse(path, &metadata)?;
        Ok(Self { file, size: metadata.len(), own: metadata.is_file() })
    }

    /// Bytes in the file, as far as this program knows.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    pub(super) const fn is_own(&self) -> bool {
        self.own
    }

    /// Makes a file that an earlier program left (it may have been killed) fit to be appended to.
    /// Gives what has to be written first: the newline of its last line, or the end of its last
    /// frame.
    ///
    /// # Errors
    /// A file that is to be compressed, and holds something else than zstd frames.
    pub(super) fn repair(&mut self, compressed: bool, path: &Path) -> Result<Vec<u8>, Error> {
        if !self.own || self.size == 0 {
            return Ok(Vec::new());
        }
        let error = |source, do_this| Error::File {
            tried: "append to",
            path: path.to_owned(),
            source,
            do_this,
        };
        if !compressed {
            let last = repair::last_byte(&self.file, self.size).map_err(|e| error(e, ""))?;
            return Ok(if last == b'\n' { Vec::new() } else { vec![b'\n'] });
        }
        let end = repair::end(&self.file, self.size)
            .map_err(|source| error(source, "move the file away, or leave --compress out"))?;
        if end.at < self.size {
            self.cut(self.size - end.at).map_err(|source| error(source, ""))?;
        }
        Ok(if end.in_frame { frame::LAST_BLOCK.to_vec() } else { Vec::new() })
    }
}

impl Append for Medium {
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = rustix::io::write(&self.file, bytes)?;
        self.size += written as u64;
        Ok(written)
    }

    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        if !self.own {
            return Err(io::ErrorKind::Unsupported.into());
        }
        // Another program may have cut the file (copytruncate), so its own size counts.
        let size = self.file.metadata()?.len().saturating_sub(bytes);
        self.file.set_len(size)?;
        self.size = size;
        Ok(())
    }
}

/// Renames FILE to FILE.1, FILE.1 to FILE.2 and so on, and opens a new FILE. The one that would
/// be number `keep + 1` is overwritten. A name that ends in `.zst` keeps that end.
pub(super) fn rotate(
    path: &Path,
    keep: u32,
    open: impl FnOnce() -> Result<Output<Medium>, Error>,
) -> Result<Output<Medium>, Error> {
    for number in (1..keep).rev() {
        rename(&numbered(path, number), &numbered(path, number + 1))?;
    }
    let first = numbered(path, 1);
    rename(path, &first)?;
    open().inspect_err(|_| {
        // The old file is written on, so it gets its name back; if not, it is still there.
        if let Err(error) = rename(&first, path) {
            tracing::warn!("{error}");
        }
    })
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    match std::fs::rename(from, to) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::File {
            tried: "rename",
            path: from.to_owned(),
            source,
            do_this: "check the folder's permissions",
        }),
        _ => Ok(()),
    }
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let (stem, end) = match path.extension() {
        Some(extension) if extension == "zst" => (path.with_extension(""), ".zst"),
        _ => (path.to_owned(), ""),
    };
    let mut name = OsString::from(stem);
    name.push(format!(".{number}{end}"));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotated_names_carry_their_number_before_the_end_that_tools_look_at() {
        assert_eq!(numbered(Path::new("a/ev.jsonl"), 2), Path::new("a/ev.jsonl.2"));
        assert_eq!(numbered(Path::new("a/ev.jsonl.zst"), 2), Path::new("a/ev.jsonl.2.zst"));
    }
}
