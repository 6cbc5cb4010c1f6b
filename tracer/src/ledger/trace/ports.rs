//! Reads bound ports and connections, and corrects which held ports take room. A port takes none if connect() would not get it
//! even if it were free; the hooks count such ports as taking room.

use std::time::{Duration, Instant};

use foldhash::HashMap;
use tracer_common::{TupleCount, TupleKey, conn_flag};

use super::{
    Tracer,
    touched::{NotNoted, leaving},
};
use crate::{
    error::Error,
    host::{
        capacity::{
            BoundPorts, Limits, PortRange, PortSet, Usable,
            addresses::{AddressCounters, AddressUse, Addresses},
            apart::Comparison,
        },
        netns::Netns,
    },
    kernel::spread::programs::BoundCounts,
    runtime::clock,
};

/// N, if reading all connections may take 1/N of the time.
const SHARE: u32 = 600;
/// A reading counts as at most this many times as long as the one before: on a busy machine it can wait for the
/// processor much longer than it works.
const SLOWER: u32 = 2;
/// The limit of [`SLOWER`] is never below this; the first reading counts as at most this long.
const SHORTEST: Duration = Duration::from_millis(1);

/// N, if reading the bound ports may take 1/N of the time, and removing old entries of TOUCHED as much: one user can have
/// tens of thousands of either.
const BINDS_SHARE: u32 = 50;

/// Results of the newest readings of the bound ports and of all connections, and how long they took.
#[derive(Debug, Default)]
pub(super) struct Ports {
    /// When bound ports were read, and how long that took.
    binds: Cost,
    /// Whether the kernel chose one of the bound ports for bind(address, 0).
    is_any_chosen: bool,
    /// Whether bound ports or a range have changed since all connections were read.
    changed: bool,
    /// When all connections were read, and how long that took.
    conns: Cost,
    /// Namespace of the spreader's rule (`None`: no spreader), and the ports that connect() could be given there when all
    /// connections were last read (`None`: they were not read yet, or the ports are not known).
    of_rule: Option<(u32, Option<PortSet>)>,
    addresses: Vec<AddressUse>,
    counters: AddressCounters,
    /// See [`Tracer::bound_counts`].
    bound_counts: BoundCounts,
    /// When entries of TOUCHED were removed, and how long that took.
    removal: Cost,
    /// Touched ports that found no room in their table.
    pub(super) not_noted: NotNoted,
}

/// When something that is done again and again was last done (`None`: never), and how long it counts as having taken.
#[derive(Debug, Default)]
struct Cost {
    newest: Option<Instant>,
    took: Duration,
}

impl Cost {
    /// Whether it may be done now, if it may take 1/`share` of the time; true if it was never done.
    fn allows(&self, share: u32) -> bool {
        self.newest.is_none_or(|at| at.elapsed() >= self.took * share)
    }

    /// Notes that it was done and took this long, which counts within the limits of [`SLOWER`] and [`SHORTEST`].
    fn add(&mut self, took: Duration) {
        self.newest = Some(Instant::now());
        self.took = took.min((self.took * SLOWER).max(SHORTEST));
    }
}

/// Whether all ports that connect() could be given `then` can be given `now`, so that every held port that counted as
/// taking room still takes room. False if one of the two is not known.
fn are_sure(then: Option<&PortSet>, now: Option<&PortSet>) -> bool {
    then.zip(now).is_some_and(|(then, now)| then.is_within(now))
}

impl Tracer {
    /// Reads the bound ports, corrects in the ledger which held ports take no room because of them, and finds out how many ports
    /// bind(address, 0) holds at each address. To be called before tuples are read. Reading the bound ports takes at most 1/50 of
    /// the time, reading all connections 1/600: a call that comes too early keeps the results of the reading before.
    ///
    /// # Errors
    /// A map cannot be read, or a command fails.
    pub fn refresh_ports(&mut self) -> Result<(), Error> {
        if self.ports.binds.allows(BINDS_SHARE) {
            self.read_binds()?;
        }
        self.ports.changed |= self.capacities.take_changed();
        if !self.ports.is_any_chosen {
            self.ports.addresses.clear();
        }
        // A port that bind() took for a moment may be blocked for longer.
        let touched = self.capacities.has_left_over(None)
            || self.session.maps.is_any_touched()
            || self.ports.not_noted.is_any();
        let wanted = self.ports.changed || touched || self.ports.is_any_chosen;
        if wanted && self.ports.conns.allows(SHARE) {
            self.read_conns()?;
        }
        self.ports.counters.add(&self.ports.addresses);
        Ok(())
    }

    /// Notes the counts of ports that the spreader's hooks saw bound; does nothing without a spreader. To be called before
    /// bound ports are read: a port that is bound in between counts twice for the spreader until the next reading. In the
    /// other order, it would not count at all.
    fn begin_reading(&mut self) -> Result<(), Error> {
        if let Some(spreader) = &mut self.session.spreader {
            self.ports.bound_counts = spreader.maps.begin_reading()?;
        }
        Ok(())
    }

    /// The counts of a spreader's hooks at the beginning of the reading of bound ports that [`Self::blocked`] is
    /// from; without a spreader, all 0.
    pub const fn bound_counts(&self) -> BoundCounts {
        self.ports.bound_counts
    }

    /// Reads only the bound ports.
    fn read_binds(&mut self) -> Result<(), Error> {
        let began = Instant::now();
        self.begin_reading()?;
        let (mut ports, mut is_any_chosen) = (Vec::new(), false);
        self.session.maps.binds(|key, bound| {
            ports.push((bound.place.netns, key.port));
            is_any_chosen |= bound.flags & conn_flag::CHOSEN != 0;
        })?;
        self.capacities.bound(ports.into_iter().collect());
        self.ports.is_any_chosen = is_any_chosen;
        self.ports.binds.add(began.elapsed());
        Ok(())
    }

    /// Reads touched ports, bound ports and all connections, corrects which of the connections' ports take room, and
    /// removes entries of TOUCHED that are not needed any more.
    fn read_conns(&mut self) -> Result<(), Error> {
        let (began, began_ns) = (Instant::now(), clock::monotonic_ns());
        self.ports.not_noted.count(&self.totals()?, began_ns);
        let mut touched = HashMap::default();
        self.session.maps.touched(|port, one| {
            touched.insert(port, one);
        })?;
        self.begin_reading()?;
        let mut binds = Vec::new();
        self.session.maps.binds(|key, bound| binds.push((key, bound)))?;
        self.capacities.left_over(BoundPorts::default());
        let ports = binds.iter().map(|(key, bound)| (bound.place.netns, key.port));
        self.capacities.bound(ports.collect());
        let usable = self.capacities.usable();
        let mut comparison = Comparison::new(usable, &touched);
        let mut addresses = Addresses::new(usable, &binds);
        let mut oldest_ns = None;
        self.session.maps.conns(|key, conn| {
            comparison.add(&key, &conn);
            addresses.add(&key, &conn);
            // When a seeded socket took its port is unknown (`acquired_ns` is when tracer found it): it counts as older than
            // all others.
            let is_older = conn.flags & conn_flag::SEEDED != 0;
            let acquired_ns = if is_older { 0 } else { conn.acquired_ns };
            oldest_ns = Some(oldest_ns.map_or(acquired_ns, |oldest: u64| oldest.min(acquired_ns)));
        })?;
        self.ports.not_noted.compare(oldest_ns);
        self.ports.addresses = addresses.end(&binds);
        let compared = comparison.end();
        for command in &compared.commands {
            self.session.commands.run(command)?;
        }
        self.capacities.left_over(compared.left_over);
        if let Some((netns, ports)) = &mut self.ports.of_rule {
            *ports = self.capacities.usable().get(netns).map(Usable::ports);
        }
        // The changes made here are no reason for another reading.
        self.capacities.take_changed();
        self.ports.changed = false;
        self.ports.conns.add(began.elapsed());
        if self.ports.removal.allows(BINDS_SHARE) {
            let began = Instant::now();
            let unread = self.left_out.unread().collect();
            self.forget_touched(&leaving(&touched, &compared.needed, &unread, began_ns))?;
            self.ports.removal.add(began.elapsed());
        }
        Ok(())
    }

    /// Forgets what is known about namespaces: ranges, settings, and where they were found. What stays is that of namespaces
    /// with a tuple in the newest reading or with bound ports, of the rule's, and of those that could not be read. Without
    /// this, memory grows with each namespace that a user makes, as comparisons learn the range of each. To be called after
    /// the tuples are read.
    pub(super) fn forget_namespaces(&mut self) {
        let mut wanted = self.namespaces.clone();
        wanted.extend(self.ports.of_rule.as_ref().map(|(netns, _)| *netns));
        wanted.extend(self.left_out.closed());
        self.capacities.keep(&wanted);
    }

    /// Whether tuples of the rule's namespace (`Self::know_range`) have at least as much room as counted. False if a
    /// port was bound, reserved, or left the range since all connections were last read: a connection that counts as
    /// taking room may hold it. Also false if a port is blocked whose bind() may have ended, as the port may be free by now;
    /// if connections or the range were not read yet; and without a rule.
    pub fn is_sure_of_ports(&self) -> bool {
        let Some((netns, then)) = &self.ports.of_rule else { return false };
        let now = self.capacities.usable().get(netns).map(Usable::ports);
        !self.capacities.has_left_over(Some(*netns)) && are_sure(then.as_ref(), now.as_ref())
    }

    /// A row for each address at which the kernel chose a port for bind(address, 0) that is still held, as of the newest
    /// [`Self::refresh_ports`]: its key, its counters in the form of a tuple's, and its ports. Its capacity is [`Limits::all`]
    /// minus [`Limits::reserved`].
    pub fn bind_rows(&self) -> impl Iterator<Item = (TupleKey, TupleCount, &AddressUse)> {
        let ports = &self.ports;
        ports.addresses.iter().map(|one| (one.key(), ports.counters.count(one), one))
    }

    /// Sets which namespace is the rule's, and its range. [`Self::is_sure_of_ports`] is false until all connections are read,
    /// unless the rule was in this namespace before.
    pub(crate) fn know_range(&mut self, netns: Netns, range: PortRange) {
        let known = self.ports.of_rule.take().filter(|(inum, _)| *inum == netns.inum);
        self.ports.of_rule = Some(known.unwrap_or((netns.inum, None)));
        self.capacities.know_of_rule(netns, &range);
    }

    /// The limits of the namespace with this inode number; `None`: not known.
    pub fn limits(&self, netns: u32) -> Option<Limits> {
        self.capacities.get(netns)
    }

    /// The limits of every namespace whose limits are known, by its inode number, in no order.
    pub fn all_limits(&self) -> impl Iterator<Item = (u32, Limits)> {
        self.capacities.usable().iter().map(|(netns, usable)| (*netns, usable.limits()))
    }

    /// The ports of the namespace with this inode number that connect() can be given; `None`: not known.
    pub fn usable(&self, netns: u32) -> Option<&Usable> {
        self.capacities.usable().get(&netns)
    }

    /// Ports of the namespace with this inode number that connect() is not given because of bind() or listen(), as of the newest
    /// [`Self::refresh_ports`], in ascending order, in the range or not; empty also if the namespace is not known.
    pub fn blocked(&self, netns: u32) -> Vec<u16> {
        let blocked = self.capacities.blocked(netns);
        (0..=u16::MAX).filter(|port| blocked.is_some_and(|it| it.has(*port))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_not_sure_once_a_port_that_could_be_given_cannot() {
        let ports = |low: u16, high: u16, without: &[u16]| -> PortSet {
            (low..=high).filter(|port| !without.contains(port)).collect()
        };
        let then = ports(40_000, 40_999, &[40_500]);
        let sure = |now: &PortSet| are_sure(Some(&then), Some(now));
        assert!(sure(&then));
        // A port was bound or reserved: a connection that holds it counts until the next reading.
        assert!(!sure(&ports(40_000, 40_999, &[40_500, 40_001])));
        // The range is narrower.
        assert!(!sure(&ports(40_000, 40_998, &[40_500])));
        // With more ports than at the reading, there is at least as much room as counted.
        assert!(sure(&ports(39_000, 40_999, &[])));
        assert!(!are_sure(None, Some(&then)) && !are_sure(Some(&then), None));
    }

    #[test]
    fn a_reading_that_waited_for_the_processor_delays_the_next_one_little() {
        let ms = Duration::from_millis;
        let mut cost = Cost::default();
        let costs = [400, 400, 3, 500, 3].map(|took| {
            cost.add(ms(took));
            cost.took
        });
        assert_eq!(costs, [1, 2, 3, 6, 3].map(ms));
        // If all readings take long, the cost is soon right.
        (0..8).for_each(|_| cost.add(ms(300)));
        assert_eq!(cost.took, ms(300));
        assert!(!cost.allows(SHARE));
    }
}
