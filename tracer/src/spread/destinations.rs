//! Parses and checks `--to`: the networks and ports to which connections are spread. No I/O.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tracer_common::{
    Addr,
    filter::{Ports, Prefix},
    spread::{DESTINATIONS_MAX, Destination},
};

use super::{
    pool::{PoolAddress, to_addr},
    reach,
};
use crate::cli::{network, ports};

const ALL_PORTS: Ports = Ports { low: 1, high: u16::MAX };
/// Every address of both families, with every port.
pub const ALL: Destination = Destination {
    prefix: Prefix { network: Addr::UNSPECIFIED, mask: Addr::UNSPECIFIED },
    ports: ALL_PORTS,
    exempt: 0,
};
/// Length of the prefix that all v4-mapped addresses have, in bits.
const V4_LENGTH: u32 = 96;

/// One `--to` value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// The value as it was written.
    pub text: String,
    /// What the value means, in the form that the hooks compare.
    pub destination: Destination,
}

/// A `--to` value that cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("--to {text}: {reason}")]
pub struct TargetError {
    /// The value as it was written.
    pub text: String,
    /// Why it cannot be used, and what to do.
    pub reason: String,
}

/// Parses all `--to` values, in their order; an empty list means every destination.
///
/// # Errors
/// A value that is neither `*` nor an address or network, with or without ports; an IPv6 network that contains the
/// v4-mapped addresses; more than [`DESTINATIONS_MAX`] (16) values.
pub fn parse(texts: &[String]) -> Result<Vec<Target>, TargetError> {
    if let Some(text) = texts.get(DESTINATIONS_MAX) {
        let reason = format!(
            "a rule takes at most {DESTINATIONS_MAX} destinations, and these are {}; write wider \
             networks, or another rule (--rule NAME) for the rest",
            texts.len()
        );
        return Err(TargetError { text: text.clone(), reason });
    }
    let target = |text: &String| match destination(text) {
        Ok(destination) => Ok(Target { text: text.clone(), destination }),
        Err(reason) => Err(TargetError { text: text.clone(), reason }),
    };
    texts.iter().map(target).collect()
}

/// Checks that connections to these destinations can come from the pool.
///
/// # Errors
/// A destination of whose network all addresses that a host can have are in the pool, or for whose family the pool has no
/// address. (`*` is never an error.)
pub fn check(targets: &[Target], pool: &[PoolAddress]) -> Result<(), TargetError> {
    for Target { text, destination } in targets {
        let refuse = |reason: &str| TargetError { text: text.clone(), reason: reason.to_owned() };
        if is_in_pool(&destination.prefix, pool) {
            return Err(refuse("is in the pool itself; name where the connections go to"));
        }
        let has = |v4: bool| pool.iter().any(|member| member.address.to_v4().is_some() == v4);
        match destination.prefix.mask {
            Addr::UNSPECIFIED => {}
            _ if destination.prefix.network.to_v4().is_some() && !has(true) => {
                return Err(refuse("the pool has no IPv4 address; add one with --pool"));
            }
            _ if destination.prefix.network.to_v4().is_none() && !has(false) => {
                return Err(refuse("the pool has no IPv6 address; add one with --pool"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether the pool has every address of the network that a host can have.
fn is_in_pool(prefix: &Prefix, pool: &[PoolAddress]) -> bool {
    let host_bits = bits(prefix.mask).count_zeros();
    let Some(all) = 1_usize.checked_shl(host_bits) else { return false };
    let not_for_hosts = match (prefix.network.to_v4(), host_bits) {
        (_, 0 | 1) => 0,
        (Some(_), _) => 2,
        (None, _) => 1,
    };
    let within =
        |member: &&PoolAddress| bits(member.address) & bits(prefix.mask) == bits(prefix.network);
    pool.iter().filter(within).count() >= all - not_for_hosts
}

/// An address as a number.
fn bits(address: Addr) -> u128 {
    u128::from_be_bytes(address.0)
}

/// A destination that the rule does not apply to: all ports of this network.
pub fn exempt(network: IpNet) -> Destination {
    Destination { prefix: masked(network), exempt: 1, ..ALL }
}

/// The networks of these destinations, in their order, each of one family; their ports do not count. For `*`, and if there is no
/// destination: both networks of length 0 (0.0.0.0/0 and ::/0).
pub fn networks(targets: &[Target]) -> Vec<reach::Target> {
    let everything = || [IpNet::from(Ipv4Net::default()), Ipv6Net::default().into()];
    let target = |text: &str, network| reach::Target { text: text.to_owned(), network };
    if targets.is_empty() {
        return everything().map(|network| target("", network)).to_vec();
    }
    let of_one = |it: &Target| {
        let Prefix { network, mask } = it.destination.prefix;
        let length = bits(mask).count_ones();
        let v4 = network.to_v4().map(IpAddr::from);
        let address = v4.unwrap_or(IpAddr::from(network.0));
        let length = if v4.is_some() { length.saturating_sub(V4_LENGTH) } else { length };
        let own = u8::try_from(length).ok().and_then(|length| IpNet::new(address, length).ok());
        let networks = match own {
            Some(network) if mask != Addr::UNSPECIFIED => vec![network],
            _ => everything().to_vec(),
        };
        networks.into_iter().map(|network| target(&it.text, network)).collect::<Vec<_>>()
    };
    targets.iter().flat_map(of_one).collect()
}

fn destination(text: &str) -> Result<Destination, String> {
    let (place, port_text) = split(text)?;
    let ports = port_text.map_or(Ok(ALL_PORTS), ports)?;
    let prefix = if place == "*" { Prefix::default() } else { prefix(network(place)?)? };
    Ok(Destination { prefix, ports, exempt: 0 })
}

/// Splits a value into network and ports; `None`: it has no ports. An error says how IPv6 networks with ports are
/// written.
fn split(text: &str) -> Result<(&str, Option<&str>), String> {
    const BRACKETS: &str =
        "an IPv6 network with ports is written in brackets, such as [fd00::/64]:443";
    if let Some(rest) = text.strip_prefix('[') {
        let (network, rest) = rest.split_once(']').ok_or(BRACKETS)?;
        return match rest.strip_prefix(':') {
            Some(ports) if network.contains(':') => Ok((network, Some(ports))),
            None if network.contains(':') && rest.is_empty() => Ok((network, None)),
            _ => Err(BRACKETS.to_owned()),
        };
    }
    match text.split_once(':') {
        Some((_, rest)) if rest.contains(':') => {
            let ports_follow =
                text.rsplit_once('/').is_some_and(|(_, length)| length.contains(':'));
            if ports_follow { Err(BRACKETS.to_owned()) } else { Ok((text, None)) }
        }
        Some((network, ports)) => Ok((network, Some(ports))),
        None => Ok((text, None)),
    }
}

/// A network as the hooks compare it: an IPv4 one as v4-mapped; bits beyond its prefix are 0.
pub fn masked(network: IpNet) -> Prefix {
    let own_length = u32::from(network.prefix_len());
    let length = match network {
        IpNet::V4(_) => V4_LENGTH + own_length,
        IpNet::V6(_) => own_length,
    };
    let mask = u128::MAX.checked_shl(u128::BITS - length).unwrap_or(0);
    Prefix { network: to_addr(network.network()), mask: Addr(mask.to_be_bytes()) }
}

fn prefix(network: IpNet) -> Result<Prefix, String> {
    let prefix = masked(network);
    let mask = bits(prefix.mask);
    // To the hooks, IPv4 addresses are v4-mapped IPv6 ones.
    let mapped = bits(Addr::v4([0; 4]));
    if matches!(network, IpNet::V6(_)) && mapped & mask == bits(prefix.network) {
        return Err("covers IPv4 as well; write * for both families, or 2000::/3 and fc00::/7 \
             for IPv6 alone"
            .to_owned());
    }
    Ok(prefix)
}

#[cfg(test)]
mod tests;
