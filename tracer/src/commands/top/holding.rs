//! [`Holding`]: which processes have the sockets of connections open now. That need not be the process that called connect():
//! children inherit sockets, processes pass them on, and the kernel keeps a closed one while its data is unsent.

use std::{
    collections::{HashMap, HashSet},
    io,
    time::{Duration, Instant},
};

use tracer_common::{Conn, ConnKey};

use crate::{
    host::{
        netns::{Netns, Worker},
        process::{Owner, Search},
        sockdiag::{self, DiagSocket, tcp_state},
        sockstat,
    },
    runtime::clock,
};

/// Least time from the end of a refresh to the next one, unless a namespace is wanted that the last one was not asked for.
const REFRESH_INTERVAL: Duration = Duration::from_secs(2);
/// The pause after a refresh is at least this many times as long as the refresh took, so that refreshes take less than 5 % of
/// the time.
const SHARE: u32 = 20;
/// How long a refresh may list sockets (a namespace that it has begun is read to the end), and how long it may then search
/// processes. Of a socket that was not found by then, it is unknown who has it open.
const TIMEOUT: Duration = Duration::from_millis(400);
/// The most sockets that are read in all. Of each namespace at most half of what is left of this number are read, so
/// that none takes all.
const SOCKETS_MAX: usize = 600_000;

/// Who has a port's socket open.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum HeldBy {
    /// The process with this id.
    Process(Owner),
    /// It is in TIME_WAIT, which no process has open.
    TimeWait,
    /// It was opened after the last refresh.
    JustOpened,
    /// No process has it open: it was closed, and its data waits to be sent.
    NoProcess,
    /// Who has it open was not found.
    Unknown,
    /// Only for a group of ports, never for one port: the group of all ports whose own groups are not kept, see
    /// [`super::groups`].
    Others,
}

/// Which processes have sockets open, as the last refresh found it.
#[derive(Debug, Default)]
pub(super) struct Holding {
    /// When that refresh began, by CLOCK_MONOTONIC, ns.
    began_ns: u64,
    /// The inode of each socket, by its cookie; 0: no process has it open.
    inodes: HashMap<u64, u32>,
    /// The search for the processes that have these inodes open, and what it has found so far.
    search: Search,
    /// How many namespaces had too many sockets to read.
    too_many: usize,
    /// When the next refresh is due; `None`: now.
    next: Option<Instant>,
    /// Inode numbers of the namespaces that were wanted at the last refresh.
    wanted: HashSet<u32>,
}

impl Holding {
    /// Whether a refresh is due: there was none, or the last one ended at least 2 s ago, and 20 times as long ago as it took.
    pub(super) fn is_due(&self) -> bool {
        self.next.is_none_or(|next| next <= Instant::now())
    }

    /// Reads who has sockets open in these namespaces (inode numbers), if that is due or one is wanted that was not wanted the
    /// last time; otherwise does nothing. It lists sockets for 0.4 s at most (a namespace that it has begun is read to its end),
    /// and then searches processes for as long. `places`: finds the namespaces by their numbers. Errors are only logged.
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
        let dump = |place: &Netns, limit: usize| worker.run_in(place, move || read(limit));
        self.list(&places(wanted), SOCKETS_MAX, || now.elapsed() > TIMEOUT, dump);
        let inodes: HashSet<u32> = self.inodes.values().copied().filter(|it| *it != 0).collect();
        let mut search = std::mem::take(&mut self.search);
        let files = worker.list();
        let found = worker.run(move || {
            let complete = search.run(&inodes, TIMEOUT, files.as_deref());
            complete.map(|complete| (search, complete))
        });
        match found {
            Ok((search, complete)) => {
                if !complete {
                    tracing::debug!("too many files are open to search all of them at once");
                }
                self.search = search;
            }
            Err(error) => tracing::debug!("who has sockets open: {error}"),
        }
        self.wanted.clone_from(wanted);
        self.next = Some(Instant::now() + REFRESH_INTERVAL.max(now.elapsed() * SHARE));
    }

    /// Reads the sockets of these namespaces until `is_over`, at most `most` in all, and of each at most half of what is
    /// left. A namespace that cannot be read or has more is left out.
    fn list(
        &mut self,
        places: &[Netns],
        most: usize,
        is_over: impl Fn() -> bool,
        dump: impl Fn(&Netns, usize) -> io::Result<Vec<DiagSocket>>,
    ) {
        self.inodes.clear();
        self.too_many = 0;
        for place in places.iter().take_while(|_| !is_over()) {
            match dump(place, most.saturating_sub(self.inodes.len()) / 2) {
                Ok(sockets) => {
                    self.inodes.extend(sockets.iter().map(|socket| (socket.cookie, socket.inode)));
                }
                Err(error) => {
                    self.too_many += usize::from(error.kind() == io::ErrorKind::QuotaExceeded);
                    tracing::debug!("who has sockets of {place} open: {error}");
                }
            }
        }
        self.inodes.shrink_to(self.inodes.len() * 2);
    }

    /// Why it is not known of some ports who has them open, as a text for people; `None`: no namespace had too many sockets at
    /// the last refresh.
    pub(super) fn reason(&self) -> Option<String> {
        (self.too_many > 0).then(|| {
            format!(
                "who has ports open (HELD BY) is not known in {} network namespaces: they have too many sockets to list them \
                 again and again (room is for {SOCKETS_MAX} in all, and in one for half of what the others leave)",
                self.too_many
            )
        })
    }

    /// Who has the socket of a held port open; of several processes that share it, the one with the lowest id that was found.
    pub(super) fn of(&self, key: &ConnKey, conn: &Conn) -> HeldBy {
        if conn.is_time_wait() {
            return HeldBy::TimeWait;
        }
        match self.inodes.get(&key.cookie) {
            Some(0) => HeldBy::NoProcess,
            Some(inode) => {
                let owner = self.search.owners().get(inode);
                owner.map_or(HeldBy::Unknown, |it| HeldBy::Process(*it))
            }
            None if conn.begun_ns > self.began_ns => HeldBy::JustOpened,
            None => HeldBy::Unknown,
        }
    }
}

/// The sockets of the calling thread's network namespace in all states but LISTEN and TIME_WAIT.
///
/// # Errors
/// There are more than `limit` (kind `QuotaExceeded`; usually found without listing them); the kernel does not list them.
fn read(limit: usize) -> io::Result<Vec<DiagSocket>> {
    let count = sockstat::sockets(false).unwrap_or(0);
    if usize::try_from(count).is_ok_and(|count| count > limit) {
        let text = format!("it has {count} TCP sockets, and no more than {limit} are listed");
        return Err(io::Error::new(io::ErrorKind::QuotaExceeded, text));
    }
    let open = sockdiag::ALL_STATES & !(1 << tcp_state::LISTEN | 1 << tcp_state::TIME_WAIT);
    sockdiag::dump_all_up_to(limit, open)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tracer_common::{Addr, Who, conn_flag};

    use super::*;

    #[test]
    fn a_holder_is_what_the_refresh_found_and_newer_sockets_have_none() {
        let child = Owner { pid: 9, comm: *b"sleep\0\0\0\0\0\0\0\0\0\0\0" };
        let holding = Holding {
            began_ns: 100,
            inodes: [(1, 11), (2, 0), (3, 33)].into(),
            search: Search::of([(11, child)]),
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
        assert_eq!(of(2, conn(50, 0)), HeldBy::NoProcess);
        // Its process ended during the refresh; or the socket was not found at all.
        assert_eq!(of(3, conn(50, 0)), HeldBy::Unknown);
        assert_eq!(of(4, conn(50, 0)), HeldBy::Unknown);
        // The opener may have passed it on.
        assert_eq!(of(4, conn(150, 0)), HeldBy::JustOpened);
        assert_eq!(of(1, conn(50, conn_flag::TIME_WAIT)), HeldBy::TimeWait);
    }

    fn a_socket() -> DiagSocket {
        let any = Addr::UNSPECIFIED;
        DiagSocket::between(tcp_state::ESTABLISHED, (any, 40_007), (any, 443))
    }

    #[test]
    fn a_namespace_with_too_many_sockets_is_reported_and_others_are_read() {
        let sockets = |netns: u32| if netns == 2 { 51 } else { 10 };
        let places = |all: &[u32]| -> Vec<Netns> {
            let place = |inum: &u32| Netns { inum: *inum, name: None, paths: Vec::new() };
            all.iter().map(place).collect()
        };
        let limits = RefCell::new(Vec::new());
        let dump = |place: &Netns, limit: usize| {
            limits.borrow_mut().push(limit);
            let count = sockets(place.inum);
            if count > limit {
                return Err(io::Error::from(io::ErrorKind::QuotaExceeded));
            }
            let cookie = |number: usize| u64::from(place.inum) * 1000 + number as u64;
            let socket = |number| DiagSocket { cookie: cookie(number), ..a_socket() };
            Ok((0..count).map(socket).collect())
        };
        let mut holding = Holding::default();
        holding.list(&places(&[1, 2, 3]), 100, || false, dump);
        assert_eq!((holding.inodes.len(), holding.too_many), (20, 1));
        assert_eq!(*limits.borrow(), [50, 45, 45]);
        let reason = holding.reason().unwrap();
        assert!(reason.contains("not known in 1 network namespaces"), "{reason}");
        holding.list(&places(&[1, 3]), 100, || false, dump);
        assert_eq!((holding.inodes.len(), holding.reason()), (20, None));
        holding.list(&places(&[1, 3]), 100, || true, dump);
        assert_eq!(holding.inodes.len(), 0);
    }

    #[test]
    fn a_limit_is_kept_without_listing() {
        crate::host::test_netns::run(|| {
            let listeners: Vec<_> =
                (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
            let error = read(2).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
            assert!(error.to_string().contains("has 3 TCP sockets"), "{error}");
            assert_eq!(read(3).unwrap().len(), 0);
            drop(listeners);
        });
    }
}
