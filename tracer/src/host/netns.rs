//! Network namespaces, by the inode number that the kernel and the ledger know them by.

mod discover;
mod names;
#[cfg(test)]
mod tests;
mod way;
mod worker;

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

pub use discover::{Discovery, discover};
pub use names::Names;
pub use worker::Worker;

/// Where `ip netns add` keeps names (ip-netns(8)).
const NAMES: &str = "/run/netns";
/// The namespace of this process.
const OWN: &str = "/proc/self/ns/net";

/// A network namespace and ways to reach it. Holds nothing open.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Netns {
    /// As `stat -L /proc/PID/ns/net` shows it.
    pub inum: u32,
    /// Its name in /run/netns, if it has one.
    pub name: Option<String>,
    /// Files that lead to it, for as long as the mounts and processes that they belong to live: the most
    /// lasting first. What is there now is not trusted: see `way`.
    pub ways: Vec<PathBuf>,
}

impl Netns {
    /// The way that is tried first.
    pub fn path(&self) -> &Path {
        self.ways.first().map_or(Path::new(""), PathBuf::as_path)
    }
}

/// `4026532281 (blue)`, or with the first way where it has no name.
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
    let inum = inum(&fs::metadata(OWN)?)?;
    Ok(Netns { inum, name: None, ways: vec![OWN.into()] })
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
    all.found.into_iter().find(|netns| netns.inum == wanted).ok_or(NetnsError::NoInum(wanted))
}

fn at_path(path: PathBuf, name: Option<String>) -> Result<Netns, NetnsError> {
    match way::look(&path) {
        Ok(Some(place)) => Ok(Netns { inum: place.inum, name, ways: vec![path] }),
        Ok(None) => Err(NetnsError::NotNetns { path }),
        Err(source) => Err(NetnsError::Open { path, source }),
    }
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
