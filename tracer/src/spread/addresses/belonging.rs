//! Finds the interface to which an address should be added that the namespace does not have yet.

use std::{io, net::IpAddr};

use super::{QuerySocket, list, wire};
use crate::spread::reach::Route;

/// How many destinations are asked for.
const MOST: usize = 4;

/// The name of the interface to which `address` should be added, by the routes of the calling thread's network namespace. Only
/// routes of type unicast with one interface count. The first of these is taken: the route to the address, unless it is a default
/// route; the routes to the destinations `towards`, in their order (only the first 4 of the address's family); the default route.
/// `None`: there is none of these, the kernel does not answer, or the interface is gone since.
///
/// # Errors
/// No netlink socket can be opened, or the interfaces cannot be read.
pub fn interface_for(address: IpAddr, towards: &[IpAddr]) -> io::Result<Option<String>> {
    let socket = QuerySocket::open()?;
    // If there is no route, this is an error.
    let route = |to: IpAddr| {
        let request = wire::table_route_to(to);
        let found = list(Some(&socket), "routes", &request, wire::RTM_NEWROUTE, wire::route);
        found.ok()?.into_iter().flatten().next()
    };
    let towards = towards.iter().filter(|to| to.is_ipv4() == address.is_ipv4()).take(MOST);
    let Some(index) = choose(route(address).as_ref(), towards.filter_map(|to| route(*to))) else {
        return Ok(None);
    };
    let links = list(Some(&socket), "interfaces", &wire::links(), wire::RTM_NEWLINK, wire::link)?;
    Ok(links.into_iter().find(|(known, _)| *known == index).map(|(_, name)| name))
}

/// The index of that interface. `own`: the route to the address; `towards`: those to the destinations.
fn choose(own: Option<&Route>, towards: impl IntoIterator<Item = Route>) -> Option<u32> {
    let index = |route: &Route| match route.action.interfaces[..] {
        [one] if route.action.kind == wire::RTN_UNICAST => Some(one),
        _ => None,
    };
    let of_network = own.filter(|route| route.network.prefix_len() > 0);
    of_network
        .and_then(index)
        .or_else(|| towards.into_iter().find_map(|route| index(&route)))
        .or_else(|| own.and_then(index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spread::reach::RouteAction;

    fn route(network: &str, kind: u8, interfaces: &[u32]) -> Route {
        let action =
            RouteAction { kind, interfaces: interfaces.to_vec(), ..RouteAction::default() };
        Route { table: 254, network: network.parse().unwrap(), action }
    }

    #[test]
    fn the_network_of_the_address_comes_first_then_the_destinations_then_the_default_route() {
        let unicast = |network, interfaces: &[u32]| route(network, wire::RTN_UNICAST, interfaces);
        let (own, default) = (unicast("10.2.0.0/24", &[2]), unicast("0.0.0.0/0", &[3]));
        let to = || [unicast("10.5.0.0/16", &[4, 5]), unicast("10.6.0.0/16", &[6])];
        assert_eq!(choose(Some(&own), to()), Some(2));
        assert_eq!(choose(Some(&default), to()), Some(6));
        assert_eq!(choose(None, to()), Some(6));
        assert_eq!(choose(Some(&default), []), Some(3));
        assert_eq!(choose(None, []), None);
    }

    #[test]
    fn a_route_to_several_interfaces_or_to_none_says_nothing() {
        let several = route("10.2.0.0/24", wire::RTN_UNICAST, &[2, 3]);
        assert_eq!(choose(Some(&several), []), None);
        assert_eq!(choose(Some(&route("10.2.0.9/32", wire::RTN_LOCAL, &[1])), []), None);
    }
}
