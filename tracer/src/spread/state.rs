//! What an agent says of itself for `tracer status`, and the lock that keeps a rule to one agent.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::IpAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, fchmod, fcntl_lock, fstat, mkdirat,
        openat, renameat, statat, unlinkat,
    },
    io::Errno,
    process::{Flock, FlockType, fcntl_getlk},
};
use serde::{Deserialize, Serialize};

use super::notes::Notes;
use crate::error::Error;

const FOLDER: &str = "/run/tracer";
const FOLDER_MODE: Mode = Mode::RWXU;
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
/// No state is longer: 512 addresses with a reason each take some 100 KiB.
const LONGEST: u64 = 4 << 20;

/// What only the agent knows.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct State {
    /// As they were named.
    pub cgroups: Vec<PathBuf>,
    /// Path by which the agent found the network namespace.
    #[serde(rename = "netns.path")]
    pub netns: PathBuf,
    pub backend: String,
    /// First and last port of the range.
    pub range: (u16, u16),
    /// What takes ports of it away from every tuple: `reserved`, `bound`, both or, empty, neither.
    #[serde(rename = "ports.taken_by")]
    pub taken_by: String,
    /// Every address of the pool, with its weight.
    pub pool: Vec<(IpAddr, u16)>,
    /// Those that are left out, and why.
    pub left_out: Vec<(IpAddr, String)>,
    /// Cgroups that are gone.
    pub cgroups_gone: Vec<PathBuf>,
    /// Why there are no fast ports, if they were wanted.
    pub no_fast_ports: Option<String>,
    pub degraded: Vec<String>,
    /// Of those that are left out: those that come back by themselves.
    pub quarantined: Vec<Quarantined>,
    /// Addresses that are left out towards one destination only.
    pub left_out_towards: Vec<LeftOutTowards>,
    /// Hooks that the kernel passed over, as far as it counts them, and corrections that the comparison with
    /// the kernel's own sockets made: of all agents of the rule together.
    pub hook_missed: u64,
    pub drift: u64,
    /// What the routes say of the pool.
    #[serde(flatten)]
    pub notes: Notes,
}

/// An address that is left out for a while.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Quarantined {
    pub address: IpAddr,
    pub reason: String,
    /// CLOCK_MONOTONIC of its end, ns.
    pub until_mono_ns: u64,
}

/// An address that is left out towards one destination.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LeftOutTowards {
    pub address: IpAddr,
    pub destination: IpAddr,
    pub port: u16,
    pub reason: String,
    /// CLOCK_MONOTONIC of its end, ns; absent: as long as the reason lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_mono_ns: Option<u64>,
}

fn name(rule: &str, end: &str) -> String {
    format!("spread-{rule}.{end}")
}

fn path(rule: &str, end: &str) -> PathBuf {
    Path::new(FOLDER).join(name(rule, end))
}

fn not_roots(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, what.to_owned())
}

/// The folder, which only root can change.
fn folder() -> io::Result<OwnedFd> {
    folder_at(Path::new(FOLDER))
}

fn folder_at(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(CWD, path, flags, Mode::empty())?;
    let stat = fstat(&folder)?;
    if stat.st_uid != 0 {
        return Err(not_roots("the folder belongs to somebody else than root"));
    }
    if Mode::from_raw_mode(stat.st_mode).intersects(Mode::WGRP | Mode::WOTH) {
        return Err(not_roots("others than root can write in the folder"));
    }
    Ok(folder)
}

/// The same; made where there is none, with a mode that does not depend on the umask. One of root's own in
/// which others could write is mended: what is in it is looked at file by file.
fn made_folder(path: &Path) -> io::Result<OwnedFd> {
    match mkdirat(CWD, path, FOLDER_MODE) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(CWD, path, flags, Mode::empty())?;
    let stat = fstat(&folder)?;
    if stat.st_uid == 0
        && Mode::from_raw_mode(stat.st_mode) & Mode::from_raw_mode(0o7777) != FOLDER_MODE
    {
        fchmod(&folder, FOLDER_MODE)?;
    }
    drop(folder);
    folder_at(path)
}

/// A file that is there, if it is root's own and nobody else can write it.
fn open_roots(folder: &OwnedFd, name: &str, flags: OFlags) -> io::Result<File> {
    // Opening a FIFO must not wait for who writes to it.
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat(folder, name, flags, FILE_MODE)?;
    let stat = fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(not_roots("it is no regular file"));
    }
    if stat.st_uid != 0 {
        return Err(not_roots("it belongs to somebody else than root"));
    }
    if Mode::from_raw_mode(stat.st_mode).intersects(Mode::WGRP | Mode::WOTH) {
        return Err(not_roots("others than root can write it"));
    }
    Ok(File::from(file))
}

/// What there is to read of an agent's state.
#[derive(Debug)]
pub enum Said {
    Nothing,
    /// Why what is there is not believed.
    Unbelievable(String),
    State(Box<State>),
}

impl Said {
    /// What can be believed.
    pub fn believed(self) -> Option<State> {
        match self {
            Self::State(state) => Some(*state),
            Self::Nothing | Self::Unbelievable(_) => None,
        }
    }
}

impl State {
    /// Replaces what was said before, in one step.
    pub fn write(&self, rule: &str) -> io::Result<()> {
        let folder = made_folder(Path::new(FOLDER))?;
        let draft = name(rule, "json.new");
        // A new file: nobody has it open.
        _ = unlinkat(&folder, &draft, AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let mut file = open_roots(&folder, &draft, flags)?;
        fchmod(&file, FILE_MODE)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        Ok(renameat(&folder, &draft, &folder, name(rule, "json"))?)
    }

    /// What the newest agent of this rule said.
    pub fn read(rule: &str) -> Said {
        read_in(Path::new(FOLDER), &name(rule, "json"))
    }

    /// Leaves nothing of a rule. Only for whoever has its lock.
    pub fn remove(rule: &str) {
        let Ok(folder) = folder() else { return };
        for end in ["json", "json.new", "lock"] {
            // It need not be there.
            _ = unlinkat(&folder, name(rule, end), AtFlags::empty());
        }
    }

    /// Addresses of the pool that are not left out.
    pub fn in_use(&self) -> usize {
        let is_out = |address: &IpAddr| self.left_out.iter().any(|(out, _)| out == address);
        self.pool.iter().filter(|(address, _)| !is_out(address)).count()
    }
}

/// The right to act for a rule, until it is dropped: a record lock (fcntl(2)), whose holder can be asked
/// for without taking it.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not used")] File);

impl Lock {
    /// # Errors
    /// [`Error::AlreadyRunning`] if another process has it.
    pub fn take(rule: &str) -> Result<Self, Error> {
        let failed = |source: io::Error| Error::File {
            tried: "lock",
            path: path(rule, "lock"),
            do_this: if source.kind() == io::ErrorKind::PermissionDenied {
                "check what is there, and remove it"
            } else {
                ""
            },
            source,
        };
        let folder = made_folder(Path::new(FOLDER)).map_err(failed)?;
        let name = name(rule, "lock");
        loop {
            let file = open_roots(&folder, &name, OFlags::RDWR | OFlags::CREATE).map_err(failed)?;
            match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
                // The rule may have ended in between, and its file with it.
                Ok(()) if is_at(&file, &folder, &name) => return Ok(Self(file)),
                Ok(()) => {}
                Err(Errno::AGAIN | Errno::ACCESS) => {
                    let pid = Self::holder(rule);
                    return Err(Error::AlreadyRunning { what: "an agent of this rule", pid });
                }
                Err(errno) => return Err(failed(errno.into())),
            }
        }
    }

    /// Removes the file of a lock that this process has, or nobody.
    pub fn remove(rule: &str) {
        if let (Ok(_lock), Ok(folder)) = (Self::take(rule), folder()) {
            _ = unlinkat(folder, name(rule, "lock"), AtFlags::empty());
        }
    }

    /// The process that acts for a rule. Changes nothing.
    pub fn holder(rule: &str) -> Option<u32> {
        let file = open_roots(&folder().ok()?, &name(rule, "lock"), OFlags::RDONLY).ok()?;
        let held = fcntl_getlk(file, &Flock::from(FlockType::WriteLock)).ok()??;
        u32::try_from(held.pid?.as_raw_pid()).ok()
    }
}

fn is_at(file: &File, folder: &OwnedFd, name: &str) -> bool {
    let inode = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
    let there = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
    fstat(file).ok().map(inode) == there.ok().map(inode)
}

fn read_in(path: &Path, name: &str) -> Said {
    let read = || -> io::Result<State> {
        let file = open_roots(&folder_at(path)?, name, OFlags::RDONLY)?;
        let mut text = Vec::new();
        file.take(LONGEST + 1).read_to_end(&mut text)?;
        if u64::try_from(text.len()).is_ok_and(|length| length > LONGEST) {
            return Err(io::Error::other("it is too long"));
        }
        Ok(serde_json::from_slice(&text)?)
    };
    match read() {
        Ok(state) => Said::State(Box::new(state)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Said::Nothing,
        Err(error) => {
            let path = path.join(name);
            Said::Unbelievable(format!("{} is not believed: {error}", path.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, chown, symlink},
    };

    use super::*;

    #[test]
    fn a_state_that_others_could_have_written_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = made_folder(&dir.path().join("run"));
        if chown(dir.path(), Some(0), None).is_err() {
            return;
        }
        let folder = path.unwrap();
        let path = dir.path().join("run");
        assert_eq!(fstat(&folder).unwrap().st_mode & 0o7777, 0o700);
        let file = path.join("a.json");
        let believed = || read_in(&path, "a.json").believed().is_some();
        fs::write(&file, "{}").unwrap();
        assert!(believed());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(!believed(), "written by anybody");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&file, Some(65534), None).unwrap();
        assert!(!believed(), "somebody else's");
        chown(&file, Some(0), None).unwrap();
        assert!(believed());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!believed(), "in a folder of everybody");
        made_folder(&path).unwrap();
        assert!(believed(), "root's own folder is mended");
        fs::write(&file, vec![b' '; usize::try_from(LONGEST).unwrap() + 1]).unwrap();
        assert!(!believed(), "too long");
        fs::remove_file(&file).unwrap();
        assert!(matches!(read_in(&path, "a.json"), Said::Nothing));
        fs::write(path.join("b.json"), "{}").unwrap();
        symlink("b.json", &file).unwrap();
        assert!(!believed(), "a link");
        fs::remove_file(&file).unwrap();
        rustix::fs::mkfifoat(CWD, &file, FILE_MODE).unwrap();
        assert!(!believed(), "a FIFO");
        chown(&path, Some(65534), None).unwrap();
        assert!(made_folder(&path).is_err(), "somebody else's folder");
    }

    #[test]
    fn addresses_in_use_are_counted_whatever_is_left_out() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let out = |text| (ip(text), "removed".to_owned());
        let state = State {
            pool: vec![(ip("10.0.0.1"), 1), (ip("10.0.0.2"), 1)],
            left_out: vec![out("10.0.0.2"), out("10.0.0.3"), out("10.0.0.4")],
            ..State::default()
        };
        assert_eq!(state.in_use(), 1);
        assert_eq!(State { pool: Vec::new(), ..state }.in_use(), 0);
    }
}
