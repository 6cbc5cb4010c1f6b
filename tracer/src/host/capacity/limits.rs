//! Computes how many ports of a network namespace connect() can be given: the namespace's range, without reserved ports and
//! without ports that connect() is not given because of bind() or listen().

use std::ops::RangeInclusive;

use tracer_common::{TupleCount, TupleKey};

use super::{PackedPorts, PortRange, PortSet};

/// The range of a namespace, and how many of its ports are reserved or bound. Each port counts once: one that is
/// reserved and bound counts as reserved.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// First port of the range.
    pub low: u16,
    /// Last port of the range, inclusive.
    pub high: u16,
    /// Reserved ports of the range, which the kernel never chooses.
    pub reserved: u32,
    /// Ports of the range that connect() is not given because bind() or listen() took them, at any address: also those
    /// that stay blocked after the socket that bound them is gone (see [`super::apart`]).
    pub bound: u32,
}

impl Limits {
    /// How many ports the range has, reserved and bound ones included; 0 if `low` is above `high`.
    pub fn all(&self) -> u32 {
        (u32::from(self.high) + 1).saturating_sub(u32::from(self.low))
    }

    /// How many ports connect() can be given for a tuple which holds none.
    pub fn usable(&self) -> u32 {
        self.all().saturating_sub(self.reserved).saturating_sub(self.bound)
    }

    /// How many ports bind(address, 0) can be given at an address where none is taken: the range without reserved ports.
    pub fn unreserved(&self) -> u32 {
        self.all().saturating_sub(self.reserved)
    }

    /// How many ports this tuple can hold: those that it holds, and those that connect() can still be given. For a
    /// [`TupleKey::of_bind`]: those that bind(address, 0) can be given in all, [`Self::unreserved`].
    pub fn capacity_of(&self, key: &TupleKey, count: &TupleCount) -> u32 {
        if key.is_of_bind() { self.unreserved() } else { count.capacity(self.usable()) }
    }

    /// For tests: the limits of a range of this many ports, all of them usable; 0: of a range whose only port is reserved.
    #[cfg(test)]
    pub(crate) fn of(ports: u16) -> Self {
        match ports.checked_sub(1) {
            Some(more) => Self { low: 32_768, high: 32_768 + more, ..Self::default() },
            None => Self { reserved: 1, ..Self::default() },
        }
    }

    /// Which kinds of ports connect() is not given in the range: `reserved`, `bound`, or both; empty: none.
    pub fn taken_by(&self) -> &'static str {
        match (self.reserved, self.bound) {
            (0, 0) => "",
            (_, 0) => "reserved",
            (0, _) => "bound",
            _ => "reserved, bound",
        }
    }

    /// The range as text: `2000-2019`.
    pub fn range(&self) -> String {
        format!("{}-{}", self.low, self.high)
    }
}

/// Ports of a namespace that connect() can be given, unless the tuple holds them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Usable {
    limits: Limits,
    /// Ports that bind(address, 0) can be given at an address where none is taken, bound ones included.
    unreserved: PackedPorts,
    blocked: PackedPorts,
}

impl Usable {
    /// The ports of this range, without reserved ones and without `blocked`: ports that connect() is not given because of bind()
    /// or listen(), of which those outside of the range do not count.
    pub fn new(range: &PortRange, blocked: PackedPorts) -> Self {
        let unreserved = PackedPorts::without(range.low, range.high, &range.reserved);
        let mut limits = Limits { low: range.low, high: range.high, ..Limits::default() };
        limits.reserved = limits.all().saturating_sub(unreserved.count());
        limits.bound = blocked.count_in(&unreserved);
        Self { limits, unreserved, blocked }
    }

    /// Replaces the blocked ports ([`Self::blocked`]) by these. Returns whether they have changed.
    pub fn block(&mut self, blocked: PackedPorts) -> bool {
        if self.blocked == blocked {
            return false;
        }
        self.limits.bound = blocked.count_in(&self.unreserved);
        self.blocked = blocked;
        true
    }

    /// The range, and how many of its ports are reserved or blocked.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Whether connect() can be given this port: it is in the range, and neither reserved nor blocked.
    pub fn has(&self, port: u16) -> bool {
        self.unreserved.has(port) && !self.blocked.has(port)
    }

    /// The ports that connect() can be given.
    pub fn ports(&self) -> PortSet {
        let mut ports = self.unreserved.to_set();
        ports.remove(&self.blocked.to_set());
        ports
    }

    /// Ports that bind(address, 0) can be given at an address where none is taken: the range without reserved ports.
    pub fn unreserved(&self) -> &PackedPorts {
        &self.unreserved
    }

    /// Ports that connect() is not given because of bind() or listen(), also those outside of the range.
    pub fn blocked(&self) -> &PackedPorts {
        &self.blocked
    }

    /// The ports of the range that are reserved, as runs in ascending order; between two runs there is at least one other port.
    pub fn reserved(&self) -> Vec<RangeInclusive<u16>> {
        let mut runs: Vec<RangeInclusive<u16>> = Vec::new();
        let reserved = (self.limits.low..=self.limits.high).filter(|it| !self.unreserved.has(*it));
        for port in reserved {
            match runs.last_mut() {
                Some(run) if run.end().checked_add(1) == Some(port) => *run = *run.start()..=port,
                _ => runs.push(port..=port),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_missing_for_two_reasons_counts_once() {
        let range = |low, high, reserved| PortRange { low, high, reserved };
        for (range, blocked, expected) in [
            (PortRange::default(), vec![], (0, 0, 28_232)),
            (range(10, 19, vec![]), vec![12, 12, 12], (0, 1, 9)),
            (range(10, 19, vec![11..=12, 5..=10]), vec![12, 13, 9, 20], (3, 1, 6)),
            (range(10, 19, vec![0..=u16::MAX]), vec![15], (10, 0, 0)),
            (range(10, 19, vec![]), (0..100).collect(), (0, 10, 0)),
            (range(0, u16::MAX, vec![]), vec![], (0, 0, 65_536)),
            (range(7, 7, vec![]), vec![], (0, 0, 1)),
        ] {
            let usable = Usable::new(&range, blocked.into_iter().collect());
            let limits = usable.limits();
            assert_eq!((limits.reserved, limits.bound, limits.usable()), expected, "{range:?}");
            let ports = usable.ports();
            assert_eq!(ports.count(), limits.usable());
            assert!((0..=u16::MAX).all(|port| usable.has(port) == ports.has(port)));
        }
    }

    #[test]
    fn reserved_ports_are_runs_within_the_range() {
        let reserved = vec![1..=11, 13..=13, 14..=14, 19..=40];
        let range = PortRange { low: 10, high: 20, reserved };
        let usable = Usable::new(&range, [12, 15].into_iter().collect());
        assert_eq!(usable.reserved(), [10..=11, 13..=14, 19..=20]);
        let all = PortRange { low: 0, high: u16::MAX, reserved: vec![0..=u16::MAX] };
        assert_eq!(Usable::new(&all, PackedPorts::default()).reserved(), [0..=u16::MAX]);
    }

    #[test]
    fn what_a_tuple_can_hold_is_what_it_holds_and_what_connect_can_still_be_given() {
        let limits = Limits { low: 100, high: 199, reserved: 10, bound: 30 };
        let count = |in_use, held| TupleCount { opened: in_use, held, ..TupleCount::default() };
        // Of the 20 ports that it holds, it bound 15 itself: of 60 usable ports, 5 are taken.
        assert_eq!(limits.capacity_of(&TupleKey::default(), &count(20, 5)), 75);
        assert_eq!(limits.capacity_of(&TupleKey::default(), &count(60, 60)), 60);
        assert_eq!(limits.capacity_of(&TupleKey::default(), &count(0, 0)), 60);
        // A tuple can hold at least the ports that it holds.
        assert_eq!(limits.capacity_of(&TupleKey::default(), &count(80, 70)), 80);
        let bind = TupleKey::of_bind(5, tracer_common::Addr::UNSPECIFIED);
        assert_eq!(limits.capacity_of(&bind, &count(20, 0)), 90);
        let none = Limits { reserved: 70, ..limits };
        assert_eq!(none.capacity_of(&TupleKey::default(), &count(0, 0)), 0);
    }
}
