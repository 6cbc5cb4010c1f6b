//! Network namespaces: finds them, their names, and paths through which they can be entered, and enters them. They are known by
//! their inode number, as in the kernel side and the ledger.

mod discover;
mod names;
mod path;
#[cfg(test)]
mod tests;
mod worker;

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

pub use discover::{Discovery, discover};
pub use names::Names;
pub use worker::Worker;

/// The folder of `ip netns add` (ip-netns(8)).
const NAMES: &str = "/run/netns";
/// The network namespace of this process.
const OWN: &str = "/proc/self/ns/net";

/// A network namespace, and paths through which it can be entered. Keeps nothing open.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Netns {
    /// Its inode number, as `stat -L /proc/PID/ns/net` prints it.
    pub inum: u32,
    /// Its name in /run/netns; `None`: it has none.
    pub name: Option<String>,
    /// Files through which it can be entered, the longest lasting first. Each is valid as long as its mount, process,
    /// thread or open descriptor exists. What is there now is checked before it is opened: see `path`.
    pub paths: Vec<PathBuf>,
}

impl Netns {
    /// The path that is tried first; empty if there is none.
    pub fn path(&self) -> &Path {
        self.paths.first().map_or(Path::new(""), PathBuf::as_path)
    }
}

/// `4026532281 (blue)`; without a name, its first path in brackets.
impl fmt::Display for Netns {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(out, "{} ({})", self.inum, name.escape_debug()),
            None => write!(out, "{} ({})", self.inum, self.path().display()),
        }
    }
}

/// Why a `--netns` value cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// This value is no name in /run/netns, and neither a path nor a number.
    #[error("there is no network namespace {0}: give a name in {NAMES}, a path or an inode number")]
    NoName(String),
    /// No namespace with this inode number was found.
    #[error("no process and no name in {NAMES} has a network namespace with inode number {0}")]
    NoInum(u32),
    /// The namespace cannot be opened, or the search for it fails (`path` is this process's own then).
    #[error("cannot open network namespace {path}: {source}", path = path.display())]
    Open { path: PathBuf, source: io::Error },
    /// Something else is at this path.
    #[error(
        "{path} is not a network namespace: give a file in {NAMES} or a /proc/PID/ns/net",
        path = path.display()
    )]
    NotNetns { path: PathBuf },
}

/// The network namespace of this process.
///
/// # Errors
/// /proc cannot be read.
pub fn own() -> io::Result<Netns> {
    let inum = inum(&fs::metadata(OWN)?)?;
    Ok(Netns { inum, name: None, paths: vec![OWN.into()] })
}

/// Finds the namespace of a `--netns` value: a path if it has a slash, else a name in /run/netns, else an inode number.
///
/// # Errors
/// There is no such namespace, the search for it fails, or the path is something else or cannot be opened.
pub fn resolve(spec: &str) -> Result<Netns, NetnsError> {
    if spec.contains('/') {
        return at_path(PathBuf::from(spec), None);
    }
    let named = Path::new(NAMES).join(spec);
    if !matches!(spec, "" | "." | "..") && named.exists() {
        return at_path(named, Some(spec.to_owned()));
    }
    let Ok(wanted) = spec.parse() else { return Err(NetnsError::NoName(spec.to_owned())) };
    let all = discover(None).map_err(|source| NetnsError::Open { path: OWN.into(), source })?;
    all.found.into_iter().find(|netns| netns.inum == wanted).ok_or(NetnsError::NoInum(wanted))
}

fn at_path(path: PathBuf, name: Option<String>) -> Result<Netns, NetnsError> {
    match path::open(&path) {
        Ok(Some(netns)) => Ok(Netns { inum: netns.inum, name, paths: vec![path] }),
        Ok(None) => Err(NetnsError::NotNetns { path }),
        Err(source) => Err(NetnsError::Open { path, source }),
    }
}

/// The inode number of a namespace, which has 32 bits (`struct ns_common`).
fn inum(metadata: &fs::Metadata) -> io::Result<u32> {
    u32::try_from(metadata.ino()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Names and paths of a folder's entries; none if the folder cannot be read.
fn entries(folder: &Path) -> impl Iterator<Item = (String, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
}
