//! The programs that the kernel runs: one file per backend, and files of the hooks that all backends use.
//!
//! A hook translates its arguments and calls `connect`, `bind`, `time_wait`, `rearm`, `attempt` or `spread`,
//! nothing else. Tracing hooks always return 0, and cgroup hooks let the call go on, except for the
//! spreader's with `--fail-fast`.

mod cgroup;
mod common;
mod fexit;
mod kprobe;
mod spread;
mod tracepoint;
