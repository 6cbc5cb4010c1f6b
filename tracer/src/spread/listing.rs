//! Lists the addresses that `--pool` names, whether or not this host has them, and finds the interface by which the destinations
//! are reached.

use std::net::IpAddr;

use super::{
    addresses::{self, Host},
    auto,
    destinations::{self, Target},
    pool::{self, Member, Spec, Trouble},
};
use crate::error::Error;

/// What a pool and its destinations mean on this host.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The pool's addresses, IPv4 first; those that cannot be used now included.
    pub members: Vec<Member>,
    /// The interface by which connections to all destinations leave (where one destination is reached over several,
    /// that of most of its addresses); `None`: none, several, or not known.
    pub interface: Option<String>,
}

impl Listing {
    /// Whether the host has this address of the pool, usable or not. False, too, if the pool does not have it.
    pub fn is_here(&self, address: IpAddr) -> bool {
        let is_here = |it: &Member| it.trouble != Some(Trouble::Missing);
        self.members.iter().any(|it| it.address == address && is_here(it))
    }
}

/// Looks up a pool (`specs`, the `--pool` values) and its destinations (`targets`, the `--to` values; empty: all) in the network
/// namespace of the calling thread. Without `specs`, the pool is empty.
///
/// # Errors
/// The addresses cannot be read; none of the values gives an address; with `auto`, routes that cannot be read, or that do
/// not say which interfaces it means.
pub fn list(specs: &[Spec], targets: &[Target]) -> Result<Listing, Error> {
    let mut host = Host::read(pool::listed(specs))
        .map_err(|error| Error::Failure(format!("cannot read this host's addresses: {error}")))?;
    let reaches = addresses::reaches(&destinations::networks(targets), &host);
    if pool::is_auto(specs) {
        let reaches = reaches.as_ref().map_err(|error| {
            Error::Failure(format!(
                "--pool auto: cannot read the routes to the destinations: {error}"
            ))
        })?;
        // A rule can exempt only a few networks, but no rule is made here.
        host.auto = auto::choose(reaches, usize::MAX)
            .map_err(|error| Error::BadConfig(format!("--pool auto: {error}")))?;
    }
    let members = pool::members(specs, &host);
    if members.is_empty()
        && let Some(first) = specs.first()
    {
        return Err(Error::BadConfig(format!("--pool {} has no address on this host", first.text)));
    }
    let reaches = reaches.unwrap_or_default();
    let interfaces = reaches.iter().filter_map(|reach| {
        // Of a destination that is reached in several ways, such as the whole Internet, the widest way counts.
        reach.out().into_iter().max_by_key(|(_, addresses)| *addresses).map(|(names, _)| names)
    });
    Ok(Listing { members, interface: only(interfaces.flatten()) })
}

/// The only name among these; `None`: there is none, or there are different ones.
fn only<'a>(mut names: impl Iterator<Item = &'a String>) -> Option<String> {
    let first = names.next()?;
    names.all(|name| name == first).then(|| first.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_interfaces_are_none() {
        let (first, second) = ("eth0".to_owned(), "eth1".to_owned());
        assert_eq!(only([&first, &first].into_iter()).as_deref(), Some("eth0"));
        assert_eq!(only([&first, &second].into_iter()), None);
        assert_eq!(only([].into_iter()), None);
    }

    #[test]
    fn addresses_that_the_host_does_not_have_are_listed() {
        let specs = ["127.0.0.1".parse().unwrap(), "203.0.113.7".parse().unwrap()];
        let listing = list(&specs, &[]).unwrap();
        assert_eq!(listing.members.len(), 2);
        assert!(listing.is_here("127.0.0.1".parse().unwrap()));
        assert!(!listing.is_here("203.0.113.7".parse().unwrap()));
        assert!(list(&["no-such".parse().unwrap()], &[]).is_err());
    }
}
