//! The addresses of a network namespace, and when they change (rtnetlink(7)).

mod routes;
#[cfg(test)]
mod tests;
mod watch;
mod wire;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, socket_with},
};

use crate::host::netlink::{Query, Socket};
pub(super) use routes::reaches;
pub use watch::Watch;

use super::reach::Choice;

/// Interfaces, addresses or routes of one answer; a pool can have tens of thousands of addresses.
const MAX_ANSWERS: usize = 1_000_000;

/// What [`super::pool`] has to know of a network namespace.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Host {
    /// Names.
    pub interfaces: Vec<String>,
    pub addresses: Vec<HostAddress>,
    /// IPv4 addresses that no interface has, but that a route of type local makes the host's own
    /// (`ip route add local`). Only those that were asked for.
    pub routed: Vec<Ipv4Addr>,
    /// The interfaces whose addresses `--pool auto` takes. Empty until the routes were looked at.
    pub ways: Choice,
}

/// An address of an interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HostAddress {
    /// Never v4-mapped.
    pub address: IpAddr,
    pub interface: String,
    /// `RT_SCOPE_*`: 0 is global.
    pub scope: u8,
    /// [`flag`] bits.
    pub flags: u32,
}

/// Bits of [`HostAddress::flags`] (`IFA_F_*` in `include/uapi/linux/if_addr.h`).
pub mod flag {
    /// IPv6: a privacy address, which is replaced after a while. IPv4: not the first of its network.
    pub const TEMPORARY: u32 = 0x01;
    /// Can be used although it is still tentative.
    pub const OPTIMISTIC: u32 = 0x04;
    /// Duplicate address detection found another host with it.
    pub const DAD_FAILED: u32 = 0x08;
    /// Its preferred lifetime is over: not for new connections.
    pub const DEPRECATED: u32 = 0x20;
    /// Duplicate address detection has not ended.
    pub const TENTATIVE: u32 = 0x40;
}

impl Host {
    /// Asks about the network namespace of the calling thread. Of `wanted`, those that no interface
    /// has are looked up among the routes.
    pub fn read(wanted: impl IntoIterator<Item = IpAddr>) -> io::Result<Self> {
        Self::read_by(None, wanted)
    }

    /// [`Self::read`] for the network namespace of this asker, if there is one.
    pub(super) fn read_by(
        asker: Option<&Asker>,
        wanted: impl IntoIterator<Item = IpAddr>,
    ) -> io::Result<Self> {
        let links = list(asker, "interfaces", &wire::links(), wire::RTM_NEWLINK, wire::link)?;
        let names: BTreeMap<u32, String> = links.into_iter().collect();
        let found = list(asker, "addresses", &wire::addresses(), wire::RTM_NEWADDR, wire::address)?;
        let host_address = |found: wire::Address| HostAddress {
            address: found.ip,
            // It may have come after the interfaces were read.
            interface: names
                .get(&found.interface)
                .cloned()
                .unwrap_or_else(|| format!("interface {}", found.interface)),
            scope: found.scope,
            flags: found.flags,
        };
        let addresses: Vec<_> = found.into_iter().flatten().map(host_address).collect();

        let on_interface = |wanted: IpAddr| addresses.iter().any(|host| host.address == wanted);
        let missing = wanted.into_iter().filter_map(|address| match address {
            IpAddr::V4(v4) if !on_interface(address) => Some(v4),
            // IPv6 sockets bind only to addresses of an interface (ipv6_chk_addr in the kernel).
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        });
        let routed = missing.filter(|address| is_routed_here(asker, *address)).collect();
        let interfaces = names.into_values().collect();
        Ok(Self { interfaces, addresses, routed, ways: Choice::default() })
    }
}

/// A socket for questions about the network namespace that it was opened in, whichever thread asks.
/// It keeps that namespace alive.
#[derive(Debug)]
pub(super) struct Asker(Socket);

impl Asker {
    /// In the network namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self(Socket::open(None, SocketFlags::CLOEXEC, 0)?))
    }
}

fn list<T>(
    asker: Option<&Asker>,
    things: &'static str,
    request: &[u8],
    reply: u16,
    parse: fn(&[u8]) -> Option<T>,
) -> io::Result<Vec<T>> {
    let limit = MAX_ANSWERS;
    Query { name: "rtnetlink", things, protocol: None, request, reply, parse, limit }
        .answers_by(asker.map(|asker| &asker.0))
}

/// Whether the kernel takes packets to this address for its own. It says so for an address without
/// an interface too, and refuses where there is no route at all.
fn is_routed_here(asker: Option<&Asker>, address: Ipv4Addr) -> bool {
    list(
        asker,
        "routes",
        &wire::route_to(address.into(), None),
        wire::RTM_NEWROUTE,
        wire::is_local_route,
    )
    .is_ok_and(|routes| routes.contains(&true))
}

/// Whether packets to this destination, from this source or from any, find a way, in the network
/// namespace of the calling thread.
pub(super) fn has_route(destination: IpAddr, source: Option<IpAddr>) -> bool {
    list(None, "routes", &wire::route_to(destination, source), wire::RTM_NEWROUTE, wire::is_way)
        .is_ok_and(|routes| routes.contains(&true))
}

/// Whether a socket in the network namespace of the calling thread can have this address.
pub(super) fn can_be_bound(address: IpAddr) -> bool {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    // UDP, so that no port of ours is taken by looking, and one that is missing says nothing.
    let tried = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .and_then(|socket| bind(&socket, &SocketAddr::new(address, 0)));
    tried != Err(Errno::ADDRNOTAVAIL)
}
