//! Measures the CPU time and the memory of this process.

use rustix::{
    param::page_size,
    time::{ClockId, clock_gettime},
};

use crate::runtime::clock;

/// CPU time (user and system) of all threads of this process so far, ended ones included, ns.
pub fn cpu_ns() -> u64 {
    clock::ns(clock_gettime(ClockId::ProcessCPUTime))
}

/// Reads the page size once, which is kept for later calls. To be called before a thread enters its sandbox: before Linux
/// 6.4, rustix reads the page size from /proc/self/auxv, which another effective user may not open, and panics if it cannot.
pub(crate) fn prepare() {
    _ = page_size();
}

/// Resident memory of this process, KiB; 0 if /proc cannot be read.
pub fn rss_kib() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok().and_then(|text| {
        // proc_pid_statm(5): size resident ...
        text.split(' ').nth(1)?.parse::<u64>().ok()
    });
    pages.unwrap_or(0).saturating_mul(page_size() as u64 / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_and_memory_are_counted() {
        let (cpu, rss) = (cpu_ns(), rss_kib());
        let block = std::hint::black_box(vec![1_u8; 64 << 20]);
        assert!(cpu_ns() > cpu);
        assert!(rss_kib() >= rss + (32 << 10), "{rss} KiB before, {} after", rss_kib());
        drop(block);
    }
}
