//! Whose files a thread may open.

use std::{io, os::fd::AsFd, thread};

use rustix::{
    fs::fstat,
    process::{Gid, Uid, getegid, geteuid},
    thread::{
        CapabilitySet, capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};

use crate::kernel::privilege;

/// A user and a group, as whom a thread opens files.
///
/// Only the effective ids are changed. By the real and the saved user id it is decided who may send
/// signals (kill(2)): whoever has the user id of our threads must not end the program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct User {
    uid: Uid,
    gid: Gid,
}

/// `nobody`, the overflow ids of the kernel.
const NOBODY: u32 = 65_534;

impl User {
    /// As whom this thread opens files now.
    pub(crate) fn own() -> Self {
        Self { uid: geteuid(), gid: getegid() }
    }

    /// One who owns nothing.
    pub(crate) fn nobody() -> Self {
        Self { uid: Uid::from_raw(NOBODY), gid: Gid::from_raw(NOBODY) }
    }

    /// Who owns this folder or file. For root's, and for those who cannot become another user, the one they
    /// are.
    pub(crate) fn owner(file: impl AsFd) -> io::Result<Self> {
        let stat = fstat(file)?;
        let uid = Uid::from_raw(stat.st_uid);
        let own = Self::own();
        if uid == own.uid || !can_change()? {
            return Ok(own);
        }
        Ok(Self { uid, gid: Gid::from_raw(stat.st_gid) })
    }

    /// Makes the calling thread open files as this user, without the rights of further groups. Where it has
    /// not the capabilities for that, it stays who it is.
    pub(super) fn become_it(self) -> io::Result<()> {
        if !can_change()? {
            return Ok(());
        }
        set_thread_groups(&[])?;
        set_thread_res_gid(None, self.gid, None)?;
        // Last: it takes the effective capabilities away.
        Ok(set_thread_res_uid(None, self.uid, None)?)
    }

    /// Runs this as a thread of this user will that has entered a sandbox without capabilities: what
    /// fails for want of rights here would fail there.
    pub(crate) fn run<T: Send>(self, job: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let run = || {
                self.become_it()?;
                privilege::keep_only(CapabilitySet::empty())?;
                Ok(job())
            };
            let panicked = |_| Err(io::Error::other("a panic while a file was opened"));
            scope.spawn(run).join().unwrap_or_else(panicked)
        })
    }
}

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
    fn nobody_else_can_signal_a_thread_that_became_another_user() {
        let status = User::nobody().run(|| fs::read_to_string("/proc/thread-self/status")).unwrap();
        let status = status.unwrap();
        let ids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
        let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
        let own = geteuid().as_raw();
        let effective = if can_change().unwrap() { NOBODY } else { own };
        // Real, effective, saved, of the file system.
        assert_eq!(ids, [own, effective, own, effective]);
    }
}
