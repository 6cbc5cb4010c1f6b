//! Puts the choice of `--pool auto` into words.

use std::{collections::BTreeMap, net::IpAddr};

use crate::spread::{
    addresses::Host,
    pool::{Members, Spec, between},
    reach::{Elsewhere, Interfaces, Reach, RouteType},
};

/// How many items of a list a message names at most.
const NAMED: usize = 3;

/// The first three items, and how many more there are: `a, b, c and 5 more`.
fn list(items: &[String]) -> String {
    let named = items.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match items.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// Destinations as they were written, as one text: the first three, and how many more there are; `any destination`
/// for none.
pub fn targets(texts: &[String]) -> String {
    if texts.is_empty() { "any destination".to_owned() } else { list(texts) }
}

fn interfaces(interfaces: &Interfaces) -> String {
    interfaces.iter().cloned().collect::<Vec<_>>().join(" and ")
}

/// The first three networks with their exceptions and interfaces, and how many more there are:
/// `10.1.0.0/16 (eth1), 10.2.0.0/16 except 10.2.3.0/24 (eth2)`.
pub fn network_list(networks: &[Elsewhere]) -> String {
    let one = |it: &Elsewhere| {
        let except: Vec<String> = it.except.iter().map(ToString::to_string).collect();
        let except =
            if except.is_empty() { String::new() } else { format!(" except {}", list(&except)) };
        format!("{}{except} ({})", it.network, interfaces(&it.interfaces))
    };
    list(&networks.iter().map(one).collect::<Vec<_>>())
}

/// The error for destinations that are `reached`, at least two, over different interfaces.
pub(super) fn several(reached: &[Elsewhere]) -> String {
    let one =
        |it: &Elsewhere| format!("{} is reached over {}", it.network, interfaces(&it.interfaces));
    format!(
        "{}, and an address of one interface may get no answer over another; make a rule for each (--rule NAME \
         --to NETWORK), or name the addresses",
        list(&reached.iter().map(one).collect::<Vec<_>>())
    )
}

/// What may be wrong with addresses that `--pool` names (one by one, or by an interface; not by `auto`), although they can be
/// used, as texts for people; empty: nothing. Addresses of one interface share a text. `host`: the interfaces and addresses of
/// the pool's namespace. `reaches`: how the destinations are reached; empty: not known, so without what depends on it.
pub fn warnings(specs: &[Spec], host: &Host, reaches: &[Reach]) -> Vec<String> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for spec in specs {
        match &spec.members {
            Members::Listed { first, last } => addresses.extend(between(*first, *last)),
            Members::Interface(name) => {
                let of_it = host.addresses.iter().filter(|it| it.interface == *name);
                // No warning about addresses of narrower scope, such as link-local ones.
                addresses.extend(of_it.filter(|it| it.scope == 0).map(|it| it.address));
            }
            Members::Auto => {}
        }
    }
    let mut found = Vec::new();
    let other = addresses.iter().find(|it| !it.is_loopback());
    if let Some(loopback) = addresses.iter().find(|it| it.is_loopback())
        && let Some(other) = other
    {
        found.push(format!(
            "--pool {loopback} is a loopback address, from which only this host can be reached, and {other} is \
            not: only connections to loopback addresses get {loopback}"
        ));
    }
    for is_v4 in [true, false] {
        let of_family = reaches.iter().filter(|it| it.target.network.addr().is_ipv4() == is_v4);
        let of_family: Vec<&Reach> = of_family.collect();
        let used: Interfaces =
            of_family.iter().flat_map(|it| it.out().into_keys()).flatten().cloned().collect();
        let is_here =
            |it: &&Reach| it.ranges.iter().any(|it| matches!(it.route_type, RouteType::Local(_)));
        let local = of_family.iter().filter(|it| !it.target.is_wide()).any(is_here);
        // No route is known to leave the host. Between the host's own addresses, the interface does not matter.
        if used.is_empty() || local && of_family.iter().all(|it| it.out().is_empty()) {
            continue;
        }
        let texts: Vec<String> = of_family
            .iter()
            .map(|it| it.target.text.clone())
            .filter(|text| !text.is_empty())
            .collect();
        let mut by_interface: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for address in addresses.iter().filter(|it| it.is_ipv4() == is_v4 && !it.is_loopback()) {
            let on = || host.addresses.iter().filter(|it| it.address == *address);
            if on().any(|it| used.contains(&it.interface)) {
                continue;
            }
            if let Some(on) = on().next() {
                by_interface.entry(&on.interface).or_default().push(address.to_string());
            }
        }
        for (interface, addresses) in by_interface {
            found.push(format!(
                "--pool {}: of {interface}, but routes to {} use {}; the destination must be able to answer to it",
                list(&addresses),
                targets(&texts),
                interfaces(&used),
            ));
        }
    }
    found
}
