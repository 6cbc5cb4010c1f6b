//! Key and value of the map `TOUCHED`: the ports that bind() or listen() took at some time, and when last.

/// The key of the `TOUCHED` map for a port (host byte order) of a network namespace (its inode number): the port is in the lower
/// 16 bits, the inode number in the 32 bits above them.
#[inline(always)]
pub const fn port_of(netns: u32, port: u16) -> u64 {
    (netns as u64) << 16 | port as u64
}

/// The inode number of the network namespace in a key that [`port_of`] made.
#[expect(clippy::cast_possible_truncation, reason = "the upper 16 bits are 0")]
pub const fn netns_of(port: u64) -> u32 {
    (port >> 16) as u32
}

/// Value of the `TOUCHED` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Touched {
    /// CLOCK_MONOTONIC of when bind() or listen() last took the port, ns.
    pub at_ns: u64,
    /// The owner in whose share of the table this entry is ([`crate::share::owner`]): the first that took the port.
    pub owner: u32,
    /// Changes with each use of the entry, so that a command that removes it sees whether a hook used it meanwhile.
    pub uses: u32,
}

const _: () = assert!(size_of::<Touched>() == 16);
