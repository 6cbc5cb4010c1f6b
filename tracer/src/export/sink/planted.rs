//! Refuses a file that another user may have put where the output is to be.
//!
//! In a folder where everybody may create files, another user can create tracer's file first. That user then owns the
//! file, and can read and change what tracer writes to it. The kernel refuses to open such a file, too, but only in
//! sticky folders, and only if `fs.protected_regular` is not 0.

use std::{fs::Metadata, os::unix::fs::MetadataExt};

use super::place::Place;
use crate::{error::Error, format::text};

/// Write permission of the group and of others.
const OTHERS_WRITE: u32 = 0o022;

/// Refuses a file that others may have put there. `file`: what fstat(2) says of it. In a folder where only its owner can create
/// files (by its mode), every file is accepted.
///
/// # Errors
/// [`Error::Failure`]: the file belongs neither to the effective user of the calling thread nor to root nor to the owner of the
/// folder; or it is a regular file with several names (hard links).
pub(super) fn refuse(place: &Place, file: &Metadata) -> Result<(), Error> {
    // Does not fail: the same fstat() succeeded when the folder was opened.
    let Ok((owner, mode)) = place.folder() else { return Ok(()) };
    if mode & OTHERS_WRITE == 0 {
        return Ok(());
    }
    let us = rustix::process::geteuid().as_raw();
    let what = if ![us, 0, owner].contains(&file.uid()) {
        format!("user {} put it there", file.uid())
    } else if file.is_file() && file.nlink() > 1 {
        "it has another name elsewhere".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::Failure(format!(
        "cannot write to {}: {what}, in a folder where others can make files, so they could choose what is \
         written to or read it; remove it, or choose a folder that only you can write to",
        text::line(&place.path().to_string_lossy()),
    )))
}
