//! The host: its sockets, processes, network namespaces, cgroups and port ranges. Nothing here needs BPF.

pub mod callers;
pub mod capacity;
pub mod cgroups;
pub mod holder;
pub mod mounts;
pub(crate) mod netlink;
pub mod netns;
pub mod process;
pub mod sockdiag;
pub(crate) mod sockstat;
pub(crate) mod sysctl;
#[cfg(test)]
pub(crate) mod test_netns;
