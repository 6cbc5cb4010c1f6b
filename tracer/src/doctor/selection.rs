//! The processes of `--pid` and `--cgroup`: opened once, and read in each round. Reads /proc and the cgroup hierarchy.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::scope::{Judged, Members};
use crate::{
    error::{Error, reason},
    host::{
        cgroups,
        netns::{self, Netns},
        process,
    },
    runtime::beat,
};

/// How long a look at the processes may take: less than a visit may take without a heartbeat.
const TIME: Duration = Duration::from_secs(1);
/// Through how many processes a network namespace can be entered: one of them may end.
const PATHS: usize = 4;

/// The processes and cgroups of `--pid` and `--cgroup`, each as it was when it was opened: another one of the same number or name
/// is not taken for it.
#[derive(Debug)]
pub struct Selection {
    processes: Vec<process::Opened>,
    cgroups: Vec<cgroups::Opened>,
}

impl Selection {
    /// Opens these processes (ids) and cgroups (paths). `None`: none is given.
    ///
    /// # Errors
    /// [`Error::BadConfig`]: one of them does not exist or has ended; a cgroup cannot be read, or neither it nor one below it has
    /// a process. [`Error::NoPrivilege`]: which sockets a process has open, or its network namespace, may not be read;
    /// [`Error::Failure`]: it cannot be read for another reason.
    pub fn open(pids: &[u32], cgroups: &[PathBuf]) -> Result<Option<Self>, Error> {
        let bad = |why: String| Error::BadConfig(why);
        let processes: Vec<process::Opened> = pids
            .iter()
            .map(|pid| process::Opened::open(*pid))
            .collect::<Result<_, _>>()
            .map_err(|error| bad(error.to_string()))?;
        for process in &processes {
            process.sockets(Instant::now(), |_| ()).map_err(|error| unreadable(process, &error))?;
            process.netns().map_err(|error| unreadable(process, &error))?;
        }
        let cgroups: Vec<cgroups::Opened> = cgroups
            .iter()
            .map(|path| cgroups::Opened::open(&path.to_string_lossy()))
            .collect::<Result<_, _>>()
            .map_err(|error| bad(error.to_string()))?;
        for cgroup in &cgroups {
            let path = cgroup.path.display();
            let members = cgroup.members(Instant::now() + TIME).map_err(|error| {
                bad(format!("cannot read the processes of cgroup {path}: {}", reason(&error)))
            })?;
            if members.pids.is_empty() {
                return Err(bad(format!(
                    "no process is in cgroup {path} or below it: there is nothing to judge"
                )));
            }
        }
        let none = processes.is_empty() && cgroups.is_empty();
        Ok((!none).then_some(Self { processes, cgroups }))
    }

    /// The ids and paths that were asked for, in the order of the command line.
    pub fn named(&self) -> Judged {
        let paths = self.cgroups.iter().map(|it| it.path.to_string_lossy().into_owned());
        Judged { pids: self.processes.iter().map(|it| it.pid).collect(), cgroups: paths.collect() }
    }

    /// The processes, those that they have started included, what they have open, and where they are now: what is read within
    /// little more than 1 s. [`Members::missing`] says what was not.
    pub fn read(&self) -> Members {
        let until = Instant::now() + TIME;
        let mut found = Members { by_pid: !self.processes.is_empty(), ..Members::default() };
        let mut missing: Vec<String> = Vec::new();
        let roots: BTreeSet<u32> = self.processes.iter().map(|it| it.pid).collect();
        for process in &self.processes {
            match process.netns() {
                Ok(inum) if process.runs() => {
                    found.pids.insert(process.pid);
                    add_path(&mut found.namespaces, inum, process.pid);
                }
                _ => missing.push(format!("process {} has ended", process.pid)),
            }
            if matches!(process.sockets(until, |inode| _ = found.inodes.insert(inode)), Ok(false)) {
                missing.push(LATE.to_owned());
            }
        }
        let mut others = match process::with_children(&found.pids, until) {
            Ok((all, true)) => all,
            Ok((all, false)) => {
                missing.push(LATE.to_owned());
                all
            }
            Err(error) => {
                missing.push(format!("cannot read the processes: {}", reason(&error)));
                BTreeSet::new()
            }
        };
        others.retain(|pid| !roots.contains(pid));
        let mut in_cgroups = BTreeSet::new();
        for cgroup in &self.cgroups {
            let path = cgroup.path.display();
            match cgroup.members(until) {
                Ok(members) => {
                    if members.pids.is_empty() {
                        missing.push(format!("no process is in cgroup {path} any more"));
                    }
                    if members.cut_short {
                        missing.push(LATE.to_owned());
                    }
                    found.cgroups.extend(members.cgroups);
                    in_cgroups.extend(members.pids);
                }
                Err(error) => missing.push(format!("cgroup {path}: {}", gone(&error))),
            }
        }
        others.extend(&in_cgroups);
        for pid in others {
            beat::beat();
            if until < Instant::now() {
                missing.push(LATE.to_owned());
                break;
            }
            // A process can end at any time, and one of a cgroup can be another user's: its sockets are known by the cgroup.
            let Ok(process) = process::Opened::open(pid) else { continue };
            found.pids.insert(pid);
            if in_cgroups.contains(&pid)
                && let Ok(inum) = process.netns()
            {
                add_path(&mut found.namespaces, inum, pid);
            }
            if matches!(process.sockets(until, |inode| _ = found.inodes.insert(inode)), Ok(false)) {
                missing.push(LATE.to_owned());
            }
        }
        missing.dedup();
        found.missing = (!missing.is_empty()).then(|| missing.join("; "));
        found
    }
}

/// Why something is missing if there was no time for all.
const LATE: &str = "looking at all files of the processes takes too long";

/// The network namespaces of [`Members::namespaces`], by inode number, each with its name in /run/netns (`None`: it has none
/// there) and the paths through which it can be entered.
pub fn namespaces(members: &Members) -> Vec<Netns> {
    let mut names = netns::Names::default();
    names.refresh(Instant::now());
    let all = members.namespaces.iter().map(|(inum, paths)| Netns {
        inum: *inum,
        name: names.get(*inum).map(ToString::to_string),
        paths: paths.clone(),
    });
    all.collect()
}

fn add_path(namespaces: &mut BTreeMap<u32, Vec<PathBuf>>, inum: u32, pid: u32) {
    let paths = namespaces.entry(inum).or_default();
    if paths.len() < PATHS {
        paths.push(format!("/proc/{pid}/ns/net").into());
    }
}

/// The error of a process whose sockets or network namespace cannot be read.
fn unreadable(process: &process::Opened, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Error::NoPrivilege { missing: vec!["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"] }
        }
        _ if !process.runs() => {
            Error::BadConfig(process::OpenError::NotFound(process.pid).to_string())
        }
        _ => Error::Failure(format!(
            "cannot read the sockets of process {}: {}",
            process.pid,
            reason(error)
        )),
    }
}

/// Why a cgroup cannot be read, as a text for people.
fn gone(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV) => "it was removed".to_owned(),
        _ => reason(error),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs, net::TcpListener, os::fd::AsRawFd as _, os::unix::fs::MetadataExt as _, process,
    };

    use super::*;

    #[test]
    fn a_process_has_its_sockets_its_children_and_its_namespace() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap().ino();
        let mut child = process::Command::new("sleep").arg("60").spawn().unwrap();
        let selection = Selection::open(&[process::id()], &[]).unwrap().unwrap();
        let members = selection.read();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(members.by_pid && members.missing.is_none(), "{:?}", members.missing);
        assert!(members.pids.contains(&process::id()) && members.pids.contains(&child.id()));
        assert!(members.inodes.contains(&u32::try_from(inode).unwrap()));
        let own = netns::own().unwrap();
        let there = namespaces(&members);
        assert_eq!(there.iter().map(|it| it.inum).collect::<Vec<_>>(), [own.inum]);
        assert_eq!(there[0].paths, [PathBuf::from(format!("/proc/{}/ns/net", process::id()))]);
    }

    #[test]
    fn what_does_not_exist_is_an_error_and_what_ends_later_is_said() {
        assert!(Selection::open(&[], &[]).unwrap().is_none());
        let mut child = process::Command::new("sleep").arg("60").spawn().unwrap();
        let selection = Selection::open(&[child.id()], &[]).unwrap().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let ended = format!("process {} has ended", child.id());
        let members = selection.read();
        assert_eq!(members.missing.as_deref(), Some(ended.as_str()));
        assert!(members.pids.is_empty() && members.namespaces.is_empty());
        let again = Selection::open(&[child.id()], &[]).unwrap_err();
        assert!(matches!(&again, Error::BadConfig(why) if why.contains("there is no process")));
        let cgroup = Selection::open(&[], &["/no/such/cgroup".into()]).unwrap_err();
        assert!(matches!(&cgroup, Error::BadConfig(why) if why.contains("there is no cgroup")));
    }
}
