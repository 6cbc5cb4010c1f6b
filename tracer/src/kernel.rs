//! Everything that talks to the BPF side in the kernel: finds out what the kernel offers, loads and attaches programs, reads and
//! writes maps, pins a spreader's rule, and gives up privileges.

pub mod attach;
mod bpffs;
pub mod btf;
pub mod commands;
mod error;
pub mod events;
pub mod facts;
mod klog;
pub mod maps;
pub mod missed;
pub mod object;
pub mod offsets;
mod per_cpu;
mod perf;
pub mod plan;
pub mod privilege;
pub mod programs;
pub mod spread;
mod sys;
mod verified;
