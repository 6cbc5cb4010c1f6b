//! The nginx that runs in a network namespace: its workers, its version, the limit of its descriptors.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    time::{Duration, Instant},
};

use crate::{
    advise::Version,
    doctor::config::nginx::{self, Listed},
    host::{descriptors, inside::Inside, limited::within},
};

/// How many processes are looked at, and for how long.
const MOST_PROCESSES: usize = 100_000;
const TIME: Duration = Duration::from_secs(2);
/// How long all of it may take: a process decides when its command line can be read.
const LIMIT: Duration = Duration::from_secs(3);
/// Longer than the part of a title that says what a process of nginx does.
const TITLE: u64 = 256;
const COMM: u64 = 64;

/// What is known of the nginx that runs; `None`: not known.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Running {
    /// How many of its processes serve connections.
    pub(super) workers: Option<u32>,
    pub(super) version: Option<Version>,
    /// The limit of open descriptors (RLIMIT_NOFILE, soft) of the worker that has the lowest one; `None` also if it is 2^32 or
    /// more, as without a limit.
    pub(super) descriptors: Option<u32>,
}

/// The nginx in this network namespace (inode number). `Ok(None)`: none is seen, also if this process lacks the right to look, or
/// if it took longer than 3 s.
///
/// # Errors
/// Several run there: how many.
pub(super) fn nginx(netns: u32) -> Result<Option<Running>, usize> {
    let found = within(LIMIT, move || masters(netns)).unwrap_or_default();
    match &found[..] {
        [] => Ok(None),
        [(master, workers)] => Ok(Some(running(*master, workers))),
        _ => Err(found.len()),
    }
}

fn running(master: u32, workers: &[u32]) -> Running {
    // Without a master, the process does the work itself.
    let serving = if workers.is_empty() { vec![master] } else { workers.to_vec() };
    let limits = descriptors::of_processes(&serving).map(|all| all.processes).unwrap_or_default();
    let version = nginx::of_master(master, workers).ok().and_then(|nginx| nginx.version);
    Running {
        workers: u32::try_from(serving.len()).ok(),
        version: version.and_then(shortened),
        descriptors: limits.iter().map(|it| it.limit.soft).min().and_then(|it| it.try_into().ok()),
    }
}

fn shortened(version: nginx::Version) -> Option<Version> {
    let number = |number: u32| u16::try_from(number).ok();
    Some(Version(number(version.major)?, number(version.minor)?, number(version.patch)?))
}

/// The masters of nginx in this network namespace, each with its workers.
fn masters(netns: u32) -> Vec<(u32, Vec<u32>)> {
    let until = Instant::now() + TIME;
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let pids = pids.take(MOST_PROCESSES).take_while(|_| Instant::now() < until);
    let all: Vec<Process> = pids.filter_map(Process::read).collect();
    let list: Vec<Listed<'_>> = all.iter().map(Process::listed).collect();
    let here = |pid: &u32| inum(*pid).is_some_and(|inum| inum == netns);
    nginx::masters(&list).into_iter().filter(|(master, _)| here(master)).collect()
}

/// A process of nginx.
struct Process {
    pid: u32,
    parent: u32,
    comm: Vec<u8>,
    command_line: Vec<u8>,
}

impl Process {
    /// `None`: it is not of nginx, has ended, or cannot be looked at.
    fn read(pid: u32) -> Option<Self> {
        let command_line = beginning(pid, "cmdline", TITLE).ok()?;
        let comm = beginning(pid, "comm", COMM).ok()?.trim_ascii_end().to_vec();
        nginx::role(&comm, &command_line)?;
        let parent = Inside::of(pid).and_then(|it| it.parent()).ok()?;
        Some(Self { pid, parent, comm, command_line })
    }

    fn listed(&self) -> Listed<'_> {
        let Self { pid, parent, comm, command_line } = self;
        Listed { pid: *pid, parent: *parent, comm, command_line }
    }
}

/// The first bytes of a file of a process in /proc.
fn beginning(pid: u32, name: &str, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/{pid}/{name}"))?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The inode number of a process's network namespace; `None`: it has ended, or cannot be looked at.
fn inum(pid: u32) -> Option<u32> {
    fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_no_process_has_has_no_nginx() {
        assert_eq!(nginx(0), Ok(None));
    }

    #[test]
    fn a_process_without_workers_does_the_work_itself() {
        let running = running(std::process::id(), &[]);
        assert_eq!(running.workers, Some(1));
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        assert_eq!(running.descriptors, limit.and_then(|it| it.try_into().ok()));
    }

    #[test]
    fn what_is_no_nginx_is_left_out() {
        assert!(Process::read(std::process::id()).is_none());
        assert!(inum(std::process::id()).is_some() && inum(u32::MAX).is_none());
    }

    #[test]
    fn a_version_that_is_too_large_is_none() {
        let version = |patch| nginx::Version { major: 1, minor: 29, patch };
        assert_eq!(shortened(version(7)), Some(Version(1, 29, 7)));
        assert_eq!(shortened(version(70_000)), None);
    }
}
