//! What `--to` means: networks and ports whose connections are spread. No I/O.

use ipnet::IpNet;
use tracer_common::{
    Addr,
    filter::{Ports, Prefix},
    spread::{DESTINATIONS_MAX, Destination},
};

use super::pool::{PoolAddress, to_addr};
use crate::cli::{network, ports};

const ALL_PORTS: Ports = Ports { low: 1, high: u16::MAX };
/// Length of the prefix that all IPv4 addresses have as v4-mapped ones.
const V4_LENGTH: u32 = 96;

/// One `--to` value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// As it was written.
    pub text: String,
    pub destination: Destination,
}

/// A `--to` value that cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("--to {text}: {reason}")]
pub struct TargetError {
    /// As it was written.
    pub text: String,
    pub reason: String,
}

/// All `--to` values; none of them means every destination.
pub fn parse(texts: &[String]) -> Result<Vec<Target>, TargetError> {
    if let Some(text) = texts.get(DESTINATIONS_MAX) {
        let reason = format!(
            "a rule takes at most {DESTINATIONS_MAX} destinations, and here are {}; write wider \
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

/// Whether the pool can be used towards these destinations.
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

/// Whether all addresses of the network that a host can have are the pool's.
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

fn bits(address: Addr) -> u128 {
    u128::from_be_bytes(address.0)
}

fn destination(text: &str) -> Result<Destination, String> {
    let (place, port_text) = split(text)?;
    let ports = port_text.map_or(Ok(ALL_PORTS), ports)?;
    let prefix = if place == "*" { Prefix::default() } else { prefix(network(place)?)? };
    Ok(Destination { prefix, ports, zero: 0 })
}

/// The network, and the ports if there are any.
fn split(text: &str) -> Result<(&str, Option<&str>), String> {
    const BRACKETS: &str =
        "an IPv6 network with ports is written in brackets, such as [fd00::/64]:443";
    if let Some(rest) = text.strip_prefix('[') {
        let (place, rest) = rest.split_once(']').ok_or(BRACKETS)?;
        return match rest.strip_prefix(':') {
            Some(ports) if place.contains(':') => Ok((place, Some(ports))),
            None if place.contains(':') && rest.is_empty() => Ok((place, None)),
            _ => Err(BRACKETS.to_owned()),
        };
    }
    match text.split_once(':') {
        Some((_, rest)) if rest.contains(':') => {
            let ports_follow =
                text.rsplit_once('/').is_some_and(|(_, length)| length.contains(':'));
            if ports_follow { Err(BRACKETS.to_owned()) } else { Ok((text, None)) }
        }
        Some((place, ports)) => Ok((place, Some(ports))),
        None => Ok((text, None)),
    }
}

fn prefix(network: IpNet) -> Result<Prefix, String> {
    let own_length = u32::from(network.prefix_len());
    let length = match network {
        IpNet::V4(_) => V4_LENGTH + own_length,
        IpNet::V6(_) => own_length,
    };
    let mask = u128::MAX.checked_shl(u128::BITS - length).unwrap_or(0);
    let prefix = Prefix { network: to_addr(network.network()), mask: Addr(mask.to_be_bytes()) };
    // The kernel side knows IPv4 addresses as v4-mapped ones.
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
