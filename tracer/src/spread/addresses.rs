//! Asks the kernel for the interfaces, addresses and routes of a network namespace, and watches changes of its addresses
//! (rtnetlink(7)).

mod belonging;
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
pub use belonging::interface_for;
pub(super) use routes::reaches;
pub use watch::Watch;

use super::reach::AutoChoice;

/// Limit of interfaces, addresses, routes or rules in one answer of the kernel; more are an error. A host can have tens
/// of thousands of addresses, and a router has a million routes.
const MAX_ANSWERS: usize = 1_000_000;

/// The interfaces and addresses of a network namespace.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Host {
    /// Names of all interfaces.
    pub interfaces: Vec<String>,
    /// Those of all interfaces; one that several interfaces have is there several times.
    pub addresses: Vec<HostAddress>,
    /// Of the addresses that [`Self::read`] was given: the IPv4 ones that no interface has, but that a route of
    /// type local makes the host's own (`ip route add local`).
    pub routed: Vec<Ipv4Addr>,
    /// The interfaces whose addresses `--pool auto` takes. The default (none) in what [`Self::read`] returns, and if no
    /// `--pool` value is `auto`; else the caller sets it from the routes.
    pub auto: AutoChoice,
}

/// An address of an interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HostAddress {
    /// An IPv4 address is [`IpAddr::V4`], never v4-mapped.
    pub address: IpAddr,
    /// Name of the interface. If it was added after the interfaces were listed: `interface 7`, with its index.
    pub interface: String,
    /// `RT_SCOPE_*`: 0 is global, higher numbers are narrower.
    pub scope: u8,
    /// [`flag`] bits.
    pub flags: u32,
}

/// Bits of [`HostAddress::flags`] (`IFA_F_*` in `include/uapi/linux/if_addr.h`).
pub mod flag {
    /// IPv6: a privacy address, which is replaced after a while. IPv4: a secondary address, whose interface already had
    /// one of the same network.
    pub const TEMPORARY: u32 = 0x01;
    /// IPv6: the address can be used although duplicate address detection has not ended.
    pub const OPTIMISTIC: u32 = 0x04;
    /// IPv6: duplicate address detection found another host with the address.
    pub const DAD_FAILED: u32 = 0x08;
    /// The preferred lifetime of the address is over: it is not for new connections.
    pub const DEPRECATED: u32 = 0x20;
    /// IPv6: duplicate address detection has not ended, so another host may have the address.
    pub const TENTATIVE: u32 = 0x40;
}

impl Host {
    /// The interfaces and addresses of the calling thread's network namespace. The IPv4 addresses of `wanted` that no
    /// interface has are looked up in the routes, and are in [`Self::routed`] if they are the host's own; a look-up that
    /// fails counts as no.
    ///
    /// # Errors
    /// The interfaces or addresses cannot be listed, or are more than 1,000,000.
    pub fn read(wanted: impl IntoIterator<Item = IpAddr>) -> io::Result<Self> {
        Self::read_with(None, wanted)
    }

    /// [`Self::read`] for the network namespace of `socket`; `None`: the calling thread's.
    ///
    /// # Errors
    /// The interfaces or addresses cannot be listed, or are more than 1,000,000.
    pub(super) fn read_with(
        socket: Option<&QuerySocket>,
        wanted: impl IntoIterator<Item = IpAddr>,
    ) -> io::Result<Self> {
        let links = list(socket, "interfaces", &wire::links(), wire::RTM_NEWLINK, wire::link)?;
        let names: BTreeMap<u32, String> = links.into_iter().collect();
        let found =
            list(socket, "addresses", &wire::addresses(), wire::RTM_NEWADDR, wire::address)?;
        let host_address = |found: wire::Address| HostAddress {
            address: found.ip,
            // An interface without a name here was added after the interfaces were listed.
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
        let routed = missing.filter(|address| is_routed_here(socket, *address)).collect();
        let interfaces = names.into_values().collect();
        Ok(Self { interfaces, addresses, routed, auto: AutoChoice::default() })
    }
}

/// A netlink socket that answers for the network namespace in which it was opened, whichever thread asks. It keeps
/// that namespace alive.
#[derive(Debug)]
pub(super) struct QuerySocket(Socket);

impl QuerySocket {
    /// Opens such a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel makes no such socket: there is no file descriptor or no memory left, or a sandbox forbids it.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self(Socket::open(None, SocketFlags::CLOEXEC, 0)?))
    }
}

/// All answers to a request: to a dump, or to a question about one route. Asks through `socket`, so about the network
/// namespace in which it was opened; `None`: about the calling thread's. `things`: what is asked for, for errors.
/// `reply`: the type of the messages that answer. If `parse` returns `None` for a message (damaged), this is an error.
fn list<T>(
    socket: Option<&QuerySocket>,
    things: &'static str,
    request: &[u8],
    reply: u16,
    parse: fn(&[u8]) -> Option<T>,
) -> io::Result<Vec<T>> {
    let limit = MAX_ANSWERS;
    Query { name: "rtnetlink", things, protocol: None, request, reply, parse, limit }
        .answers_by(socket.map(|socket| &socket.0))
}

/// Whether the kernel accepts packets to this address as its own (a route of type local, which may name an address
/// that no interface has). False, too, if there is no route at all, or the kernel does not answer.
fn is_routed_here(socket: Option<&QuerySocket>, address: Ipv4Addr) -> bool {
    list(
        socket,
        "routes",
        &wire::route_to(address.into(), None),
        wire::RTM_NEWROUTE,
        wire::is_local_route,
    )
    .is_ok_and(|routes| routes.contains(&true))
}

/// Whether the calling thread's network namespace has a route to this destination from this source, which must be of the same
/// family (not checked); `None`: from the source that the kernel would choose. A route that refuses packets (such as blackhole)
/// counts as none. False, too, if the kernel does not answer.
pub(super) fn has_route(destination: IpAddr, source: Option<IpAddr>) -> bool {
    list(None, "routes", &wire::route_to(destination, source), wire::RTM_NEWROUTE, wire::is_usable)
        .is_ok_and(|routes| routes.contains(&true))
}

/// Whether a socket in the calling thread's network namespace can bind this address, with a port that the kernel chooses. True,
/// too, if the test fails for another reason than EADDRNOTAVAIL.
pub(super) fn can_be_bound(address: IpAddr) -> bool {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    // A UDP socket: the test takes no TCP port. A lack of free ports is another error (EADDRINUSE).
    let tried = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .and_then(|socket| bind(&socket, &SocketAddr::new(address, 0)));
    tried != Err(Errno::ADDRNOTAVAIL)
}
