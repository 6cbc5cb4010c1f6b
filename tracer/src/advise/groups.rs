//! Destinations that one upstream, backend or cluster has: those with the same port.

use std::collections::BTreeMap;

use super::{Destination, Plan};

/// Destinations that are taken for the servers of one service.
#[derive(Clone, Debug)]
pub(super) struct Group<'a> {
    /// A name that is unique in the text, such as `app` or `app_8080`: letters, digits and underscores.
    pub(super) name: String,
    pub(super) destinations: Vec<&'a Destination>,
}

impl Group<'_> {
    /// Whether it has destinations of this family (`v4`: IPv4, else IPv6).
    pub(super) fn has(&self, v4: bool) -> bool {
        self.destinations.iter().any(|it| it.address.is_ipv4() == v4)
    }

    /// The family (true: IPv4) of its destinations for which the pool has fewest addresses, of the families of which the pool has
    /// at least two. If there is no such family: whether the group has IPv4 destinations.
    pub(super) fn scarcest(&self, plan: &Plan) -> bool {
        let families =
            [true, false].into_iter().filter(|v4| self.has(*v4) && plan.pool_size(*v4) > 1);
        families.min_by_key(|v4| plan.pool_size(*v4)).unwrap_or(self.has(true))
    }

    /// The sum of [`Destination::peak`] over all destinations: the most connections that can be open at the same time.
    pub(super) fn peak(&self) -> f64 {
        self.destinations.iter().map(|it| it.peak).sum()
    }

    /// Connections to all destinations together, per second.
    pub(super) fn rate(&self) -> f64 {
        self.destinations.iter().map(|it| it.flow.rate).sum()
    }
}

/// The plan's destinations by port, in ascending order. `by_family`: the IPv4 and the IPv6 ones of a port are groups of their
/// own. A single group is named `app`, others `app_PORT`, or `app_PORT_v4` and `app_PORT_v6` if both families of a port have one.
/// Empty: the plan has no destinations.
pub(super) fn groups(plan: &Plan, by_family: bool) -> Vec<Group<'_>> {
    let mut found: BTreeMap<(u16, bool), Vec<&Destination>> = BTreeMap::new();
    for destination in &plan.destinations {
        let second = by_family && !destination.address.is_ipv4();
        found.entry((destination.port, second)).or_default().push(destination);
    }
    let several = found.len() > 1;
    let both: Vec<u16> =
        found.keys().filter(|(_, second)| *second).map(|(port, _)| *port).collect();
    let named = |((port, second), destinations): ((u16, bool), Vec<_>)| {
        let mixed = both.contains(&port)
            && plan.destinations.iter().any(|it| it.port == port && it.address.is_ipv4());
        let name = match (several, mixed) {
            (false, _) => "app".to_owned(),
            (true, false) => format!("app_{port}"),
            (true, true) => format!("app_{port}_v{}", if second { 6 } else { 4 }),
        };
        Group { name, destinations }
    };
    found.into_iter().map(named).collect()
}
