//! Reads the configuration and the counters of one proxy.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use super::{Config, Read, find::Found};
use crate::{
    doctor::{
        config::{
            haproxy::{self, stats},
            nginx, squid,
        },
        logs::Program,
    },
    error::reason,
    host::inside::Inside,
};

/// How many bytes of Squid's program are read.
const PROGRAM: u64 = 32 << 20;
/// How many sockets of a HAProxy are tried.
const SOCKETS: usize = 4;

/// Reads the configuration of a proxy, and the counters of a HAProxy. Returns with it why the counters could not be read, as a
/// text for people; `None`: they were, or there are none to read.
///
/// # Errors
/// Why its configuration is not known, as a text for people.
pub(super) fn read(found: Found) -> Result<(Read, Option<String>), String> {
    let pid = found.process.pid;
    let (config, inside) = match found.program {
        Program::Nginx => {
            let nginx = nginx::of_master(pid, &found.workers)?;
            (Config::Nginx(Box::new(nginx)), Inside::of(pid).map_err(text)?)
        }
        Program::Haproxy => {
            let inside = before_chroot(pid)?;
            let config = haproxy(pid, &inside)?;
            (Config::Haproxy(Box::new(config), None), inside)
        }
        Program::Squid => {
            let inside = before_chroot(pid)?;
            let (config, version) = squid(pid, &inside)?;
            (Config::Squid(Box::new(config), version), inside)
        }
    };
    let mut why = None;
    let mut first = None;
    if let Config::Haproxy(config, _) = &config
        && config.sockets.iter().any(|socket| socket.path.is_some())
    {
        match counters(&inside, config) {
            Ok(stats) => first = Some((stats, Instant::now())),
            Err(error) => why = Some(error),
        }
    }
    Ok((Read { found, config, inside: Arc::new(inside), counters: first }, why))
}

/// Asks a HAProxy for its counters, at the first 4 sockets of its configuration. `inside`: the root folder to which their paths
/// belong.
///
/// # Errors
/// Why none of its sockets answers, as a text for people.
pub(super) fn counters(inside: &Inside, config: &haproxy::Config) -> Result<stats::Stats, String> {
    let paths = config.sockets.iter().filter_map(|socket| socket.path.as_ref()).take(SOCKETS);
    let mut why = "it has no socket for commands".to_owned();
    for path in paths {
        match stats::ask(inside.root(), path) {
            Ok(answer) => return Ok(stats::parse(&answer)),
            Err(error) => why = format!("{}: {}", path.display(), reason(&error)),
        }
    }
    Err(why)
}

fn haproxy(pid: u32, inside: &Inside) -> Result<haproxy::Config, String> {
    let process = Inside::of(pid).map_err(text)?;
    let paths = haproxy::paths(&arguments(&process)?, &folder(pid));
    if paths.is_empty() {
        return Err("its command line names no configuration".into());
    }
    let config = haproxy::read(inside, &paths);
    if config.modified.is_none() {
        return Err(format!(
            "{} cannot be read",
            paths.first().map_or(Path::new(""), |it| it).display()
        ));
    }
    Ok(config)
}

fn squid(pid: u32, inside: &Inside) -> Result<(squid::Config, Option<squid::Version>), String> {
    let process = Inside::of(pid).map_err(text)?;
    let mut program = Vec::new();
    process.program().and_then(|it| it.take(PROGRAM).read_to_end(&mut program)).map_err(text)?;
    let path = squid::path(&arguments(&process)?, &folder(pid), &program);
    let path = path.ok_or("where its configuration is is not known")?;
    let config = squid::read(inside, &path);
    if config.modified.is_none() {
        return Err(format!("{} cannot be read", path.display()));
    }
    Ok((config, squid::version(&program)))
}

/// The words of a command line.
fn arguments(process: &Inside) -> Result<Vec<String>, String> {
    let line = process.command_line().map_err(text)?;
    let line = line.strip_suffix(b"\0").unwrap_or(&line);
    let words = line.split(|byte| *byte == 0);
    Ok(words.map(|word| String::from_utf8_lossy(word).into_owned()).collect())
}

/// Where relative paths of a process begin, if it has not changed that.
fn folder(pid: u32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_else(|_| PathBuf::from("/"))
}

/// The root folder that a process read its files from: its own one, or, if it has changed that (`chroot`), that of the process
/// that started it, if both see the same file systems.
///
/// # Errors
/// Neither is known, with the reason.
fn before_chroot(pid: u32) -> Result<Inside, String> {
    let process = Inside::of(pid).map_err(text)?;
    if has_first_root(pid) {
        return Ok(process);
    }
    let parent = process.parent().map_err(text)?;
    if !has_first_root(parent) || mounts(pid) != mounts(parent) || mounts(pid).is_none() {
        return Err(
            "it has changed its root folder (chroot), and its files are outside of it".into()
        );
    }
    Inside::of(parent).map_err(text)
}

/// Whether the root folder of a process is that of its mount namespace.
fn has_first_root(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/root")).is_ok_and(|root| root == Path::new("/"))
}

/// The mount namespace of a process; `None`: not known.
fn mounts(pid: u32) -> Option<u64> {
    Some(fs::metadata(format!("/proc/{pid}/ns/mnt")).ok()?.ino())
}

fn text(error: io::Error) -> String {
    reason(&error)
}
