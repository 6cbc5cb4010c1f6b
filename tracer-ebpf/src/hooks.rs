//! What the kernel tells us, and how: one file per backend, one for what all backends use.
//!
//! A hook translates its arguments and calls `connect`, `bind` or `time_wait`, nothing else.
//! Tracing hooks always return 0, and cgroup hooks let the call go on, but for the spreader with
//! `--fail-fast`.

mod cgroup;
mod common;
mod fexit;
mod kprobe;
mod spread;
mod tracepoint;
