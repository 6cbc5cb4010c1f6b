//! The tuple by which ports are counted within one network namespace.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

/// Source address, destination address and destination port of connections. [`Self::new`] makes IPv4 addresses of v4-mapped IPv6
/// addresses; a tuple that is made from its fields must have none (not checked).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Tuple {
    pub source: IpAddr,
    pub destination: SocketAddr,
}

impl Tuple {
    /// The tuple of this source and destination; v4-mapped addresses become IPv4 addresses.
    pub fn new(source: IpAddr, destination: SocketAddr) -> Self {
        let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
        Self { source: source.to_canonical(), destination }
    }
}

impl fmt::Display for Tuple {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} -> {}", self.source, self.destination)
    }
}
