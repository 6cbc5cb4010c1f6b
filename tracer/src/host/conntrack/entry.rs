//! Parses an entry of conntrack as netlink returns it (`include/uapi/linux/netfilter/nfnetlink_conntrack.h`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::host::netlink::attributes;

/// Messages of ctnetlink: `NFNL_SUBSYS_CTNETLINK` in the upper byte of the type.
pub(super) const CTNETLINK: u16 = 1 << 8;
/// `struct nfgenmsg` of a request about all address families.
pub(super) const NO_FAMILY: [u8; 4] = [0; 4];

/// Attributes of an entry.
const TUPLE_REPLY: u16 = 2;
/// Attribute of an entry: the bits of its status (`CTA_STATUS`).
pub(super) const STATUS: u16 = 3;
const PROTOINFO: u16 = 4;
const ZONE: u16 = 18;
/// Attribute of a request: which bits of the status must be as given (`CTA_STATUS_MASK`).
pub(super) const STATUS_MASK: u16 = 26;
/// Attributes of a tuple, and of its two parts.
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const TUPLE_ZONE: u16 = 3;
const IP_V4_SOURCE: u16 = 1;
const IP_V4_DESTINATION: u16 = 2;
const IP_V6_SOURCE: u16 = 3;
const IP_V6_DESTINATION: u16 = 4;
const PROTO_NUMBER: u16 = 1;
const PROTO_SOURCE_PORT: u16 = 2;
const PROTO_DESTINATION_PORT: u16 = 3;
/// Attributes of what a protocol adds.
const PROTOINFO_TCP: u16 = 1;
const TCP_STATE: u16 = 1;

/// The bit of the status of an entry whose source address or port NAT has changed.
pub(super) const IPS_SRC_NAT: u32 = 1 << 4;
/// The bits of an attribute's type that are its number; the others say how its value is written.
const NUMBER: u16 = 0x3fff;

/// Numbers of protocols that have ports.
pub mod protocol {
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
}

/// The source address, destination, protocol and zone of connections: of those that are alike in all four, no two can have the
/// same source port.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Snat {
    /// The source address that the destination sees.
    pub address: IpAddr,
    /// Where the connections go to.
    pub destination: SocketAddr,
    /// Its number in IP: one of [`protocol`], or another one.
    pub protocol: u8,
    /// The zone of conntrack; 0 unless rules set it.
    pub zone: u16,
}

/// How far a connection is, as conntrack saw it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum State {
    /// Neither of the two below: it is open, or being opened or closed; or its protocol is not TCP.
    Live,
    /// Both ends have closed the connection, in order.
    TimeWait,
    /// It was reset.
    Closed,
}

/// An entry of a connection that has ports.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Entry {
    pub(super) snat: Snat,
    /// The port that it has at the address, as its destination sees it; host byte order.
    pub(super) port: u16,
    pub(super) state: State,
    /// Whether NAT has changed its source address or port.
    pub(super) translated: bool,
}

/// The attributes up to the first damaged one, each with the number of its type, without the bits that say how its value is
/// written.
pub(super) fn numbered(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    attributes(bytes).map(|(kind, value)| (kind & NUMBER, value))
}

/// Parses an answer without its netlink header (`struct nfgenmsg`, then attributes); `None`: it is damaged, or its protocol has
/// no ports.
pub(super) fn entry(message: &[u8]) -> Option<Entry> {
    let mut reply = None;
    let (mut zone, mut status, mut state) = (0, 0, 0);
    for (kind, value) in numbered(message.get(NO_FAMILY.len()..)?) {
        match kind {
            TUPLE_REPLY => reply = Some(tuple(value)?),
            STATUS => status = be32(value)?,
            PROTOINFO => state = tcp_state(value).unwrap_or_default(),
            ZONE => zone = be16(value)?,
            _ => {}
        }
    }
    let (reply, port) = reply?;
    let state = match (reply.protocol, state) {
        (protocol::TCP, 7) => State::TimeWait,
        (protocol::TCP, 8) => State::Closed,
        _ => State::Live,
    };
    let zone = if reply.zone == 0 { zone } else { reply.zone };
    let snat = Snat { zone, ..reply };
    Some(Entry { snat, port, state, translated: status & IPS_SRC_NAT != 0 })
}

/// The direction of the answers: from the destination to the address and the port that NAT gave the connection.
fn tuple(bytes: &[u8]) -> Option<(Snat, u16)> {
    let (mut source, mut destination) = (None, None);
    let (mut protocol, mut from, mut to, mut zone) = (None, None, None, 0);
    for (kind, value) in numbered(bytes) {
        match kind {
            TUPLE_IP => {
                for (kind, value) in numbered(value) {
                    match kind {
                        IP_V4_SOURCE | IP_V6_SOURCE => source = Some(address(value)?),
                        IP_V4_DESTINATION | IP_V6_DESTINATION => {
                            destination = Some(address(value)?);
                        }
                        _ => {}
                    }
                }
            }
            TUPLE_PROTO => {
                for (kind, value) in numbered(value) {
                    match kind {
                        PROTO_NUMBER => protocol = value.first().copied(),
                        PROTO_SOURCE_PORT => from = Some(be16(value)?),
                        PROTO_DESTINATION_PORT => to = Some(be16(value)?),
                        _ => {}
                    }
                }
            }
            TUPLE_ZONE => zone = be16(value)?,
            _ => {}
        }
    }
    let (address, destination) = (destination?, SocketAddr::new(source?, from?));
    Some((Snat { address, destination, protocol: protocol?, zone }, to?))
}

fn tcp_state(protoinfo: &[u8]) -> Option<u8> {
    let (_, tcp) = numbered(protoinfo).find(|(kind, _)| *kind == PROTOINFO_TCP)?;
    let (_, state) = numbered(tcp).find(|(kind, _)| *kind == TCP_STATE)?;
    state.first().copied()
}

/// An address of 4 or 16 bytes.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(octets).into());
    }
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
}

/// The number in the first bytes, in network byte order; `None`: there are too few.
pub(super) fn be16(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.first_chunk()?))
}

/// The number in the first bytes, in network byte order; `None`: there are too few.
pub(super) fn be32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.first_chunk()?))
}
