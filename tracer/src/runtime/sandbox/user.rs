//! Gives a thread the user with whose rights it opens files.

mod mapped;

use std::{io, os::fd::AsFd, thread};

use rustix::{
    fs::fstat,
    process::{Gid, Uid, getegid, geteuid},
    thread::{
        CapabilitySet, capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};

use crate::kernel::privilege;
use mapped::Mapped;

/// A user and a group, with whose rights a thread opens files.
///
/// Only the effective ids are changed. The real and the saved user id decide who may send signals (kill(2)): the user
/// as whom the threads open files must not be able to end the program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct User {
    uid: Uid,
    gid: Gid,
}

/// The id of the user `nobody` and of its group: the kernel's overflow ids.
const NOBODY: u32 = 65_534;

impl User {
    /// The user with whose rights the calling thread opens files now: its effective user and group.
    pub(crate) fn own() -> Self {
        Self { uid: geteuid(), gid: getegid() }
    }

    /// The user `nobody` and its group (id 65534 each, the kernel's overflow ids), who own no files.
    pub(crate) fn nobody() -> Self {
        Self { uid: Uid::from_raw(NOBODY), gid: Gid::from_raw(NOBODY) }
    }

    /// The owner and the group of this folder or file. The current user and group if that user is the owner, or if this
    /// thread cannot become another user.
    ///
    /// # Errors
    /// The owner of the file, or the capabilities of this thread, cannot be read.
    pub(crate) fn owner(file: impl AsFd) -> io::Result<Self> {
        let stat = fstat(file)?;
        let uid = Uid::from_raw(stat.st_uid);
        let own = Self::own();
        if uid == own.uid || !can_change()? {
            return Ok(own);
        }
        Ok(Self { uid, gid: Gid::from_raw(stat.st_gid) })
    }

    /// Makes the calling thread open files as this user, without supplementary groups. Without the capabilities for
    /// that, it stays the user that it is. In a user namespace that has no such user or group, it keeps its own, and it keeps its
    /// supplementary groups where the namespace lets nobody drop them: its files are then those of whoever made the namespace.
    ///
    /// # Errors
    /// The thread's capabilities cannot be read, or the kernel refuses to change its groups, group or user.
    pub(super) fn assume(self) -> io::Result<()> {
        if !can_change()? {
            return Ok(());
        }
        let mapped = Mapped::read();
        if mapped.drops_groups {
            set_thread_groups(&[])?;
        }
        if mapped.groups.has(self.gid.as_raw()) {
            set_thread_res_gid(None, self.gid, None)?;
        }
        // This is the last step: if the effective user id changes from 0, the kernel clears the effective capabilities,
        // which the steps before need.
        if mapped.users.has(self.uid.as_raw()) {
            set_thread_res_uid(None, self.uid, None)?;
        }
        Ok(())
    }

    /// Runs `job` in a new thread with the rights of this user and without capabilities, and returns its result: what fails
    /// here for lack of rights would also fail in a sandbox without capabilities. If the user cannot be changed because
    /// CAP_SETUID or CAP_SETGID is missing, or the user namespace has no such user, the job has the rights of the current one.
    ///
    /// # Errors
    /// The kernel refuses to change the user or the capabilities, or `job` panicked.
    ///
    /// # Panics
    /// No thread can be started.
    pub(crate) fn run<T: Send>(self, job: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let run = || {
                self.assume()?;
                privilege::keep_only(CapabilitySet::empty())?;
                Ok(job())
            };
            let panicked = |_| Err(io::Error::other("a panic while a file was opened"));
            scope.spawn(run).join().unwrap_or_else(panicked)
        })
    }
}

/// Whether this thread can become another user: it has CAP_SETUID and CAP_SETGID.
fn can_change() -> io::Result<bool> {
    Ok(capabilities(None)?.effective.contains(CapabilitySet::SETUID | CapabilitySet::SETGID))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use rustix::process::geteuid;

    use super::*;

    #[test]
    fn a_job_has_the_rights_of_its_user_and_the_caller_keeps_its_own() {
        let before = (geteuid(), capabilities(None).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let open = || File::create(folder.path().join("file")).map(drop);
        if can_change().unwrap() {
            let denied = User::nobody().run(open).unwrap().unwrap_err();
            assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
            std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let owner = User::owner(File::open(folder.path()).unwrap()).unwrap();
        owner.run(open).unwrap().unwrap();
        let made = File::open(folder.path().join("file")).unwrap();
        assert_eq!(fstat(&made).unwrap().st_uid, owner.uid.as_raw());
        assert_eq!((geteuid(), capabilities(None).unwrap()), before);
        fs::remove_file(folder.path().join("file")).unwrap();
    }

    #[test]
    fn other_users_cannot_signal_a_thread_that_became_another_user() {
        let status = User::nobody().run(|| fs::read_to_string("/proc/thread-self/status")).unwrap();
        let status = status.unwrap();
        let ids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
        let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
        let own = geteuid().as_raw();
        let effective = if can_change().unwrap() { NOBODY } else { own };
        // Real, effective, saved, and file system user id.
        assert_eq!(ids, [own, effective, own, effective]);
    }
}
