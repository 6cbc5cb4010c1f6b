//! Writes whole texts to stdout.

use std::io::{self, Write as _};

use crate::error::Error;

/// Writes all of the text to stdout, and flushes it. Returns false if stdout is a pipe whose reader is gone, which is no
/// error: the reader has read what it wanted.
///
/// # Errors
/// Stdout cannot be written for another reason, for example because a disk is full.
pub fn print(text: &[u8]) -> Result<bool, Error> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::Failure(format!("cannot write to stdout: {error}"))),
    }
}
