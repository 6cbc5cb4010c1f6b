//! Counts how often the kernel skipped a hook, as far as the kernel counts it.
//!
//! The kernel skips a BPF program that it would run nested on the same CPU (`recursion_misses`, Linux
//! 5.12; for kprobes and the tracepoints of system calls only from 6.7 on), a kprobe inside of another
//! one, and a kretprobe of which too many run (`missed` of the link, Linux 6.7).

use std::{
    fs,
    os::fd::{AsRawFd, BorrowedFd},
};

/// How often the kernel skipped a hook.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Missed {
    /// How many skips the kernel counted.
    pub counted: u64,
    /// Whether the kernel does not count the skips of some of the hooks, so that `counted` may be too low.
    pub partial: bool,
}

impl FromIterator<Option<u64>> for Missed {
    /// Adds up the counts of the hooks; `None`: the kernel does not count this one.
    fn from_iter<I: IntoIterator<Item = Option<u64>>>(counts: I) -> Self {
        counts.into_iter().fold(Self::default(), |sum, count| Self {
            counted: sum.counted.saturating_add(count.unwrap_or(0)),
            partial: sum.partial || count.is_none(),
        })
    }
}

/// How often the kernel skipped this program since it was loaded; `None`: it does not count that, or /proc cannot be read.
pub(super) fn of_program(program: BorrowedFd<'_>) -> Option<u64> {
    let path = format!("/proc/self/fdinfo/{}", program.as_raw_fd());
    recursion_misses(&fs::read_to_string(path).ok()?)
}

fn recursion_misses(fdinfo: &str) -> Option<u64> {
    field(fdinfo, "recursion_misses:")
}

/// The number after `name` at the start of a line; `None`: there is no such line, or it has no number.
pub(super) fn field(fdinfo: &str, name: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_kernel_does_not_say_how_often_a_program_was_skipped() {
        let newer =
            "pos:\t0\nprog_type:\t17\nrun_cnt:\t9\nrecursion_misses:\t3\nverified_insns:\t4\n";
        assert_eq!(recursion_misses(newer), Some(3));
        assert_eq!(recursion_misses("pos:\t0\nprog_type:\t17\nrun_cnt:\t9\n"), None);
    }

    #[test]
    fn one_hook_that_is_not_counted_makes_the_sum_partial() {
        let sum = |counts: &[Option<u64>]| counts.iter().copied().collect::<Missed>();
        assert_eq!(sum(&[]), Missed { counted: 0, partial: false });
        assert_eq!(sum(&[Some(2), Some(0), Some(5)]), Missed { counted: 7, partial: false });
        assert_eq!(sum(&[Some(2), None, Some(5)]), Missed { counted: 7, partial: true });
    }
}
