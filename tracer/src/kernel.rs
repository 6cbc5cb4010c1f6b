//! Everything that talks to the BPF side in the kernel, and what must be known about the kernel before that.

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
