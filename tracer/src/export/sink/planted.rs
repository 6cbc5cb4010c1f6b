//! Whether an output file was put there by somebody else.
//!
//! In a folder where everybody may make files, another user can make tracer's file first, and would own, read and rewrite
//! what is written to it. The kernel refuses that too, but only where `fs.protected_regular` is not 0.

use std::{fs::Metadata, os::unix::fs::MetadataExt};

use super::place::Place;
use crate::{error::Error, format::text};

/// Write permission of the group and of others.
const OTHERS_WRITE: u32 = 0o022;

/// Refuses what is in a folder in which others can make files, and belongs to none of this user, root and the
/// owner of the folder, or is a second name of a file.
///
/// # Errors
/// It is such a file.
pub(super) fn refuse(place: &Place, file: &Metadata) -> Result<(), Error> {
    // That the folder can be looked at was known when it was opened.
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
