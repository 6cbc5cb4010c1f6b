//! A file descriptor table for one thread alone.
#![expect(unsafe_code, reason = "unshare(CLONE_FILES) is an unsafe call in rustix")]

use anyhow::{Context, Result};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Gives the calling thread its own descriptor table. Otherwise, a child that another thread forks would inherit this
/// thread's sockets until its exec(), and a socket that this thread closes meanwhile would keep its port. The thread must
/// not pass a descriptor that it opens from now on to another thread.
///
/// # Errors
/// unshare(2) fails.
pub fn unshare() -> Result<()> {
    // SAFETY: a descriptor that is open now has the same number in both tables; descriptors that this thread opens
    // afterwards are not passed to another thread, in which the same number could mean another file.
    unsafe { unshare_unsafe(UnshareFlags::FILES) }.context("cannot unshare descriptors")
}
