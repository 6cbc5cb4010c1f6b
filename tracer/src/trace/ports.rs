//! Which ports take room: the ledger counts what tuples hold, this says which of that is none of what is left.

use std::time::{Duration, Instant};

use foldhash::HashMap;
use tracer_common::{Bound, ConnKey, TupleCount, TupleKey};

use super::Tracer;
use crate::{
    capacity::{
        Limits, PortRange, PortSet,
        addresses::{AddressUse, Addresses, Course},
        apart::Comparison,
    },
    error::Error,
    netns::Netns,
};

/// All connections are looked at for no more than one part in so many of the time.
const SHARE: u32 = 600;
/// A look counts as no more than so many times as long as the one before it: on a busy machine it can wait for the
/// processor much longer than it works.
const SLOWER: u32 = 2;
/// The first one counts as no longer than this.
const SHORTEST: Duration = Duration::from_millis(1);

/// What the newest look at all connections came to.
#[derive(Debug, Default)]
pub(super) struct Ports {
    /// Bound ports or a range have changed since then.
    changed: bool,
    looked: Option<Instant>,
    /// How long it took.
    cost: Duration,
    /// Ports that were blocked then.
    blocked: HashMap<u32, PortSet>,
    addresses: Vec<AddressUse>,
    course: Course,
}

impl Ports {
    fn is_due(&self) -> bool {
        self.looked.is_none_or(|at| at.elapsed() >= self.cost * SHARE)
    }

    /// A look has ended that took so long.
    fn looked(&mut self, took: Duration) {
        self.changed = false;
        self.looked = Some(Instant::now());
        self.cost = took.min((self.cost * SLOWER).max(SHORTEST));
    }
}

impl Tracer {
    /// Learns which ports bind() and listen() took, and what follows from that: which ports of tuples take no room, and
    /// what bind(address, 0) has left. To be called before tuples are read.
    pub fn refresh_ports(&mut self) -> Result<(), Error> {
        let mut binds = Vec::new();
        self.session.maps.binds(|key, bound| binds.push((key, bound)))?;
        self.ports.changed |= self.capacities.bound(&binds);
        let addresses = Addresses::new(self.capacities.usable(), &binds);
        if addresses.is_empty() {
            self.ports.addresses.clear();
        }
        // What bind() took for a moment may be blocked for longer.
        let touched = self.capacities.has_left_over(None) || self.session.maps.is_any_touched();
        let wanted = self.ports.changed || touched || !addresses.is_empty();
        if wanted && self.ports.is_due() {
            self.look_at_ports(&binds)?;
        }
        self.ports.course.add(&self.ports.addresses);
        Ok(())
    }

    fn look_at_ports(&mut self, binds: &[(ConnKey, Bound)]) -> Result<(), Error> {
        let began = Instant::now();
        let mut touched = HashMap::default();
        self.session.maps.touched(|port, at_ns| {
            touched.insert(port, at_ns);
        })?;
        self.capacities.left_over(HashMap::default());
        self.capacities.bound(binds);
        let usable = self.capacities.usable();
        let mut comparison = Comparison::new(usable, &touched);
        let mut addresses = Addresses::new(usable, binds);
        self.session.maps.conns(|key, conn| {
            comparison.add(&key, &conn);
            addresses.add(&key, &conn);
        })?;
        self.ports.addresses = addresses.end(binds);
        let (commands, left_over) = comparison.end();
        for command in &commands {
            self.session.commands.run(command)?;
        }
        self.capacities.left_over(left_over);
        self.capacities.bound(binds);
        let usable = self.capacities.usable().iter();
        let blocked = usable.map(|(netns, it)| (*netns, it.blocked()));
        let blocked = blocked.filter(|(_, ports)| !ports.is_empty());
        self.ports.blocked = blocked.map(|(netns, ports)| (netns, ports.clone())).collect();
        self.ports.looked(began.elapsed());
        Ok(())
    }

    /// Whether what is said of this namespace's ports cannot be too little: no port was bound since the newest look at
    /// connections, one of which may have it as well, and none is blocked that may be free by now.
    pub fn is_sure_of_ports(&self, netns: u32) -> bool {
        let (now, then) = (self.capacities.blocked(netns), self.ports.blocked.get(&netns));
        !self.capacities.has_left_over(Some(netns))
            && now.is_none_or(|now| match then {
                Some(then) => now.is_within(then),
                None => now.is_empty(),
            })
    }

    /// A row for each address at which bind(address, 0) is used: its key, what counters would say, and what the namespace
    /// has to give. Its capacity is [`Limits::all`] less [`Limits::reserved`].
    pub fn bind_rows(&self) -> impl Iterator<Item = (TupleKey, TupleCount, &AddressUse)> {
        let ports = &self.ports;
        ports.addresses.iter().map(|one| (one.key(), ports.course.count(one), one))
    }

    /// The range of a namespace was read.
    pub(crate) fn know_range(&mut self, netns: Netns, range: PortRange) {
        self.capacities.know(netns, range);
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
    fn a_look_that_waited_for_the_processor_delays_the_next_one_little() {
        let ms = Duration::from_millis;
        let mut ports = Ports::default();
        let costs = [400, 400, 3, 500, 3].map(|took| {
            ports.looked(ms(took));
            ports.cost
        });
        assert_eq!(costs, [1, 2, 3, 6, 3].map(ms));
        // One that always takes long is soon known to.
        (0..8).for_each(|_| ports.looked(ms(300)));
        assert_eq!(ports.cost, ms(300));
        assert!(!ports.is_due());
    }
}
