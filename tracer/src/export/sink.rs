//! Writes whole lines to stdout, or to a file that can be rotated and compressed.
//!
//! If the disk is full, new lines are dropped and counted. A line that was written in part is cut off again, or
//! completed before any other; writing goes on by itself when there is room again. Nothing here has a clock: the
//! caller calls [`Sink::flush`] at least once a second. The program has to ignore SIGXFSZ, or a file size limit
//! ends it instead of dropping lines.

mod file;
mod frame;
mod output;
mod place;
mod planted;
pub(crate) mod repair;

use std::io;

use crate::{
    config::{OutputConfig, Rotation, Target},
    error::Error,
    runtime::sandbox::User,
};
use file::Medium;
use frame::Frame;
use output::{Output, Put, Unit};
pub(crate) use place::numbered;
use place::{NO_RIGHT, Place};

/// What became of lines that the sink was given. An account has only lines that no earlier account has.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Account {
    /// Lines that write(2) took.
    pub written: u64,
    /// Lines that were lost because the output could not take them, or because they could not be compressed (the losses
    /// `output_full` and `output_full_other`).
    pub dropped: u64,
}

/// The reader of the output (stdout, or a FIFO) is gone: nothing more can be written, and that is no error.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the output was closed by its reader")]
pub struct Closed;

/// Why [`Sink::reopen`] did not give the lines another file.
#[derive(Debug, thiserror::Error)]
pub enum ReopenError {
    /// The file cannot be opened, or another user may have put it there. The old one is kept, and nothing is lost.
    #[error(transparent)]
    Open(Error),
    /// Nobody reads the old file or stdout any more.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// An open output.
///
/// After a successful [`Self::close`], every line that was given is in exactly one account, once: as written
/// or as dropped. (Compressed lines are in none until their block is written.)
#[derive(Debug)]
pub struct Sink {
    output: Output<Medium>,
    /// Where the file is; `None`: the output is stdout.
    place: Option<Place>,
    rotation: Option<Rotation>,
    /// File size in bytes from which on the file is rotated; raised when a rotation fails, so that not every write tries it
    /// again. `u64::MAX`: never.
    rotate_at: u64,
    /// The zstd frame to which lines are added; `None`: lines are not compressed.
    frame: Option<Frame>,
    /// Lines that are compressed and not yet written.
    compressing: u64,
    /// Lines (with compression: those of the whole block) that are written in part, and will be completed before any other is
    /// written.
    owed: u64,
}

/// Compressed lines are written at the latest when there are this many compressed bytes.
const FRAME_BUFFER: usize = 256 << 10;

impl Sink {
    /// Opens the output. A file is created with mode 0600, or appended to; a symbolic link is not followed. If an
    /// earlier program was killed within a line or frame, that is ended first.
    ///
    /// A file is opened with the rights that reopening and rotating will have (`Self::user`, no capabilities), so that
    /// what would fail later fails now.
    ///
    /// # Errors
    /// [`Error::File`]: stdout is closed; the folder is missing or read-only, the file is a folder or a link, the folder's owner
    /// may not write to it, or it is to be compressed and is no zstd file or a damaged one. [`Error::BadConfig`]: it cannot be
    /// rotated. [`Error::Failure`]: another user may have put it there, or the thread that opens it cannot take the owner's
    /// rights.
    pub fn open(config: &OutputConfig) -> Result<Self, Error> {
        let compressed = config.compression.is_some();
        let (output, place) = match &config.target {
            Target::Stdout => (Output::new(Medium::stdout()?, Vec::new()), None),
            Target::File(path) => {
                let place = Place::find(path)?;
                (first_open(&place, compressed, config.rotation.is_some())?, Some(place))
            }
        };
        Ok(Self {
            output,
            place,
            rotation: config.rotation,
            rotate_at: config.rotation.map_or(u64::MAX, |rotation| rotation.size),
            frame: compressed.then(Frame::default),
            compressing: 0,
            owed: 0,
        })
    }

    /// A sink over an open file, which is treated as stdout is: never rotated or reopened.
    #[cfg(test)]
    pub(crate) fn over(file: std::fs::File) -> Self {
        Self {
            output: Output::new(Medium::over(file), Vec::new()),
            place: None,
            rotation: None,
            rotate_at: u64::MAX,
            frame: None,
            compressing: 0,
            owed: 0,
        }
    }

    /// The user with whose rights the file is reopened and rotated; for stdout, `nobody`. The thread that writes enters
    /// its sandbox as this user.
    pub(crate) fn user(&self) -> User {
        self.place.as_ref().map_or_else(User::nobody, Place::user)
    }

    /// Writes `chunk`, which must be `lines` whole lines (not checked), and rotates the file if that is due. With compression,
    /// the lines may stay in memory until a later call; then they are in no account yet. A full disk, or a file that cannot be
    /// rotated, is no error: lines that found no room are in [`Account::dropped`], `Self::refused` has the reason, and the file
    /// grows on.
    ///
    /// # Errors
    /// [`Closed`] when nobody reads the output any more.
    pub fn write_chunk(&mut self, chunk: &[u8], lines: u64) -> Result<Account, Closed> {
        let account = if let Some(frame) = &mut self.frame {
            self.compressing += lines;
            frame.add(chunk);
            if frame.waiting() < FRAME_BUFFER {
                return Ok(Account::default());
            }
            self.write_frame(false)?
        } else {
            self.write_plain(chunk, lines)?
        };
        Ok(sum(account, self.rotate_if_due()?))
    }

    /// Writes all bytes that are still buffered (with compression, it ends the block), and rotates the file if that is due. What
    /// cannot be written is dropped, except the rest of a line or block that was written in part: see [`Self::owes_a_line`].
    ///
    /// # Errors
    /// [`Closed`] when nobody reads the output any more.
    pub fn flush(&mut self) -> Result<Account, Closed> {
        let account = self.write_kept(false)?;
        Ok(sum(account, self.rotate_if_due()?))
    }

    /// Opens the file again by its name (after SIGHUP: another program renamed it), and writes to the new file from now
    /// on. What the old file cannot take now is dropped. Stdout is only flushed.
    ///
    /// # Errors
    /// [`ReopenError::Open`] if the file cannot be opened, or another user may have put it there; [`ReopenError::Closed`] when
    /// nobody reads the old file or stdout any more.
    pub fn reopen(&mut self) -> Result<Account, ReopenError> {
        let Some(place) = &self.place else { return Ok(self.flush()?) };
        let new = open(place, self.frame.is_some()).map_err(ReopenError::Open)?;
        Ok(self.replace(new)?)
    }

    /// Whether the last line (with compression: the last block of lines) is only partly written. The sink completes it before it
    /// writes anything else; what is not complete when it closes counts as dropped.
    pub fn owes_a_line(&self) -> bool {
        self.owed > 0
    }

    /// Where the lines go, for messages.
    pub(crate) fn name(&self) -> String {
        self.place
            .as_ref()
            .map_or_else(|| "stdout".to_owned(), |it| it.path().display().to_string())
    }

    /// The newest error because of which something could not be written, even if writing works again or the file was reopened;
    /// `None`: none yet.
    pub(crate) fn refused(&self) -> Option<&io::Error> {
        self.output.refused()
    }

    /// Ends the frame and writes all buffered bytes; what cannot be written now is dropped. The caller writes nothing
    /// after it.
    ///
    /// # Errors
    /// [`Closed`] when nobody reads the output any more.
    pub fn close(&mut self) -> Result<Account, Closed> {
        let mut account = self.write_kept(true)?;
        account.dropped += std::mem::take(&mut self.owed);
        Ok(account)
    }

    fn write_kept(&mut self, end: bool) -> Result<Account, Closed> {
        if self.frame.is_some() { self.write_frame(end) } else { self.write_plain(&[], 0) }
    }

    fn write_plain(&mut self, chunk: &[u8], lines: u64) -> Result<Account, Closed> {
        let Put { settled, done, torn } = self.output.put(chunk, Unit::Line)?;
        let mut account = Account::default();
        if settled {
            account.written += std::mem::take(&mut self.owed);
        }
        if done == chunk.len() {
            account.written += lines;
        } else {
            let whole = count_lines(&chunk[..done]);
            let begun = u64::from(torn > 0);
            self.owed += begun;
            account.written += whole;
            account.dropped += lines.saturating_sub(whole + begun);
        }
        Ok(account)
    }

    fn write_frame(&mut self, end: bool) -> Result<Account, Closed> {
        let Some(frame) = &mut self.frame else { return Ok(Account::default()) };
        let lines = std::mem::take(&mut self.compressing);
        let mut account = Account::default();
        let bytes = match frame.take(end) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::warn!("cannot compress {lines} lines: {error}");
                account.dropped = lines;
                self.output.promise(frame.abandon());
                return Ok(account);
            }
        };
        let Put { settled, done, torn } = self.output.put(&bytes, Unit::Whole)?;
        if settled {
            account.written += std::mem::take(&mut self.owed);
        }
        if done == bytes.len() {
            account.written += lines;
            frame.written();
        } else if torn > 0 {
            self.owed += lines;
            frame.written();
        } else {
            // Nothing of these blocks is in the file: the lines in them are lost, and the frame
            // that they belonged to has to be ended before another one can begin.
            account.dropped += lines;
            self.output.promise(frame.abandon());
        }
        Ok(account)
    }

    fn rotate_if_due(&mut self) -> Result<Account, Closed> {
        let medium = self.output.medium();
        let (Some(place), Some(rotation)) = (&self.place, self.rotation) else {
            return Ok(Account::default());
        };
        if medium.size() < self.rotate_at || !medium.is_own() {
            return Ok(Account::default());
        }
        let new = file::rotate(place, rotation.keep, || open(place, self.frame.is_some()));
        match new {
            Ok(new) => self.replace(new),
            Err(error) => {
                tracing::warn!("{error}; going on with the file as it is");
                self.rotate_at = self.output.medium().size().saturating_add(rotation.size);
                Ok(Account::default())
            }
        }
    }

    /// Writes all buffered bytes to the old file, and goes on with `new`. Also goes on with `new` if nobody reads the
    /// old file any more ([`Closed`]).
    fn replace(&mut self, new: Output<Medium>) -> Result<Account, Closed> {
        let account = self.close();
        let refused = self.output.take_refused();
        self.output = new;
        self.output.refuse(refused);
        self.frame = self.frame.is_some().then(Frame::default);
        self.rotate_at = self.rotation.map_or(u64::MAX, |rotation| rotation.size);
        account
    }
}

/// [`open`] in a thread that has only the rights that reopening and rotating will have; checks that they will work. If only
/// reopening will not work, that is logged.
fn first_open(place: &Place, compressed: bool, rotates: bool) -> Result<Output<Medium>, Error> {
    let opened = place.user().run(|| -> Result<_, Error> {
        let output = open(place, compressed)?;
        Ok((output, place.may_change()))
    });
    let (output, may_change) =
        opened.map_err(|error| Error::Failure(format!("cannot start a thread: {error}")))??;
    let path = place.path().display();
    if rotates && !output.medium().is_own() {
        let problem = "it is not a regular file; leave --rotate out";
        return Err(Error::BadConfig(format!("cannot rotate {path}: {problem}")));
    }
    match may_change {
        Some(Err(error)) if rotates => Err(Error::BadConfig(format!(
            "cannot rotate {path}: cannot create and rename files in its folder ({error}); {NO_RIGHT}"
        ))),
        Some(Err(error)) if output.medium().is_own() => {
            tracing::warn!("SIGHUP will not be able to reopen {path}: {error}; {NO_RIGHT}");
            Ok(output)
        }
        _ => Ok(output),
    }
}

/// Opens a file to append to. What an earlier program left unfinished at its end is completed before the next line.
fn open(place: &Place, compressed: bool) -> Result<Output<Medium>, Error> {
    let mut medium = Medium::open(place)?;
    let rest = medium.repair(compressed, place.path())?;
    Ok(Output::new(medium, rest))
}

fn sum(one: Account, other: Account) -> Account {
    Account { written: one.written + other.written, dropped: one.dropped + other.dropped }
}

fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

#[cfg(test)]
mod tests;
