//! Messages of rtnetlink as bytes (`include/uapi/linux/{if_link,if_addr,rtnetlink}.h`).

use std::net::{IpAddr, Ipv4Addr};

use crate::netlink::{self, AF_INET, AF_INET6, NLM_F_ACK, NLM_F_DUMP, attributes, u32_at};

pub(super) const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
pub(super) const RTM_NEWROUTE: u16 = 24;
pub(super) const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;

/// struct ifinfomsg
const LINK_LEN: usize = 16;
/// struct ifaddrmsg
const ADDRESS_LEN: usize = 8;
/// struct rtmsg
const ROUTE_LEN: usize = 12;
const IFLA_IFNAME: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const RTA_DST: u16 = 1;
const RTN_LOCAL: u8 = 2;

/// Asks for all interfaces.
pub(super) fn links() -> Vec<u8> {
    netlink::request(RTM_GETLINK, NLM_F_DUMP, &[0; LINK_LEN])
}

/// Asks for all addresses of both families.
pub(super) fn addresses() -> Vec<u8> {
    netlink::request(RTM_GETADDR, NLM_F_DUMP, &[0; ADDRESS_LEN])
}

/// Asks which way packets to this address go.
pub(super) fn route_to(address: Ipv4Addr) -> Vec<u8> {
    let mut body = vec![AF_INET, 32];
    body.resize(ROUTE_LEN, 0);
    body.extend(8_u16.to_ne_bytes());
    body.extend(RTA_DST.to_ne_bytes());
    body.extend(address.octets());
    netlink::request(RTM_GETROUTE, NLM_F_ACK, &body)
}

/// Index and name.
pub(super) fn link(bytes: &[u8]) -> Option<(u32, String)> {
    let index = u32_at(bytes, 4)?;
    let (_, name) = attributes(bytes.get(LINK_LEN..)?).find(|(kind, _)| *kind == IFLA_IFNAME)?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Some((index, String::from_utf8_lossy(name).into_owned()))
}

#[derive(Debug, Eq, PartialEq)]
pub(super) struct Address {
    pub(super) ip: IpAddr,
    /// Its index.
    pub(super) interface: u32,
    pub(super) scope: u8,
    pub(super) flags: u32,
}

/// `Some(None)`: of another family than IPv4 and IPv6.
#[expect(clippy::option_option, reason = "the outer one is for damaged messages")]
pub(super) fn address(bytes: &[u8]) -> Option<Option<Address>> {
    let [family, _, flags, scope] = *bytes.first_chunk()?;
    let interface = u32_at(bytes, 4)?;
    let (mut local, mut peer, mut flags) = (None, None, u32::from(flags));
    for (kind, value) in attributes(bytes.get(ADDRESS_LEN..)?) {
        match kind {
            IFA_LOCAL => local = Some(value),
            // On a point-to-point link this is the other end, and IFA_LOCAL is there too.
            IFA_ADDRESS => peer = Some(value),
            // All 32 bits of them, the first eight as above.
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

/// Whether the route leads to this host itself.
pub(super) fn is_local_route(bytes: &[u8]) -> Option<bool> {
    bytes.get(..ROUTE_LEN)?.get(7).map(|kind| *kind == RTN_LOCAL)
}
