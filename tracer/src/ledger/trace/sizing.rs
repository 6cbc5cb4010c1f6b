//! Reads the facts about the host that decide how large the tables are: once, at the start.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    host::{capacity::PortRange, sysctl},
    ledger::sizes::{Facts, Memory, RequestedSizes},
};

/// How long TIME_WAITs are counted, namespace by namespace: those of namespaces that are not reached by then are missing.
const PATIENCE: Duration = Duration::from_millis(200);

/// Reads the facts that choosing sizes needs; only the memory if the command line sets the number of connections.
pub(super) fn facts(requested: &RequestedSizes) -> Facts {
    let memory = memory();
    if requested.conns.is_some() {
        return Facts { memory, ..Facts::default() };
    }
    let time_waits = sysctl::read("/proc/sys/net/ipv4/tcp_max_tw_buckets").ok();
    Facts {
        sockets: open_sockets().saturating_add(time_waits_now()),
        time_waits: time_waits.and_then(|text| text.trim().parse().ok()).unwrap_or(0),
        range: PortRange::read()
            .map_or(0, |range| u32::from(range.high.saturating_sub(range.low)) + 1),
        memory,
    }
}

/// A number in the line `TCP:` of a `sockstat` file; 0 if it is not there.
fn of_tcp(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"));
    let mut words = line.unwrap_or_default().split_ascii_whitespace();
    words.find(|word| *word == name);
    words.next().and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// TCP sockets of the host, without TIME_WAITs; 0 if their number cannot be read. (kernel: `alloc` counts all
/// namespaces, and IPv6, too: net/ipv4/proc.c.)
fn open_sockets() -> u64 {
    of_tcp(&fs::read_to_string("/proc/self/net/sockstat").unwrap_or_default(), "alloc")
}

/// TIME_WAITs of all namespaces that a process is in, as far as [`PATIENCE`] allows. (Their tcp_max_tw_buckets do not
/// count: any user who can make a namespace could make the tables any size.)
fn time_waits_now() -> u64 {
    let until = Instant::now() + PATIENCE;
    let mut seen = HashSet::<PathBuf>::new();
    let mut sum = 0_u64;
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if Instant::now() >= until {
            tracing::debug!(
                "the TIME_WAITs of some network namespaces were not counted: no time was left"
            );
            break;
        }
        let path = process.path();
        // An entry that is not a process has no namespace. If a process ends meanwhile, another one of its namespace
        // is read.
        let Ok(namespace) = fs::read_link(path.join("ns/net")) else { continue };
        if !seen.contains(&namespace)
            && let Ok(text) = fs::read_to_string(path.join("net/sockstat"))
        {
            sum = sum.saturating_add(of_tcp(&text, "tw"));
            seen.insert(namespace);
        }
    }
    sum
}

fn memory() -> Memory {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let bytes = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = limit(&cgroups, |file| fs::read_to_string(file).ok());
    Memory { total: bytes("MemTotal"), available: bytes("MemAvailable"), limit }
}

/// The lowest memory limit of the cgroups in the text of /proc/self/cgroup and of those above them, in bytes; `None`: no
/// limit, or none can be read. `read` returns the text of a file.
fn limit(cgroups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let mut lowest = None;
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (roots, name): (&[&str], _) = if controllers.is_empty() {
            (&["/sys/fs/cgroup", "/sys/fs/cgroup/unified"], "memory.max")
        } else if controllers.split(',').any(|one| one == "memory") {
            (&["/sys/fs/cgroup/memory"], "memory.limit_in_bytes")
        } else {
            continue;
        };
        for root in roots {
            let root = Path::new(root);
            let group = root.join(path.trim_start_matches('/'));
            for group in group.ancestors().take_while(|group| group.starts_with(root)) {
                let limit = read(&group.join(name)).and_then(|text| text.trim().parse().ok());
                lowest = lowest.into_iter().chain(limit).min();
            }
        }
    }
    lowest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_memory_and_time_waits() {
        let facts = facts(&RequestedSizes::default());
        assert!(facts.time_waits > 0 && facts.range > 0, "{facts:?}");
        assert!(facts.memory.total.unwrap() > facts.memory.available.unwrap());
    }

    #[test]
    fn open_sockets_and_time_waits_are_in_the_line_of_tcp() {
        let text =
            "sockets: used 9\nTCP: inuse 3 orphan 7 tw 2 alloc 9 mem 1\nUDP: inuse 4 mem 3\n";
        assert_eq!((of_tcp(text, "alloc"), of_tcp(text, "tw"), of_tcp(text, "none")), (9, 2, 0));
        assert_eq!(of_tcp("", "tw"), 0);
        assert_eq!(of_tcp("TCP: inuse 3 tw", "tw"), 0);
        let one = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(open_sockets() > 0);
        drop(one);
    }

    #[test]
    fn the_lowest_limit_of_all_cgroups_above_counts() {
        let read = |of: &'static [(&str, &str)]| {
            move |file: &Path| {
                let found = of.iter().find(|(name, _)| Path::new(name) == file);
                found.map(|(_, text)| (*text).to_owned())
            }
        };
        let v2 = "0::/system.slice/tracer.service\n";
        let files = read(&[
            ("/sys/fs/cgroup/system.slice/tracer.service/memory.max", "max\n"),
            ("/sys/fs/cgroup/system.slice/memory.max", "209715200\n"),
        ]);
        assert_eq!(limit(v2, files), Some(200 << 20));
        let v1 = "4:memory:/a/b\n0::/\n";
        let files = read(&[
            ("/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "1000\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        assert_eq!(limit(v1, files), Some(1000));
        assert_eq!(limit("", read(&[])), None);
        assert_eq!(limit("0::/../..\nnonsense\n", read(&[])), None);
    }
}
