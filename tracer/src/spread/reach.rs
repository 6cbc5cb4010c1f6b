//! How destinations are reached: routes as the kernel has them, and what they lead to.
//!
//! Which way an address is reached changes only where a route begins or ends, so the kernel is asked once for
//! each such [border](borders): with its own tables, rules and metrics.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Questions to the kernel for one destination; a host with more different routes is too much to follow.
pub const BORDERS_MAX: usize = 4096;

/// Interfaces, by name. Of a multipath route they are several.
pub type Interfaces = BTreeSet<String>;

/// A route as it stands in a table.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Route {
    pub table: u32,
    pub network: IpNet,
    pub leads: Leads,
}

/// What a route does with packets.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Leads {
    /// `RTN_*`
    pub kind: u8,
    /// Indices of the output interfaces.
    pub interfaces: Vec<u32>,
    /// The address that connections are to come from, if the route names one.
    pub source: Option<IpAddr>,
    /// Of a next-hop object; 0: none.
    pub nexthop: u32,
}

/// Where connections to a range of addresses go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Way {
    /// Out, from addresses of these interfaces.
    Out(Interfaces),
    /// To this host, which has the address on this interface.
    Here(String),
    /// No unicast address of another host: broadcast, multicast, link-local.
    Aside,
    /// There is no route, or one that refuses (unreachable, blackhole, prohibit).
    Nowhere,
}

/// A range of addresses that are all reached the same way.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Piece {
    pub first: IpAddr,
    pub last: IpAddr,
    pub way: Way,
    /// The network of the route, if there is one.
    pub route: Option<IpNet>,
}

/// A destination of a rule, of one family.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// As it was written; empty: there was no --to.
    pub text: String,
    pub network: IpNet,
}

impl Target {
    /// It stands for everything: what is within it and goes another way than most can be left alone.
    pub fn is_wide(&self) -> bool {
        match self.network {
            IpNet::V4(net) => net.prefix_len() == 0,
            // Global and unique local addresses have the longest such prefixes.
            IpNet::V6(net) => net.prefix_len() <= 7,
        }
    }
}

/// How a target is reached.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reach {
    pub target: Target,
    /// In order, without a gap.
    pub pieces: Vec<Piece>,
}

impl Reach {
    /// Of the ways out, how many addresses each leads to.
    pub(super) fn out(&self) -> BTreeMap<&Interfaces, u128> {
        let mut shares = BTreeMap::new();
        for piece in &self.pieces {
            if let Way::Out(interfaces) = &piece.way {
                let share: &mut u128 = shares.entry(interfaces).or_default();
                *share = share.saturating_add(size(piece));
            }
        }
        shares
    }
}

fn size(piece: &Piece) -> u128 {
    bits(piece.last).saturating_sub(bits(piece.first)).saturating_add(1)
}

pub(super) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The other way round. `like`: of this family.
pub(super) fn from_bits(bits: u128, like: &IpNet) -> IpAddr {
    match like {
        IpNet::V4(_) => Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)).into(),
        IpNet::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

/// Addresses of which interfaces `--pool auto` takes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Choice {
    pub(super) v4: OfFamily,
    pub(super) v6: OfFamily,
    /// Parts of destinations that stand for everything, which connections reach over other interfaces: they
    /// are left alone. In order.
    pub elsewhere: Vec<Elsewhere>,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct OfFamily {
    /// `None`: no destination of this family has a route that would say.
    pub(super) sources: Option<Sources>,
    /// The destinations, for reasons.
    pub(super) targets: Vec<String>,
    /// They stand for everything.
    pub(super) wide: bool,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Sources {
    Of(Interfaces),
    /// The destinations are loopback addresses: so are the sources.
    Loopback,
}

/// A network that is reached over other interfaces than those of the pool, or what is left of it.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Elsewhere {
    pub network: IpNet,
    pub interfaces: Interfaces,
    /// Of a destination whose rest has no route of its own, but a wider one: what of it is spread all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<IpNet>,
}

impl Elsewhere {
    pub(super) fn new(network: IpNet, interfaces: &Interfaces) -> Self {
        Self { network, interfaces: interfaces.clone(), except: Vec::new() }
    }
}

/// First addresses of the ranges within a network that may be reached in different ways, in order; the first
/// one is the network's own. `None`: more than [`BORDERS_MAX`].
pub fn borders(routes: &[Route], within: &IpNet) -> Option<Vec<IpAddr>> {
    let mut sorted: Vec<&Route> = routes.iter().collect();
    sorted.sort_unstable_by_key(|it| (it.table, it.network.network(), it.network.prefix_len()));
    let mut starts = BTreeSet::from([bits(within.network())]);
    let last = bits(within.broadcast());
    // The routes of the table that have the present one within them, widest first.
    let mut around: Vec<&Route> = Vec::new();
    for route in sorted {
        let has =
            |outer: &&Route| outer.table == route.table && outer.network.contains(&route.network);
        while around.last().is_some_and(|outer| !has(outer)) {
            around.pop();
        }
        // One that leads where the wider one leads changes nothing, and a router has a million of them. Where
        // several lead to the wider network, the metric decides, so it has to be like each of them.
        let wider = around.last().map(|outer| outer.network);
        let mut outer = around.iter().rev().take_while(|outer| Some(outer.network) == wider);
        let same = wider.is_some() && outer.all(|outer| outer.leads == route.leads);
        around.push(route);
        if same || !within.contains(&route.network) {
            continue;
        }
        starts.insert(bits(route.network.network()));
        let end = bits(route.network.broadcast());
        if end < last {
            starts.insert(end + 1);
        }
        if starts.len() > BORDERS_MAX {
            return None;
        }
    }
    Some(starts.into_iter().map(|start| from_bits(start, within)).collect())
}

/// The ranges that begin at these borders, as the kernel says.
pub fn pieces(
    within: &IpNet,
    borders: &[IpAddr],
    ask: impl Fn(IpAddr) -> (Way, Option<IpNet>),
) -> Vec<Piece> {
    let ends = borders.iter().skip(1).map(|next| bits(*next).saturating_sub(1));
    let ends = ends.chain([bits(within.broadcast())]);
    let mut pieces: Vec<Piece> = Vec::new();
    for (first, end) in borders.iter().zip(ends) {
        let last = from_bits(end, within);
        // To the kernel the unspecified address is this host.
        let asked = if first.is_unspecified() { last } else { *first };
        let (way, route) = if is_aside(asked) { (Way::Aside, None) } else { ask(asked) };
        match pieces.last_mut() {
            Some(before) if (&before.way, before.route) == (&way, route) => before.last = last,
            _ => pieces.push(Piece { first: *first, last, way, route }),
        }
    }
    pieces
}

/// Whether no TCP connection goes there by a route.
fn is_aside(address: IpAddr) -> bool {
    match address {
        _ if address.is_unspecified() || address.is_multicast() => true,
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
