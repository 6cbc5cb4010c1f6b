//! Finds out how the destinations of a rule are reached, by the routes of a network namespace.

use std::{collections::BTreeMap, io, net::IpAddr};

use ipnet::IpNet;

use super::{Host, QuerySocket, list, wire};
use crate::spread::reach::{self, Interfaces, Reach, Route, RouteAction, RouteType, Target};

/// How the calling thread's network namespace reaches each of these destinations: for a socket that is bound to no
/// address and no device, has no mark, and is of a user to whom no rule of policy routing applies. One item for each, IPv4
/// destinations first, else in their order; empty: there are no destinations. `host`: the interfaces and addresses of that
/// namespace.
///
/// # Errors
/// No netlink socket can be opened; the interfaces, routes or rules of policy routing cannot be read; one destination
/// has more than [`reach::RANGES_MAX`] ranges that may be reached by different routes (kind `QuotaExceeded`).
pub(in crate::spread) fn reaches(targets: &[Target], host: &Host) -> io::Result<Vec<Reach>> {
    let socket = QuerySocket::open()?;
    let links = list(Some(&socket), "interfaces", &wire::links(), wire::RTM_NEWLINK, wire::link)?;
    let kernel = Kernel { socket, names: links.into_iter().collect(), host };
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
            let range_starts = reach::range_starts(&routes, &target.network).ok_or_else(|| {
                let message = format!(
                    "more than {} ranges of {} are reached by different routes",
                    reach::RANGES_MAX,
                    target.network
                );
                io::Error::new(io::ErrorKind::QuotaExceeded, message)
            })?;
            let ranges = reach::ranges(&target.network, &range_starts, |to| kernel.lookup(to));
            found.push(Reach { target: target.clone(), ranges });
        }
    }
    Ok(found)
}

/// In place of a table's number (RT_TABLE_UNSPEC), for a [`Route`] that stands for a rule of policy routing.
const NO_TABLE: u32 = 0;

struct Kernel<'a> {
    socket: QuerySocket,
    names: BTreeMap<u32, String>,
    host: &'a Host,
}

impl Kernel<'_> {
    /// The routes of all tables, of one family.
    fn routes(&self, v4: bool) -> io::Result<Vec<Route>> {
        let request = wire::routes(v4);
        let routes = list(Some(&self.socket), "routes", &request, wire::RTM_NEWROUTE, wire::route)?;
        Ok(routes.into_iter().flatten().collect())
    }

    /// The destinations of the rules of policy routing, as routes: where the destination of such a rule begins or ends,
    /// another route may apply.
    fn rules(&self, v4: bool) -> io::Result<Vec<Route>> {
        let request = wire::rules(v4);
        let rules = list(Some(&self.socket), "rules", &request, wire::RTM_NEWRULE, wire::rule)?;
        let range_starts = rules.into_iter().flatten().zip(1..).map(|(network, number)| Route {
            table: NO_TABLE,
            network,
            // A different number for each rule, so that its action equals that of no other route.
            action: RouteAction { nexthop: number, ..RouteAction::default() },
        });
        Ok(range_starts.collect())
    }

    /// The kernel's answer to a request for one route, which can be of type unreachable, blackhole or prohibit. `None`:
    /// the kernel has no route, or did not answer with one that can be read.
    fn ask(&self, request: &[u8]) -> Option<Route> {
        let found = list(Some(&self.socket), "routes", request, wire::RTM_NEWROUTE, wire::route);
        found.ok()?.into_iter().flatten().next()
    }

    /// How an address is reached, and the network of its route. If there is no route, or the kernel does not answer:
    /// [`RouteType::Unreachable`] and `None`.
    fn lookup(&self, to: IpAddr) -> (RouteType, Option<IpNet>) {
        let Some(route) = self.ask(&wire::table_route_to(to)) else {
            return (RouteType::Unreachable, None);
        };
        (self.route_type(to, &route), Some(route.network))
    }

    fn route_type(&self, to: IpAddr, route: &Route) -> RouteType {
        match route.action.kind {
            wire::RTN_UNICAST => {}
            wire::RTN_LOCAL => return self.local(to, route),
            kind if wire::is_refusal(kind) => return RouteType::Unreachable,
            _ => return RouteType::NotUnicast,
        }
        let mut interfaces = self.named(route);
        // The route names a source (`src`): the administrator wants connections to come from this address.
        if let Some(source) = route.action.source {
            let owners = self.owners(source);
            if !owners.is_empty() && owners.is_disjoint(&interfaces) {
                return RouteType::Unicast(owners);
            }
        }
        let has_address = |name: &String| {
            let of_it = self.host.addresses.iter().filter(|it| it.interface == *name);
            of_it.filter(|it| it.scope == 0).any(|it| it.address.is_ipv4() == to.is_ipv4())
        };
        // None of the interfaces has a global address: the kernel uses an address of another interface, and names it as
        // the source when it is asked for the route of a connection.
        if !interfaces.iter().any(has_address)
            && let Some(route) = self.ask(&wire::route_to(to, None))
        {
            let owners = route.action.source.map(|source| self.owners(source)).unwrap_or_default();
            interfaces = if owners.is_empty() { self.named(&route) } else { owners };
        }
        RouteType::Unicast(interfaces)
    }

    /// The type for an address of this host: local on the interface that has it, else on the one that the route names.
    /// If the route names none, either: [`RouteType::NotUnicast`].
    fn local(&self, to: IpAddr, route: &Route) -> RouteType {
        let owner = self.owners(to).into_iter().next();
        owner
            .or_else(|| self.named(route).into_iter().next())
            .map_or(RouteType::NotUnicast, RouteType::Local)
    }

    /// The names of a route's interfaces; without those that were added after the interfaces were listed.
    fn named(&self, route: &Route) -> Interfaces {
        route.action.interfaces.iter().filter_map(|index| self.names.get(index).cloned()).collect()
    }

    /// The names of the interfaces that have this address.
    fn owners(&self, address: IpAddr) -> Interfaces {
        let on = self.host.addresses.iter().filter(|it| it.address == address);
        on.map(|it| it.interface.clone()).collect()
    }
}
