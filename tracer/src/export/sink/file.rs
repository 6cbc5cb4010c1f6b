//! Opens the file or stdout to which a sink writes, prepares it for appending, and rotates it.

use std::{fs::File, io, os::fd::AsFd, path::Path};

use super::{
    frame,
    output::{Append, Output},
    place::Place,
    planted, repair,
};
use crate::error::Error;

/// An open file or stdout.
#[derive(Debug)]
pub(super) struct Medium {
    file: File,
    size: u64,
    /// Whether it is a regular file that this program opened: only such a file may be truncated, because
    /// nobody else is expected to write to it.
    own: bool,
}

impl Medium {
    /// Stdout, through a descriptor of its own.
    ///
    /// # Errors
    /// Stdout is closed, or there is no file descriptor left.
    pub(super) fn stdout() -> Result<Self, Error> {
        let fd = io::stdout().as_fd().try_clone_to_owned().map_err(|source| Error::File {
            tried: "use",
            path: "stdout".into(),
            source,
            do_this: "write to a file with --output FILE",
        })?;
        Ok(Self::over(fd.into()))
    }

    /// Over a file to which other programs may write, too: it is never truncated.
    pub(super) const fn over(file: File) -> Self {
        Self { file, size: 0, own: false }
    }

    /// Opens the file at this place with the rights of the calling thread; creates it if it does not exist.
    ///
    /// # Errors
    /// It cannot be opened, created or examined, or another user may have put it there.
    pub(super) fn open(place: &Place) -> Result<Self, Error> {
        let file = place.open()?;
        let metadata = file.metadata().map_err(|source| Error::File {
            tried: "look at",
            path: place.path().to_owned(),
            source,
            do_this: "",
        })?;
        planted::refuse(place, &metadata)?;
        Ok(Self { file, size: metadata.len(), own: metadata.is_file() })
    }

    /// Bytes in the file, as far as this program knows (another program may have truncated it since); of stdout, those that were
    /// written since the start.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Whether it is a regular file that this program opened. Only such a file is truncated or rotated.
    pub(super) const fn is_own(&self) -> bool {
        self.own
    }

    /// Prepares a file for being appended to, in case that an earlier program was killed while it wrote: cuts an incomplete
    /// zstd block off. Returns what has to be written first: the newline that the last line lacks, or the end that the last
    /// frame lacks. Empty: nothing is missing, or the file is new or not a regular file.
    ///
    /// # Errors
    /// The file cannot be read or cut; with compression, it holds something else than zstd frames.
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
        // `self.size` may be too large: another program may have truncated the file (logrotate's copytruncate).
        let size = self.file.metadata()?.len().saturating_sub(bytes);
        self.file.set_len(size)?;
        self.size = size;
        Ok(())
    }
}

/// Renames FILE (that of `place`) to FILE.1, FILE.1 to FILE.2 and so on up to FILE.`keep`, which is overwritten; then calls
/// `open`, which opens the new FILE, and returns its result. Files that do not exist are passed over. A name that ends in `.zst`
/// keeps that ending. `keep` must be at least 1 (not checked).
///
/// # Errors
/// A file cannot be renamed: those that are renamed already keep their new names. Or that of `open`: FILE.1 is renamed back (a
/// failure of that is logged), and the older files keep their new names.
pub(super) fn rotate(
    place: &Place,
    keep: u32,
    open: impl FnOnce() -> Result<Output<Medium>, Error>,
) -> Result<Output<Medium>, Error> {
    for number in (1..keep).rev() {
        place.rename(&place.numbered(number), &place.numbered(number + 1))?;
    }
    let first = place.numbered(1);
    place.rename(place.name(), &first)?;
    open().inspect_err(|_| {
        // The sink goes on with the old file, so it gets its name back. If that fails, lines still go to it, under its new
        // name.
        if let Err(error) = place.rename(&first, place.name()) {
            tracing::warn!("{error}");
        }
    })
}
