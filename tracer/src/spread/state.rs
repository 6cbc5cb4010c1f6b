//! What an agent says of itself for `tracer status`, and the lock that keeps a rule to one agent.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, fcntl_lock},
    io::Errno,
    process::{Flock, FlockType, fcntl_getlk},
};
use serde::{Deserialize, Serialize};

use crate::error::Error;

const FOLDER: &str = "/run/tracer";

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
    /// Hooks that the kernel passed over, as far as it counts them, and corrections that the comparison with
    /// the kernel's own sockets made: of all agents of the rule together.
    pub hook_missed: u64,
    pub drift: u64,
}

/// An address that is left out for a while.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Quarantined {
    pub address: IpAddr,
    pub reason: String,
    /// CLOCK_MONOTONIC of its end, ns.
    pub until_mono_ns: u64,
}

fn path(rule: &str, end: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("spread-{rule}.{end}"))
}

impl State {
    /// Replaces what was said before, in one step.
    pub fn write(&self, rule: &str) -> io::Result<()> {
        let draft = path(rule, "json.new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&draft)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(draft, path(rule, "json"))
    }

    /// What the newest agent of this rule said; `None`: nothing, or nothing that can be read.
    pub fn read(rule: &str) -> Option<Self> {
        serde_json::from_slice(&fs::read(path(rule, "json")).ok()?).ok()
    }

    /// Leaves nothing of a rule. Only for whoever has its lock.
    pub fn remove(rule: &str) {
        for end in ["json", "json.new", "lock"] {
            // It need not be there.
            _ = fs::remove_file(path(rule, end));
        }
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
        let path = path(rule, "lock");
        let failed =
            |source| Error::File { tried: "lock", path: path.clone(), source, do_this: "" };
        fs::create_dir_all(FOLDER).map_err(failed)?;
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&path)
                .map_err(failed)?;
            match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
                // The rule may have ended in between, and its file with it.
                Ok(()) if is_at(&file, &path) => return Ok(Self(file)),
                Ok(()) => {}
                Err(Errno::AGAIN | Errno::ACCESS) => {
                    let pid = Self::holder(rule);
                    return Err(Error::AlreadyRunning { what: "an agent of this rule", pid });
                }
                Err(errno) => return Err(failed(errno.into())),
            }
        }
    }

    /// The process that acts for a rule. Changes nothing.
    pub fn holder(rule: &str) -> Option<u32> {
        let file = File::open(path(rule, "lock")).ok()?;
        let held = fcntl_getlk(file, &Flock::from(FlockType::WriteLock)).ok()??;
        u32::try_from(held.pid?.as_raw_pid()).ok()
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    file.metadata().ok().map(inode) == fs::metadata(path).ok().map(inode)
}
