//! Writes the metrics to a file for node_exporter's textfile collector, on a thread of its own.
//!
//! Each snapshot is written to another name and renamed to the file's, so that a reader never sees half of one. The folder is opened once,
//! and files in it are made with the rights of its owner: see `export::sink::place` for why.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool, mpsc},
    thread,
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, openat, renameat, unlinkat},
    io::Errno,
    process::umask,
    thread::CapabilitySet,
};

use super::{encode::Format, slot::Slot, snapshot::Snapshot};
use crate::{
    error::{Error, reason},
    runtime::sandbox::{self, Role, User},
};

/// node_exporter reads files with this ending only.
const ENDING: &str = "prom";
/// Mode of the file: node_exporter is another user.
const MODE: Mode = Mode::from_raw_mode(0o644);

/// The writer of the file. Its thread ends when this is dropped; the file stays as it is.
#[derive(Debug)]
pub struct TextFile {
    slot: Arc<Slot>,
    ended: Arc<AtomicBool>,
}

impl TextFile {
    /// Opens the folder of the file at `path`, and starts the thread `textfile`, which writes the file whenever there is a new
    /// snapshot in `slot`. A file that cannot be written later is a warning in the log, once for each reason in a row.
    ///
    /// # Errors
    /// `path` does not end in `.prom`; its folder cannot be opened, or no file can be made in it; no thread can be started, or
    /// it cannot give up its rights.
    pub fn start(path: &Path, slot: Arc<Slot>) -> Result<Self, Error> {
        if path.extension() != Some(OsStr::new(ENDING)) {
            return Err(Error::BadConfig(format!(
                "{} does not end in .prom: node_exporter reads no other files",
                path.display()
            )));
        }
        let place = Place::find(path).map_err(|error| failed("open", path, error))?;
        let user = User::owner(&place.folder).map_err(|error| failed("open", path, error))?;
        let (started, start) = mpsc::channel();
        let ended = Arc::new(AtomicBool::new(false));
        let shared = (Arc::clone(&slot), Arc::clone(&ended));
        let run = move || {
            let ready = enter(user).and_then(|()| place.create().map(drop));
            let may_run = ready.is_ok();
            _ = started.send(ready);
            if may_run {
                place.write_each(&shared.0, &shared.1);
            }
        };
        let thread = thread::Builder::new().name("textfile".into()).spawn(run);
        thread.map_err(|error| failed("start the thread that writes", path, error))?;
        let gone = |_| Err(io::Error::other("its thread ended"));
        start.recv().unwrap_or_else(gone).map_err(|error| failed("write", path, error))?;
        Ok(Self { slot, ended })
    }
}

impl Drop for TextFile {
    fn drop(&mut self) {
        // The thread is not waited for: a file system that does not answer must not keep the program from ending.
        self.slot.end(&self.ended);
    }
}

fn failed(tried: &'static str, path: &Path, source: io::Error) -> Error {
    let do_this = match source.kind() {
        io::ErrorKind::NotFound => "make its folder first",
        io::ErrorKind::PermissionDenied => {
            "the owner of its folder must be able to make files there"
        }
        _ => "",
    };
    Error::File { tried, path: path.to_owned(), source, do_this }
}

/// The text of the file: without the metrics of the process, which node_exporter has of itself under the same names.
fn text(snapshot: &Arc<Snapshot>) -> Vec<u8> {
    let all = snapshot.encode(Format::Text);
    let of_process = |line: &[u8]| {
        let begins = [&b"process_"[..], b"# HELP process_", b"# TYPE process_"];
        begins.iter().any(|begin| line.starts_with(begin))
    };
    all.split_inclusive(|byte| *byte == b'\n')
        .filter(|line| !of_process(line))
        .flatten()
        .copied()
        .collect()
}

/// Gives up the rights of this thread, except those of `user`. Files that it makes have the mode that they are made with.
fn enter(user: User) -> io::Result<()> {
    own_umask()?;
    sandbox::enter(Role::Serves, user, CapabilitySet::empty())
}

/// Sets the file mode mask of this thread to 0, and no other thread's. In the sandbox, the mode of a file cannot be changed.
#[expect(unsafe_code, reason = "unshare(2)")]
fn own_umask() -> io::Result<()> {
    // SAFETY: with CLONE_FS alone, only this thread's current folder, root and mask become its own.
    if unsafe { libc::unshare(libc::CLONE_FS) } != 0 {
        return Err(io::Error::last_os_error());
    }
    umask(Mode::empty());
    Ok(())
}

/// Where the file is.
#[derive(Debug)]
struct Place {
    folder: OwnedFd,
    name: OsString,
    /// Name of the file that is written before it is renamed. It does not end in `.prom`.
    new: OsString,
    /// The path as the user gave it, for messages.
    path: PathBuf,
}

impl Place {
    fn find(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(CWD, parent.unwrap_or(Path::new(".")), flags, Mode::empty())?;
        let mut new = name.clone();
        new.push(".new");
        Ok(Self { folder, name, new, path: path.to_owned() })
    }

    /// Writes each new snapshot, until `ended` is set.
    fn write_each(&self, slot: &Slot, ended: &AtomicBool) {
        let (mut last, mut reported) = (0, None);
        while let Some((snapshot, number)) = slot.wait(last, ended) {
            last = number;
            let failure = self.write(&text(&snapshot)).err().map(|it| reason(&it));
            if let Some(why) = &failure
                && failure != reported
            {
                tracing::warn!("cannot write the metrics to {}: {why}", self.path.display());
            }
            reported = failure;
        }
    }

    /// Replaces the file by one with this text.
    fn write(&self, text: &[u8]) -> io::Result<()> {
        let written = self.create().and_then(|mut file| file.write_all(text));
        let renamed = written.and_then(|()| {
            renameat(&self.folder, &self.new, &self.folder, &self.name).map_err(io::Error::from)
        });
        if renamed.is_err() {
            _ = unlinkat(&self.folder, &self.new, AtFlags::empty());
        }
        renamed
    }

    /// Makes the file that is to be renamed, empty, in place of one that is left over.
    fn create(&self) -> io::Result<File> {
        match unlinkat(&self.folder, &self.new, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => (),
            Err(errno) => return Err(errno.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        Ok(openat(&self.folder, &self.new, flags, MODE)?.into())
    }
}

#[cfg(test)]
mod tests;
