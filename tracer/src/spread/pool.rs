//! `--pool`: what was asked for, and the addresses that it comes to on this host. Pure.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;
use tracer_common::{Addr, spread::POOL_MAX};

use super::addresses::HostAddress;

/// The largest weight of an address.
const HEAVIEST: u16 = 100;

/// One value of `--pool`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Spec {
    pub what: What,
    pub weight: u16,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum What {
    Address(IpAddr),
    /// From the first to the last, both included.
    Range(IpAddr, IpAddr),
    Network(IpNet),
    /// All addresses of this interface.
    Interface(String),
    /// All of this host's addresses that others can reach.
    Auto,
}

/// One address of a pool.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PoolAddress {
    pub address: IpAddr,
    pub weight: u16,
}

/// Why a `--pool` cannot be used: what was given, why, and what to do.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PoolError {
    #[error("pool address {address} is not on this host; add it with `ip addr add {}`", line(*address))]
    NotHere { address: IpAddr },
    #[error(
        "{} of the {all} addresses of pool {spec} are not on this host, {} the first; add them with `ip \
         addr add {}` and so on",
        missing.len(), first(missing), line(first(missing))
    )]
    SomeNotHere { spec: Spec, all: usize, missing: Vec<IpAddr> },
    #[error("pool address {address} cannot be used: it is {why}")]
    Unusable { address: IpAddr, why: &'static str },
    #[error("pool address {address} is there twice, by {one} and by {other}; leave one out")]
    Twice { address: IpAddr, one: Spec, other: Spec },
    #[error(
        "pool {spec}: this host has no interface of that name with an address that can be used"
    )]
    NoInterface { spec: Spec },
    #[error("pool auto: this host has no address that others can reach; name addresses instead")]
    NoneSuitable,
    #[error(
        "the pool has {count} IPv{family} addresses; a rule takes {POOL_MAX} at most: make two rules"
    )]
    TooMany { count: usize, family: u8 },
    #[error(
        "the pool has both loopback addresses and others ({loopback} and {other}): make two rules"
    )]
    Mixed { loopback: IpAddr, other: IpAddr },
}

fn first(missing: &[IpAddr]) -> IpAddr {
    missing.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

/// `ip addr add` arguments for an address.
fn line(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("{address}/32 dev DEV"),
        IpAddr::V6(address) => format!("{address}/128 dev DEV"),
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Address(address) => write!(out, "{address}")?,
            What::Range(low, high) => write!(out, "{low}-{high}")?,
            What::Network(network) => write!(out, "{network}")?,
            What::Interface(name) => write!(out, "{name}")?,
            What::Auto => write!(out, "auto")?,
        }
        if self.weight == 1 { Ok(()) } else { write!(out, "={}", self.weight) }
    }
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (what, weight) = match text.rsplit_once('=') {
            None => (text, 1),
            Some((what, weight)) => {
                let weight = weight.parse().ok().filter(|weight| (1..=HEAVIEST).contains(weight));
                (what, weight.ok_or_else(|| format!("a weight is a number from 1 to {HEAVIEST}"))?)
            }
        };
        Ok(Self { what: what.parse()?, weight })
    }
}

impl FromStr for What {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return usable(address.to_canonical()).map(Self::Address);
        }
        if let Some((low, high)) = text.split_once('-')
            && let (Ok(low), Ok(high)) = (low.parse::<IpAddr>(), high.parse::<IpAddr>())
        {
            return range(low.to_canonical(), high.to_canonical());
        }
        if text.contains('/') {
            return network(text);
        }
        // dev_valid_name in net/core/dev.c
        let name = !text.is_empty() && text.len() < 16 && !matches!(text, "." | "..");
        if name && !text.contains(|letter: char| letter.is_whitespace() || "/:".contains(letter)) {
            return Ok(Self::Interface(text.to_owned()));
        }
        Err("expected an address, a-b, a network, an interface or auto, each with =WEIGHT or \
             without"
            .to_owned())
    }
}

/// No source address of a connection, whatever the host has.
fn usable(address: IpAddr) -> Result<IpAddr, String> {
    let why = match address {
        _ if address.is_unspecified() => "unspecified",
        _ if address.is_multicast() => "a multicast address",
        IpAddr::V4(Ipv4Addr::BROADCAST) => "the broadcast address",
        IpAddr::V6(address) if address.is_unicast_link_local() => {
            "a link-local address, which reaches one link only"
        }
        _ => return Ok(address),
    };
    Err(format!("{address} is {why}: no connection can come from it"))
}

fn range(low: IpAddr, high: IpAddr) -> Result<What, String> {
    let (low, high) = (usable(low)?, usable(high)?);
    let count = match (low, high) {
        (IpAddr::V4(low), IpAddr::V4(high)) => {
            u128::from(u32::from(high)).checked_sub(u128::from(u32::from(low)))
        }
        (IpAddr::V6(low), IpAddr::V6(high)) => u128::from(high).checked_sub(u128::from(low)),
        _ => return Err(format!("{low} and {high} are not of one family")),
    };
    match count {
        None => Err(format!("the range is written backwards; write {high}-{low}")),
        Some(count) if count >= POOL_MAX as u128 => {
            Err(format!("the range has more than {POOL_MAX} addresses"))
        }
        Some(_) => Ok(What::Range(low, high)),
    }
}

fn network(text: &str) -> Result<What, String> {
    let network: IpNet =
        text.parse().map_err(|_| format!("{text} is not a network ADDRESS/LENGTH"))?;
    if network.trunc() != network {
        let (whole, one) = (network.trunc(), network.addr());
        return Err(format!(
            "{text} is an address in a network; write {whole}, or {one} for it alone"
        ));
    }
    usable(network.addr())?;
    if network.max_prefix_len() - network.prefix_len() > 8 {
        return Err(format!("the network has more than {POOL_MAX} addresses"));
    }
    Ok(What::Network(network))
}

impl Spec {
    /// The addresses that this means on this host.
    fn addresses(&self, host: &[HostAddress]) -> Result<Vec<IpAddr>, PoolError> {
        match &self.what {
            What::Address(address) => match host.iter().find(|it| it.address == *address) {
                None => Err(PoolError::NotHere { address: *address }),
                Some(found) => match found.unusable() {
                    Some(why) => Err(PoolError::Unusable { address: *address, why }),
                    None => Ok(vec![*address]),
                },
            },
            What::Range(low, high) => self.all_of(between(*low, *high), host),
            What::Network(network) => self.all_of(network.hosts().collect(), host),
            What::Interface(name) => {
                let of_it = host.iter().filter(|it| it.interface == *name && it.is_suitable(true));
                let found: Vec<_> = of_it.map(|it| it.address).collect();
                let none = || PoolError::NoInterface { spec: self.clone() };
                if found.is_empty() { Err(none()) } else { Ok(found) }
            }
            What::Auto => {
                let suitable = host.iter().filter(|it| it.is_suitable(false));
                let found: Vec<_> = suitable.map(|it| it.address).collect();
                if found.is_empty() { Err(PoolError::NoneSuitable) } else { Ok(found) }
            }
        }
    }

    fn all_of(&self, all: Vec<IpAddr>, host: &[HostAddress]) -> Result<Vec<IpAddr>, PoolError> {
        let here = |address: &&IpAddr| {
            host.iter().any(|it| it.address == **address && it.unusable().is_none())
        };
        let missing: Vec<_> = all.iter().filter(|address| !here(address)).copied().collect();
        if missing.is_empty() {
            return Ok(all);
        }
        Err(PoolError::SomeNotHere { spec: self.clone(), all: all.len(), missing })
    }
}

fn between(low: IpAddr, high: IpAddr) -> Vec<IpAddr> {
    match (low, high) {
        (IpAddr::V4(low), IpAddr::V4(high)) => {
            (u32::from(low)..=u32::from(high)).map(|bits| Ipv4Addr::from(bits).into()).collect()
        }
        (IpAddr::V6(low), IpAddr::V6(high)) => {
            (u128::from(low)..=u128::from(high)).map(|bits| Ipv6Addr::from(bits).into()).collect()
        }
        _ => Vec::new(),
    }
}

/// The addresses of a pool on a host with these, IPv4 first, each family in order.
///
/// # Errors
/// The first thing about it that cannot be.
pub fn resolve(specs: &[Spec], host: &[HostAddress]) -> Result<Vec<PoolAddress>, PoolError> {
    let mut found: BTreeMap<IpAddr, &Spec> = BTreeMap::new();
    for spec in specs {
        for address in spec.addresses(host)? {
            if let Some(one) = found.insert(address, spec) {
                return Err(PoolError::Twice { address, one: one.clone(), other: spec.clone() });
            }
        }
    }
    for family in [4, 6] {
        let of_family = found.keys().filter(|address| address.is_ipv4() == (family == 4));
        let of_family: Vec<IpAddr> = of_family.copied().collect();
        if of_family.len() > POOL_MAX {
            return Err(PoolError::TooMany { count: of_family.len(), family });
        }
        let loopback = of_family.iter().find(|address| address.is_loopback());
        let other = of_family.iter().find(|address| !address.is_loopback());
        if let (Some(loopback), Some(other)) = (loopback, other) {
            return Err(PoolError::Mixed { loopback: *loopback, other: *other });
        }
    }
    let addresses = found.into_iter();
    Ok(addresses.map(|(address, spec)| PoolAddress { address, weight: spec.weight }).collect())
}

/// The address in the form that the ledger knows.
pub fn addr(address: IpAddr) -> Addr {
    match address {
        IpAddr::V4(v4) => Addr::v4(v4.octets()),
        IpAddr::V6(v6) => Addr(v6.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Vec<HostAddress> {
        let at = |address: &str, interface: &str| HostAddress {
            address: address.parse().unwrap(),
            interface: interface.to_owned(),
            ..HostAddress::default()
        };
        let mut all: Vec<_> = (1..=6).map(|last| at(&format!("10.0.0.{last}"), "eth0")).collect();
        all.push(at("127.0.0.1", "lo"));
        all.push(at("fd00::1", "eth1"));
        all.push(HostAddress { tentative: true, ..at("fd00::2", "eth1") });
        all.push(HostAddress { deprecated: true, ..at("fd00::3", "eth1") });
        all.push(HostAddress { link: true, ..at("fe80::1", "eth1") });
        all
    }

    fn resolved(specs: &[&str]) -> Result<Vec<String>, String> {
        let specs: Vec<Spec> = specs.iter().map(|spec| spec.parse()).collect::<Result<_, _>>()?;
        let pool = resolve(&specs, &host()).map_err(|error| error.to_string())?;
        Ok(pool.iter().map(|it| format!("{}={}", it.address, it.weight)).collect())
    }

    #[test]
    fn every_form_gives_its_addresses() {
        let cases: [(&[&str], &[&str]); 6] = [
            (&["10.0.0.5", "10.0.0.2=3"], &["10.0.0.2=3", "10.0.0.5=1"]),
            (&["10.0.0.2-10.0.0.4"], &["10.0.0.2=1", "10.0.0.3=1", "10.0.0.4=1"]),
            (&["10.0.0.4/30=2"], &["10.0.0.5=2", "10.0.0.6=2"]),
            (&["eth1", "127.0.0.1"], &["127.0.0.1=1", "fd00::1=1"]),
            (&["::ffff:10.0.0.1"], &["10.0.0.1=1"]),
            (
                &["auto"],
                &[
                    "10.0.0.1=1",
                    "10.0.0.2=1",
                    "10.0.0.3=1",
                    "10.0.0.4=1",
                    "10.0.0.5=1",
                    "10.0.0.6=1",
                    "fd00::1=1",
                ],
            ),
        ];
        for (specs, expected) in cases {
            assert_eq!(resolved(specs).unwrap(), expected, "{specs:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_said_with_what_to_do() {
        let cases: [(&[&str], &str); 19] = [
            (&["10.0.0.9"], "`ip addr add 10.0.0.9/32 dev DEV`"),
            (&["fd00::9"], "`ip addr add fd00::9/128 dev DEV`"),
            (&["10.0.0.5-10.0.0.8"], "2 of the 4 addresses of pool 10.0.0.5-10.0.0.8"),
            (&["10.0.0.4-10.0.0.2"], "written backwards; write 10.0.0.2-10.0.0.4"),
            (&["10.0.0.1-fd00::1"], "not of one family"),
            (&["10.0.0.1-10.0.1.1"], "more than 256"),
            (&["10.0.0.5/28"], "write 10.0.0.0/28, or 10.0.0.5 for it alone"),
            (&["10.0.0.0/16"], "more than 256"),
            (&["10.0.0.0/99"], "not a network"),
            (&["224.0.0.1"], "multicast"),
            (&["255.255.255.255"], "broadcast"),
            (&["0.0.0.0"], "unspecified"),
            (&["fe80::1"], "link-local"),
            (&["10.0.0.1=0"], "from 1 to 100"),
            (&["10.0.0.1", "10.0.0.1-10.0.0.2"], "twice, by 10.0.0.1 and by 10.0.0.1-10.0.0.2"),
            (&["eth7"], "no interface of that name"),
            (&["fd00::2"], "tentative"),
            (&["127.0.0.1", "10.0.0.1"], "make two rules"),
            (&["a b"], "expected an address"),
        ];
        for (specs, expected) in cases {
            let error = resolved(specs).unwrap_err();
            assert!(error.contains(expected), "{specs:?}: {error}");
        }
        assert!(resolve(&["auto".parse().unwrap()], &[]).is_err());
    }
}
