//! What a program on a terminal costs: CPU time and memory, from /proc, and the bytes that it writes.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::harness::pty::Pty;

/// The costs over a period of time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    /// CPU time as a part of one core: 1 is a whole core.
    pub(super) cpu: f64,
    /// The CPU time that is spent in the kernel, which is in `cpu`, too; also as a part of one core.
    pub(super) system: f64,
    /// Resident memory without mapped BPF ring buffers, KiB.
    pub(super) rss_kib: u64,
    /// Bytes written to the terminal in a second, rounded down.
    pub(super) bytes: u64,
}

/// The times from a key to its effect, µs; 0 if no key was pressed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    pub(super) median_us: u64,
    pub(super) max_us: u64,
}

impl Keys {
    /// The median (of an even number of times, the upper of the two in the middle) and the largest of these times, µs.
    pub(super) fn new(mut times: Vec<u64>) -> Self {
        times.sort_unstable();
        let at = |index: usize| times.get(index).copied().unwrap_or_default();
        Self { median_us: at(times.len() / 2), max_us: at(times.len().saturating_sub(1)) }
    }
}

/// Measures what the program on this terminal costs from now on, for this number of seconds. The memory is that at the end. An
/// error if the program has ended.
///
/// # Panics
/// If `seconds` is 0.
pub(super) fn of(pty: &Pty, seconds: u32) -> Result<Cost> {
    let now = || -> Result<_> { Ok((Instant::now(), times(pty.id())?, pty.written())) };
    let (began, before, written) = now()?;
    thread::sleep(Duration::from_secs(seconds.into()));
    let (ended, after, written_then) = now()?;
    let elapsed = (ended - began).as_secs_f64();
    let part = |ns: u64| Duration::from_nanos(ns).as_secs_f64() / elapsed;
    Ok(Cost {
        cpu: part(after.all.saturating_sub(before.all)),
        system: part(after.system.saturating_sub(before.system)),
        rss_kib: rss_kib(pty.id())?,
        bytes: (written_then - written) / u64::from(seconds),
    })
}

/// CPU time of a process, and the part of it in the kernel, ns.
#[derive(Clone, Copy, Debug)]
struct Times {
    all: u64,
    system: u64,
}

/// The CPU time is the sum of all threads' from /proc/PID/task/TID/schedstat, because /proc/PID/stat counts in steps of 10 ms.
/// The time in the kernel is from /proc/PID/stat: schedstat does not have it.
fn times(pid: u32) -> Result<Times> {
    const TICK_NS: u64 = 10_000_000;
    let tasks = format!("/proc/{pid}/task");
    let mut all = 0;
    for task in fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))? {
        // A thread that has ended since the folder was listed is left out.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        all += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
    }
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let ticks = system_ticks(&stat).with_context(|| format!("cannot understand {path}"))?;
    Ok(Times { all, system: ticks * TICK_NS })
}

/// stime, the 15th field of /proc/PID/stat, in clock ticks; `None` if there is none. The second field, the name in parentheses,
/// may have spaces and parentheses.
fn system_ticks(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(12)?.parse().ok()
}

fn rss_kib(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps");
    let smaps = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(without_ring(&smaps))
}

/// Resident memory of all mappings other than BPF maps, KiB.
fn without_ring(smaps: &str) -> u64 {
    let mut sum = 0;
    let mut ring = false;
    for line in smaps.lines() {
        let Some(rss) = line.strip_prefix("Rss:") else {
            // `7ff055cf6000-7ff057cf7000 r--s ...` begins a mapping; lines like `Size: ...` describe it.
            if !line.split(' ').next().is_some_and(|word| word.ends_with(':')) {
                ring = line.ends_with("anon_inode:bpf-map");
            }
            continue;
        };
        let kib = rss.trim().trim_end_matches(" kB").parse::<u64>();
        sum += if ring { 0 } else { kib.unwrap_or_default() };
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_without_the_ring_is_summed_up() {
        let smaps = "7f00-7f01 r-xp 00000000 08:01 5   /usr/bin/a b\n\
                     Size:  9000 kB\nRss:   8 kB\nVmFlags: rd ex\n\
                     7ff0-7ff1 r--s 00001000 00:10 1039   anon_inode:bpf-map\n\
                     Size: 32772 kB\nRss:   32772 kB\n\
                     7ff2-7ff3 rw-p 00000000 00:00 0 \nRss:  4 kB\n";
        assert_eq!(without_ring(smaps), 12);
    }

    #[test]
    fn the_system_time_is_found_behind_any_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4 1 0 0 0 40 30 0 0 20 0 1 0 5 6 7";
        assert_eq!(system_ticks(stat), Some(30));
    }

    #[test]
    fn the_median_is_in_the_middle() {
        let keys = Keys::new(vec![9, 1, 5]);
        assert_eq!((keys.median_us, keys.max_us), (5, 9));
    }
}
