//! Says what can be wrong with a pool, and what to do about it.

use std::{fmt::Display, net::IpAddr};

use ipnet::IpNet;
use tracer_common::spread::POOL_MAX;

use super::Trouble;

/// A `--pool` value that cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("--pool {spec}: {reason}")]
pub struct PoolError {
    /// The value as it was written.
    pub spec: String,
    pub reason: Reason,
}

/// Why a `--pool` value cannot be used; its text says what to do.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Reason {
    #[error(
        "expected an address (10.0.0.5), a range (10.0.0.5-10.0.0.20), a network (10.0.0.0/28), \
         the name of an interface, or auto"
    )]
    Syntax,
    #[error("expected a weight from 1 to 100 after the =")]
    Weight,
    #[error("{0} and {1} are of different families; write one range for each family")]
    Families(IpAddr, IpAddr),
    #[error("the range is written backwards; write {last}-{first}")]
    Backwards { first: IpAddr, last: IpAddr },
    #[error(
        "bits are set beyond the prefix; write {} for the network, or {} alone", .0.trunc(), .0.addr()
    )]
    HostBits(IpNet),
    /// The value lists this many addresses.
    #[error("these are {0} addresses, and a pool takes at most {POOL_MAX} of each family")]
    TooLong(u128),
    /// No pool can have the address. `what`: its kind, such as `a multicast address`.
    #[error("{address} is {what}; a pool cannot have it")]
    NeverASource { address: IpAddr, what: &'static str },
    /// The host does not have the addresses `missing`, at least one. `of`: how many the value lists.
    #[error("{}", missing_addresses(.missing, *.of))]
    Missing { missing: Vec<IpAddr>, of: usize },
    #[error("{address} cannot be used: {}", trouble.explained())]
    Unusable { address: IpAddr, trouble: Trouble },
    /// `other`: the other value that lists the address, as it was written.
    #[error("{address} is in --pool {other} as well; remove it from one of them")]
    Twice { address: IpAddr, other: String },
    /// `known`: the names of all interfaces.
    #[error("this host has no interface {name}; it has {}", list(.known))]
    NoInterface { name: String, known: Vec<String> },
    /// No address of the host suits the value. `passed_over`: the addresses that it is about, each with its interface and
    /// the reason.
    #[error("{}", nothing_suits(.passed_over))]
    NothingSuits { passed_over: Vec<String> },
    #[error(
        "{loopback} is a loopback address, from which only this host can be reached, and {other} \
        is not; remove one of the two"
    )]
    MixedLoopback { loopback: IpAddr, other: IpAddr },
    /// `count`: how many addresses of this family the pool has with the value; `family`: `IPv4` or `IPv6`.
    #[error(
        "with it the pool has {count} {family} addresses, and it takes at most {POOL_MAX}; remove \
        some"
    )]
    TooMany { count: usize, family: &'static str },
}

/// How many items of a list a message names at most.
const NAMED: usize = 3;
/// How many addresses a message names at most if it gives the reason for each.
const EXPLAINED: usize = 8;

/// The first three items, and how many more there are: `a, b, c and 5 more`. `none` for no items.
fn list<T: Display>(items: &[T]) -> String {
    let named: Vec<_> = items.iter().take(NAMED).map(T::to_string).collect();
    match items.len().saturating_sub(NAMED) {
        _ if items.is_empty() => "none".to_owned(),
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

fn missing_addresses(missing: &[IpAddr], of: usize) -> String {
    let Some(first) = missing.first() else { return "no address is missing".to_owned() };
    let length = if first.is_ipv4() { 32 } else { 128 };
    if of == 1 {
        return format!(
            "{first} is not an address of this host; add it first: \
             ip addr add {first}/{length} dev DEV"
        );
    }
    format!(
        "{} of its {of} addresses are not on this host: {}; add each of them first: \
         ip addr add {first}/{length} dev DEV",
        missing.len(),
        list(missing)
    )
}

fn nothing_suits(passed_over: &[String]) -> String {
    if passed_over.is_empty() {
        return "there is no address to take; add one first: ip addr add ADDRESS/32 dev DEV"
            .to_owned();
    }
    let named = passed_over.iter().take(EXPLAINED).cloned().collect::<Vec<_>>().join("; ");
    let more = match passed_over.len().saturating_sub(EXPLAINED) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    format!("none of its addresses can be used: {named}{more}; name addresses instead")
}
