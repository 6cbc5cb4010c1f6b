//! Counts how many ports bind(address, 0) has left at each address where it is used. No I/O.
//!
//! bind(address, 0) is given any port of the range that is not reserved and that no socket has at this address or at all
//! addresses. Sockets of connections count, too, whatever their destination, and so do listeners and TIME_WAITs
//! (`inet_csk_find_open_port`).

use foldhash::{HashMap, HashSet};
use tracer_common::{Addr, Bound, Conn, ConnKey, TupleCount, TupleKey, conn_flag};

use super::{Limits, PortSet, Usable};
use crate::host::capacity::Holds;

/// How many addresses are counted, those with the most ports first: each takes 8 KiB, and any user can bind() to
/// many.
const MOST: usize = 256;

/// Stands for all IPv4 addresses.
const ANY_V4: Addr = Addr::v4([0; 4]);
/// Stands for all addresses, IPv6 and IPv4.
const ANY: Addr = Addr::UNSPECIFIED;

/// A network namespace and one of its addresses.
type Place = (u32, Addr);

/// An address at which the kernel chose ports for bind(address, 0).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AddressUse {
    /// Inode number of its network namespace.
    pub netns: u32,
    /// The address; unspecified (`::` or `::ffff:0.0.0.0`): all addresses, or all IPv4 addresses.
    pub address: Addr,
    /// Ports of the range that bind(address, 0) cannot be given, without reserved ones.
    pub in_use: u32,
    /// Limits of its namespace; [`Limits::unreserved`] is the number of ports that it can be given in all.
    pub limits: Limits,
}

impl AddressUse {
    /// What it can hold, for a forecast: [`Limits::unreserved`] ports, and no TIME_WAIT that is reused.
    pub fn holds(&self) -> Holds {
        Holds { capacity: Some(self.limits.unreserved()), reuse: None }
    }

    /// The key of its row: [`TupleKey::of_bind`].
    pub const fn key(&self) -> TupleKey {
        TupleKey::of_bind(self.netns, self.address)
    }
}

/// Collects the sockets that hold ports, address by address.
#[derive(Debug)]
pub struct Addresses<'a> {
    usable: &'a HashMap<u32, Usable>,
    /// Ports at each of the addresses that are counted.
    at: HashMap<Place, PortSet>,
    /// For each namespace where the kernel chose ports for sockets at all addresses: ports that are taken at any IPv4
    /// address (index 0), and at any IPv6 address (index 1).
    all: HashMap<u32, [PortSet; 2]>,
    /// Bound ports whose socket is not connected, each with the address that it was bound to. (A connected socket counts
    /// at the address that it connects from.)
    idle: HashMap<ConnKey, Place>,
}

impl<'a> Addresses<'a> {
    /// Chooses the addresses to count ports at: those at which the kernel chose ports for bind(address, 0), in the namespaces
    /// of `usable`; if there are more than 256, those with the most such ports. `binds`: all bound ports.
    pub fn new(usable: &'a HashMap<u32, Usable>, binds: &[(ConnKey, Bound)]) -> Self {
        let mut chosen: HashMap<Place, usize> = HashMap::default();
        for (_, bound) in binds.iter().filter(|(_, bound)| bound.flags & conn_flag::CHOSEN != 0) {
            *chosen.entry((bound.place.netns, bound.place.source)).or_default() += 1;
        }
        let mut chosen: Vec<(Place, usize)> =
            chosen.into_iter().filter(|((netns, _), _)| usable.contains_key(netns)).collect();
        chosen.sort_unstable_by_key(|(place, ports)| (std::cmp::Reverse(*ports), *place));
        if chosen.len() > MOST {
            tracing::debug!("of {} addresses with bound ports, {MOST} are shown", chosen.len());
            chosen.truncate(MOST);
        }
        let netns: HashSet<u32> = chosen.iter().map(|((netns, _), _)| *netns).collect();
        let mut at: HashMap<Place, PortSet> =
            chosen.into_iter().map(|(place, _)| (place, PortSet::default())).collect();
        let mut all = HashMap::default();
        for netns in &netns {
            if [ANY, ANY_V4].iter().any(|any| at.contains_key(&(*netns, *any))) {
                all.insert(*netns, Default::default());
            }
        }
        // Ports that are bound at all addresses count at each address.
        for place in netns.iter().flat_map(|netns| [(*netns, ANY), (*netns, ANY_V4)]) {
            at.entry(place).or_default();
        }
        let here = binds.iter().filter(|(_, bound)| netns.contains(&bound.place.netns));
        let idle =
            here.map(|(key, bound)| (*key, (bound.place.netns, bound.place.source))).collect();
        Self { usable, at, all, idle }
    }

    /// Whether [`Self::new`] chose no address to count ports at: then [`Self::add`] does nothing.
    pub fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    /// Adds a connection: its port is in use at the address that it connects from.
    pub fn add(&mut self, key: &ConnKey, conn: &Conn) {
        if self.is_empty() {
            return;
        }
        self.idle.remove(key);
        self.insert((conn.tuple.netns, conn.tuple.source), key.port);
    }

    fn insert(&mut self, place: Place, port: u16) {
        if let Some(ports) = self.at.get_mut(&place) {
            ports.insert(port);
        }
        if let Some([v4, v6]) = self.all.get_mut(&place.0) {
            let of_family = if place.1.to_v4().is_some() { v4 } else { v6 };
            of_family.insert(port);
        }
    }

    /// The use of each address that [`Self::new`] chose, sorted by namespace and address. `binds`: the same as for [`Self::new`].
    /// Ports that are bound and whose sockets were not added as connections count as in use, too.
    pub fn end(mut self, binds: &[(ConnKey, Bound)]) -> Vec<AddressUse> {
        for (key, place) in std::mem::take(&mut self.idle) {
            self.insert(place, key.port);
        }
        let mut chosen: Vec<Place> = binds
            .iter()
            .filter(|(_, bound)| bound.flags & conn_flag::CHOSEN != 0)
            .map(|(_, bound)| (bound.place.netns, bound.place.source))
            .filter(|place| self.at.contains_key(place))
            .collect();
        chosen.sort_unstable();
        chosen.dedup();
        chosen.into_iter().filter_map(|place| self.usage(place)).collect()
    }

    /// The use of one address; `None`: the range of its namespace is not known.
    fn usage(&self, (netns, address): Place) -> Option<AddressUse> {
        let usable = self.usable.get(&netns)?;
        let mut taken = self.at.get(&(netns, ANY)).cloned().unwrap_or_default();
        let mut add = |ports: Option<&PortSet>| ports.into_iter().for_each(|it| taken.add(it));
        add(self.at.get(&(netns, address)));
        let all = self.all.get(&netns);
        match address {
            ANY => {
                add(all.map(|[v4, _]| v4));
                add(all.map(|[_, v6]| v6));
            }
            ANY_V4 => add(all.map(|[v4, _]| v4)),
            _ if address.to_v4().is_some() => add(self.at.get(&(netns, ANY_V4))),
            _ => {}
        }
        taken.keep(&usable.unreserved().to_set());
        let in_use = taken.count();
        Some(AddressUse { netns, address, in_use, limits: usable.limits() })
    }
}

/// How many ports were taken and released at each address, in the form of a tuple's counters (only `opened` and `released`). A
/// port that was taken and released between two readings does not count.
#[derive(Debug, Default)]
pub struct AddressCounters {
    counts: HashMap<Place, TupleCount>,
}

impl AddressCounters {
    /// Adds a reading: by as much as `in_use` of an address grew since the reading before, ports count as taken, and by as much
    /// as it fell, as released. At an address that was not in the reading before, all count as taken. Addresses that this reading
    /// does not have are forgotten.
    pub fn add(&mut self, uses: &[AddressUse]) {
        let mut before = std::mem::take(&mut self.counts);
        for one in uses {
            let place = (one.netns, one.address);
            let mut count = before.remove(&place).unwrap_or_default();
            let (now, was) = (u64::from(one.in_use), count.in_use());
            count.opened += now.saturating_sub(was);
            count.released += was.saturating_sub(now);
            self.counts.insert(place, count);
        }
    }

    /// The counters of this address; all 0 if it is not in the newest reading.
    pub fn count(&self, one: &AddressUse) -> TupleCount {
        self.counts.get(&(one.netns, one.address)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::capacity::{PackedPorts, PortRange};

    const NETNS: u32 = 5;
    const ONE: Addr = Addr::v4([10, 0, 0, 1]);
    const OTHER: Addr = Addr::v4([10, 0, 0, 2]);

    fn bound(cookie: u64, port: u16, source: Addr, flags: u32) -> (ConnKey, Bound) {
        let place = TupleKey { netns: NETNS, source, ..TupleKey::default() };
        (ConnKey::new(cookie, port), Bound { place, flags, ..Bound::default() })
    }

    fn conn(cookie: u64, port: u16, source: Addr) -> (ConnKey, Conn) {
        let tuple = TupleKey { netns: NETNS, source, destination: OTHER, ..TupleKey::default() };
        (ConnKey::new(cookie, port), Conn { tuple, ..Conn::default() })
    }

    fn uses(binds: &[(ConnKey, Bound)], conns: &[(ConnKey, Conn)]) -> Vec<(Addr, u32, u32)> {
        let range = PortRange { low: 100, high: 199, reserved: vec![190..=250] };
        let usable = HashMap::from_iter([(NETNS, Usable::new(&range, PackedPorts::default()))]);
        let mut addresses = Addresses::new(&usable, binds);
        for (key, conn) in conns {
            addresses.add(key, conn);
        }
        let uses = addresses.end(binds);
        uses.iter().map(|it| (it.address, it.in_use, it.limits.unreserved())).collect()
    }

    #[test]
    fn an_address_has_the_ports_that_no_socket_has_there_or_at_all_addresses() {
        let binds = [
            bound(1, 101, ONE, conn_flag::CHOSEN),
            // A connected socket counts at its source address, wherever it was bound.
            bound(2, 102, ONE, conn_flag::CHOSEN),
            bound(3, 103, ANY_V4, conn_flag::LISTEN),
            bound(4, 104, ANY, 0),
            bound(5, 105, OTHER, 0),
            bound(6, 300, ONE, 0),
            bound(7, 195, ONE, 0),
        ];
        // A port that is used towards several destinations counts once.
        let conns = [conn(2, 102, ONE), conn(8, 106, ONE), conn(9, 106, ONE), conn(10, 107, OTHER)];
        assert_eq!(uses(&binds, &conns), [(ONE, 5, 90)]);
        assert_eq!(uses(&binds[2..], &conns), []);
    }

    #[test]
    fn all_addresses_have_the_ports_that_no_socket_has_at_any_address() {
        let six = Addr([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        let conns = [conn(1, 101, ONE), conn(8, 102, OTHER), conn(9, 103, six)];
        let four = [bound(1, 101, ANY_V4, conn_flag::CHOSEN)];
        assert_eq!(uses(&four, &conns), [(ANY_V4, 2, 90)]);
        let all = [bound(2, 104, ANY, conn_flag::CHOSEN)];
        assert_eq!(uses(&all, &conns), [(ANY, 4, 90)]);
        let of_six = [bound(2, 104, six, conn_flag::CHOSEN), bound(3, 105, ANY_V4, 0)];
        assert_eq!(uses(&of_six, &conns), [(six, 2, 90)]);
    }

    #[test]
    fn counters_follow_the_ports_in_use() {
        let mut counters = AddressCounters::default();
        let limits = Limits { low: 100, high: 199, ..Limits::default() };
        let with = |in_use| AddressUse { netns: NETNS, address: ONE, in_use, limits };
        for in_use in [10, 30, 5, 5] {
            counters.add(&[with(in_use)]);
        }
        let count = counters.count(&with(5));
        assert_eq!((count.opened, count.released, count.in_use()), (30, 25, 5));
        counters.add(&[]);
        assert_eq!(counters.count(&with(5)), TupleCount::default());
    }
}
