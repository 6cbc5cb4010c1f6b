#![doc = include_str!("../ARCHITECTURE.md")]

pub mod app;
pub mod bound;
pub mod capacity;
pub mod cgroups;
pub mod cli;
pub mod clock;
pub mod config;
pub mod decode;
pub mod error;
pub mod export;
pub mod kernel;
pub mod log;
mod memory;
pub mod mounts;
mod netlink;
pub mod netns;
pub mod outbound;
pub mod process;
pub mod record;
pub mod recording;
pub mod replay;
pub mod report;
pub mod seed;
pub mod shutdown;
pub mod sockdiag;
pub mod spread;
pub mod stats;
mod sysctl;
pub mod table;
#[cfg(test)]
mod test_netns;
pub mod text;
pub mod top;
pub mod trace;
pub mod tuples;
pub mod usage;
pub mod view;
