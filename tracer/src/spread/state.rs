//! Writes and reads the state that an agent publishes for `tracer status`, in a file; and locks the file that lets a rule have
//! one agent only.

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
/// Longest state file, in bytes. 512 addresses with a reason each take some 100 KiB.
const LONGEST: u64 = 4 << 20;

/// What the agent knows and the maps do not say.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct State {
    /// The cgroups whose connections are spread, as `--cgroup` names them; with `--all`: `/`.
    pub cgroups: Vec<PathBuf>,
    /// Path by which the agent found the network namespace.
    #[serde(rename = "netns.path")]
    pub netns: PathBuf,
    /// Which kind of BPF programs keeps the ledger: `fexit`, `kprobe` or `tracepoint`.
    pub backend: String,
    /// First and last port of the range, both inclusive.
    pub range: (u16, u16),
    /// Why a tuple cannot get all ports of the range: `reserved`, `bound`, or both; empty: it can, or that is not known.
    #[serde(rename = "ports.taken_by")]
    pub taken_by: String,
    /// Every address of the pool, with its weight (1 to 100).
    pub pool: Vec<(IpAddr, u16)>,
    /// Addresses that are left out towards all destinations, each with the reason.
    pub left_out: Vec<(IpAddr, String)>,
    /// Cgroups of `cgroups` that do not exist now.
    pub cgroups_gone: Vec<PathBuf>,
    /// Why there are no fast ports, although they were asked for; `None`: there are, or they were not asked for.
    pub no_fast_ports: Option<String>,
    /// What does not work as well as it could, one text each.
    pub degraded: Vec<String>,
    /// Of the addresses that are left out: those that are in quarantine.
    pub quarantined: Vec<Quarantined>,
    /// Addresses that are left out towards one destination only.
    pub left_out_towards: Vec<LeftOutTowards>,
    /// Runs of hooks that the kernel skipped and counted, of all agents of the rule together.
    pub hook_missed: u64,
    /// Corrections of the ledger after comparisons with the kernel's sockets, of all agents of the rule together.
    pub drift: u64,
    /// What the routes say about the pool.
    #[serde(flatten)]
    pub notes: Notes,
}

/// An address that is left out of the whole pool until a time.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Quarantined {
    pub address: IpAddr,
    /// Why it is left out, for people.
    pub reason: String,
    /// When the quarantine ends, by CLOCK_MONOTONIC, ns.
    pub until_mono_ns: u64,
}

/// An address that is left out towards one destination.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LeftOutTowards {
    pub address: IpAddr,
    pub destination: IpAddr,
    /// Port of the destination.
    pub port: u16,
    /// Why it is left out, for people.
    pub reason: String,
    /// When the quarantine ends, by CLOCK_MONOTONIC, ns; absent: there is none, and the address is left out as long as
    /// the reason lasts (a missing route).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_mono_ns: Option<u64>,
}

fn name(rule: &str, end: &str) -> String {
    format!("spread-{rule}.{end}")
}

fn path(rule: &str, end: &str) -> PathBuf {
    Path::new(FOLDER).join(name(rule, end))
}

/// The error for a file or folder that others than root could have written.
fn untrusted(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, what.to_owned())
}

/// Opens the folder of all state and lock files.
///
/// # Errors
/// The folder cannot be opened, or others than root can change it.
fn folder() -> io::Result<OwnedFd> {
    folder_at(Path::new(FOLDER))
}

fn folder_at(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(CWD, path, flags, Mode::empty())?;
    let stat = fstat(&folder)?;
    if stat.st_uid != 0 {
        return Err(untrusted("the folder does not belong to root"));
    }
    if Mode::from_raw_mode(stat.st_mode).intersects(Mode::WGRP | Mode::WOTH) {
        return Err(untrusted("others than root can write in the folder"));
    }
    Ok(folder)
}

/// Opens the folder, after making it if there is none. A folder of root gets mode 0700, whatever the umask and
/// whatever mode it had. Files that others put into it before are no danger: `open_roots` refuses them.
///
/// # Errors
/// The folder cannot be made or opened, its mode cannot be set, or it does not belong to root.
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

/// Opens a file of the folder, if it belongs to root and nobody else can write it.
///
/// # Errors
/// The file cannot be opened; it is no regular file; others than root could have written it.
fn open_roots(folder: &OwnedFd, name: &str, flags: OFlags) -> io::Result<File> {
    // NONBLOCK: opening a FIFO would wait for a writer.
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat(folder, name, flags, FILE_MODE)?;
    let stat = fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(untrusted("it is not a regular file"));
    }
    if stat.st_uid != 0 {
        return Err(untrusted("it does not belong to root"));
    }
    if Mode::from_raw_mode(stat.st_mode).intersects(Mode::WGRP | Mode::WOTH) {
        return Err(untrusted("others than root can write it"));
    }
    Ok(File::from(file))
}

/// What was found where an agent writes its state.
#[derive(Debug)]
pub enum StateFile {
    /// There is no file.
    Nothing,
    /// There is a file, but it cannot be trusted or read; the text says why.
    Untrusted(String),
    State(Box<State>),
}

impl StateFile {
    /// The state; `None`: there is none, or it cannot be trusted or read.
    pub fn trusted(self) -> Option<State> {
        match self {
            Self::State(state) => Some(*state),
            Self::Nothing | Self::Untrusted(_) => None,
        }
    }
}

impl State {
    /// Replaces the state file of the rule with this name, in one step: a reader finds the old one or the new one.
    ///
    /// # Errors
    /// The folder cannot be made or is not root's, or the file cannot be written.
    pub fn write(&self, rule: &str) -> io::Result<()> {
        let folder = made_folder(Path::new(FOLDER))?;
        let draft = name(rule, "json.new");
        // CREATE and EXCL below make a new file, which no other process has open.
        _ = unlinkat(&folder, &draft, AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let mut file = open_roots(&folder, &draft, flags)?;
        fchmod(&file, FILE_MODE)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        Ok(renameat(&folder, &draft, &folder, name(rule, "json"))?)
    }

    /// Reads the state that the rule's newest agent published last; keys that the file lacks have their defaults. A file that
    /// others than root could have written, that has more than 4 MiB or that is no such JSON is [`StateFile::Untrusted`].
    pub fn read(rule: &str) -> StateFile {
        read_in(Path::new(FOLDER), &name(rule, "json"))
    }

    /// Removes all files of a rule; those that cannot be removed stay. Only for the holder of the rule's lock.
    pub fn remove(rule: &str) {
        let Ok(folder) = folder() else { return };
        for end in ["json", "json.new", "lock"] {
            // The file need not exist.
            _ = unlinkat(&folder, name(rule, end), AtFlags::empty());
        }
    }

    /// How many addresses of the pool are not left out towards all destinations.
    pub fn in_use(&self) -> usize {
        let is_out = |address: &IpAddr| self.left_out.iter().any(|(out, _)| out == address);
        self.pool.iter().filter(|(address, _)| !is_out(address)).count()
    }
}

/// The lock that a rule's agent holds until it ends: a record lock (fcntl(2)), so that other processes can read who holds
/// it. Dropping this ends it.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "closing it ends the lock")] File);

impl Lock {
    /// Takes the lock of a rule, without waiting for it. Not for a process that holds it already: dropping either one
    /// would end both.
    ///
    /// # Errors
    /// [`Error::AlreadyRunning`] if another process has it; the folder or the lock file cannot be made, opened or locked,
    /// or others than root could have written it.
    pub fn take(rule: &str) -> Result<Self, Error> {
        let failed = |source: io::Error| Error::File {
            tried: "lock",
            path: path(rule, "lock"),
            do_this: if source.kind() == io::ErrorKind::PermissionDenied {
                "check what it is, and remove it"
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
                // Between opening and locking, the rule may have ended and its file been removed.
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

    /// Removes the lock file, unless another process holds the lock.
    pub fn remove(rule: &str) {
        if let (Ok(_lock), Ok(folder)) = (Self::take(rule), folder()) {
            _ = unlinkat(folder, name(rule, "lock"), AtFlags::empty());
        }
    }

    /// The process, other than this one, that holds the lock; `None`: there is none, or the lock file cannot be opened or
    /// is not root's. Takes no lock. Not for the process that holds the lock: it would lose it, because closing any
    /// descriptor of the file ends a record lock (fcntl(2)).
    pub fn holder(rule: &str) -> Option<u32> {
        let file = open_roots(&folder().ok()?, &name(rule, "lock"), OFlags::RDONLY).ok()?;
        let held = fcntl_getlk(file, &Flock::from(FlockType::WriteLock)).ok()??;
        u32::try_from(held.pid?.as_raw_pid()).ok()
    }
}

/// Whether the folder still has this file under this name.
fn is_at(file: &File, folder: &OwnedFd, name: &str) -> bool {
    let inode = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
    let there = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
    fstat(file).ok().map(inode) == there.ok().map(inode)
}

fn read_in(path: &Path, name: &str) -> StateFile {
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
        Ok(state) => StateFile::State(Box::new(state)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => StateFile::Nothing,
        Err(error) => {
            let path = path.join(name);
            StateFile::Untrusted(format!("{} is not used: {error}", path.display()))
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
        let trusted = || read_in(&path, "a.json").trusted().is_some();
        fs::write(&file, "{}").unwrap();
        assert!(trusted());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(!trusted(), "written by anybody");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&file, Some(65534), None).unwrap();
        assert!(!trusted(), "of another user");
        chown(&file, Some(0), None).unwrap();
        assert!(trusted());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!trusted(), "in a folder that anybody can write");
        made_folder(&path).unwrap();
        assert!(trusted(), "root's own folder gets mode 0700");
        fs::write(&file, vec![b' '; usize::try_from(LONGEST).unwrap() + 1]).unwrap();
        assert!(!trusted(), "too long");
        fs::remove_file(&file).unwrap();
        assert!(matches!(read_in(&path, "a.json"), StateFile::Nothing));
        fs::write(path.join("b.json"), "{}").unwrap();
        symlink("b.json", &file).unwrap();
        assert!(!trusted(), "a link");
        fs::remove_file(&file).unwrap();
        rustix::fs::mkfifoat(CWD, &file, FILE_MODE).unwrap();
        assert!(!trusted(), "a FIFO");
        chown(&path, Some(65534), None).unwrap();
        assert!(made_folder(&path).is_err(), "a folder of another user");
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
