//! Finds running proxies by the names of processes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    time::{Duration, Instant},
};

use crate::doctor::{
    config::nginx::{Listed, masters},
    finding::Process,
    logs::Program,
};

/// How many bytes of a command line are needed to know what a process of nginx does.
const TITLE: u64 = 128;
/// How many processes with the name of a proxy are looked at.
const MOST: usize = 16_384;

/// A running proxy, which is one process or several.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Found {
    pub(super) program: Program,
    /// Its master, or the only process.
    pub(super) process: Process,
    /// The ids of all its processes.
    pub(super) pids: BTreeSet<u32>,
    /// Ids of its processes that serve connections; empty: its master does.
    pub(super) workers: Vec<u32>,
    /// Inode number of its network namespace.
    pub(super) inum: u32,
}

impl Found {
    /// Its program and process, for people: `nginx (process 7)`.
    pub(super) fn named(&self) -> String {
        format!("{} (process {})", self.program.name(), self.process.pid)
    }
}

/// The proxies that were found, and what was not seen.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// Sorted by process id, those of root first: other users cannot hide them behind many of their own.
    pub(super) found: Vec<Found>,
    /// What was not seen, and why, as texts for people.
    pub(super) unread: Vec<String>,
    /// Whether more proxies would be found with CAP_SYS_PTRACE.
    pub(super) hidden: bool,
}

/// A process with the name of a proxy.
#[derive(Clone, Debug)]
struct Candidate {
    pid: u32,
    parent: u32,
    comm: Vec<u8>,
    title: Vec<u8>,
}

/// The program by the name of its process.
fn program(comm: &[u8]) -> Option<Program> {
    let all = [
        (&b"nginx"[..], Program::Nginx),
        (b"haproxy", Program::Haproxy),
        (b"squid", Program::Squid),
    ];
    all.into_iter().find(|(name, _)| comm.starts_with(name)).map(|(_, program)| program)
}

/// Finds the proxies in these network namespaces (inode numbers), by the names of their processes. After `time`, or 16,384
/// processes with such names, it ends with those that it found, and says so in [`Search::unread`].
///
/// # Errors
/// /proc cannot be read.
pub(super) fn find(inums: &BTreeSet<u32>, time: Duration) -> io::Result<Search> {
    let until = Instant::now() + time;
    let mut search = Search::default();
    let mut all: Vec<Candidate> = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        if Instant::now() > until || all.len() >= MOST {
            search.unread.push("there are too many processes: some were not looked at".into());
            break;
        }
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        all.extend(pid.and_then(candidate));
    }
    let mut found = Vec::new();
    let mut hidden = 0_u32;
    for (program, master, workers, pids) in groups(&all) {
        match fs::metadata(format!("/proc/{}/ns/net", master.pid)) {
            Ok(netns) => {
                let inum = u32::try_from(netns.ino()).unwrap_or(0);
                if inums.contains(&inum) {
                    let name = String::from_utf8_lossy(&master.comm).into_owned();
                    let process = Process { pid: master.pid, name, container: None };
                    found.push(Found { program, process, pids, workers, inum });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => hidden += 1,
            // It has ended.
            Err(_) => {}
        }
    }
    if hidden > 0 {
        search.hidden = true;
        search.unread.push(format!("{hidden} proxies of other users cannot be read"));
    }
    let of_root = |it: &Found| {
        fs::metadata(format!("/proc/{}", it.process.pid)).is_ok_and(|it| it.uid() == 0)
    };
    found.sort_by_cached_key(|it| (!of_root(it), it.process.pid));
    Ok(Search { found, ..search })
}

fn candidate(pid: u32) -> Option<Candidate> {
    let comm = read(pid, "comm", 64)?.trim_ascii_end().to_vec();
    program(&comm)?;
    let title = read(pid, "cmdline", TITLE)?;
    let stat = read(pid, "stat", 4_096)?;
    // The name is in parentheses, and can have some itself.
    let after = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = String::from_utf8_lossy(stat.get(after + 1..)?).into_owned();
    let parent = rest.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(Candidate { pid, parent, comm, title })
}

fn read(pid: u32, name: &str, most: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = fs::File::open(format!("/proc/{pid}/{name}")).ok()?;
    io::Read::read_to_end(&mut io::Read::take(file, most), &mut bytes).ok()?;
    Some(bytes)
}

type Group<'a> = (Program, &'a Candidate, Vec<u32>, BTreeSet<u32>);

/// The processes by the proxy that they belong to: its program, its master, those that serve, all of them.
fn groups(all: &[Candidate]) -> Vec<Group<'_>> {
    let by_pid: BTreeMap<u32, &Candidate> = all.iter().map(|it| (it.pid, it)).collect();
    let of = |wanted: Program| all.iter().filter(move |it| program(&it.comm) == Some(wanted));
    let children = |master: u32, of: Program| -> Vec<u32> {
        let all = all.iter().filter(|it| it.parent == master && program(&it.comm) == Some(of));
        all.map(|it| it.pid).collect()
    };
    let listed: Vec<Listed<'_>> = of(Program::Nginx)
        .map(|it| Listed {
            pid: it.pid,
            parent: it.parent,
            comm: &it.comm,
            command_line: &it.title,
        })
        .collect();
    let mut groups = Vec::new();
    for (master, workers) in masters(&listed) {
        let pids = children(master, Program::Nginx).into_iter().chain([master]).collect();
        let master = by_pid.get(&master);
        groups.extend(master.map(|master| (Program::Nginx, *master, workers, pids)));
    }
    for program in [Program::Haproxy, Program::Squid] {
        let is_child = |it: &Candidate| {
            by_pid.get(&it.parent).is_some_and(|it| self::program(&it.comm) == Some(program))
        };
        for master in of(program).filter(|it| !is_child(it)) {
            let workers = children(master.pid, program);
            let pids = workers.iter().copied().chain([master.pid]).collect();
            groups.push((program, master, workers, pids));
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32, comm: &str, title: &str) -> Candidate {
        Candidate { pid, parent, comm: comm.into(), title: title.into() }
    }

    #[test]
    fn processes_belong_to_the_proxy_whose_master_started_them() {
        let all = [
            process(10, 1, "nginx", "nginx: master process /usr/sbin/nginx"),
            process(11, 10, "nginx", "nginx: worker process"),
            process(12, 10, "nginx", "nginx: worker process is shutting down"),
            process(13, 1, "nginx", "nginx\0-c\0/a.conf\0"),
            process(20, 1, "haproxy", "haproxy\0-Ws\0"),
            process(21, 20, "haproxy", "haproxy\0-Ws\0"),
            process(22, 9, "haproxy", "haproxy\0-db\0"),
            process(30, 1, "squid", "/usr/sbin/squid\0"),
            process(31, 30, "squid", "(squid-1)\0"),
        ];
        let groups = groups(&all);
        let shown: Vec<_> = groups
            .iter()
            .map(|(_, master, workers, pids)| {
                (master.pid, workers.clone(), pids.iter().copied().collect::<Vec<_>>())
            })
            .collect();
        assert_eq!(
            shown,
            [
                (10, vec![11], vec![10, 11, 12]),
                (13, vec![], vec![13]),
                (20, vec![21], vec![20, 21]),
                (22, vec![], vec![22]),
                (30, vec![31], vec![30, 31]),
            ]
        );
        assert_eq!(program(b"nginx-debug"), Some(Program::Nginx));
        assert_eq!(program(b"curl"), None);
    }

    #[test]
    fn this_process_is_no_proxy_and_is_read_by_its_id() {
        assert!(candidate(std::process::id()).is_none());
        let found = find(&BTreeSet::new(), Duration::from_secs(10)).unwrap();
        assert_eq!(found.found, []);
    }
}
