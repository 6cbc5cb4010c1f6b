//! Parses a `--pool` value, and checks it as far as that is possible without the host's addresses.

use std::{net::IpAddr, str::FromStr};

use ipnet::{IpAddrRange, IpNet, Ipv4AddrRange, Ipv6AddrRange};
use tracer_common::spread::POOL_MAX;

use super::error::{PoolError, Reason};

/// One `--pool` value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Spec {
    /// The value as it was written, for messages.
    pub text: String,
    pub members: Members,
    /// Weight of each address, 1 to 100; 1 if the value names none (`10.0.0.5=3` does).
    pub weight: u16,
}

/// Which addresses a `--pool` value means.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Members {
    /// All from `first` to `last`: of one family, never v4-mapped, at most [`POOL_MAX`].
    Listed { first: IpAddr, last: IpAddr },
    /// All usable addresses of this interface, except loopback and link-local ones.
    Interface(String),
    /// The usable addresses of the interfaces that the routes to the destinations use: those of global scope, without
    /// link-local, deprecated and (IPv6) temporary ones; loopback addresses only if the destinations are loopback
    /// addresses.
    Auto,
}

impl FromStr for Spec {
    type Err = PoolError;

    /// # Errors
    /// The text has another form than [`Reason::Syntax`] names; its weight is not 1 to 100; a range is of two families or written
    /// backwards; a network has bits beyond its prefix; it lists more than [`POOL_MAX`] addresses, or one that no pool can have.
    fn from_str(text: &str) -> Result<Self, PoolError> {
        parse(text).map_err(|reason| PoolError { spec: text.to_owned(), reason })
    }
}

fn parse(text: &str) -> Result<Spec, Reason> {
    let (name, weight) = match text.rsplit_once('=') {
        Some((name, weight)) => (name, parse_weight(weight)?),
        None => (text, 1),
    };
    Ok(Spec { text: text.to_owned(), members: parse_members(name)?, weight })
}

fn parse_weight(text: &str) -> Result<u16, Reason> {
    text.parse().ok().filter(|weight| (1..=100).contains(weight)).ok_or(Reason::Weight)
}

fn parse_members(text: &str) -> Result<Members, Reason> {
    if text == "auto" {
        return Ok(Members::Auto);
    }
    if let Some((address, _)) = text.split_once('/') {
        address.parse::<IpAddr>().map_err(|_| Reason::Syntax)?;
        return network(text.parse().map_err(|_| Reason::Syntax)?);
    }
    if let Ok(address) = text.parse() {
        return listed(address, address);
    }
    // The name of an interface can have a dash too: br-lan.
    if let Some((first, last)) = text.split_once('-') {
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) => return listed(first, last),
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => return Err(Reason::Syntax),
            (Err(_), Err(_)) => {}
        }
    }
    let like_an_address = |letter: char| letter.is_ascii_digit() || matches!(letter, '.' | '-');
    // The kernel's rule for names of interfaces (dev_valid_name in net/core/dev.c). It forbids a slash, too; a text with a
    // slash was taken for a network above.
    let valid = (1..=15).contains(&text.len())
        && !matches!(text, "." | "..")
        && !text.contains(|letter: char| letter == ':' || letter.is_whitespace());
    if !valid || text.chars().all(like_an_address) {
        return Err(Reason::Syntax);
    }
    Ok(Members::Interface(text.to_owned()))
}

/// The addresses of the network that a host can have. An error: `network` has bits beyond its prefix, or [`listed`]
/// fails.
fn network(network: IpNet) -> Result<Members, Reason> {
    if network.addr() != network.network() {
        return Err(Reason::HostBits(network));
    }
    let (first, last) = (network.network(), network.broadcast());
    let few = network.max_prefix_len() - network.prefix_len() < 2;
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) if !few => {
            let (first, last) = (first.to_bits() + 1, last.to_bits() - 1);
            listed(IpAddr::V4(first.into()), IpAddr::V4(last.into()))
        }
        // The first address is the subnet-router anycast address (RFC 4291 §2.6.1); IPv6 has no broadcast.
        (IpAddr::V6(first), last) if !few => listed(IpAddr::V6((first.to_bits() + 1).into()), last),
        (first, last) => listed(first, last),
    }
}

/// The addresses from `first` to `last`. An error: they are too many, of two families or in the wrong order, or one of
/// them can never be in a pool.
fn listed(first: IpAddr, last: IpAddr) -> Result<Members, Reason> {
    let (first, last) = (first.to_canonical(), last.to_canonical());
    let beyond = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            last.to_bits().checked_sub(first.to_bits()).map(u128::from)
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => last.to_bits().checked_sub(first.to_bits()),
        (first, last) => return Err(Reason::Families(first, last)),
    };
    let beyond = beyond.ok_or(Reason::Backwards { first, last })?;
    if beyond >= POOL_MAX as u128 {
        return Err(Reason::TooLong(beyond.saturating_add(1)));
    }
    for address in between(first, last) {
        if let Some(what) = never_a_source(address) {
            return Err(Reason::NeverASource { address, what });
        }
    }
    Ok(Members::Listed { first, last })
}

/// All addresses from `first` to `last`; none if `first` is above `last`, or if they are of different families.
pub fn between(first: IpAddr, last: IpAddr) -> impl Iterator<Item = IpAddr> {
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            Some(IpAddrRange::V4(Ipv4AddrRange::new(first, last)))
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            Some(IpAddrRange::V6(Ipv6AddrRange::new(first, last)))
        }
        _ => None,
    }
    .into_iter()
    .flatten()
}

/// What this address is, in words, if no pool can have it; `None`: a pool can.
fn never_a_source(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_multicast() => Some("a multicast address"),
        _ if address.is_unspecified() => Some("the unspecified address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        // A link-local address is valid only with an interface, and the hooks bind without one.
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address"),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}
