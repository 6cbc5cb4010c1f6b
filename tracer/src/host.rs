//! Reads the host without BPF: its sockets and who holds them, processes, network namespaces, cgroups, port ranges and other
//! settings, NAT, limits and counters; with the helpers that this takes (netlink, files of limited size).

pub mod callers;
pub mod capacity;
pub mod cgroups;
pub mod conntrack;
pub mod counters;
pub mod descriptors;
pub mod dmi;
pub mod files;
pub mod holder;
pub mod inside;
pub mod limited;
pub mod mounts;
pub mod nat_rules;
pub(crate) mod netlink;
pub mod netns;
pub mod network_settings;
pub mod process;
pub mod sockdiag;
pub(crate) mod sockstat;
pub(crate) mod sysctl;
#[cfg(test)]
pub(crate) mod test_mutations;
#[cfg(test)]
pub(crate) mod test_netns;
