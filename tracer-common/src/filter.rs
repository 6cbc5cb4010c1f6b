//! The filter: says which sockets have events. The ledger counts every socket; a filter only saves events.

use crate::Addr;

/// How many values of each kind a filter can have. A socket passes a kind if it matches any of its values,
/// and passes the filter if it passes every kind that has values.
pub const FILTER_VALUES: usize = 4;

/// An address prefix: `address & mask == network`. The bits of `network` outside `mask` must be 0, else no address matches. An
/// IPv4 prefix is v4-mapped, so its mask begins with 96 bits more.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Prefix {
    pub network: Addr,
    pub mask: Addr,
}

impl Prefix {
    /// Whether the address is in the prefix; always if `network` and `mask` are all 0.
    #[inline(always)]
    pub fn contains(&self, address: &Addr) -> bool {
        // Not with `map` of an array: the kernel rejects the BTF that it produces.
        let [high, low] = address.words();
        let [mask_high, mask_low] = self.mask.words();
        let [want_high, want_low] = self.network.words();
        high & mask_high == want_high && low & mask_low == want_low
    }
}

/// A range of ports, both ends included, host byte order. If `low` is above `high`, it has no port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ports {
    pub low: u16,
    pub high: u16,
}

/// A cgroup and everything below it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Cgroup {
    /// cgroup v2 id.
    pub id: u64,
    /// Depth below the root of the hierarchy (the root's is 0), for `bpf_get_current_ancestor_cgroup_id`.
    pub level: u32,
    /// Padding, always 0.
    pub zero: u32,
}

/// The one value of the `FILTER` map. Of each array, only as many values count as its `..._count` says; 0: the filter does not
/// ask for this kind.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Filter {
    pub cgroups: [Cgroup; FILTER_VALUES],
    /// Names of a thread or of its process, NUL-padded.
    pub comms: [[u8; 16]; FILTER_VALUES],
    pub sources: [Prefix; FILTER_VALUES],
    pub destinations: [Prefix; FILTER_VALUES],
    /// Processes (tgid) in the initial pid namespace.
    pub pids: [u32; FILTER_VALUES],
    /// Inode numbers of network namespaces.
    pub netns: [u32; FILTER_VALUES],
    pub destination_ports: [Ports; FILTER_VALUES],
    pub cgroup_count: u8,
    pub comm_count: u8,
    pub source_count: u8,
    pub destination_count: u8,
    pub pid_count: u8,
    pub netns_count: u8,
    pub destination_port_count: u8,
    /// 0: both families, 4: IPv4 (v4-mapped included) only, 6: IPv6 only.
    pub family: u8,
    /// 0: everything passes, and the kernel side reads nothing else of the filter. 1: at least one kind has values, or `family`
    /// is not 0.
    pub active: u8,
    /// Padding, always 0.
    pub zero: [u8; 7],
}

const _: () = assert!(size_of::<Filter>() == 64 + 64 + 128 + 128 + 16 + 16 + 16 + 16);
