//! Finds the held ports that take no room, because connect() cannot be given them. No I/O.
//!
//! connect() can be given a port that another connection has towards another destination. bind() can take it as well,
//! at another address: from then on, connect() is not given it. Then it counts as a bound port, and must not count
//! again as one that the tuple takes. The same is true of ports that were reserved after a connection got them, and of
//! ports that are not in the range any more.
//!
//! Up to Linux 6.17, connect() is not given a port that bind() took until no socket has it at all, even after the
//! socket that bound it is gone: bind() changes the port's `tb->fastreuse` from -1, which connect() needs, and nothing
//! changes it back (`inet_csk_update_fastreuse`). As no connect() is given the port in that time, this is so exactly
//! while a connection has it that got it before the newest bind().

use foldhash::{HashMap, HashSet};
use tracer_common::{
    Conn, ConnKey, Touched, conn_flag, port_of,
    seed::{Command, Op},
};

use super::{BoundPorts, Usable};

/// Compares all connections of the ledger with the ports that connect() can be given.
#[derive(Debug)]
pub struct Comparison<'a> {
    usable: &'a HashMap<u32, Usable>,
    touched: &'a HashMap<u64, Touched>,
    commands: Vec<Command>,
    left_over: Vec<(u32, u16)>,
    needed: HashSet<u64>,
}

/// The result of a [`Comparison`].
#[derive(Debug)]
pub struct Compared {
    /// Commands ([`Op::SetApart`]) that correct which connections take no room; empty: all are right.
    pub commands: Vec<Command>,
    /// Ports that connect() is not given although the socket that bound them may be gone.
    pub left_over: BoundPorts,
    /// Ports of all namespaces (by [`port_of`]) that are held by a connection older than the newest bind(). Only for
    /// such a port the time of that bind() matters: for any other port, the kernel has forgotten the bind(), or will
    /// forget it with the socket that bound the port.
    pub needed: HashSet<u64>,
}

impl<'a> Comparison<'a> {
    /// A comparison without connections. `usable`: by inode number of each namespace that is known, its ports without those that
    /// are bound now. `touched`: when bind() last took each port, by [`port_of`]; empty if the kernel forgets that with the
    /// socket.
    pub fn new(usable: &'a HashMap<u32, Usable>, touched: &'a HashMap<u64, Touched>) -> Self {
        let (commands, left_over, needed) = (Vec::new(), Vec::new(), HashSet::default());
        Self { usable, touched, commands, left_over, needed }
    }

    /// Adds a connection. If it is marked as taking no room and takes some, or the other way round, a command will
    /// correct that; not if its socket bound the port itself, or if the ports of its namespace are not known.
    pub fn add(&mut self, key: &ConnKey, conn: &Conn) {
        let netns = conn.tuple.netns;
        // No hook saw when a seeded socket got its port: it counts as older than every bind().
        let acquired_ns = if conn.flags & conn_flag::SEEDED != 0 { 0 } else { conn.acquired_ns };
        let port = port_of(netns, key.port);
        let left_over = self.touched.get(&port).is_some_and(|it| acquired_ns < it.at_ns);
        if left_over {
            self.needed.insert(port);
        }
        let Some(usable) = self.usable.get(&netns) else { return };
        // Its own bound port counts as bound, and not as one that the tuple takes.
        if conn.flags & conn_flag::LISTED != 0 {
            return;
        }
        if left_over {
            self.left_over.push((netns, key.port));
        }
        let apart = left_over || !usable.has(key.port);
        if apart != (conn.flags & conn_flag::APART != 0) {
            self.commands.push(Command {
                op: Op::SetApart as u32,
                flags: u32::from(apart),
                key: *key,
                ..Command::default()
            });
        }
    }

    /// The result, when all connections are added.
    pub fn end(self) -> Compared {
        let Self { commands, left_over, needed, .. } = self;
        Compared { commands, left_over: left_over.into_iter().collect(), needed }
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::TupleKey;

    use super::*;
    use crate::host::capacity::PortRange;

    const NETNS: u32 = 5;

    fn conn(netns: u32, flags: u32, acquired_ns: u64) -> Conn {
        let tuple = TupleKey { netns, ..TupleKey::default() };
        Conn { tuple, flags, acquired_ns, ..Conn::default() }
    }

    fn usable(bound: &[u16]) -> HashMap<u32, Usable> {
        let range = PortRange { low: 100, high: 199, reserved: vec![150..=159] };
        HashMap::from_iter([(NETNS, Usable::new(&range, bound.iter().copied().collect()))])
    }

    fn changes(commands: &[Command]) -> Vec<(u16, u32)> {
        assert!(commands.iter().all(|it| it.op == Op::SetApart as u32));
        commands.iter().map(|it| (it.key.port, it.flags)).collect()
    }

    #[test]
    fn a_port_takes_room_only_if_connect_can_be_given_it() {
        let (all, none) = (usable(&[110, 300]), HashMap::default());
        let mut comparison = Comparison::new(&all, &none);
        let mut add = |netns, port, flags| {
            comparison.add(&ConnKey::new(u64::from(port), port), &conn(netns, flags, 0));
        };
        // In order: usable, bound by another socket, bound by its own, reserved, out of the range, of an unknown
        // namespace.
        add(NETNS, 101, 0);
        add(NETNS, 110, 0);
        add(NETNS, 112, conn_flag::LISTED);
        add(NETNS, 155, 0);
        add(NETNS, 300, 0);
        add(6, 110, 0);
        // Marked as taking no room: one for which that is right, and one for which it is not any more.
        add(NETNS, 156, conn_flag::APART);
        add(NETNS, 102, conn_flag::APART);
        let compared = comparison.end();
        assert_eq!(changes(&compared.commands), [(110, 1), (155, 1), (300, 1), (102, 0)]);
        assert!(compared.left_over.is_empty() && compared.needed.is_empty());
    }

    #[test]
    fn a_port_is_blocked_as_long_as_a_connection_has_it_that_is_older_than_its_last_bind() {
        let all = usable(&[110]);
        let touched = [(101, 50), (102, 50), (103, 50), (104, 50), (110, 50)];
        let touched = touched.map(|(port, at)| (port_of(NETNS, port), at));
        let touched = touched.into_iter().chain([(port_of(6, 105), 50)]);
        let touched =
            touched.map(|(port, at_ns)| (port, Touched { at_ns, ..Touched::default() })).collect();
        let mut comparison = Comparison::new(&all, &touched);
        let mut add = |port, flags, acquired_ns| {
            comparison.add(&ConnKey::new(u64::from(port), port), &conn(NETNS, flags, acquired_ns));
        };
        // In order: older than the bind(); opened when the port was free again; an older socket; bound by itself;
        // touched only in another namespace; still bound.
        add(101, 0, 49);
        add(102, 0, 51);
        add(103, conn_flag::SEEDED, 60);
        add(104, conn_flag::LISTED, 50);
        add(105, 0, 40);
        add(110, 0, 40);
        // Of a namespace whose ports are not known.
        comparison.add(&ConnKey::new(1, 105), &conn(6, 0, 40));
        let compared = comparison.end();
        assert_eq!(changes(&compared.commands), [(101, 1), (103, 1), (110, 1)]);
        let left_over = [101, 103, 110].map(|port| (NETNS, port)).into_iter().collect();
        assert_eq!(compared.left_over, left_over);
        let needed = [101, 103, 110].map(|port| port_of(NETNS, port));
        assert_eq!(compared.needed, needed.into_iter().chain([port_of(6, 105)]).collect());
    }
}
