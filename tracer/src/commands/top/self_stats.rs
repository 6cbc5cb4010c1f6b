//! What the tracer's own process costs.

use std::fs;

use crate::{runtime::usage, view::reading::SelfStats};

/// What this process costs: its CPU time; with `all`, its resident memory, too, and the part of it that is the ring buffer
/// (`rss_kib`, `ring_kib`), which take longer to read. They are 0 without `all`, or if /proc/self/smaps cannot be read. All
/// other fields have their defaults.
pub(super) fn read(all: bool) -> SelfStats {
    let maps = if all { fs::read_to_string("/proc/self/smaps") } else { Ok(String::new()) };
    let (rss_kib, ring_kib) = memory(&maps.unwrap_or_default());
    SelfStats { cpu_ns: usage::cpu_ns(), rss_kib, ring_kib, ..SelfStats::default() }
}

/// Resident memory by proc_pid_smaps(5), KiB: all of it, and the part that is the mapped ring buffer.
fn memory(smaps: &str) -> (u64, u64) {
    let (mut all, mut ring, mut is_ring) = (0, 0, false);
    for line in smaps.lines() {
        let first = line.split_ascii_whitespace().next().unwrap_or_default();
        if !first.ends_with(':') {
            is_ring = line.ends_with("anon_inode:bpf-map");
        } else if let Some(rss) = line.strip_prefix("Rss:") {
            let kib: u64 = rss.trim_end_matches("kB").trim().parse().unwrap_or(0);
            all += kib;
            ring += if is_ring { kib } else { 0 };
        }
    }
    (all, ring)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_buffer_is_counted_separately() {
        let smaps = "7ff055cf6000-7ff057cf7000 r--s 00001000 00:10 1039   anon_inode:bpf-map\n\
                     Size:  32772 kB\nRss:   32772 kB\n\
                     7ff057cf7000-7ff057cf8000 rw-p 00000000 00:00 0 \nRss:  4 kB\n";
        assert_eq!(memory(smaps), (32_776, 32_772));
        assert_eq!(memory(""), (0, 0));
    }
}
