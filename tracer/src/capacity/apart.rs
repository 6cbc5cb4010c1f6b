//! Which of the ports that connections hold are none that connect() can be given: they take no room. Pure.
//!
//! connect() gives out a port that another connection has, towards another destination. bind() can take it as well, at
//! another address: from then on no connect() is given it. So it counts among the bound ports, and must not count again
//! among those that the tuple takes. The same goes for ports that were reserved meanwhile, and for those that the range
//! does not have any more.

use foldhash::HashMap;
use tracer_common::{
    Conn, ConnKey, conn_flag,
    seed::{Command, Op},
};

use super::{PortSet, Usable};

/// One look at all connections of the ledger.
#[derive(Debug)]
pub struct Comparison<'a> {
    usable: &'a HashMap<u32, Usable>,
    commands: Vec<Command>,
    held: HashMap<u32, PortSet>,
}

impl<'a> Comparison<'a> {
    /// `usable`: the ports of each namespace that is known.
    pub fn new(usable: &'a HashMap<u32, Usable>) -> Self {
        Self { usable, commands: Vec::new(), held: HashMap::default() }
    }

    /// Looks at a connection.
    pub fn add(&mut self, key: &ConnKey, conn: &Conn) {
        let Some(usable) = self.usable.get(&conn.tuple.netns) else { return };
        // The tuple's own: it is counted among the bound ports, and nowhere else.
        if conn.flags & conn_flag::LISTED != 0 {
            return;
        }
        let apart = !usable.ports().has(key.port);
        if apart && usable.blocked().has(key.port) {
            self.held.entry(conn.tuple.netns).or_default().insert(key.port);
        }
        if apart != (conn.flags & conn_flag::APART != 0) {
            self.commands.push(Command {
                op: Op::SetApart as u32,
                flags: u32::from(apart),
                key: *key,
                ..Command::default()
            });
        }
    }

    /// What makes the ledger right; and by namespace the blocked ports that connections hold which did not bind them.
    pub fn end(self) -> (Vec<Command>, HashMap<u32, PortSet>) {
        (self.commands, self.held)
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::TupleKey;

    use super::*;
    use crate::capacity::PortRange;

    #[test]
    fn a_port_takes_room_only_where_connect_can_be_given_it() {
        let range = PortRange { low: 100, high: 199, reserved: vec![150..=159] };
        let usable = Usable::new(&range, [110, 300].into_iter().collect());
        let all = HashMap::from_iter([(5, usable)]);
        let mut comparison = Comparison::new(&all);
        let mut look = |netns, port, flags| {
            let tuple = TupleKey { netns, ..TupleKey::default() };
            let conn = Conn { tuple, flags, ..Conn::default() };
            comparison.add(&ConnKey::new(u64::from(port), port), &conn);
        };
        // Usable, bound by another socket, by its own, reserved, out of the range, of an unknown namespace.
        look(5, 101, 0);
        look(5, 110, 0);
        look(5, 112, conn_flag::LISTED);
        look(5, 155, 0);
        look(5, 300, 0);
        look(6, 110, 0);
        // What is known already, and what is over.
        look(5, 156, conn_flag::APART);
        look(5, 102, conn_flag::APART);
        let (commands, held) = comparison.end();
        let changes: Vec<_> = commands.iter().map(|it| (it.key.port, it.flags)).collect();
        assert_eq!(changes, [(110, 1), (155, 1), (300, 1), (102, 0)]);
        assert!(commands.iter().all(|it| it.op == Op::SetApart as u32));
        assert_eq!(held[&5], [110, 300].into_iter().collect());
        assert_eq!(held.len(), 1);
    }
}
