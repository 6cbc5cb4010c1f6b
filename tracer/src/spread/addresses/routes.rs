//! How the destinations of a rule are reached, by the routes of a network namespace.

use std::{collections::BTreeMap, io, net::IpAddr};

use ipnet::IpNet;

use super::{Asker, Host, list, wire};
use crate::spread::reach::{self, Interfaces, Leads, Reach, Route, Target, Way};

/// Of the network namespace of the calling thread: for a socket without an address, mark or device of its own, of a
/// user to whom no rule of policy routing applies. `host`: what that namespace has.
///
/// # Errors
/// The routes cannot be read, or more than [`reach::BORDERS_MAX`] of them differ within one destination (kind
/// `QuotaExceeded`).
pub(in crate::spread) fn reaches(targets: &[Target], host: &Host) -> io::Result<Vec<Reach>> {
    let asker = Asker::open()?;
    let links = list(Some(&asker), "interfaces", &wire::links(), wire::RTM_NEWLINK, wire::link)?;
    let kernel = Kernel { asker, names: links.into_iter().collect(), host };
    let mut found = Vec::new();
    for v4 in [true, false] {
        let of_family = targets.iter().filter(|it| it.network.addr().is_ipv4() == v4);
        let mut of_family = of_family.peekable();
        if of_family.peek().is_none() {
            continue;
        }
        let mut routes = kernel.routes(v4)?;
        routes.extend(kernel.rules(v4)?);
        for target in of_family {
            let borders = reach::borders(&routes, &target.network).ok_or_else(|| {
                let message = format!(
                    "more than {} ranges of {} are reached by different routes",
                    reach::BORDERS_MAX,
                    target.network
                );
                io::Error::new(io::ErrorKind::QuotaExceeded, message)
            })?;
            let pieces = reach::pieces(&target.network, &borders, |to| kernel.way(to));
            found.push(Reach { target: target.clone(), pieces });
        }
    }
    Ok(found)
}

/// RT_TABLE_UNSPEC
const NO_TABLE: u32 = 0;

struct Kernel<'a> {
    asker: Asker,
    names: BTreeMap<u32, String>,
    host: &'a Host,
}

impl Kernel<'_> {
    /// Of all tables.
    fn routes(&self, v4: bool) -> io::Result<Vec<Route>> {
        let request = wire::routes(v4);
        let routes = list(Some(&self.asker), "routes", &request, wire::RTM_NEWROUTE, wire::route)?;
        Ok(routes.into_iter().flatten().collect())
    }

    /// Where a rule of policy routing begins or ends, the way may change too.
    fn rules(&self, v4: bool) -> io::Result<Vec<Route>> {
        let request = wire::rules(v4);
        let rules = list(Some(&self.asker), "rules", &request, wire::RTM_NEWRULE, wire::rule)?;
        let borders = rules.into_iter().flatten().zip(1..).map(|(network, number)| Route {
            table: NO_TABLE,
            network,
            // Unlike any other's.
            leads: Leads { nexthop: number, ..Leads::default() },
        });
        Ok(borders.collect())
    }

    /// Refusals of the kernel are routes too: unreachable, blackhole, prohibit, or none at all.
    fn ask(&self, request: &[u8]) -> Option<Route> {
        let found = list(Some(&self.asker), "routes", request, wire::RTM_NEWROUTE, wire::route);
        found.ok()?.into_iter().flatten().next()
    }

    fn way(&self, to: IpAddr) -> (Way, Option<IpNet>) {
        let Some(route) = self.ask(&wire::table_route_to(to)) else { return (Way::Nowhere, None) };
        (self.way_of(to, &route), Some(route.network))
    }

    fn way_of(&self, to: IpAddr, route: &Route) -> Way {
        match route.leads.kind {
            wire::RTN_UNICAST => {}
            wire::RTN_LOCAL => return self.here(to, route),
            kind if wire::is_refusal(kind) => return Way::Nowhere,
            _ => return Way::Aside,
        }
        let mut interfaces = self.named(route);
        // A route that names the source is the administrator's own choice of an address.
        if let Some(source) = route.leads.source {
            let owners = self.owners(source);
            if !owners.is_empty() && owners.is_disjoint(&interfaces) {
                return Way::Out(owners);
            }
        }
        let has_address = |name: &String| {
            let of_it = self.host.addresses.iter().filter(|it| it.interface == *name);
            of_it.filter(|it| it.scope == 0).any(|it| it.address.is_ipv4() == to.is_ipv4())
        };
        // An interface without addresses borrows one, and the kernel says which.
        if !interfaces.iter().any(has_address)
            && let Some(route) = self.ask(&wire::route_to(to, None))
        {
            let owners = route.leads.source.map(|source| self.owners(source)).unwrap_or_default();
            interfaces = if owners.is_empty() { self.named(&route) } else { owners };
        }
        Way::Out(interfaces)
    }

    fn here(&self, to: IpAddr, route: &Route) -> Way {
        let owner = self.owners(to).into_iter().next();
        owner.or_else(|| self.named(route).into_iter().next()).map_or(Way::Aside, Way::Here)
    }

    fn named(&self, route: &Route) -> Interfaces {
        route.leads.interfaces.iter().filter_map(|index| self.names.get(index).cloned()).collect()
    }

    /// The interfaces that have an address.
    fn owners(&self, address: IpAddr) -> Interfaces {
        let on = self.host.addresses.iter().filter(|it| it.address == address);
        on.map(|it| it.interface.clone()).collect()
    }
}
