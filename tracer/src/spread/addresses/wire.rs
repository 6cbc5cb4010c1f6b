//! Makes and parses messages of rtnetlink (`include/uapi/linux/{if_link,if_addr,rtnetlink}.h`). Numbers in them are in host byte
//! order, addresses in network byte order.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{
    host::netlink::{self, AF_INET, AF_INET6, NLM_F_ACK, NLM_F_DUMP, attributes, u16_at, u32_at},
    spread::reach::{Route, RouteAction},
};

pub(super) const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
pub(super) const RTM_NEWROUTE: u16 = 24;
pub(super) const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
pub(super) const RTM_NEWRULE: u16 = 32;
const RTM_GETRULE: u16 = 34;

/// Length of `struct ifinfomsg`, bytes.
const LINK_LEN: usize = 16;
/// Length of `struct ifaddrmsg`, bytes.
const ADDRESS_LEN: usize = 8;
/// Length of `struct rtmsg`, bytes.
const ROUTE_LEN: usize = 12;
const IFLA_IFNAME: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
/// Length of `struct rtattr`, bytes: the header of an attribute.
const ATTRIBUTE_LEN: u16 = 4;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_PREFSRC: u16 = 7;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_NH_ID: u16 = 30;
/// Length of `struct rtnexthop`, bytes: its length with its attributes (2 bytes), flags (1), hops (1), index of the
/// interface (4). Attributes follow it.
const NEXTHOP_LEN: usize = 8;
/// Flag of a request: the kernel answers with the route as the table has it, instead of the one that it derives from
/// that for one connection.
const RTM_F_FIB_MATCH: u32 = 0x2000;
pub(super) const RTN_UNICAST: u8 = 1;
pub(super) const RTN_LOCAL: u8 = 2;
/// The first of the types that refuse packets: blackhole (6), unreachable, prohibit and throw (`RTN_THROW`, 9).
const RTN_BLACKHOLE: u8 = 6;
const RTN_THROW: u8 = 9;

/// The message, with its header, that asks for all interfaces.
pub(super) fn links() -> Vec<u8> {
    netlink::request(RTM_GETLINK, NLM_F_DUMP, &[0; LINK_LEN])
}

/// The message, with its header, that asks for all addresses of both families.
pub(super) fn addresses() -> Vec<u8> {
    netlink::request(RTM_GETADDR, NLM_F_DUMP, &[0; ADDRESS_LEN])
}

/// The message, with its header, that asks for the routes of all tables: of IPv4 (`v4`), else of IPv6.
pub(super) fn routes(v4: bool) -> Vec<u8> {
    let mut body = [0; ROUTE_LEN];
    body[0] = if v4 { AF_INET } else { AF_INET6 };
    netlink::request(RTM_GETROUTE, NLM_F_DUMP, &body)
}

/// The message, with its header, that asks for the rules of policy routing: of IPv4 (`v4`), else of IPv6.
pub(super) fn rules(v4: bool) -> Vec<u8> {
    // struct fib_rule_hdr is as long as struct rtmsg, and begins as it does.
    let mut body = [0; ROUTE_LEN];
    body[0] = if v4 { AF_INET } else { AF_INET6 };
    netlink::request(RTM_GETRULE, NLM_F_DUMP, &body)
}

/// The message, with its header, that asks for the route by which packets to this destination go, as its table has it: with the
/// route's own network and all of its next hops.
pub(super) fn table_route_to(destination: IpAddr) -> Vec<u8> {
    ask_for_route(destination, None, RTM_F_FIB_MATCH)
}

/// The message, with its header, that asks for the route of a connection to this destination from this source, which must
/// be of the same family; `None`: from the source that the kernel would choose.
pub(super) fn route_to(destination: IpAddr, source: Option<IpAddr>) -> Vec<u8> {
    ask_for_route(destination, source, 0)
}

fn ask_for_route(destination: IpAddr, source: Option<IpAddr>, flags: u32) -> Vec<u8> {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let (family, bits) = if destination.is_ipv4() { (AF_INET, 32) } else { (AF_INET6, 128) };
    let mut body = vec![family, bits, source.map_or(0, |_| bits)];
    body.resize(ROUTE_LEN - 4, 0);
    body.extend(flags.to_ne_bytes());
    for (kind, address) in [(RTA_DST, Some(destination)), (RTA_SRC, source)] {
        let Some(octets) = address.map(octets) else { continue };
        body.extend((ATTRIBUTE_LEN + u16::from(bits / 8)).to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(octets);
    }
    netlink::request(RTM_GETROUTE, NLM_F_ACK, &body)
}

/// Index and name of an interface, from the payload of an RTM_NEWLINK message (`struct ifinfomsg` and attributes).
/// `None`: the message is damaged, or has no name.
pub(super) fn link(bytes: &[u8]) -> Option<(u32, String)> {
    let index = u32_at(bytes, 4)?;
    let (_, name) = attributes(bytes.get(LINK_LEN..)?).find(|(kind, _)| *kind == IFLA_IFNAME)?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Some((index, String::from_utf8_lossy(name).into_owned()))
}

/// An address of an interface, with the values of [`super::HostAddress`].
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Address {
    /// This host's own, also on a point-to-point link.
    pub(super) ip: IpAddr,
    /// Index of the interface.
    pub(super) interface: u32,
    pub(super) scope: u8,
    pub(super) flags: u32,
}

/// An address, from the payload of an RTM_NEWADDR message (`struct ifaddrmsg` and attributes). `None`: the message is
/// damaged, or has no address; `Some(None)`: it is of another family than IPv4 and IPv6.
#[expect(clippy::option_option, reason = "the outer one is for damaged messages")]
pub(super) fn address(bytes: &[u8]) -> Option<Option<Address>> {
    let [family, _, flags, scope] = *bytes.first_chunk()?;
    let interface = u32_at(bytes, 4)?;
    let (mut local, mut peer, mut flags) = (None, None, u32::from(flags));
    for (kind, value) in attributes(bytes.get(ADDRESS_LEN..)?) {
        match kind {
            IFA_LOCAL => local = Some(value),
            // On a point-to-point link, IFA_ADDRESS is the address of the other end, and IFA_LOCAL that of this host.
            IFA_ADDRESS => peer = Some(value),
            // All 32 flags; the message's header has the first eight.
            IFA_FLAGS => flags = u32_at(value, 0)?,
            _ => {}
        }
    }
    let octets = || local.or(peer);
    let ip = match family {
        AF_INET => IpAddr::from(*octets()?.first_chunk::<4>()?),
        AF_INET6 => IpAddr::from(*octets()?.first_chunk::<16>()?),
        _ => return Some(None),
    };
    Some(Some(Address { ip, interface, scope, flags }))
}

/// A route, from the payload of an RTM_NEWROUTE message (`struct rtmsg` and attributes). One without a destination is a default
/// route; without other attributes, it has no interfaces, no source and next-hop object 0. `None`: the message is damaged;
/// `Some(None)`: it is of another family than IPv4 and IPv6.
#[expect(clippy::option_option, reason = "the outer one is for damaged messages")]
pub(super) fn route(bytes: &[u8]) -> Option<Option<Route>> {
    let [family, length, _, _, table, _, _, kind] = *bytes.first_chunk()?;
    let v4 = match family {
        AF_INET => true,
        AF_INET6 => false,
        _ => return Some(None),
    };
    let mut to = if v4 { IpAddr::from([0_u8; 4]) } else { IpAddr::from([0_u8; 16]) };
    let mut table = u32::from(table);
    let mut action = RouteAction { kind, ..RouteAction::default() };
    for (kind, value) in attributes(bytes.get(ROUTE_LEN..)?) {
        match kind {
            RTA_DST => to = ip(v4, value)?,
            RTA_TABLE => table = u32_at(value, 0)?,
            RTA_OIF => action.interfaces.push(u32_at(value, 0)?),
            RTA_PREFSRC => action.source = Some(ip(v4, value)?),
            RTA_NH_ID => action.nexthop = u32_at(value, 0)?,
            RTA_MULTIPATH => action.interfaces.extend(next_hops(value)?),
            _ => {}
        }
    }
    action.interfaces.sort_unstable();
    action.interfaces.dedup();
    let network = IpNet::new(to, length).ok()?.trunc();
    Some(Some(Route { table, network, action }))
}

/// The destinations of a rule of policy routing, from the payload of an RTM_NEWRULE message (`struct fib_rule_hdr` and
/// attributes). `None`: the message is damaged; `Some(None)`: all destinations.
#[expect(clippy::option_option, reason = "the outer one is for damaged messages")]
pub(super) fn rule(bytes: &[u8]) -> Option<Option<IpNet>> {
    let [family, length] = *bytes.first_chunk()?;
    // FRA_DST has the number of RTA_DST.
    let to = attributes(bytes.get(ROUTE_LEN..)?).find(|(kind, _)| *kind == RTA_DST);
    match to {
        Some((_, octets)) if length > 0 => {
            Some(Some(IpNet::new(ip(family == AF_INET, octets)?, length).ok()?.trunc()))
        }
        _ => Some(None),
    }
}

/// Indices of the interfaces of a multipath route's next hops. `None`: the message is damaged.
fn next_hops(mut rest: &[u8]) -> Option<Vec<u32>> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let length = usize::from(u16_at(rest, 0)?);
        if length < NEXTHOP_LEN {
            return None;
        }
        found.push(u32_at(rest, 4)?);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(found)
}

fn ip(v4: bool, octets: &[u8]) -> Option<IpAddr> {
    Some(if v4 {
        IpAddr::from(*octets.first_chunk::<4>()?)
    } else {
        IpAddr::from(*octets.first_chunk::<16>()?)
    })
}

/// Whether a route is of type local: its destinations are addresses of this host. `bytes`: the payload of a message about
/// it. `None`: the message is damaged.
pub(super) fn is_local_route(bytes: &[u8]) -> Option<bool> {
    bytes.get(..ROUTE_LEN)?.get(7).map(|kind| *kind == RTN_LOCAL)
}

/// Whether a route does not refuse packets ([`is_refusal`]). `bytes`: the payload of a message about it. `None`: the
/// message is damaged.
pub(super) fn is_usable(bytes: &[u8]) -> Option<bool> {
    bytes.get(..ROUTE_LEN)?.get(7).map(|kind| !is_refusal(*kind))
}

/// Whether a route of this type (`RTN_*`) refuses packets: blackhole, unreachable, prohibit or throw.
pub(super) fn is_refusal(kind: u8) -> bool {
    (RTN_BLACKHOLE..=RTN_THROW).contains(&kind)
}
