//! Who has the sockets of connections open now. It need not be who called connect(): children inherit, sockets are
//! passed on, and a process that closes one leaves it to the kernel while data is unsent.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use tracer_common::{Conn, ConnKey};

use crate::{
    clock,
    netns::{Netns, Worker},
    process::{self, Owner},
    sockdiag::{self, tcp_state},
};

/// What was found holds for so long, at least...
const FRESH: Duration = Duration::from_secs(2);
/// ...and looking takes no more than one part in so many of the time.
const SHARE: u32 = 20;
/// How long it may take: for the namespaces, and for the processes. What is not found until then is not known.
const TIME: Duration = Duration::from_millis(400);
/// Sockets of a namespace that are read.
const SOCKETS: usize = 300_000;

/// Who has a port's socket open.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum HeldBy {
    Process(Owner),
    /// It is in TIME_WAIT, which no process has open.
    TimeWait,
    /// No process: it was closed, and its data waits to be sent.
    Nobody,
    Unknown,
}

/// What was found at the newest look.
#[derive(Debug, Default)]
pub(super) struct Holding {
    began_ns: u64,
    /// By cookie; 0: no process has it open.
    inodes: HashMap<u64, u32>,
    owners: HashMap<u32, Owner>,
    /// When may be looked again.
    next: Option<Instant>,
    /// Namespaces that were looked for.
    wanted: HashSet<u32>,
}

impl Holding {
    /// Whether it is time to look again.
    pub(super) fn is_due(&self) -> bool {
        self.next.is_none_or(|next| next <= Instant::now())
    }

    /// Looks again, if that is due or other namespaces are wanted. `places`: where they are.
    pub(super) fn refresh(
        &mut self,
        wanted: &HashSet<u32>,
        places: impl FnOnce(&HashSet<u32>) -> Vec<Netns>,
        worker: &Worker,
    ) {
        if !self.is_due() && wanted.is_subset(&self.wanted) {
            return;
        }
        let now = Instant::now();
        self.began_ns = clock::monotonic_ns();
        self.inodes.clear();
        for place in &places(wanted) {
            if now.elapsed() > TIME {
                break;
            }
            let open = sockdiag::ALL_STATES & !(1 << tcp_state::LISTEN | 1 << tcp_state::TIME_WAIT);
            let dump = worker.run_in(place, move || sockdiag::dump_all_up_to(SOCKETS, open));
            match dump.and_then(|sockets| sockets) {
                Ok(sockets) => {
                    self.inodes.extend(sockets.iter().map(|socket| (socket.cookie, socket.inode)));
                }
                Err(error) => tracing::debug!("who has sockets of {place} open: {error}"),
            }
        }
        let inodes: HashSet<u32> = self.inodes.values().copied().filter(|it| *it != 0).collect();
        let owners = worker.run(move || process::owners_within(&inodes, TIME));
        self.owners = owners.and_then(|owners| owners).unwrap_or_default();
        self.wanted.clone_from(wanted);
        self.next = Some(Instant::now() + FRESH.max(now.elapsed() * SHARE));
    }

    /// Who has the socket of a held port open. Of several that share one, any.
    pub(super) fn of(&self, key: &ConnKey, conn: &Conn) -> HeldBy {
        if conn.is_time_wait() {
            return HeldBy::TimeWait;
        }
        match self.inodes.get(&key.cookie) {
            Some(0) => HeldBy::Nobody,
            Some(inode) => {
                self.owners.get(inode).map_or(HeldBy::Unknown, |it| HeldBy::Process(*it))
            }
            // It was opened after the newest look.
            None if conn.begun_ns > self.began_ns && conn.who.pid != 0 => {
                HeldBy::Process(Owner { pid: conn.who.pid, comm: conn.who.comm })
            }
            None => HeldBy::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::{Who, conn_flag};

    use super::*;

    #[test]
    fn who_has_a_socket_open_is_what_was_found_and_for_newer_ones_who_opened_it() {
        let child = Owner { pid: 9, comm: *b"sleep\0\0\0\0\0\0\0\0\0\0\0" };
        let holding = Holding {
            began_ns: 100,
            inodes: [(1, 11), (2, 0), (3, 33)].into(),
            owners: [(11, child)].into(),
            ..Holding::default()
        };
        let conn = |begun_ns, flags| Conn {
            who: Who { pid: 7, ..Who::default() },
            begun_ns,
            flags,
            ..Conn::default()
        };
        let of = |cookie, conn: Conn| holding.of(&ConnKey::new(cookie, 40_000), &conn);
        assert_eq!(of(1, conn(50, 0)), HeldBy::Process(child));
        assert_eq!(of(2, conn(50, 0)), HeldBy::Nobody);
        // It ended while the processes were looked at; or it was not found at all.
        assert_eq!(of(3, conn(50, 0)), HeldBy::Unknown);
        assert_eq!(of(4, conn(50, 0)), HeldBy::Unknown);
        assert_eq!(of(4, conn(150, 0)), HeldBy::Process(Owner { pid: 7, comm: [0; 16] }));
        assert_eq!(of(1, conn(50, conn_flag::TIME_WAIT)), HeldBy::TimeWait);
    }
}
