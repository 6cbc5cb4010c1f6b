//! Which ports take room: the ledger counts what tuples hold, this says which of that is none of what is left.

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
            addresses::{AddressUse, Addresses, Course},
            apart::Comparison,
        },
        netns::Netns,
    },
    kernel::spread::programs::BoundCounts,
    runtime::clock,
};

/// All connections are looked at for no more than one part in so many of the time.
const SHARE: u32 = 600;
/// A look counts as no more than so many times as long as the one before it: on a busy machine it can wait for the
/// processor much longer than it works.
const SLOWER: u32 = 2;
/// The first one counts as no longer than this.
const SHORTEST: Duration = Duration::from_millis(1);

/// Bound ports are read, and those of earlier removed, for no more than one part in so many of the time: one user can have
/// tens of thousands.
const BINDS_SHARE: u32 = 50;

/// What the newest look at all connections came to.
#[derive(Debug, Default)]
pub(super) struct Ports {
    /// When bound ports were read, and how long that took.
    binds: Cost,
    /// The kernel chose one of them for bind(address, 0).
    is_any_chosen: bool,
    /// Bound ports or a range have changed since then.
    changed: bool,
    /// When it was, and how long it took.
    conns: Cost,
    /// The namespace whose ports are to be sure, and those that connect() could be given there then.
    of_interest: Option<(u32, Option<PortSet>)>,
    addresses: Vec<AddressUse>,
    course: Course,
    /// See [`Tracer::looked`].
    looked: BoundCounts,
    /// When entries of TOUCHED were removed, and how long that took.
    removal: Cost,
    pub(super) not_noted: NotNoted,
}

/// How long something takes that is done over and over.
#[derive(Debug, Default)]
struct Cost {
    newest: Option<Instant>,
    took: Duration,
}

impl Cost {
    /// Whether it can be done again, in one part in so many of the time.
    fn allows(&self, share: u32) -> bool {
        self.newest.is_none_or(|at| at.elapsed() >= self.took * share)
    }

    /// It was done, and took so long.
    fn add(&mut self, took: Duration) {
        self.newest = Some(Instant::now());
        self.took = took.min((self.took * SLOWER).max(SHORTEST));
    }
}

/// Whether all ports that connect() could be given at the look can be given now: what was counted then as taking room
/// takes it still. `None`: not known.
fn are_sure(then: Option<&PortSet>, now: Option<&PortSet>) -> bool {
    then.zip(now).is_some_and(|(then, now)| then.is_within(now))
}

impl Tracer {
    /// Learns which ports bind() and listen() took, and what follows from that: which ports of tuples take no room, and
    /// what bind(address, 0) has left. To be called before tuples are read. Where reading them takes long, this is as it was
    /// for a while.
    pub fn refresh_ports(&mut self) -> Result<(), Error> {
        if self.ports.binds.allows(BINDS_SHARE) {
            self.read_binds()?;
        }
        self.ports.changed |= self.capacities.take_changed();
        if !self.ports.is_any_chosen {
            self.ports.addresses.clear();
        }
        // What bind() took for a moment may be blocked for longer.
        let touched = self.capacities.has_left_over(None)
            || self.session.maps.is_any_touched()
            || self.ports.not_noted.is_any();
        let wanted = self.ports.changed || touched || self.ports.is_any_chosen;
        if wanted && self.ports.conns.allows(SHARE) {
            self.look_at_ports()?;
        }
        self.ports.course.add(&self.ports.addresses);
        Ok(())
    }

    /// To be called before bound ports are read: one that is bound in between counts twice for a spreader until the next
    /// time, not never.
    fn begin_reading(&mut self) -> Result<(), Error> {
        if let Some(spreader) = &mut self.session.spreader {
            self.ports.looked = spreader.maps.begin_reading()?;
        }
        Ok(())
    }

    /// What a spreader's hooks had counted when the bound ports were read that [`Self::blocked`] goes by.
    pub const fn looked(&self) -> BoundCounts {
        self.ports.looked
    }

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

    fn look_at_ports(&mut self) -> Result<(), Error> {
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
            // One that was found can be of any age.
            let found = conn.flags & conn_flag::SEEDED != 0;
            let acquired_ns = if found { 0 } else { conn.acquired_ns };
            oldest_ns = Some(oldest_ns.map_or(acquired_ns, |oldest: u64| oldest.min(acquired_ns)));
        })?;
        self.ports.not_noted.look(oldest_ns);
        self.ports.addresses = addresses.end(&binds);
        let compared = comparison.end();
        for command in &compared.commands {
            self.session.commands.run(command)?;
        }
        self.capacities.left_over(compared.left_over);
        if let Some((netns, ports)) = &mut self.ports.of_interest {
            *ports = self.capacities.usable().get(netns).map(Usable::ports);
        }
        // What it changed itself is no reason for another look.
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

    /// Forgets the namespaces of which the ledger has nothing any more: whoever reads nothing of others needs that, too.
    /// To be called after the tuples were read.
    pub(super) fn forget_namespaces(&mut self) {
        let mut wanted = self.namespaces.clone();
        wanted.extend(self.ports.of_interest.as_ref().map(|(netns, _)| *netns));
        wanted.extend(self.left_out.closed());
        self.capacities.keep(&wanted);
    }

    /// Whether what is said of the ports of the namespace of `Self::know_range` cannot be too little: none was bound,
    /// reserved or left the range since the newest look at connections, one of which may hold it and be counted as if it
    /// took room, and none is blocked that may be free by now.
    pub fn is_sure_of_ports(&self) -> bool {
        let Some((netns, then)) = &self.ports.of_interest else { return false };
        let now = self.capacities.usable().get(netns).map(Usable::ports);
        !self.capacities.has_left_over(Some(*netns)) && are_sure(then.as_ref(), now.as_ref())
    }

    /// A row for each address at which bind(address, 0) is used: its key, what counters would say, and what the namespace
    /// has to give. Its capacity is [`Limits::all`] less [`Limits::reserved`].
    pub fn bind_rows(&self) -> impl Iterator<Item = (TupleKey, TupleCount, &AddressUse)> {
        let ports = &self.ports;
        ports.addresses.iter().map(|one| (one.key(), ports.course.count(one), one))
    }

    /// The range of a rule's namespace was read.
    pub(crate) fn know_range(&mut self, netns: Netns, range: PortRange) {
        let known = self.ports.of_interest.take().filter(|(inum, _)| *inum == netns.inum);
        self.ports.of_interest = Some(known.unwrap_or((netns.inum, None)));
        self.capacities.know_of_rule(netns, &range);
    }

    /// What this namespace has to give; `None`: it could not be read.
    pub fn limits(&self, netns: u32) -> Option<Limits> {
        self.capacities.get(netns)
    }

    /// Ports of this namespace that no connect() is given because of bind() or listen(), as of [`Self::refresh_ports`].
    pub fn blocked(&self, netns: u32) -> Vec<u16> {
        let blocked = self.capacities.blocked(netns);
        (0..=u16::MAX).filter(|port| blocked.is_some_and(|it| it.has(*port))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_count_is_sure_once_a_port_that_could_be_given_cannot() {
        let ports = |low: u16, high: u16, without: &[u16]| -> PortSet {
            (low..=high).filter(|port| !without.contains(port)).collect()
        };
        let then = ports(40_000, 40_999, &[40_500]);
        let sure = |now: &PortSet| are_sure(Some(&then), Some(now));
        assert!(sure(&then));
        // A port was bound, or reserved: a connection that has it is counted until the next look.
        assert!(!sure(&ports(40_000, 40_999, &[40_500, 40_001])));
        // The range is narrower.
        assert!(!sure(&ports(40_000, 40_998, &[40_500])));
        // More ports than then can only be too much room.
        assert!(sure(&ports(39_000, 40_999, &[])));
        assert!(!are_sure(None, Some(&then)) && !are_sure(Some(&then), None));
    }

    #[test]
    fn a_look_that_waited_for_the_processor_delays_the_next_one_little() {
        let ms = Duration::from_millis;
        let mut cost = Cost::default();
        let costs = [400, 400, 3, 500, 3].map(|took| {
            cost.add(ms(took));
            cost.took
        });
        assert_eq!(costs, [1, 2, 3, 6, 3].map(ms));
        // One that always takes long is soon known to.
        (0..8).for_each(|_| cost.add(ms(300)));
        assert_eq!(cost.took, ms(300));
        assert!(!cost.allows(SHARE));
    }
}
