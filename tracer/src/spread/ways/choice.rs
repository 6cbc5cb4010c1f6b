//! The interfaces whose addresses can be used towards all destinations of a rule.

use std::net::IpAddr;

use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};
use tracer_common::spread::Destination;

use super::text;
use crate::spread::{
    destinations,
    reach::{Choice, Elsewhere, Interfaces, OfFamily, Piece, Reach, Sources, Way},
};

/// Why `--pool auto` cannot know whose addresses are meant.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unclear {
    #[error("there is no route to {}, so no interface to take addresses of; name the addresses", text::targets(.targets))]
    NoRoute { targets: Vec<String> },
    /// Of one family, at least two.
    #[error("{}", text::several(.ways))]
    Several { ways: Vec<Elsewhere> },
    #[error(
        "{count} networks are reached over other interfaces and must be left alone, but a rule cannot hold so \
         many destinations; name fewer with --to"
    )]
    NoPlace { count: usize },
}

/// Which interfaces those are. `place`: networks that can be left alone; where there are more, wider ones are.
///
/// # Errors
/// No route leads to any destination, or an address that serves for one destination may be of no use towards
/// another.
pub fn choose(reaches: &[Reach], place: usize) -> Result<Choice, Unclear> {
    let mut choice = Choice::default();
    let mut unclear = None;
    for is_v4 in [true, false] {
        let of_family: Vec<&Reach> =
            reaches.iter().filter(|it| it.target.network.addr().is_ipv4() == is_v4).collect();
        let sources = match sources(&of_family) {
            Ok(sources) => sources,
            // Without a default route nothing is meant by all destinations of one family.
            Err(error) if of_family.iter().all(|it| it.target.is_wide()) => {
                unclear = unclear.or(Some(error));
                None
            }
            Err(error) => return Err(error),
        };
        if let Some(Sources::Of(main)) = &sources {
            for reach in &of_family {
                choice.leave_alone(reach, main);
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
    let (networks, rests): (Vec<_>, Vec<_>) =
        choice.elsewhere.into_iter().partition(|it| it.except.is_empty());
    let count = networks.len();
    // One of them takes the place of the destination itself.
    let more = rests.iter().map(|it| it.except.len().saturating_sub(1)).sum();
    let place = place.checked_sub(more).filter(|place| *place > 0 || count == 0);
    let networks = fewer(networks, place.ok_or(Unclear::NoPlace { count: count + more })?);
    choice.elsewhere = rests.into_iter().chain(networks).collect();
    Ok(choice)
}

/// Of one family.
fn sources(reaches: &[&Reach]) -> Result<Option<Sources>, Unclear> {
    let mut found: Option<(&Reach, Interfaces)> = None;
    for reach in reaches {
        let Some(main) = main(reach)? else { continue };
        match &found {
            Some((other, interfaces)) if *interfaces != main => {
                let ways = [(other, interfaces), (reach, &main)]
                    .map(|(reach, over)| Elsewhere::new(reach.target.network, over));
                return Err(Unclear::Several { ways: ways.to_vec() });
            }
            Some(_) => {}
            None => found = Some((reach, main)),
        }
    }
    if let Some((_, interfaces)) = found {
        return Ok(Some(Sources::Of(interfaces)));
    }
    // Nothing leads out: perhaps it is all of this host.
    let here = || reaches.iter().flat_map(|it| &it.pieces);
    let mut interfaces = Interfaces::new();
    let mut loopback = false;
    // Of all addresses some always are, which says nothing.
    let narrow = reaches.iter().all(|it| !it.target.is_wide());
    for piece in here().filter(|_| narrow) {
        match &piece.way {
            Way::Here(_) if piece.first.is_loopback() => loopback = true,
            Way::Here(interface) => _ = interfaces.insert(interface.clone()),
            _ => {}
        }
    }
    Ok(match (interfaces.is_empty(), loopback) {
        (false, _) => Some(Sources::Of(interfaces)),
        (true, true) => Some(Sources::Loopback),
        (true, false) => None,
    })
}

/// The interfaces over which connections to a destination leave.
fn main(reach: &Reach) -> Result<Option<Interfaces>, Unclear> {
    let shares = reach.out();
    let most = shares.iter().max_by_key(|(_, share)| **share);
    let Some((interfaces, share)) = most else { return Ok(None) };
    if shares.len() == 1 || reach.target.is_wide() && is_default(*share, reach) {
        return Ok(Some((*interfaces).clone()));
    }
    let mut ways: Vec<Elsewhere> = Vec::new();
    for piece in &reach.pieces {
        let (Way::Out(interfaces), Some(network)) = (&piece.way, piece.route) else { continue };
        if !is_wider(piece, reach) && ways.iter().all(|known| known.interfaces != *interfaces) {
            ways.push(Elsewhere::new(network, interfaces));
        }
    }
    match &ways[..] {
        // The rest only follows a wider route, and was hardly meant.
        [one] => Ok(Some(one.interfaces.clone())),
        _ => Err(Unclear::Several { ways }),
    }
}

/// Whether a part of a destination has no route of its own, but one that leads to more than the destination.
fn is_wider(piece: &Piece, reach: &Reach) -> bool {
    piece.route.is_some_and(|route| route.prefix_len() < reach.target.network.prefix_len())
}

/// Whether so many addresses are what a default route leads to, or two that make one together.
fn is_default(share: u128, reach: &Reach) -> bool {
    let all = match reach.target.network {
        IpNet::V4(_) => u128::from(u32::MAX),
        // Where the whole Internet is.
        IpNet::V6(_) => u128::MAX >> 3,
    };
    share > all / 2
}

/// The parts of a destination that are reached over interfaces that are wanted, each with these interfaces.
fn parts(reach: &Reach, wanted: impl Fn(&Interfaces) -> bool) -> Vec<Elsewhere> {
    let mut found = Vec::new();
    let mut run: Option<(IpAddr, IpAddr, &Interfaces)> = None;
    // Addresses of this host and broadcast addresses belong to the network around them.
    let mut loose: Option<IpAddr> = None;
    let mut end = |run: Option<(IpAddr, IpAddr, &Interfaces)>| {
        let Some((first, last, interfaces)) = run else { return };
        found.extend(networks(first, last).map(|network| Elsewhere::new(network, interfaces)));
    };
    for Piece { first, last, way, .. } in &reach.pieces {
        match way {
            Way::Out(interfaces) if wanted(interfaces) => {
                run = match run {
                    Some((begin, _, same)) if same == interfaces => Some((begin, *last, same)),
                    other => {
                        end(other);
                        Some((loose.unwrap_or(*first), *last, interfaces))
                    }
                };
                loose = None;
            }
            Way::Here(_) | Way::Aside => match &mut run {
                Some((_, end, _)) => *end = *last,
                None => loose = loose.or(Some(*first)),
            },
            Way::Out(_) | Way::Nowhere => {
                end(run.take());
                loose = None;
            }
        }
    }
    end(run);
    found
}

/// The networks that a range is made of.
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

impl Choice {
    /// What of this destination is not spread.
    fn leave_alone(&mut self, reach: &Reach, main: &Interfaces) {
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

    /// Why an address of this interface is passed over. `None`: it is one of those that are taken.
    pub fn objection(&self, address: IpAddr, interface: &str) -> Option<String> {
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

    /// The destinations of the rule: those of `targets`, less what is reached over other interfaces.
    pub fn destinations(&self, targets: &[Destination]) -> Vec<Destination> {
        if self.elsewhere.is_empty() {
            return targets.to_vec();
        }
        let all = [destinations::ALL];
        let (wide, narrow): (Vec<_>, Vec<_>) =
            if targets.is_empty() { &all[..] } else { targets }.iter().partition(|it| is_wide(it));
        let (rests, exempt): (Vec<_>, Vec<_>) =
            self.elsewhere.iter().partition(|it| !it.except.is_empty());
        let narrow = narrow.into_iter().flat_map(|one: &Destination| {
            let is_it = |it: &&&Elsewhere| destinations::masked(it.network) == one.prefix;
            let Some(rest) = rests.iter().find(is_it) else { return vec![*one] };
            let inner = rest.except.iter().map(|network| destinations::masked(*network));
            inner.map(|prefix| Destination { prefix, ..*one }).collect()
        });
        let exempt = exempt.into_iter().map(|it| destinations::exempt(it.network));
        // The last one that has an address decides.
        wide.into_iter().copied().chain(exempt).chain(narrow).collect()
    }
}

/// As [`crate::spread::reach::Target::is_wide`].
fn is_wide(destination: &Destination) -> bool {
    let ones = u128::from_be_bytes(destination.prefix.mask.0).count_ones();
    ones <= if destination.prefix.network.to_v4().is_some() { 96 } else { 7 }
}

/// So many networks at most, which have all of these within them, and as little else as can be. In order.
fn fewer(mut networks: Vec<Elsewhere>, most: usize) -> Vec<Elsewhere> {
    while networks.len() > most {
        let pairs = networks.iter().zip(networks.iter().skip(1)).enumerate();
        let joined =
            pairs.filter_map(|(at, (one, next))| Some((at, around(&one.network, &next.network)?)));
        // Of those with the longest prefix.
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

/// The smallest network that has both.
fn around(one: &IpNet, other: &IpNet) -> Option<IpNet> {
    let mut wider = *one;
    while !wider.contains(other) {
        wider = wider.supernet()?;
    }
    Some(wider)
}
