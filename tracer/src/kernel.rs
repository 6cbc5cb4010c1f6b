//! Everything that talks to the BPF side in the kernel: finds out what the kernel offers ([`facts`], [`btf`], [`plan`]), loads
//! and attaches programs ([`mod@attach`]), reads and writes their maps ([`maps`], [`events`], [`commands`]), pins a spreader's
//! rule ([`spread`]); and drops capabilities ([`privilege`]). The other modules serve these.

pub mod attach;
mod bpffs;
pub mod btf;
pub mod commands;
mod error;
pub mod events;
pub mod facts;
pub mod fentry;
mod klog;
pub mod maps;
pub mod missed;
pub mod object;
pub mod offsets;
pub mod open_files;
mod per_cpu;
mod perf;
pub mod plan;
pub mod privilege;
pub mod programs;
pub(crate) mod run_time;
pub mod spread;
mod sys;
mod verified;
