//! What a finding is about.

use std::net::{IpAddr, SocketAddr};

use crate::host::netns::Netns;

/// A network namespace.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Place {
    /// Its inode number.
    pub inum: u32,
    /// Its name in /run/netns; `None`: it has none.
    pub name: Option<String>,
    /// Whether it is the namespace of this process.
    pub own: bool,
    /// A file through which it can be entered, such as /proc/PID/ns/net; `None`: none is known, or its name is not UTF-8.
    pub path: Option<String>,
}

impl Place {
    /// The place of this namespace. `own`: inode number of the namespace of this process.
    pub fn of(netns: &Netns, own: u32) -> Self {
        Self {
            inum: netns.inum,
            name: netns.name.clone(),
            own: netns.inum == own,
            path: netns.path().to_str().filter(|path| !path.is_empty()).map(str::to_owned),
        }
    }
}

/// A process.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Process {
    /// Its id in /proc of this process; of the caller of connect() or bind(), in the first PID namespace. 0: not known.
    pub pid: u32,
    /// Its name (/proc/PID/comm); empty: not known.
    pub name: String,
    /// Id of its container, or the name of its systemd unit; `None`: neither, or not known.
    pub container: Option<String>,
}

/// What a finding is about.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Subject {
    /// The whole host.
    Host,
    /// A network namespace.
    Netns(Place),
    /// The connections from one source address to one destination; of a NAT, those whose source it translates to this address.
    Tuple { place: Place, source: IpAddr, destination: SocketAddr },
    /// An address with a port: of a listener, or of a destination. With port 0, the address alone: bind(address, 0) takes ports
    /// there.
    Address { place: Place, address: SocketAddr },
    /// A process.
    Process(Process),
}

impl Subject {
    /// The network namespace that it is in; `None`: it is about the whole host, or about a process.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Host | Self::Process(_) => None,
            Self::Netns(place) | Self::Tuple { place, .. } | Self::Address { place, .. } => {
                Some(place)
            }
        }
    }
}
