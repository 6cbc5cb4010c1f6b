//! Keeps the program's memory small, because a tracer can run for months: one heap for all threads, and free memory is given
//! back to the kernel.

use std::{fs, os::raw::c_void};

/// Gives the memory of the start back to the kernel: some 20 MiB in which symbols and types were, which the allocator
/// would keep, and the program's pages of code and constants. (Pages that are used again are read from the program's
/// file again.) What fails is logged, or if /proc cannot be read, left out.
#[expect(unsafe_code, reason = "madvise(2)")]
pub(crate) fn release_start_memory() {
    trim();
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let program = fs::read_link("/proc/self/exe").unwrap_or_default();
    for (begin, length) in program_pages(&maps, &program.to_string_lossy()) {
        // SAFETY: these pages were never written to. They are mapped from a file that cannot be written while it runs
        // (ETXTBSY), so the next use of one reads the same bytes from there again.
        let failed = unsafe { libc::madvise(begin as *mut c_void, length, libc::MADV_DONTNEED) };
        if failed != 0 {
            tracing::debug!(
                "cannot return memory of the start: madvise: {}",
                std::io::Error::last_os_error()
            );
        }
    }
}

/// Makes all threads use one heap: of several, each would keep the memory of its busiest moment. To be called before the
/// second thread starts. If it fails, each thread has a heap of its own.
#[expect(unsafe_code, reason = "mallopt(3)")]
pub(crate) fn share_heap() {
    // SAFETY: takes numbers; no other thread allocates yet.
    let set = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    if set == 0 {
        tracing::debug!("mallopt failed: each thread has a heap of its own");
    }
}

/// Gives freed memory of the heap back to the kernel (malloc_trim(3)): a comparison with the kernel's sockets takes megabytes for
/// a moment.
#[expect(unsafe_code, reason = "malloc_trim(3)")]
pub(crate) fn trim() {
    // SAFETY: takes a number, and changes only memory that is free.
    unsafe { libc::malloc_trim(0) };
}

/// Address and length in bytes of each mapping of the file `program` that was never written to: its code, and the
/// constants before it (those after the code were relocated). `maps`: the text of /proc/PID/maps. If `program` is empty, the
/// result is empty, too.
fn program_pages(maps: &str, program: &str) -> Vec<(usize, usize)> {
    let of_program = maps.lines().filter(|line| !program.is_empty() && line.ends_with(program));
    let ranges = of_program.filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (begin, end) = fields.next()?.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        let (begin, end) = (number(begin)?, number(end)?);
        let wanted = matches!((fields.next()?, number(fields.next()?)?), ("r-xp", _) | ("r--p", 0));
        wanted.then_some((begin, end.checked_sub(begin)?))
    });
    ranges.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
55d0a0000000-55d0a0100000 r--p 00000000 fe:00 77   /usr/bin/tracer
55d0a0100000-55d0a0900000 r-xp 00100000 fe:00 77   /usr/bin/tracer
55d0a0900000-55d0a0a00000 r--p 00900000 fe:00 77   /usr/bin/tracer
55d0a0a00000-55d0a0b00000 rw-p 00a00000 fe:00 77   /usr/bin/tracer
7f0000000000-7f0000100000 r-xp 00000000 fe:00 78   /usr/lib/libc.so.6
";

    #[test]
    fn only_the_programs_own_code_and_constants_are_released() {
        let expected = [(0x55d0_a000_0000, 0x10_0000), (0x55d0_a010_0000, 0x80_0000)];
        assert_eq!(program_pages(MAPS, "/usr/bin/tracer"), expected);
        assert_eq!(program_pages(MAPS, ""), []);
    }

    #[test]
    fn code_that_was_released_runs_again() {
        for _ in 0..3 {
            release_start_memory();
            assert_eq!(program_pages(MAPS, "/usr/bin/other"), []);
        }
    }
}
