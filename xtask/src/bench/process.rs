//! CPU time, memory and BPF programs of a process, from /proc.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};

/// CPU time of all threads that the process has now, ns; from schedstat, because utime and stime of /proc/PID/stat count in steps
/// of 10 ms. The time of threads that have ended is not in it, so it can become less. Fails if the process has ended and was
/// reaped.
pub(crate) fn cpu_ns(pid: u32) -> Result<u64> {
    let tasks = format!("/proc/{pid}/task");
    let mut sum = 0;
    for task in fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))? {
        // The thread may have ended.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        sum += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

/// CPU time of the process in the kernel since it began, threads that have ended included, in clock ticks of 10 ms (stime of
/// /proc/PID/stat, proc_pid_stat(5)): precise enough for long work only. Fails if the process has ended and was reaped, or the
/// file is not understood.
pub(crate) fn system_ticks(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    parse_system_ticks(&text).with_context(|| format!("cannot understand {path}"))
}

fn parse_system_ticks(stat: &str) -> Option<u64> {
    // The name in parentheses may have spaces. stime is the 15th field.
    stat.rsplit_once(')')?.1.split_whitespace().nth(12)?.parse().ok()
}

/// Resident memory, KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) rss: u64,
    /// The part of `rss` that is anonymous memory.
    pub(crate) anon: u64,
    /// The part of `rss` that is mapped BPF ring buffers.
    pub(crate) ring: u64,
}

impl Memory {
    /// Resident memory without the ring buffers, KiB.
    pub(crate) fn without_ring(&self) -> u64 {
        self.rss.saturating_sub(self.ring)
    }
}

/// The process's resident memory now; a number that /proc does not have is 0. Fails if the process has ended.
pub(crate) fn memory(pid: u32) -> Result<Memory> {
    let read = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    };
    Ok(parse_memory(&read("status")?, &read("smaps")?))
}

fn parse_memory(status: &str, smaps: &str) -> Memory {
    let field = |name: &str| status.lines().find_map(|line| kib(line, name)).unwrap_or(0);
    let mut ring = 0;
    let mut inside = false;
    for line in smaps.lines() {
        if line.contains('-') && line.contains(" r") && !line.contains("kB") {
            inside = line.ends_with("anon_inode:bpf-map");
        } else if inside {
            ring += kib(line, "Rss:").unwrap_or(0);
        }
    }
    Memory { rss: field("VmRSS:"), anon: field("RssAnon:"), ring }
}

fn kib(line: &str, name: &str) -> Option<u64> {
    line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok()
}

/// What the kernel has counted for one BPF program; it counts only while `kernel.bpf_stats_enabled` is 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Program {
    /// The kernel's hash of the program's code, 16 hexadecimal digits.
    pub(crate) tag: String,
    /// Number of runs.
    pub(crate) runs: u64,
    /// Time of all runs, ns.
    pub(crate) ns: u64,
}

/// The BPF programs that a process has open, by id; empty if it has none. Descriptors that are closed meanwhile are left out.
/// Fails if there is no such process, or its descriptors may not be read.
pub(crate) fn programs(pid: u32) -> Result<BTreeMap<u32, Program>> {
    let dir = format!("/proc/{pid}/fdinfo");
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {dir}"))? {
        if let Ok(text) = fs::read_to_string(entry?.path()) {
            found.extend(parse_program(&text));
        }
    }
    Ok(found)
}

/// The id and counts of a BPF program in an `fdinfo`; `None` if the descriptor is not one of a program. The descriptor of a
/// link is not one, though its `fdinfo` has a `prog_id`, too.
fn parse_program(fdinfo: &str) -> Option<(u32, Program)> {
    let field = |name: &str| {
        fdinfo.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
    };
    let program = Program {
        tag: field("prog_tag")?.to_owned(),
        runs: field("run_cnt")?.parse().ok()?,
        ns: field("run_time_ns")?.parse().ok()?,
    };
    Some((field("prog_id")?.parse().ok()?, program))
}

/// Names of loaded BPF programs by tag, from the kernel's symbols: `bpf_prog_TAG_NAME`. Programs with the same code have the
/// same tag; their names are joined by `/`. Empty if /proc/kallsyms cannot be read.
pub(crate) fn program_names() -> BTreeMap<String, String> {
    let symbols = fs::read(Path::new("/proc/kallsyms")).unwrap_or_default();
    parse_names(&String::from_utf8_lossy(&symbols))
}

fn parse_names(kallsyms: &str) -> BTreeMap<String, String> {
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for line in kallsyms.lines() {
        let Some((tag, name)) = line
            .split(' ')
            .nth(2)
            .and_then(|symbol| symbol.split('\t').next()?.strip_prefix("bpf_prog_"))
            .and_then(|rest| rest.split_once('_'))
            .filter(|(tag, _)| tag.len() == 16)
        else {
            continue;
        };
        let known = names.entry(tag.to_owned()).or_insert_with(|| name.to_owned());
        if !known.split('/').any(|one| one == name) {
            known.push('/');
            known.push_str(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_is_not_part_of_the_memory_without_it() {
        let status = "VmRSS:\t   63424 kB\nRssAnon:\t   23876 kB\n";
        let smaps = "7ff055cf6000-7ff057cf7000 r--s 00001000 00:10 1039   anon_inode:bpf-map\n\
                     Size: 32772 kB\nRss:   32772 kB\n\
                     7ff057cf7000-7ff057cf8000 rw-p 00000000 00:00 0 \nRss:  4 kB\n";
        let memory = parse_memory(status, smaps);
        assert_eq!(memory, Memory { rss: 63_424, anon: 23_876, ring: 32_772 });
        assert_eq!(memory.without_ring(), 30_652);
    }

    #[test]
    fn the_system_time_is_found_behind_any_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4 1 0 0 0 40 30 0 0 20 0 1 0 5 6 7";
        assert_eq!(parse_system_ticks(stat), Some(30));
    }

    #[test]
    fn a_program_is_read_from_fdinfo_and_a_link_is_none() {
        let program = "pos:\t0\nprog_type:\t17\nprog_tag:\tc63c\nprog_id:\t45\nrun_time_ns:\t700\nrun_cnt:\t7\n";
        let expected = Program { tag: "c63c".to_owned(), runs: 7, ns: 700 };
        assert_eq!(parse_program(program), Some((45, expected)));
        assert_eq!(parse_program("link_type:\tcgroup\nprog_tag:\tc63c\nprog_id:\t45\n"), None);
    }

    #[test]
    fn programs_of_equal_code_share_their_names() {
        let symbols = "ffffffffc0 t bpf_prog_10bbeb9e40d16908_post_bind4\t[bpf]\n\
                       ffffffffc1 t bpf_prog_10bbeb9e40d16908_post_bind6\t[bpf]\n\
                       ffffffff83 t bpf_prog_iter_init\n";
        let names = parse_names(symbols);
        assert_eq!(names.len(), 1);
        assert_eq!(names["10bbeb9e40d16908"], "post_bind4/post_bind6");
    }
}
