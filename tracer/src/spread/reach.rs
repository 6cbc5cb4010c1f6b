//! Works out how the destinations of a rule are reached: by which routes of the kernel, over which interfaces. No I/O.
//!
//! From one address to the next, the route changes only where the network of a route in some table begins or ends. So the
//! kernel, which knows its tables, rules and metrics, is asked once for each [range between two such addresses](range_starts).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// How many ranges one destination has at most: the kernel is asked once for each. With more, reading the routes fails.
pub const RANGES_MAX: usize = 4096;

/// Names of interfaces: of a multipath route several.
pub type Interfaces = BTreeSet<String>;

/// A route of a table.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Route {
    /// Number of the table. 0: this is no route, but stands for a rule of policy routing.
    pub table: u32,
    /// The destinations to which it applies.
    pub network: IpNet,
    pub action: RouteAction,
}

/// What a route does with packets, for comparison with other routes.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct RouteAction {
    /// Type of the route (`RTN_*`): unicast, blackhole and so on.
    pub kind: u8,
    /// Indices of the output interfaces.
    pub interfaces: Vec<u32>,
    /// The source address that the route names (`src`); `None`: it names none.
    pub source: Option<IpAddr>,
    /// Number of its next-hop object; 0: none.
    pub nexthop: u32,
}

/// What the route to a range of addresses does with connections (as ip-route(8) names the types).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RouteType {
    /// Connections leave this host, from addresses of these interfaces; empty: they were added after the interfaces were listed.
    Unicast(Interfaces),
    /// Connections stay on this host, which has the address on this interface.
    Local(String),
    /// Not looked up, or of no use to a pool: unspecified, multicast, link-local or broadcast addresses; a route of
    /// another type, or of type local without an interface.
    NotUnicast,
    /// There is no route, one that refuses packets (unreachable, blackhole, prohibit, throw), or no answer of the
    /// kernel.
    Unreachable,
}

/// Neighbouring addresses of one family, both ends included, that the kernel is taken to reach in the same way. It was asked for
/// one of them only; the others may have other routes with the same type and interface, or none has a route.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RouteRange {
    pub first: IpAddr,
    pub last: IpAddr,
    pub route_type: RouteType,
    /// The network of the route to the address that the kernel was asked for; of merged ranges, that of the first. `None`: there
    /// is no route, the kernel did not answer, or it was not asked, because the addresses are not unicast.
    pub route: Option<IpNet>,
}

/// A destination of a rule, of one family.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// The `--to` value as it was written; empty: there is no `--to`.
    pub text: String,
    pub network: IpNet,
}

impl Target {
    /// Whether this target stands for the whole Internet: an IPv4 network of length 0, or an IPv6 one of length 7 or less. Then
    /// `--pool auto` takes the interfaces over which most of it is reached, and connections to what is reached over others are
    /// not spread.
    pub fn is_wide(&self) -> bool {
        match self.network {
            IpNet::V4(net) => net.prefix_len() == 0,
            // So these are wide, too: 2000::/3 (all global addresses) and fc00::/7 (all unique local addresses).
            IpNet::V6(net) => net.prefix_len() <= 7,
        }
    }
}

/// How a target is reached.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reach {
    pub target: Target,
    /// In ascending order, without a gap.
    pub ranges: Vec<RouteRange>,
}

impl Reach {
    /// How many addresses are reached over each set of interfaces. Only ranges of type [`RouteType::Unicast`] count, so
    /// addresses of this host do not.
    pub(super) fn out(&self) -> BTreeMap<&Interfaces, u128> {
        let mut shares = BTreeMap::new();
        for range in &self.ranges {
            if let RouteType::Unicast(interfaces) = &range.route_type {
                let share: &mut u128 = shares.entry(interfaces).or_default();
                *share = share.saturating_add(size(range));
            }
        }
        shares
    }
}

fn size(range: &RouteRange) -> u128 {
    bits(range.last).saturating_sub(bits(range.first)).saturating_add(1)
}

/// An address as a number, the first byte of the address being the highest.
pub(super) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address of a number, of the family of `like`. A number that is too large for IPv4 becomes 255.255.255.255.
pub(super) fn from_bits(bits: u128, like: &IpNet) -> IpAddr {
    match like {
        IpNet::V4(_) => Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)).into(),
        IpNet::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

/// The interfaces whose addresses `--pool auto` takes, and what the rule exempts because of that. The default: none.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AutoChoice {
    pub(super) v4: OfFamily,
    pub(super) v6: OfFamily,
    /// Networks within the destinations that are reached over other interfaces: the rule does not spread connections
    /// to them. First those with exceptions, then the others, both in ascending order.
    pub elsewhere: Vec<Elsewhere>,
}

/// The choice for one address family.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct OfFamily {
    /// Whose addresses are taken. `None`: no destination of this family has a route; or all are
    /// [wide](Target::is_wide), and it is not clear which of several interfaces their routes mean.
    pub(super) sources: Option<Sources>,
    /// The destinations as they were written, for messages.
    pub(super) targets: Vec<String>,
    /// Whether there are destinations of this family, and all of them are [wide](Target::is_wide).
    pub(super) wide: bool,
}

/// Whose addresses are taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Sources {
    Of(Interfaces),
    /// Loopback addresses, because the destinations are loopback addresses.
    Loopback,
}

/// A network, and the interfaces over which it is reached; in an [`AutoChoice`], others than those of the pool. Addresses of this
/// host in it do not count, nor do those between networks that were merged because a rule cannot hold so many.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Elsewhere {
    pub network: IpNet,
    /// The interfaces over which its addresses outside of `except` are reached. Of a multipath route, interfaces of the pool can
    /// be among them.
    pub interfaces: Interfaces,
    /// The networks within it that are reached over the pool's interfaces, and so are spread. Empty: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<IpNet>,
}

impl Elsewhere {
    /// A network of which everything is reached over these interfaces.
    pub(super) fn new(network: IpNet, interfaces: &Interfaces) -> Self {
        Self { network, interfaces: interfaces.clone(), except: Vec::new() }
    }
}

/// First addresses of the ranges within a network that may be reached by different routes, in ascending order; the
/// first one is the network's own. `routes`: those of all tables; those of the other family do not count. `None`: there are more
/// than [`RANGES_MAX`] ranges.
pub fn range_starts(routes: &[Route], within: &IpNet) -> Option<Vec<IpAddr>> {
    let mut sorted: Vec<&Route> = routes.iter().collect();
    sorted.sort_unstable_by_key(|it| (it.table, it.network.network(), it.network.prefix_len()));
    let mut starts = BTreeSet::from([bits(within.network())]);
    let last = bits(within.broadcast());
    // The routes of the same table whose networks contain this one, widest first.
    let mut around: Vec<&Route> = Vec::new();
    for route in sorted {
        let has =
            |outer: &&Route| outer.table == route.table && outer.network.contains(&route.network);
        while around.last().is_some_and(|outer| !has(outer)) {
            around.pop();
        }
        // A route with the same action as the wider one changes nothing, and a router has a million of these. If
        // there are several routes to the wider network, the metric decides, so each must have the same action.
        let wider = around.last().map(|outer| outer.network);
        let mut outer = around.iter().rev().take_while(|outer| Some(outer.network) == wider);
        let same = wider.is_some() && outer.all(|outer| outer.action == route.action);
        around.push(route);
        if same || !within.contains(&route.network) {
            continue;
        }
        starts.insert(bits(route.network.network()));
        let end = bits(route.network.broadcast());
        if end < last {
            starts.insert(end + 1);
        }
        if starts.len() > RANGES_MAX {
            return None;
        }
    }
    Some(starts.into_iter().map(|start| from_bits(start, within)).collect())
}

/// The ranges of `within`, in ascending order. `range_starts`: their first addresses, as [`range_starts()`] returns them.
/// `ask`: how the kernel reaches an address, and the network of its route (`None`: there is none); it is called for the first
/// address of each range (for the last one if that is 0.0.0.0 or ::), unless that is not unicast. Neighbours with the same answer
/// become one range.
pub fn ranges(
    within: &IpNet,
    range_starts: &[IpAddr],
    ask: impl Fn(IpAddr) -> (RouteType, Option<IpNet>),
) -> Vec<RouteRange> {
    let ends = range_starts.iter().skip(1).map(|next| bits(*next).saturating_sub(1));
    let ends = ends.chain([bits(within.broadcast())]);
    let mut ranges: Vec<RouteRange> = Vec::new();
    for (first, end) in range_starts.iter().zip(ends) {
        let last = from_bits(end, within);
        // The kernel takes the unspecified address for this host, so the range's last address is asked for.
        let asked = if first.is_unspecified() { last } else { *first };
        let (route_type, route) =
            if is_not_unicast(asked) { (RouteType::NotUnicast, None) } else { ask(asked) };
        match ranges.last_mut() {
            Some(before) if (&before.route_type, before.route) == (&route_type, route) => {
                before.last = last;
            }
            _ => ranges.push(RouteRange { first: *first, last, route_type, route }),
        }
    }
    ranges
}

/// Whether the kernel is not asked for this address: it is unspecified, multicast, link-local or (IPv4) broadcast.
fn is_not_unicast(address: IpAddr) -> bool {
    match address {
        _ if address.is_unspecified() || address.is_multicast() => true,
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
