//! Network namespaces, by the inode number that the kernel and the ledger know them by.

mod names;
mod worker;

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
};

use rustix::{
    fd::AsFd,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

pub use names::Names;
pub use worker::Worker;

/// Where `ip netns add` keeps names (ip-netns(8)).
const NAMES: &str = "/run/netns";
/// The namespace of this process.
const OWN: &str = "/proc/self/ns/net";

/// A network namespace and one way to reach it. Holds nothing open.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Netns {
    /// As `stat -L /proc/PID/ns/net` shows it.
    pub inum: u32,
    /// Its name in /run/netns, if it has one.
    pub name: Option<String>,
    /// A file that leads to it, for as long as the process or the name that it belongs to lives.
    pub path: PathBuf,
}

/// Why a `--netns` value cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    #[error("there is no network namespace {0}: give a name in {NAMES}, a path or an inode number")]
    NoName(String),
    #[error("no process and no name in {NAMES} leads to a network namespace with inode number {0}")]
    NoInum(u32),
    #[error("cannot open network namespace {path}: {source}", path = path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error(
        "{path} is not a network namespace: give a file in {NAMES} or a /proc/PID/ns/net",
        path = path.display()
    )]
    NotNetns { path: PathBuf },
}

/// The namespace of this process.
pub fn own() -> io::Result<Netns> {
    let path = PathBuf::from(OWN);
    Ok(Netns { inum: inum(&fs::metadata(&path)?)?, name: None, path })
}

/// Every namespace that this thread can find: this process's own first, then those with names,
/// then those of other processes and their threads (by the first one seen in each), then those that
/// a process holds open.
pub fn discover() -> io::Result<Vec<Netns>> {
    let own = own()?;
    let device = fs::metadata(OWN)?.dev();
    let mut known = HashMap::from([(own.inum, 0_usize)]);
    let mut found = vec![own];
    let mut add = |netns: Netns| {
        if let Some(index) = known.get(&netns.inum) {
            if let Some(first) = found.get_mut(*index).filter(|first| first.name.is_none()) {
                first.name = netns.name;
            }
            return;
        }
        known.insert(netns.inum, found.len());
        found.push(netns);
    };
    for (name, path) in entries(Path::new(NAMES)) {
        // A name without a namespace mounted on it is an ordinary file.
        let metadata = fs::metadata(&path).ok().filter(|metadata| metadata.dev() == device);
        if let Some(inum) = metadata.and_then(|metadata| inum(&metadata).ok()) {
            add(Netns { inum, name: Some(name), path });
        }
    }
    for (name, path) in entries(Path::new("/proc")) {
        if !name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        // A thread can be in another namespace than its process.
        for (_, thread) in entries(&path.join("task")) {
            let path = thread.join("ns/net");
            if let Some(inum) = fs::metadata(&path).ok().and_then(|metadata| inum(&metadata).ok()) {
                add(Netns { inum, name: None, path });
            }
        }
        // One without processes in it can have sockets all the same.
        for (_, path) in entries(&path.join("fd")) {
            let link = fs::read_link(&path).unwrap_or_default();
            let inum = link.to_str().and_then(|link| link.strip_prefix("net:["));
            if let Some(inum) = inum.and_then(|rest| rest.strip_suffix(']')?.parse().ok()) {
                add(Netns { inum, name: None, path });
            }
        }
    }
    Ok(found)
}

/// The namespace that a `--netns` value means: a path (it has a slash), a name in /run/netns, or
/// an inode number.
pub fn resolve(spec: &str) -> Result<Netns, NetnsError> {
    if spec.contains('/') {
        return at_path(PathBuf::from(spec), None);
    }
    let named = Path::new(NAMES).join(spec);
    if !matches!(spec, "" | "." | "..") && named.exists() {
        return at_path(named, Some(spec.to_owned()));
    }
    let Ok(wanted) = spec.parse() else { return Err(NetnsError::NoName(spec.to_owned())) };
    let all = discover().map_err(|source| NetnsError::Open { path: OWN.into(), source })?;
    all.into_iter().find(|netns| netns.inum == wanted).ok_or(NetnsError::NoInum(wanted))
}

fn at_path(path: PathBuf, name: Option<String>) -> Result<Netns, NetnsError> {
    let failed = |path: &Path, source| NetnsError::Open { path: path.to_owned(), source };
    let file = File::open(&path).map_err(|error| failed(&path, error))?;
    let metadata = file.metadata().map_err(|error| failed(&path, error))?;
    let device = fs::metadata(OWN).map_err(|error| failed(Path::new(OWN), error))?.dev();
    if metadata.dev() != device || !can_be_entered(&file) {
        return Err(NetnsError::NotNetns { path });
    }
    let inum = inum(&metadata).map_err(|error| failed(&path, error))?;
    Ok(Netns { inum, name, path })
}

/// False if this is a namespace of another kind. Entering it is the test that needs no ioctl; it
/// is done on a thread that ends at once. Without the privilege to enter, nothing is refused.
fn can_be_entered(file: &File) -> bool {
    thread::scope(|scope| {
        let enter = || move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network));
        scope.spawn(enter).join().map_or(true, |result| result != Err(rustix::io::Errno::INVAL))
    })
}

/// Inode numbers of namespaces are 32 bits wide (`struct ns_common`).
fn inum(metadata: &fs::Metadata) -> io::Result<u32> {
    u32::try_from(metadata.ino()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Names and paths in a folder; nothing if it does not exist.
fn entries(folder: &Path) -> impl Iterator<Item = (String, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
}

#[cfg(test)]
mod tests;
