//! Chooses the interfaces whose addresses can be used towards all destinations of a rule.

use std::net::IpAddr;

use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};
use tracer_common::spread::Destination;

use super::text;
use crate::spread::{
    destinations,
    reach::{AutoChoice, Elsewhere, Interfaces, OfFamily, Reach, RouteRange, RouteType, Sources},
};

/// Why the routes do not say which interfaces `--pool auto` means.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unclear {
    /// No destination has a route. `targets`: the `--to` values as they were written; empty: there is no `--to`.
    #[error("there is no route to {}, so no interface whose addresses to take; name the addresses of the pool", text::targets(.targets))]
    NoRoute { targets: Vec<String> },
    /// The destinations are reached over different interfaces. `reached`: at least two networks, all of one family, each
    /// with the interfaces that lead to it.
    #[error("{}", text::several(.reached))]
    Several { reached: Vec<Elsewhere> },
    /// `count`: how many networks would have to be exempt.
    #[error(
        "{count} networks are reached over other interfaces and must be exempt, but a rule cannot hold so \
        many destinations; name fewer with --to"
    )]
    TooManyNetworks { count: usize },
}

/// The interfaces whose addresses `--pool auto` takes, by how the destinations are reached (`reaches`). `room`: how many networks
/// the rule can exempt in addition to its destinations; if there are more, they are merged into wider ones.
///
/// # Errors
/// [`Unclear::NoRoute`]: no destination has a route, or `reaches` is empty. [`Unclear::Several`]: the destinations of a family
/// are reached over different interfaces, so an address that works towards one may not work towards another. (A family whose
/// destinations are all wide is left out in place of an error if the other family has a route.) [`Unclear::TooManyNetworks`]:
/// more networks must be exempt than `room` allows even after merging.
pub fn choose(reaches: &[Reach], room: usize) -> Result<AutoChoice, Unclear> {
    let mut choice = AutoChoice::default();
    let mut unclear = None;
    for is_v4 in [true, false] {
        let of_family: Vec<&Reach> =
            reaches.iter().filter(|it| it.target.network.addr().is_ipv4() == is_v4).collect();
        let sources = match sources(&of_family) {
            Ok(sources) => sources,
            // The targets name no network of this family in particular, so it is left out; an error only if the other
            // family has no sources, either.
            Err(error) if of_family.iter().all(|it| it.target.is_wide()) => {
                unclear = unclear.or(Some(error));
                None
            }
            Err(error) => return Err(error),
        };
        if let Some(Sources::Of(main)) = &sources {
            for reach in &of_family {
                choice.exempt_other_routes(reach, main);
            }
        }
        let mut targets: Vec<String> = of_family.iter().map(|it| it.target.text.clone()).collect();
        targets.retain(|text| !text.is_empty());
        targets.dedup();
        let wide = !of_family.is_empty() && of_family.iter().all(|it| it.target.is_wide());
        let one = OfFamily { sources, targets, wide };
        *(if is_v4 { &mut choice.v4 } else { &mut choice.v6 }) = one;
    }
    if choice.v4.sources.is_none() && choice.v6.sources.is_none() {
        let mut targets = choice.v4.targets;
        targets.extend(choice.v6.targets);
        targets.dedup();
        return Err(unclear.unwrap_or(Unclear::NoRoute { targets }));
    }
    choice.elsewhere.sort_unstable();
    choice.elsewhere.dedup();
    let (networks, partial): (Vec<_>, Vec<_>) =
        choice.elsewhere.into_iter().partition(|it| it.except.is_empty());
    let count = networks.len();
    // The first exception takes the place of the destination itself in the rule.
    let more = partial.iter().map(|it| it.except.len().saturating_sub(1)).sum();
    let room = room.checked_sub(more).filter(|room| *room > 0 || count == 0);
    let networks =
        merge_networks(networks, room.ok_or(Unclear::TooManyNetworks { count: count + more })?);
    choice.elsewhere = partial.into_iter().chain(networks).collect();
    Ok(choice)
}

/// Whose addresses can be used towards these destinations of one family: those of the interfaces over which connections
/// leave the host; if none leaves, those of the interfaces that have the destinations. `None`: there are neither. An
/// error if the destinations, or parts of one, are reached over different interfaces.
fn sources(reaches: &[&Reach]) -> Result<Option<Sources>, Unclear> {
    let mut found: Option<(&Reach, Interfaces)> = None;
    for reach in reaches {
        let Some(main) = main_interfaces(reach)? else { continue };
        match &found {
            Some((other, interfaces)) if *interfaces != main => {
                let both = [(other, interfaces), (reach, &main)]
                    .map(|(reach, over)| Elsewhere::new(reach.target.network, over));
                return Err(Unclear::Several { reached: both.to_vec() });
            }
            Some(_) => {}
            None => found = Some((reach, main)),
        }
    }
    if let Some((_, interfaces)) = found {
        return Ok(Some(Sources::Of(interfaces)));
    }
    // No route leaves the host: the destinations may be its own addresses.
    let here = || reaches.iter().flat_map(|it| &it.ranges);
    let mut interfaces = Interfaces::new();
    let mut loopback = false;
    // A wide destination always contains addresses of the host, so its ranges of type local say nothing.
    let narrow = reaches.iter().all(|it| !it.target.is_wide());
    for range in here().filter(|_| narrow) {
        match &range.route_type {
            RouteType::Local(_) if range.first.is_loopback() => loopback = true,
            RouteType::Local(interface) => _ = interfaces.insert(interface.clone()),
            _ => {}
        }
    }
    Ok(match (interfaces.is_empty(), loopback) {
        (false, _) => Some(Sources::Of(interfaces)),
        (true, true) => Some(Sources::Loopback),
        (true, false) => None,
    })
}

/// The interfaces over which connections to a destination leave the host; `None`: none leave. If parts of the
/// destination are reached over different interfaces: those of the default route (if the destination is wide), or the
/// only ones that routes within the destination use; else an error.
fn main_interfaces(reach: &Reach) -> Result<Option<Interfaces>, Unclear> {
    let shares = reach.out();
    let most = shares.iter().max_by_key(|(_, share)| **share);
    let Some((interfaces, share)) = most else { return Ok(None) };
    if shares.len() == 1 || reach.target.is_wide() && is_default(*share, reach) {
        return Ok(Some((*interfaces).clone()));
    }
    let mut reached: Vec<Elsewhere> = Vec::new();
    for range in &reach.ranges {
        let (RouteType::Unicast(interfaces), Some(network)) = (&range.route_type, range.route)
        else {
            continue;
        };
        if !is_wider(range, reach) && reached.iter().all(|known| known.interfaces != *interfaces) {
            reached.push(Elsewhere::new(network, interfaces));
        }
    }
    match &reached[..] {
        // The other ranges have no route of their own, only a wider one, so the user hardly means them.
        [one] => Ok(Some(one.interfaces.clone())),
        _ => Err(Unclear::Several { reached }),
    }
}

/// Whether a range of a destination has no route of its own, but one to a wider network than the destination.
fn is_wider(range: &RouteRange, reach: &Reach) -> bool {
    range.route.is_some_and(|route| route.prefix_len() < reach.target.network.prefix_len())
}

/// Whether `share` addresses are more than half of all (IPv6: of all global ones). Then they have a default route, or
/// two routes that replace one (0.0.0.0/1 and 128.0.0.0/1).
fn is_default(share: u128, reach: &Reach) -> bool {
    let all = match reach.target.network {
        IpNet::V4(_) => u128::from(u32::MAX),
        // 2000::/3 has all global addresses.
        IpNet::V6(_) => u128::MAX >> 3,
    };
    share > all / 2
}

/// The networks within a destination that are reached over interfaces for which `wanted` is true, each with these
/// interfaces.
fn parts(reach: &Reach, wanted: impl Fn(&Interfaces) -> bool) -> Vec<Elsewhere> {
    let mut found = Vec::new();
    let mut run: Option<(IpAddr, IpAddr, &Interfaces)> = None;
    // Where addresses begin that are the host's own or not unicast, while there is no run. A run that follows them
    // begins there: such addresses do not split a network.
    let mut loose: Option<IpAddr> = None;
    let mut end = |run: Option<(IpAddr, IpAddr, &Interfaces)>| {
        let Some((first, last, interfaces)) = run else { return };
        found.extend(networks(first, last).map(|network| Elsewhere::new(network, interfaces)));
    };
    for RouteRange { first, last, route_type, .. } in &reach.ranges {
        match route_type {
            RouteType::Unicast(interfaces) if wanted(interfaces) => {
                run = match run {
                    Some((begin, _, same)) if same == interfaces => Some((begin, *last, same)),
                    other => {
                        end(other);
                        Some((loose.unwrap_or(*first), *last, interfaces))
                    }
                };
                loose = None;
            }
            RouteType::Local(_) | RouteType::NotUnicast => match &mut run {
                Some((_, end, _)) => *end = *last,
                None => loose = loose.or(Some(*first)),
            },
            RouteType::Unicast(_) | RouteType::Unreachable => {
                end(run.take());
                loose = None;
            }
        }
    }
    end(run);
    found
}

/// The fewest networks that make up a range; none if its ends are of different families.
fn networks(first: IpAddr, last: IpAddr) -> impl Iterator<Item = IpNet> {
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            Some(IpSubnets::V4(Ipv4Subnets::new(first, last, 0)))
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            Some(IpSubnets::V6(Ipv6Subnets::new(first, last, 0)))
        }
        _ => None,
    }
    .into_iter()
    .flatten()
}

impl AutoChoice {
    /// Adds to [`Self::elsewhere`] what of this destination is reached over other interfaces than `main`.
    fn exempt_other_routes(&mut self, reach: &Reach, main: &Interfaces) {
        let network = reach.target.network;
        if reach.target.is_wide() {
            self.elsewhere.extend(parts(reach, |interfaces| interfaces != main));
            return;
        }
        let others: Interfaces =
            reach.out().into_keys().filter(|it| *it != main).flatten().cloned().collect();
        if others.is_empty() {
            return;
        }
        let inner = parts(reach, |interfaces| interfaces == main);
        let except = inner.into_iter().map(|it| it.network).collect();
        self.elsewhere.push(Elsewhere { network, interfaces: others, except });
    }

    /// Why `--pool auto` passes over this address of this interface by the routes, as a text for people; `None`: by the routes,
    /// it takes the address (scope and flags of the address do not count here).
    pub fn skip_reason(&self, address: IpAddr, interface: &str) -> Option<String> {
        let v4 = address.is_ipv4();
        let family = if v4 { "IPv4" } else { "IPv6" };
        let OfFamily { sources, targets, wide } = if v4 { &self.v4 } else { &self.v6 };
        match sources {
            Some(Sources::Loopback) if address.is_loopback() => None,
            Some(Sources::Loopback) => Some("the destinations are loopback addresses".to_owned()),
            _ if address.is_loopback() => Some("loopback".to_owned()),
            Some(Sources::Of(interfaces)) if interfaces.contains(interface) => None,
            Some(Sources::Of(_)) if *wide => {
                Some(format!("no {family} default route uses {interface}"))
            }
            Some(Sources::Of(_)) => {
                Some(format!("no route to {} uses {interface}", text::targets(targets)))
            }
            None if *wide => Some(format!("there is no {family} default route")),
            None if targets.is_empty() => Some(format!("no destination is an {family} one")),
            None => Some(format!("there is no route to {}", text::targets(targets))),
        }
    }

    /// The destinations of the rule: `targets` (empty: all destinations), with what is reached over other interfaces
    /// exempted; `targets` itself, also if empty, if there is nothing to exempt. In the order that the hooks need (of those that
    /// contain an address, the last one decides). Their number is not limited here.
    pub fn destinations(&self, targets: &[Destination]) -> Vec<Destination> {
        if self.elsewhere.is_empty() {
            return targets.to_vec();
        }
        let all = [destinations::ALL];
        let (wide, narrow): (Vec<_>, Vec<_>) =
            if targets.is_empty() { &all[..] } else { targets }.iter().partition(|it| is_wide(it));
        let (partial, exempt): (Vec<_>, Vec<_>) =
            self.elsewhere.iter().partition(|it| !it.except.is_empty());
        let narrow = narrow.into_iter().flat_map(|one: &Destination| {
            let is_it = |it: &&&Elsewhere| destinations::masked(it.network) == one.prefix;
            let Some(rest) = partial.iter().find(is_it) else { return vec![*one] };
            let inner = rest.except.iter().map(|network| destinations::masked(*network));
            inner.map(|prefix| Destination { prefix, ..*one }).collect()
        });
        let exempt = exempt.into_iter().map(|it| destinations::exempt(it.network));
        // Of the destinations that contain an address, the last one decides.
        wide.into_iter().copied().chain(exempt).chain(narrow).collect()
    }
}

/// Whether a destination of the rule is wide, as [`crate::spread::reach::Target::is_wide`] says it of a target.
fn is_wide(destination: &Destination) -> bool {
    let ones = u128::from_be_bytes(destination.prefix.mask.0).count_ones();
    ones <= if destination.prefix.network.to_v4().is_some() { 96 } else { 7 }
}

/// At most `most` networks that contain all of these and little else, in ascending order: the two neighbours with the
/// longest common prefix are merged until they are few enough. Networks of two families are never merged, so if there are
/// both and `most` is 1, two are left. `networks` must be in ascending order (not checked).
fn merge_networks(mut networks: Vec<Elsewhere>, most: usize) -> Vec<Elsewhere> {
    while networks.len() > most {
        let pairs = networks.iter().zip(networks.iter().skip(1)).enumerate();
        let joined = pairs.filter_map(|(at, (one, next))| {
            Some((at, common_supernet(&one.network, &next.network)?))
        });
        // IPv4 prefixes are compared as v4-mapped ones.
        let Some((at, network)) = joined.max_by_key(|(_, joined)| match joined {
            IpNet::V4(net) => net.prefix_len() + 96,
            IpNet::V6(net) => net.prefix_len(),
        }) else {
            break;
        };
        let both = networks.drain(at..at + 2).flat_map(|it| it.interfaces).collect();
        networks.insert(at, Elsewhere::new(network, &both));
    }
    networks
}

/// The smallest network that contains both; `None`: they are of different families.
fn common_supernet(one: &IpNet, other: &IpNet) -> Option<IpNet> {
    let mut wider = *one;
    while !wider.contains(other) {
        wider = wider.supernet()?;
    }
    Some(wider)
}
