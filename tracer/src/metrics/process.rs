//! What /proc says about this process.

use std::{fs, io};

use rustix::process::{Resource, getrlimit};

use crate::runtime::usage;

/// Clock ticks per second in `/proc/PID/stat` (`USER_HZ`): 100 on x86_64 and aarch64, whatever the kernel's own frequency is.
const USER_HZ: f64 = 100.0;

/// Values for the `process_*` metrics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Process {
    /// CPU time of all threads so far, ns.
    pub cpu_ns: u64,
    /// Resident memory, bytes.
    pub resident_bytes: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// How many may be open; `None`: there is no limit.
    pub max_fds: Option<u64>,
    /// When the process was started, seconds since 1970.
    pub started_s: f64,
}

impl Process {
    /// Reads the values. Takes a fraction of a millisecond.
    ///
    /// # Errors
    /// A file below /proc cannot be read, or has another form.
    pub fn read() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        let host = fs::read_to_string("/proc/stat")?;
        let started_s = started(&stat, &host).ok_or(io::ErrorKind::InvalidData)?;
        // The descriptor with which the folder is read is in it.
        let open = fs::read_dir("/proc/self/fd")?.count().saturating_sub(1);
        Ok(Self {
            cpu_ns: usage::cpu_ns(),
            resident_bytes: usage::rss_kib().saturating_mul(1024),
            open_fds: open as u64,
            max_fds: getrlimit(Resource::Nofile).current,
            started_s,
        })
    }
}

/// When a process was started, seconds since 1970. `stat`: its `/proc/PID/stat`; `host`: `/proc/stat`. `None`: one has another form.
fn started(stat: &str, host: &str) -> Option<f64> {
    // The name of the process, in parentheses, may have spaces and parentheses; field 22 of proc_pid_stat(5) is the 20th after it.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: f64 = fields.split_whitespace().nth(19)?.parse().ok()?;
    let boot: f64 =
        host.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + ticks / USER_HZ)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_read_also_of_a_process_with_an_odd_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 12 34 0 0 20 0 1 0 4250 1 2 3";
        assert_eq!(started(stat, "cpu 1\nbtime 1000\nprocesses 1\n"), Some(1042.5));
        assert_eq!((started("7 (a) S 1", "btime 1"), started(stat, "cpu 1")), (None, None));
    }

    #[test]
    fn this_process_was_started_lately_and_has_descriptors_open() {
        let process = Process::read().unwrap();
        assert!(process.open_fds >= 3 && process.max_fds.is_none_or(|max| max >= process.open_fds));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let age = now.as_secs_f64() - process.started_s;
        assert!((-2.0..3600.0).contains(&age), "{age}");
        assert!(process.cpu_ns > 0 && process.resident_bytes > 0);
    }
}
