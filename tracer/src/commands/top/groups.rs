//! [`Groups`]: groups ports by who has them open and who opened them, in bounded memory: any user can open each port by another
//! process and pass the sockets on.

use std::{
    collections::{HashMap, HashSet},
    hash::BuildHasher,
};

use tracer_common::{Conn, Who};

use super::holding::HeldBy;

/// The most groups that are kept. With more, those with the most ports are kept, and all others become one group.
const GROUPS_MAX: usize = 4096;

/// What identifies a group: the ports that the same process has open and the same process opened.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Group {
    pub(super) held_by: HeldBy,
    /// Id of the process that called connect(); 0: not known, or the group is `OTHERS`.
    pub(super) opener: u32,
    /// Whether the opener has ended, and another process has its id now.
    pub(super) of_earlier: bool,
}

impl Group {
    /// The group of the ports whose groups are not kept.
    const OTHERS: Self = Self { held_by: HeldBy::Others, opener: 0, of_earlier: false };
}

/// The ports of a group.
#[derive(Clone, Debug, Default)]
pub(super) struct Ports {
    /// How many there are.
    pub(super) all: u32,
    /// How many of them are in TIME_WAIT.
    pub(super) time_wait: u32,
    /// The thread that opened the newest of these ports; but if the process's first thread opened any of them, that thread.
    pub(super) who: Who,
    /// When `who` opened its newest port, by CLOCK_MONOTONIC, ns; 0: before tracer started.
    pub(super) begun_ns: u64,
    /// Hashes of the tuples that the ports are used for, each once.
    pub(super) tuples: HashSet<u64>,
}

/// Groups of ports, at most 4,096. The caller adds all ports once, or if there are too many groups, three times: after each time,
/// it asks [`Groups::next_pass`].
#[derive(Debug)]
pub(super) struct Groups {
    most: usize,
    by: HashMap<Group, Ports>,
    hasher: foldhash::fast::RandomState,
    pass: Pass,
}

/// What adding a port does.
#[derive(Debug)]
enum Pass {
    /// Adds it to its group, as long as there are not too many groups.
    All,
    /// Nothing: there are too many groups.
    TooMany,
    /// Counts it for its group, of which only a hash is kept.
    Sizes(HashMap<u64, u32>),
    /// Adds it to its group if the group's hash is one of these, else to [`Group::OTHERS`].
    Largest(HashSet<u64>),
}

impl Groups {
    /// No groups yet.
    pub(super) fn new() -> Self {
        Self::up_to(GROUPS_MAX)
    }

    fn up_to(most: usize) -> Self {
        let hasher = foldhash::fast::RandomState::default();
        Self { most, by: HashMap::new(), hasher, pass: Pass::All }
    }

    /// Adds the port of a connection. In the second pass, the ports of each group are only counted; in the third one, those of
    /// groups that are not among the largest are added to one group of [`HeldBy::Others`].
    pub(super) fn add(&mut self, group: Group, conn: &Conn) {
        let hash = || self.hasher.hash_one(group);
        let group = match &mut self.pass {
            Pass::All if self.by.len() < self.most || self.by.contains_key(&group) => group,
            Pass::All | Pass::TooMany => return self.pass = Pass::TooMany,
            Pass::Sizes(sizes) => {
                *sizes.entry(self.hasher.hash_one(group)).or_default() += 1;
                return;
            }
            Pass::Largest(largest) if largest.contains(&hash()) => group,
            Pass::Largest(_) => Group::OTHERS,
        };
        let ports = self.by.entry(group).or_default();
        let is_first = ports.all == 0;
        ports.all += 1;
        ports.time_wait += u32::from(conn.is_time_wait());
        ports.tuples.insert(self.hasher.hash_one(conn.tuple));
        let rank = |who: &Who, begun_ns: u64| (who.tid == who.pid, begun_ns);
        if is_first || rank(&conn.who, conn.begun_ns) >= rank(&ports.who, ports.begun_ns) {
            (ports.who, ports.begun_ns) = (conn.who, conn.begun_ns);
        }
    }

    /// Ends a pass over all ports. Returns whether the caller must add all ports once more.
    pub(super) fn next_pass(&mut self) -> bool {
        match &mut self.pass {
            Pass::TooMany => self.pass = Pass::Sizes(HashMap::new()),
            Pass::Sizes(sizes) => {
                let mut all: Vec<(u32, u64)> =
                    sizes.iter().map(|(group, size)| (*size, *group)).collect();
                all.sort_unstable_by(|one, other| other.cmp(one));
                all.truncate(self.most);
                self.pass = Pass::Largest(all.into_iter().map(|(_, group)| group).collect());
            }
            Pass::All | Pass::Largest(_) => return false,
        }
        self.by.clear();
        true
    }

    /// The groups with their ports, in no order. To be called once [`Self::next_pass`] has returned false.
    pub(super) fn end(self) -> impl Iterator<Item = (Group, Ports)> {
        self.by.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::TupleKey;

    use super::*;
    use crate::host::process::Owner;

    fn conn(pid: u32, tid: u32, port: u16, begun_ns: u64) -> Conn {
        let tuple = TupleKey { destination_port: port, ..TupleKey::default() };
        Conn { tuple, who: Who { pid, tid, ..Who::default() }, begun_ns, ..Conn::default() }
    }

    fn held(pid: u32) -> HeldBy {
        HeldBy::Process(Owner { pid, comm: [0; 16] })
    }

    /// Adds these as often as needed. Returns each group's opener, number of ports and number of tuples; and the
    /// highest number of groups that there was.
    fn groups(most: usize, all: &[(Group, Conn)]) -> (Vec<(u32, u32, usize)>, usize) {
        let mut groups = Groups::up_to(most);
        let mut largest = 0;
        for pass in 0.. {
            assert!(pass < 3);
            for (group, conn) in all {
                groups.add(*group, conn);
                largest = largest.max(groups.by.len());
            }
            if !groups.next_pass() {
                break;
            }
        }
        let of = |(group, ports): (Group, Ports)| (group.opener, ports.all, ports.tuples.len());
        let mut found: Vec<_> = groups.end().map(of).collect();
        found.sort_unstable();
        (found, largest)
    }

    #[test]
    fn threads_of_a_process_are_one_group_known_by_its_first_thread() {
        let group = Group { held_by: held(7), opener: 7, of_earlier: false };
        let mut groups = Groups::new();
        for (tid, port, begun_ns) in [(9, 1, 50), (7, 1, 40), (8, 2, 60), (7, 3, 30)] {
            groups.add(group, &conn(7, tid, port, begun_ns));
        }
        assert!(!groups.next_pass());
        let all: Vec<_> = groups.end().collect();
        assert_eq!(all.len(), 1);
        let ports = &all[0].1;
        assert_eq!((ports.all, ports.tuples.len(), ports.who.tid, ports.begun_ns), (4, 3, 7, 40));
    }

    #[test]
    fn a_process_whose_first_thread_opened_no_port_is_known_by_another_thread() {
        let group = Group { held_by: held(7), opener: 7, of_earlier: false };
        let mut groups = Groups::new();
        for (tid, begun_ns) in [(9, 50), (8, 60), (9, 40)] {
            groups.add(group, &conn(7, tid, 1, begun_ns));
        }
        assert!(!groups.next_pass());
        let all: Vec<_> = groups.end().collect();
        let ports = &all[0].1;
        assert_eq!((ports.all, ports.who.pid, ports.who.tid, ports.begun_ns), (3, 7, 8, 60));
    }

    #[test]
    fn a_process_for_each_port_takes_little_memory_and_does_not_hide_processes_with_more() {
        let group = |opener| Group { held_by: held(1), opener, of_earlier: false };
        let mut all: Vec<(Group, Conn)> =
            (100..50_100).map(|pid| (group(pid), conn(pid, pid, 80, 0))).collect();
        let victim = Group { held_by: held(7), opener: 7, of_earlier: false };
        all.extend((0..3).map(|port| (victim, conn(7, 7, port, 0))));
        let (found, largest) = groups(100, &all);
        assert!(found.contains(&(7, 3, 3)));
        assert_eq!(found[0], (0, 50_003 - 3 - 99, 1));
        assert_eq!((found.len(), largest), (101, 101));
        // Up to the limit, all groups are kept.
        assert_eq!(groups(50_001, &all).0.len(), 50_001);
        let (few, _) = groups(2, &all[..2]);
        assert_eq!(few, [(100, 1, 1), (101, 1, 1)]);
        // Of equally large ones, any are kept.
        let (three, _) = groups(2, &all[..3]);
        assert_eq!((three.len(), three[0]), (3, (0, 1, 1)));
    }
}
