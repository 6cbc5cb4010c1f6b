//! The processes that have sockets open, and their descriptors. Reads /proc.

use std::{
    collections::{HashMap, HashSet},
    hash::BuildHasher,
    io,
    os::unix::fs::MetadataExt,
    time::Duration,
};

use super::{
    finding::Process,
    judge::{Seen, descriptors::OfProcess, listeners::Owner},
};
use crate::{
    format::text::until_nul,
    host::{
        descriptors::{self, All},
        process::{self, ListsFiles, Search},
    },
    runtime::clock,
};

/// How long the search for the processes may take: less than a visit may take without a heartbeat.
const TIME: Duration = Duration::from_secs(1);
/// The share of its descriptors from which on a process is of interest, in percent.
const OF_INTEREST: u64 = 80;
/// Programs that may open so few descriptors are meant to: sandboxed helpers, not servers.
const FEW: u64 = 256;

/// The inodes of the sockets in these namespaces whose processes findings name: of tuples (at most 64 of each), of listeners, and
/// of sockets that are only bound.
pub fn inodes(seen: &[Seen]) -> HashSet<u32> {
    let mut all = HashSet::new();
    for seen in seen {
        all.extend(seen.now.by_ends.values().flat_map(|it| &it.inodes).copied());
        all.extend(seen.now.listeners.iter().map(|it| it.inode));
        all.extend(seen.now.idle.iter().map(|it| it.inode));
    }
    all.remove(&0);
    all
}

/// The processes that have these sockets open, by inode, as far as this thread may read /proc/PID/fd. The search ends after 1 s
/// with those that were found by then; if several processes share a socket, one of them is named. Empty: none was found. `files`:
/// as of [`Search::run`].
///
/// # Errors
/// /proc cannot be read.
pub fn owners(
    inodes: &HashSet<u32, impl BuildHasher>,
    files: Option<&dyn ListsFiles>,
) -> io::Result<HashMap<u32, Owner>> {
    let mut search = Search::default();
    search.run(inodes, TIME, files)?;
    let now = clock::monotonic_ns();
    let mut ages: HashMap<u32, Option<Duration>> = HashMap::new();
    let owner = |(inode, owner): (u32, process::Owner)| {
        let name = String::from_utf8_lossy(until_nul(&owner.comm)).into_owned();
        let process = Process { pid: owner.pid, name, container: None };
        let age = *ages.entry(owner.pid).or_insert_with(|| {
            let began = process::began_ns(owner.pid)?;
            Some(Duration::from_nanos(now.saturating_sub(began)))
        });
        (inode, Owner { process, age })
    };
    Ok(search.into_owners().into_iter().map(owner).collect())
}

/// The processes with at least 80 % of their descriptors open (of RLIMIT_NOFILE, soft). One with a limit below 256 does not
/// count: it is a sandboxed helper. `opening`: the ids of those that have connections open, or opened some in the window: only
/// these count; empty: not known, so all of the host count. [`OfProcess::failed`] is 0.
pub fn crowded(all: &All, opening: &HashSet<u32, impl BuildHasher>) -> Vec<OfProcess> {
    let crowded = all.processes.iter().filter(|it| {
        let meant = opening.is_empty() || opening.contains(&it.pid);
        let server = it.limit.soft >= FEW;
        meant && server && it.open.saturating_mul(100) >= it.limit.soft.saturating_mul(OF_INTEREST)
    });
    let named = crowded.map(|it| OfProcess {
        process: Process { pid: it.pid, name: name(it.pid), container: None },
        open: it.open,
        limit: it.limit,
        failed: 0,
    });
    named.collect()
}

/// Removes the processes that are known to be in other network namespaces than `inums` (inode numbers): what they have open is
/// not what was asked about. Those whose namespace cannot be read stay.
pub fn in_namespaces(
    crowded: Vec<OfProcess>,
    inums: &HashSet<u64, impl BuildHasher>,
) -> Vec<OfProcess> {
    let is_elsewhere = |it: &OfProcess| {
        let netns = std::fs::metadata(format!("/proc/{}/ns/net", it.process.pid));
        netns.is_ok_and(|netns| !inums.contains(&netns.ino()))
    };
    crowded.into_iter().filter(|it| !is_elsewhere(it)).collect()
}

/// The name of a process; empty if it has ended.
fn name(pid: u32) -> String {
    let text = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(text.trim_ascii_end()).into_owned()
}

/// Inode number of the network namespace of the first process found with this name (/proc/PID/comm) that belongs to the same user
/// as process 1: no other user can pretend it. `None`: there is none. If the process may not be examined, its namespace is taken
/// to be the one of this process.
pub fn netns_of(name: &str) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let of_init = |pid: u32| {
        let uid = |pid: u32| std::fs::metadata(format!("/proc/{pid}")).map(|it| it.uid()).ok();
        uid(pid) == uid(1)
    };
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let pid = pids.find(|pid: &u32| self::name(*pid) == name && of_init(*pid))?;
    let inum = |of: &str| std::fs::metadata(format!("/proc/{of}/ns/net")).map(|it| it.ino());
    let inum = inum(&pid.to_string()).or_else(|_| inum("self")).ok()?;
    u32::try_from(inum).ok()
}

/// The descriptors that these processes have open; those of all processes if `pids` is empty: 100,000 processes at most, in 1 s
/// at most.
///
/// # Errors
/// /proc cannot be read, or has no descriptors even of this process.
pub fn descriptors(pids: &HashSet<u32, impl BuildHasher>) -> io::Result<All> {
    if pids.is_empty() {
        return descriptors::all();
    }
    let pids: Vec<u32> = pids.iter().copied().collect();
    descriptors::of_processes(&pids)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, net::TcpListener, os::fd::AsRawFd, process::id};

    use super::*;
    use crate::host::descriptors::{Descriptors, Limit};

    #[test]
    fn a_socket_has_the_process_that_opened_it_with_its_age() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let inode: u32 =
            link.to_str().unwrap()["socket:[".len()..].trim_end_matches(']').parse().unwrap();
        let found = owners(&HashSet::from([inode, u32::MAX]), None).unwrap();
        let all: BTreeMap<_, _> =
            found.iter().map(|(inode, owner)| (*inode, owner.process.pid)).collect();
        assert_eq!(all, BTreeMap::from([(inode, id())]));
        assert!(found[&inode].age.is_some_and(|age| age < Duration::from_hours(1)));
        assert_eq!(found[&inode].process.name, name(id()));
    }

    #[test]
    fn only_processes_that_connect_and_have_few_descriptors_left_are_of_interest() {
        let process =
            |pid, open| Descriptors { pid, open, limit: Limit { soft: 1_000, hard: 1_000 } };
        let all = All {
            processes: vec![process(1, 800), process(2, 799), process(3, 990)],
            ..All::default()
        };
        let pids = |opening: &[u32]| -> Vec<u32> {
            let opening: HashSet<u32> = opening.iter().copied().collect();
            crowded(&all, &opening).into_iter().map(|it| it.process.pid).collect()
        };
        assert_eq!(pids(&[]), [1, 3]);
        assert_eq!(pids(&[1, 2]), [1]);
        let few = Descriptors { pid: 4, open: 8, limit: Limit { soft: 8, hard: 8 } };
        let helpers = All { processes: vec![few], ..All::default() };
        assert_eq!(
            crowded(&helpers, &HashSet::from([4])),
            [],
            "a helper that may open next to nothing"
        );
    }

    #[test]
    fn a_process_that_is_known_to_be_in_another_namespace_is_left_out() {
        let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
        let of = |pid| OfProcess {
            process: Process { pid, name: String::new(), container: None },
            open: 9,
            limit: Limit { soft: 10, hard: 10 },
            failed: 0,
        };
        let left = |inums: &[u64]| -> Vec<u32> {
            let inums: HashSet<u64> = inums.iter().copied().collect();
            let left = in_namespaces(vec![of(id()), of(u32::MAX)], &inums);
            left.iter().map(|it| it.process.pid).collect()
        };
        assert_eq!(left(&[own]), [id(), u32::MAX]);
        assert_eq!(
            left(&[own + 1]),
            [u32::MAX],
            "of a process that cannot be read, nothing is known"
        );
    }

    #[test]
    fn a_running_process_is_found_by_its_name() {
        let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
        assert_eq!(netns_of(&name(id())).map(u64::from), Some(own));
        assert_eq!(netns_of("no such process"), None);
    }
}
