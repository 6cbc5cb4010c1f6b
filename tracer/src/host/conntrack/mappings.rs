//! Counts how many ports source NAT uses of each address towards each destination, in memory for at most 16,384 such pairs.

use foldhash::HashMap;

use super::entry::{Entry, Snat, State};

/// The most pairs of address and destination that are counted: each takes about 100 bytes.
const MOST: usize = 16_384;

/// Why only a part of the entries was read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// There are more than [`super::Bounds::entries`].
    Entries,
    /// It took longer than [`super::Bounds::time`].
    Time,
}

/// The ports of one address towards one destination.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ports {
    /// Of connections that are open, or being opened or closed.
    pub live: u32,
    /// Of connections that both ends have closed. From Linux 6.5 on, the kernel takes such a port if it finds no other
    /// (`nf_nat_used_tuple_harder` in net/netfilter/nf_nat_core.c).
    pub time_wait: u32,
    /// Of connections that were reset. The kernel takes such a port as it does those of `time_wait`.
    pub closed: u32,
    /// Of all these: of connections that kept their address and port, and hold the port all the same.
    pub untranslated: u32,
    /// The lowest of all these ports, host byte order; 65,535 if there are none.
    pub lowest: u16,
    /// The highest of all these ports, host byte order; 0 if there are none.
    pub highest: u16,
}

impl Default for Ports {
    /// None.
    fn default() -> Self {
        let (lowest, highest) = (u16::MAX, 0);
        Self { live: 0, time_wait: 0, closed: 0, untranslated: 0, lowest, highest }
    }
}

impl Ports {
    /// How many ports there are: `live`, `time_wait` and `closed` together.
    pub fn all(&self) -> u32 {
        self.live.saturating_add(self.time_wait).saturating_add(self.closed)
    }

    /// How many ports lie between the lowest and the highest one, both included, in use or not; 0 if there are none.
    pub fn span(&self) -> u32 {
        (u32::from(self.highest) + 1).saturating_sub(self.lowest.into())
    }

    fn add(&mut self, entry: &Entry) {
        (self.lowest, self.highest) = (self.lowest.min(entry.port), self.highest.max(entry.port));
        let count = match entry.state {
            State::Live => &mut self.live,
            State::TimeWait => &mut self.time_wait,
            State::Closed => &mut self.closed,
        };
        *count = count.saturating_add(1);
        self.untranslated = self.untranslated.saturating_add(u32::from(!entry.translated));
    }
}

/// The ports that source NAT uses of each address towards each destination, as far as its entries were read and counted.
#[derive(Clone, Debug, Default)]
pub struct Mappings {
    by: HashMap<Snat, Ports>,
    /// How many entries were read.
    pub read: u64,
    /// Why these are not all entries; `None`: they are.
    pub part: Option<Part>,
    /// 0: all pairs of address and destination were counted. Else there were more than 16,384 of them, so that those with the
    /// fewest ports were removed meanwhile: a pair that is missing has at most this many ports, and each count may lack as many.
    pub left_out: u32,
}

impl Mappings {
    /// Each pair of address and destination with its ports, in ascending order of the pairs.
    pub fn sorted(&self) -> Vec<(Snat, Ports)> {
        let mut all: Vec<_> = self.by.iter().map(|(snat, ports)| (*snat, *ports)).collect();
        all.sort_unstable_by_key(|(snat, _)| *snat);
        all
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by.is_empty()
    }

    /// Counts an entry whose source was translated. If it would be the 16,385th pair, first removes those with the fewest ports,
    /// and adds to `left_out`.
    pub(super) fn add(&mut self, entry: &Entry) {
        if let Some(ports) = self.by.get_mut(&entry.snat) {
            ports.add(entry);
            return;
        }
        if self.by.len() >= MOST {
            self.leave_out();
        }
        self.by.entry(entry.snat).or_default().add(entry);
    }

    /// Counts an entry whose source was not translated, if it has an address and a destination that NAT uses, too.
    pub(super) fn add_untranslated(&mut self, entry: &Entry) {
        if let Some(ports) = self.by.get_mut(&entry.snat) {
            ports.add(entry);
        }
    }

    /// Removes the pairs with the fewest ports, at least half of all (lossy counting): those that come again are counted from 0
    /// on, so that each may lack as many ports as were removed of it before.
    fn leave_out(&mut self) {
        let mut fewest = 1;
        while self.by.len() > MOST / 2 {
            self.by.retain(|_, ports| ports.all() > fewest);
            self.left_out = self.left_out.saturating_add(fewest);
            fewest = fewest.saturating_mul(2);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

    use super::*;

    fn entry(destination: u32, state: State) -> Entry {
        let destination = IpAddr::from(Ipv4Addr::from(destination));
        let snat = Snat {
            address: Ipv4Addr::new(192, 0, 2, 1).into(),
            destination: SocketAddr::new(destination, 443),
            protocol: 6,
            zone: 0,
        };
        Entry { snat, port: 2_000, state, translated: true }
    }

    #[test]
    fn ports_are_counted_by_state() {
        let mut found = Mappings::default();
        for state in
            [State::Live, State::Live, State::Live, State::TimeWait, State::TimeWait, State::Closed]
        {
            found.add(&entry(1, state));
        }
        let kept = Entry { translated: false, port: 2_005, ..entry(1, State::Live) };
        found.add_untranslated(&kept);
        found.add_untranslated(&Entry { translated: false, ..entry(2, State::Live) });
        let (lowest, highest) = (2_000, 2_005);
        let ports = Ports { live: 4, time_wait: 2, closed: 1, untranslated: 1, lowest, highest };
        assert_eq!(found.sorted(), [(kept.snat, ports)]);
        assert_eq!((ports.all(), ports.span(), Ports::default().span()), (7, 6, 0));
    }

    #[test]
    fn memory_is_bounded_and_the_largest_stay() {
        let mut found = Mappings::default();
        // A destination with 5,000 ports between a million others with one.
        for number in 0..1_000_000 {
            found.add(&entry(1_000 + number, State::Live));
            if number % 200 == 0 {
                found.add(&entry(1, State::Live));
            }
            assert!(found.by.len() <= MOST);
        }
        let ports = found.by[&entry(1, State::Live).snat];
        // One port, each time that the room is used up: at most once in half of it.
        assert!((1..=1_000_000 / 8_192).contains(&found.left_out), "{}", found.left_out);
        assert!(
            ports.live <= 5_000 && ports.live + found.left_out >= 5_000,
            "{ports:?} {}",
            found.left_out
        );
        assert!(ports.live > 4_500, "{ports:?}");
    }

    #[test]
    fn few_pairs_lose_nothing() {
        let mut found = Mappings::default();
        for round in 0..3 {
            for number in 0..MOST {
                found.add(&entry(u32::try_from(number).unwrap(), State::Live));
            }
            assert_eq!((found.by.len(), found.left_out), (MOST, 0), "round {round}");
        }
        assert!(found.by.values().all(|ports| ports.live == 3));
    }
}
