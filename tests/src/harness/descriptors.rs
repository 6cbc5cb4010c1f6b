//! File descriptors of one thread's own.
#![expect(unsafe_code, reason = "unshare(CLONE_FILES) is an unsafe call in rustix")]

use anyhow::{Context, Result};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// From now on, what this thread opens is its own: a child that another thread forks would hold it until its
/// exec(), and a socket that is closed meanwhile would keep its port. Nothing that the thread opens
/// may be given to another.
///
/// # Errors
/// The kernel's.
pub fn unshare() -> Result<()> {
    // SAFETY: what was open before is open in both tables under the same number; what this thread opens
    // afterwards is not given to another, so that no number is taken for another's.
    unsafe { unshare_unsafe(UnshareFlags::FILES) }.context("cannot unshare descriptors")
}
