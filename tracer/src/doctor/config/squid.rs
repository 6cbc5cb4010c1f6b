//! Reads the configuration of Squid, as far as it says from which addresses connections are opened, and whether they are used
//! again.
//!
//! The format is that of Squid's own reader (parseOneConfigFile in src/cache_cf.cc). Neither macros nor host names are resolved;
//! what depends on them is "not read".

mod binary;
mod reader;

use std::{
    net::{IpAddr, SocketAddr},
    time::SystemTime,
};

use super::{At, Setting, Unread};

pub use binary::{Version, path, version};
pub use reader::read;

/// What the files of one Squid say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// The lines `tcp_outgoing_address`, in their order, at most 10,000: the first that matches a request holds.
    pub outgoing: Vec<Outgoing>,
    /// `server_persistent_connections`. Default: on.
    pub persistent: Setting<bool>,
    /// The lines `cache_peer`, at most 10,000; those without a port are left out.
    pub peers: Vec<Peer>,
    pub unread: Unread,
    /// When the newest of the files was written: if that is after the process has begun, it may not be what runs. `None`: no file
    /// was read.
    pub modified: Option<SystemTime>,
}

/// A line `tcp_outgoing_address`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outgoing {
    pub address: IpAddr,
    /// The names of the access lists that a request must match, as they stand there (`!name`: must not match), the first 64.
    /// Empty: it holds for all requests.
    pub lists: Vec<String>,
    pub at: At,
}

/// A line `cache_peer`: another proxy, or a server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Its `name=`; without that, the host as it is written.
    pub name: String,
    /// `None`: it is a host name.
    pub address: Option<IpAddr>,
    /// The port for HTTP requests.
    pub port: u16,
    pub at: At,
}

impl Config {
    /// The peers at an address and port; those with a host name are not among them.
    pub fn towards(&self, destination: SocketAddr) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(move |peer| {
            peer.address == Some(destination.ip()) && peer.port == destination.port()
        })
    }
}

#[cfg(test)]
mod test_corpus;
#[cfg(test)]
mod tests;
