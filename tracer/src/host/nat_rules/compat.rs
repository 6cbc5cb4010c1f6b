//! Parses targets of iptables in rules of nftables (`include/uapi/linux/netfilter/nf_nat.h`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    PortChoice,
    nft::{FULLY_RANDOM, IPV6},
};

/// Flags: the addresses, and the ports, are given.
const ADDRESSES: u32 = 1;
const PORTS: u32 = 2;

/// What a target gives to connections; the fields are as those of [`super::Rule`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Choice {
    pub(super) addresses: Option<(IpAddr, IpAddr)>,
    pub(super) ports: PortChoice,
    pub(super) fully_random: bool,
}

/// The choice of the target of this name and revision, in a table of this family (`NFPROTO_*`). `info`: its data in the kernel's
/// form. `None`: it is no target of source NAT, or damaged.
pub(super) fn choice(name: &[u8], family: u8, revision: u32, info: &[u8]) -> Option<Choice> {
    match (name, family, revision) {
        (b"MASQUERADE", IPV6, _) => long(info, family),
        (b"MASQUERADE", _, _) | (b"SNAT", _, 0) => short(info),
        (b"SNAT", _, _) => long(info, family),
        _ => None,
    }
}

/// `struct nf_nat_ipv4_multi_range_compat`, in network byte order except for the number of ranges, which is 1, and the flags.
fn short(info: &[u8]) -> Option<Choice> {
    let address = |at| Some(Ipv4Addr::from(bytes::<4>(info, at)?).into());
    let addresses = (address(8)?, address(12)?);
    Some(choose(flags(info, 4)?, addresses, (port(info, 16)?, port(info, 18)?)))
}

/// `struct nf_nat_range`, with which `struct nf_nat_range2` begins.
fn long(info: &[u8], family: u8) -> Option<Choice> {
    let address = |at| {
        Some(match family {
            IPV6 => Ipv6Addr::from(bytes::<16>(info, at)?).into(),
            _ => Ipv4Addr::from(bytes::<4>(info, at)?).into(),
        })
    };
    let addresses = (address(4)?, address(20)?);
    Some(choose(flags(info, 0)?, addresses, (port(info, 36)?, port(info, 38)?)))
}

fn choose(flags: u32, addresses: (IpAddr, IpAddr), (low, high): (u16, u16)) -> Choice {
    Choice {
        addresses: (flags & ADDRESSES != 0).then_some(addresses),
        ports: if flags & PORTS == 0 { PortChoice::All } else { PortChoice::Range(low, high) },
        fully_random: flags & FULLY_RANDOM != 0,
    }
}

fn bytes<const N: usize>(info: &[u8], at: usize) -> Option<[u8; N]> {
    info.get(at..)?.first_chunk().copied()
}

fn flags(info: &[u8], at: usize) -> Option<u32> {
    bytes(info, at).map(u32::from_ne_bytes)
}

fn port(info: &[u8], at: usize) -> Option<u16> {
    bytes(info, at).map(u16::from_be_bytes)
}
