//! Where whole lines go: stdout, or a file that is rotated and compressed.
//!
//! A full disk drops new lines and counts them; what is in the file is always whole lines, and
//! writing goes on by itself when there is room again. Nothing here has a clock: the caller calls
//! [`Sink::flush`] at least once a second. The program has to ignore SIGXFSZ, or a file size limit
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
use place::{NO_RIGHT, Place};

/// What became of lines that the sink was given, since the last account.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Account {
    /// Lines that the operating system has.
    pub written: u64,
    /// Lines that were lost because the output could not take them (`output_full`).
    pub dropped: u64,
}

/// The reader of stdout is gone: nothing more can be written, and that is no error.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the output was closed by its reader")]
pub struct Closed;

/// An open output.
///
/// After [`Self::close`], every line that was given is in exactly one account, once: as written
/// or as dropped. (Compressed lines are in none until the next flush.)
#[derive(Debug)]
pub struct Sink {
    output: Output<Medium>,
    /// `None` is stdout.
    place: Option<Place>,
    rotation: Option<Rotation>,
    /// Bytes at which to rotate; grows when a rotation fails, so that it is not tried each time.
    rotate_at: u64,
    frame: Option<Frame>,
    /// Lines that are compressed and not yet written.
    compressing: u64,
    /// Lines that are partly written, and will be ended before any other.
    owed: u64,
}

/// Compressed bytes that are kept back at most until they are written.
const FRAME_BUFFER: usize = 256 << 10;

impl Sink {
    /// Opens the output. A file is created with mode 0600 or appended to, never followed through
    /// a symbolic link; what an earlier crash left behind of a line or frame is ended first.
    ///
    /// It is opened as `Self::user`, without capabilities: what could not be opened anew or rotated
    /// later is found out now.
    ///
    /// # Errors
    /// [`Error::File`]: the folder is missing or read-only, the file is a folder or a link, or the
    /// folder's owner may not write to it. [`Error::BadConfig`]: it cannot be rotated.
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

    /// Over a descriptor.
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

    /// As whom the file is opened anew and rotated, or nobody for stdout: whoever does that enters the
    /// sandbox as this user.
    pub(crate) fn user(&self) -> User {
        self.place.as_ref().map_or_else(User::nobody, Place::user)
    }

    /// Writes `chunk`, which is `lines` whole lines.
    ///
    /// # Errors
    /// [`Closed`] when nobody reads stdout any more.
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

    /// Writes all bytes that are still buffered, and rotates the file if that is due.
    pub fn flush(&mut self) -> Result<Account, Closed> {
        let account = self.write_kept(false)?;
        Ok(sum(account, self.rotate_if_due()?))
    }

    /// Opens the file anew (SIGHUP: another program renamed it). Stdout stays as it is.
    ///
    /// # Errors
    /// As [`Self::open`]; the old file is kept then, and nothing is lost.
    pub fn reopen(&mut self) -> Result<Result<Account, Closed>, Error> {
        let Some(place) = &self.place else { return Ok(self.flush()) };
        let new = open(place, self.frame.is_some())?;
        Ok(self.replace(new))
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

    /// Why lines could not be written, the last time that it was so. `None`: never.
    pub(crate) fn refused(&self) -> Option<&io::Error> {
        self.output.refused()
    }

    /// Ends the frame and writes everything, for good: what cannot be written now is dropped. Nothing is written after it.
    ///
    /// # Errors
    /// As [`Self::write_chunk`].
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

    /// Finishes the file that is written to, and goes on with `new`.
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

/// The same with the rights that there will be later.
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

/// Opens a file so that the next line, or frame, starts afresh.
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
