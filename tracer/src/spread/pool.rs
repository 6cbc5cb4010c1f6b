//! Finds the addresses to spread over: those that `--pool` names and the host has. No I/O.
//!
//! [`resolve`] is for the start, where an address that cannot be used ends the program. [`members`] is for later,
//! when the host's addresses change: it keeps each address that `--pool` lists, with the reason why it cannot be used.

mod error;
mod spec;

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};
use tracer_common::{Addr, spread::POOL_MAX};

use super::addresses::{Host, HostAddress, flag};
pub use error::{PoolError, Reason};
pub use spec::{Members, Spec, between};

/// An address that can be used, in the form that the hooks compare.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PoolAddress {
    /// IPv4 as v4-mapped IPv6.
    pub address: Addr,
    /// Weight, 1 to 100.
    pub weight: u16,
}

/// An address of the pool, usable now or not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Member {
    /// An IPv4 address is [`IpAddr::V4`], never v4-mapped.
    pub address: IpAddr,
    /// Weight, 1 to 100.
    pub weight: u16,
    /// Why it cannot be used now; `None`: it can.
    pub trouble: Option<Trouble>,
}

impl Member {
    /// The address for the hooks; `None`: it cannot be used now.
    pub fn usable(&self) -> Option<PoolAddress> {
        let Self { address, weight, trouble } = *self;
        trouble.is_none().then(|| PoolAddress { address: to_addr(address), weight })
    }
}

/// Why an address cannot be used now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trouble {
    /// The host does not have it.
    Missing,
    /// IPv6: duplicate address detection has not ended.
    Tentative,
    /// IPv6: duplicate address detection found another host with it.
    DadFailed,
    /// IPv6: its preferred lifetime is over.
    Deprecated,
}

impl Trouble {
    /// The word for it in messages: that of ip(8), except `missing`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Tentative => "tentative",
            Self::DadFailed => "dadfailed",
            Self::Deprecated => "deprecated",
        }
    }

    /// What is wrong, and what to do.
    const fn explained(self) -> &'static str {
        match self {
            Self::Missing => "it is not an address of this host; add it first",
            Self::Tentative => {
                "it is tentative, so another host may have it; try again in a few seconds"
            }
            Self::DadFailed => {
                "another host on the link has it (dadfailed); take it from one of the two"
            }
            Self::Deprecated => {
                "its preferred lifetime is over (deprecated); give it a new one with \
                 `ip addr change`, or leave it out"
            }
        }
    }
}

/// Every address that these values list, for [`Host::read`] to look up: in the order of the values, and twice if two list it.
/// None of a value that names an interface or is `auto`.
pub fn listed(specs: &[Spec]) -> impl Iterator<Item = IpAddr> {
    specs
        .iter()
        .filter_map(|spec| match &spec.members {
            Members::Listed { first, last } => Some(between(*first, *last)),
            Members::Interface(_) | Members::Auto => None,
        })
        .flatten()
}

/// The pool at the start: IPv4 first, each family in ascending order.
///
/// # Errors
/// A value lists an address that cannot be used, names an interface that does not exist, or gives no address; an address
/// is in two values; the pool has more than [`POOL_MAX`] (256) addresses of a family, or both loopback addresses
/// and others of a family.
pub fn resolve(specs: &[Spec], host: &Host) -> Result<Vec<PoolAddress>, PoolError> {
    let mut candidates: BTreeMap<IpAddr, &Spec> = BTreeMap::new();
    for spec in specs {
        let refuse = |reason| PoolError { spec: spec.text.clone(), reason };
        let members = expand(spec, host);
        check(spec, &members, host).map_err(refuse)?;
        for Member { address, .. } in members {
            if let Some(other) = candidates.insert(address, spec) {
                return Err(refuse(Reason::Twice { address, other: other.text.clone() }));
            }
        }
        check_combination(&candidates).map_err(refuse)?;
    }
    Ok(members(specs, host).iter().filter_map(Member::usable).collect())
}

/// The pool as it is now, usable or not: IPv4 first, each family in ascending order, at most [`POOL_MAX`] of each (the lowest).
/// An address of several values has the weight of the first one. Empty: no value gives an address.
pub fn members(specs: &[Spec], host: &Host) -> Vec<Member> {
    let mut all = BTreeMap::new();
    for member in specs.iter().flat_map(|spec| expand(spec, host)) {
        all.entry(member.address).or_insert(member);
    }
    let family = |v4| all.values().filter(move |m| m.address.is_ipv4() == v4).take(POOL_MAX);
    family(true).chain(family(false)).copied().collect()
}

/// The addresses that one value means now, each once.
fn expand(spec: &Spec, host: &Host) -> Vec<Member> {
    let member = |address, trouble| Member { address, weight: spec.weight, trouble };
    if let Members::Listed { first, last } = spec.members {
        let listed = between(first, last);
        return listed.map(|address| member(address, trouble(address, host))).collect();
    }
    let suiting = host.addresses.iter().filter(|address| {
        is_selected(&spec.members, address) && unsuitable(&spec.members, address, host).is_none()
    });
    let mut addresses: Vec<IpAddr> = suiting.map(|host| host.address).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.into_iter().map(|address| member(address, None)).collect()
}

/// Whether a value is about this address of the host: one that names an interface is only about that interface's.
fn is_selected(members: &Members, address: &HostAddress) -> bool {
    match members {
        Members::Interface(name) => address.interface == *name,
        Members::Listed { .. } | Members::Auto => true,
    }
}

/// Why an address of the host is passed over by a value that does not list it; `None`: it is taken.
fn unsuitable(members: &Members, one: &HostAddress, host: &Host) -> Option<String> {
    let is = |bit| one.flags & bit != 0;
    let link_local = match one.address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let auto = *members == Members::Auto;
    if !auto && one.address.is_loopback() {
        return Some("loopback".to_owned());
    }
    if link_local {
        return Some("link-local".to_owned());
    }
    if let Some(trouble) = trouble_of(one) {
        return Some(trouble.name().to_owned());
    }
    if !auto {
        return None;
    }
    if let Some(reason) = host.auto.skip_reason(one.address, &one.interface) {
        return Some(reason);
    }
    let reason = match one {
        _ if one.scope != 0 && !one.address.is_loopback() => "not of global scope",
        _ if is(flag::DEPRECATED) => "deprecated",
        _ if one.address.is_ipv6() && is(flag::TEMPORARY) => "temporary",
        _ => return None,
    };
    Some(reason.to_owned())
}

/// An address of the host, as `--pool auto` judged it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Candidate {
    pub address: IpAddr,
    pub interface: String,
    /// Why it was passed over; absent: it was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Whether one of these values is `auto`.
pub fn is_auto(specs: &[Spec]) -> bool {
    specs.iter().any(|spec| spec.members == Members::Auto)
}

/// All of the host's addresses, as `--pool auto` took them or passed them over, in ascending order (IPv4 first), once for each
/// interface that has it. Empty: no value is `auto`, or the host has no address.
pub fn candidates(specs: &[Spec], host: &Host) -> Vec<Candidate> {
    if !is_auto(specs) {
        return Vec::new();
    }
    let candidates = |one: &HostAddress| Candidate {
        address: one.address,
        interface: one.interface.clone(),
        reason: unsuitable(&Members::Auto, one, host),
    };
    let mut all: Vec<Candidate> = host.addresses.iter().map(candidates).collect();
    all.sort_by(|a, b| (a.address, &a.interface).cmp(&(b.address, &b.interface)));
    all
}

/// Why an address that a value lists cannot be used; `None`: it can. If several interfaces have it, one on which
/// it can be used is enough. An IPv4 address needs no interface if a route of type local makes it the host's own.
pub(super) fn trouble(address: IpAddr, host: &Host) -> Option<Trouble> {
    if matches!(address, IpAddr::V4(v4) if host.routed.contains(&v4)) {
        return None;
    }
    let mut found = host.addresses.iter().filter(|host| host.address == address).map(trouble_of);
    let first = found.next().unwrap_or(Some(Trouble::Missing));
    if found.any(|trouble| trouble.is_none()) { None } else { first }
}

/// Why an address cannot be used on the interface that has it; `None`: it can.
fn trouble_of(host: &HostAddress) -> Option<Trouble> {
    let is = |bit| host.flags & bit != 0;
    match host.address {
        IpAddr::V6(_) if is(flag::DAD_FAILED) => Some(Trouble::DadFailed),
        IpAddr::V6(_) if is(flag::TENTATIVE) && !is(flag::OPTIMISTIC) => Some(Trouble::Tentative),
        IpAddr::V6(_) if is(flag::DEPRECATED) => Some(Trouble::Deprecated),
        // A pool may use a deprecated IPv4 address: administrators make a virtual one deprecated so that programs do
        // not get it by default.
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// Checks that the interface that a value names exists, that the value gives an address, and that each of its addresses
/// can be used. An error: the first of these that is not so.
fn check(spec: &Spec, members: &[Member], host: &Host) -> Result<(), Reason> {
    if let Members::Interface(name) = &spec.members
        && !host.interfaces.contains(name)
    {
        let (name, known) = (name.clone(), host.interfaces.clone());
        return Err(Reason::NoInterface { name, known });
    }
    if members.is_empty() {
        let meant = host.addresses.iter().filter(|host| is_selected(&spec.members, host));
        let why = |one: &HostAddress| {
            let reason = unsuitable(&spec.members, one, host)?;
            Some(format!("{} ({}): {reason}", one.address, one.interface))
        };
        return Err(Reason::NothingSuits { passed_over: meant.filter_map(why).collect() });
    }
    let is_missing = |member: &&Member| member.trouble == Some(Trouble::Missing);
    let missing: Vec<_> = members.iter().filter(is_missing).map(|m| m.address).collect();
    if !missing.is_empty() {
        return Err(Reason::Missing { missing, of: members.len() });
    }
    for Member { address, trouble, .. } in members {
        if let Some(trouble) = *trouble {
            return Err(Reason::Unusable { address: *address, trouble });
        }
    }
    Ok(())
}

/// Checks that the addresses of all values so far can be in one pool.
fn check_combination(all: &BTreeMap<IpAddr, &Spec>) -> Result<(), Reason> {
    for (family, is_v4) in [("IPv4", true), ("IPv6", false)] {
        let of_family = || all.keys().copied().filter(|address| address.is_ipv4() == is_v4);
        let loopback = of_family().find(IpAddr::is_loopback);
        let other = of_family().find(|address| !address.is_loopback());
        if let (Some(loopback), Some(other)) = (loopback, other) {
            return Err(Reason::MixedLoopback { loopback, other });
        }
        let count = of_family().count();
        if count > POOL_MAX {
            return Err(Reason::TooMany { count, family });
        }
    }
    Ok(())
}

/// An address of the ledger as a standard one: a v4-mapped one as IPv4, any other as IPv6.
pub(crate) fn address(addr: Addr) -> IpAddr {
    IpAddr::from(addr.0).to_canonical()
}

/// An address as the ledger has it: an IPv4 one as v4-mapped.
pub(crate) fn to_addr(address: IpAddr) -> Addr {
    match address {
        IpAddr::V4(v4) => Addr::v4(v4.octets()),
        IpAddr::V6(v6) => Addr(v6.octets()),
    }
}

#[cfg(test)]
mod tests;
