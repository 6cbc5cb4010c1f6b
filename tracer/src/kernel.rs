//! Everything that talks to the kernel's BPF side, and what has to be known before that.

pub mod attach;
mod bpffs;
pub mod btf;
pub mod commands;
pub mod events;
pub mod facts;
mod klog;
pub mod loaded;
pub mod maps;
pub mod missed;
pub mod object;
pub mod offsets;
mod per_cpu;
mod perf;
pub mod pins;
pub mod plan;
pub mod privilege;
pub mod programs;
mod rules;
pub mod spreader;
mod sys;
