//! Which ports take room: the ledger counts what tuples hold, this says which of that is none of what is left.

use std::time::{Duration, Instant};

use tracer_common::{Bound, ConnKey, TupleCount, TupleKey};

use super::Tracer;
use crate::{
    capacity::{
        Limits, PortRange,
        addresses::{AddressUse, Addresses, Course},
        apart::Comparison,
    },
    error::Error,
    netns::Netns,
};

/// All connections are looked at for no more than one part in so many of the time.
const SHARE: u32 = 600;

/// What the newest look at all connections came to.
#[derive(Debug, Default)]
pub(super) struct Ports {
    /// Bound ports or a range have changed since then.
    changed: bool,
    looked: Option<Instant>,
    /// How long it took.
    cost: Duration,
    addresses: Vec<AddressUse>,
    course: Course,
}

impl Ports {
    fn is_due(&self) -> bool {
        self.looked.is_none_or(|at| at.elapsed() >= self.cost * SHARE)
    }
}

impl Tracer {
    /// Learns which ports bind() and listen() took, and what follows from that: which ports of tuples take no room, and
    /// what bind(address, 0) has left. To be called before tuples are read.
    pub fn refresh_ports(&mut self) -> Result<(), Error> {
        let mut binds = Vec::new();
        self.session.maps.binds(|key, bound| binds.push((key, bound)))?;
        if self.blocked_until_free {
            self.capacities.linger();
        }
        self.ports.changed |= self.capacities.bound(&binds);
        let lingering = self.capacities.is_lingering(&binds);
        let addresses = Addresses::new(self.capacities.usable(), &binds);
        if addresses.is_empty() {
            self.ports.addresses.clear();
        }
        let wanted = self.ports.changed || lingering || !addresses.is_empty();
        if wanted && self.ports.is_due() {
            self.look_at_ports(&binds)?;
        }
        self.ports.course.add(&self.ports.addresses);
        Ok(())
    }

    fn look_at_ports(&mut self, binds: &[(ConnKey, Bound)]) -> Result<(), Error> {
        let began = Instant::now();
        let usable = self.capacities.usable();
        let mut comparison = Comparison::new(usable);
        let mut addresses = Addresses::new(usable, binds);
        self.session.maps.conns(|key, conn| {
            comparison.add(&key, &conn);
            addresses.add(&key, &conn);
        })?;
        self.ports.addresses = addresses.end(binds);
        let (commands, held) = comparison.end();
        for command in &commands {
            self.session.commands.run(command)?;
        }
        self.capacities.still_held(&held);
        self.capacities.bound(binds);
        self.ports.changed = false;
        self.ports.looked = Some(Instant::now());
        self.ports.cost = began.elapsed();
        Ok(())
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
