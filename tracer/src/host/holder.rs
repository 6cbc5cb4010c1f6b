//! Finds the socket that holds the port of a failed bind(): asks the kernel when the failure is reported, at most a
//! few times a second.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde::Serialize;
use tracer_common::{Addr, Bound, Cause, ConnKey, Event, Kind, conn_flag};

use crate::{
    format::{tcp_state::state, text::until_nul, tuple::address},
    host::{
        netns::{Netns, Worker},
        process::{Called, NameOf, Owner, Search, leader_name},
        sockdiag::{self, DiagSocket, tcp_state},
    },
};

/// The socket that holds the port which a bind() wanted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Holder {
    /// Process that has it open; 0: none, or it is not known.
    pub pid: u32,
    /// Name of that process: any bytes, NUL-padded; all zero: not known.
    pub comm: [u8; 16],
    /// One of [`tcp_state`].
    pub state: u8,
    /// Address that it is connected to; unspecified: it is not connected.
    pub peer: Addr,
    /// Port that it is connected to; 0: it is not connected.
    pub peer_port: u16,
}

/// How long an answer is reused: many calls fail for the same reason.
const FRESH: Duration = Duration::from_secs(1);
/// Shortest time from the end of a search to the next one.
const PAUSE: Duration = Duration::from_millis(100);
/// N, if searches may take 1/N of the time: after a slow one, the pause is longer.
const SHARE: u32 = 20;
/// How many answers are kept.
const MOST: usize = 256;
/// More connections of one port than this are not read: that is an error.
const CONNECTIONS: usize = 4096;
/// How long the search for the process may take.
const SEARCH: Duration = Duration::from_millis(200);

/// Finds who holds a port, and keeps each answer for 1 s. Searches take at most about 1/20 of the time.
#[derive(Debug, Default)]
pub struct Holders {
    known: HashMap<WantedPort, (Instant, Option<Holder>)>,
    /// By inode number: namespaces that could not be entered through the caller of bind(), as a search found them.
    places: HashMap<u32, Netns>,
    /// The search for the processes that have sockets open.
    search: Search,
    /// When the next search is allowed; `None`: at once, as there was none yet.
    next: Option<Instant>,
}

/// Namespace, address and port that a bind() wanted.
type WantedPort = (u32, Addr, u16);

/// Whether an event is a bind() that failed because a socket holds the port that it asked for.
pub fn has_holder(event: &Event) -> bool {
    event.kind == Kind::BindFailed as u8
        && event.detail == Cause::PortInUse as u8
        && event.local_port != 0
}

impl Holders {
    /// The holder of the port of an event for which [`has_holder`] must be true (not checked); an answer less than 1 s old is
    /// given again. `None`: nothing holds the port any more, or the holder is not known: the last search ended less than 100 ms
    /// ago (or less than 20 times as long as it took), the sockets of the namespace cannot be read, or more than 4,096 sockets
    /// have the port.
    ///
    /// `place`: where the namespace was found; `None`: it is entered through the caller. `binds` reads the ledger's
    /// bound ports, for kernels that do not list them.
    pub fn of(
        &mut self,
        event: &Event,
        place: Option<Netns>,
        worker: &Worker,
        binds: impl FnOnce() -> Vec<(ConnKey, Bound)>,
    ) -> Option<Holder> {
        let wanted = (event.tuple.netns, event.tuple.source, event.local_port);
        let now = Instant::now();
        let known = self.known.get(&wanted).filter(|(at, _)| now < *at + FRESH);
        if let Some((_, holder)) = known {
            return *holder;
        }
        if self.next.is_some_and(|next| now < next) {
            return None;
        }
        let place = place.unwrap_or_else(|| {
            let (pid, tid) = (event.pid, event.tid);
            let paths = [format!("/proc/{pid}/ns/net"), format!("/proc/{pid}/task/{tid}/ns/net")];
            Netns { inum: wanted.0, name: None, paths: paths.map(PathBuf::from).into() }
        });
        let found = match find(wanted, &place, worker, &mut self.search) {
            // The caller has ended: other processes may be in its namespace.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.search(wanted, worker).unwrap_or(Err(error))
            }
            found => found,
        };
        let holder = match found {
            Ok(holder) => holder.or_else(|| bound(wanted, &binds(), leader_name)),
            Err(error) => {
                tracing::debug!("cannot find out who holds port {}: {error}", wanted.2);
                None
            }
        };
        let end = Instant::now();
        self.next = Some(end + PAUSE.max(now.elapsed() * SHARE));
        if self.known.len() >= MOST {
            self.known.clear();
        }
        self.known.insert(wanted, (end, holder));
        holder
    }
}

impl Holders {
    /// As [`find`], in a namespace that must be searched for first. `None`: it is not found, or that search fails.
    fn search(
        &mut self,
        wanted: WantedPort,
        worker: &Worker,
    ) -> Option<io::Result<Option<Holder>>> {
        if let Some(place) = self.places.get(&wanted.0) {
            match find(wanted, place, worker, &mut self.search) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                found => return Some(found),
            }
        }
        let all = worker.discover().ok()?.found;
        let place = all.into_iter().find(|place| place.inum == wanted.0)?;
        let found = find(wanted, &place, worker, &mut self.search);
        if self.places.len() >= MOST {
            self.places.clear();
        }
        self.places.insert(wanted.0, place);
        Some(found)
    }
}

/// Finds the holder in the kernel's list of sockets. `None`: there is none.
fn find(
    wanted: WantedPort,
    place: &Netns,
    worker: &Worker,
    search: &mut Search,
) -> io::Result<Option<Holder>> {
    let (_, address, port) = wanted;
    let choose_socket = move || -> io::Result<Option<DiagSocket>> {
        const IDLE: u32 = 1 << tcp_state::LISTEN | 1 << tcp_state::BOUND_INACTIVE;
        let idle = sockdiag::dump_port(port, CONNECTIONS, IDLE)?;
        if let Some(found) = choose(&idle, address) {
            return Ok(Some(found));
        }
        let others = sockdiag::dump_port(port, CONNECTIONS, sockdiag::ALL_STATES & !IDLE)?;
        Ok(choose(&others, address))
    };
    let Some(socket) = worker.run_in(place, choose_socket)? else { return Ok(None) };
    let inode = socket.inode;
    let owner = if inode == 0 {
        None
    } else {
        let mut own = std::mem::take(search);
        let files = worker.list();
        let wanted = HashSet::from([inode]);
        let job = move || own.run(&wanted, SEARCH, files.as_deref()).map(|_| own);
        *search = worker.run(job)?;
        search.owners().get(&inode).copied()
    };
    Ok(Some(holder(&socket, owner)))
}

fn holder(socket: &DiagSocket, owner: Option<Owner>) -> Holder {
    let connected = !matches!(socket.state, tcp_state::LISTEN | tcp_state::CLOSE);
    Holder {
        pid: owner.map_or(0, |owner| owner.pid),
        comm: owner.map_or([0; 16], |owner| owner.comm),
        state: socket.state,
        peer: if connected { socket.destination } else { Addr::UNSPECIFIED },
        peer_port: if connected { socket.destination_port } else { 0 },
    }
}

/// The socket of a port that conflicts with a bind() to this address; `None`: none does. If several do, the first of
/// these: a listener, a bound socket, a connection, a connection that no process has open, a time-wait socket.
fn choose(sockets: &[DiagSocket], wanted: Addr) -> Option<DiagSocket> {
    let conflicting = sockets.iter().filter(|socket| conflict(socket.source, wanted));
    let rank = |socket: &&DiagSocket| match socket.state {
        tcp_state::LISTEN => (0, 0),
        tcp_state::CLOSE => (1, 0),
        _ if socket.time_wait => (4, socket.cookie),
        _ if socket.inode == 0 => (3, socket.cookie),
        _ => (2, socket.cookie),
    };
    conflicting.min_by_key(rank).copied()
}

/// Whether a socket that has a port at one of these addresses keeps another socket from binding the port at the other
/// address.
fn conflict(one: Addr, other: Addr) -> bool {
    is_any(one) || is_any(other) || one == other
}

fn is_any(address: Addr) -> bool {
    address == Addr::UNSPECIFIED || address == Addr::v4([0; 4])
}

/// The holder by the ledger's bound ports: the process that called bind(). `leader` returns the name of the process that
/// had this id at this time (CLOCK_MONOTONIC, ns): if another thread than the process's leader called bind(), the ledger
/// has only that thread's name.
fn bound(
    wanted: WantedPort,
    binds: &[(ConnKey, Bound)],
    leader: impl Fn(u32, u64) -> Option<[u8; 16]>,
) -> Option<Holder> {
    let (netns, address, port) = wanted;
    let here = |(key, bound): &&(ConnKey, Bound)| {
        key.port == port && bound.place.netns == netns && conflict(bound.place.source, address)
    };
    let (_, bound) = binds.iter().filter(here).min_by_key(|(key, _)| key.cookie)?;
    let listens = bound.flags & conn_flag::LISTEN != 0;
    let state = if listens { tcp_state::LISTEN } else { tcp_state::CLOSE };
    let who = &bound.who;
    let comm = if Called::from(who).of == NameOf::Process {
        who.comm
    } else {
        leader(who.pid, bound.acquired_ns).unwrap_or_default()
    };
    Some(Holder { pid: who.pid, comm, state, ..Holder::default() })
}

/// The keys of a `bind.failed` line that describe the holder.
#[derive(Serialize)]
struct Keys<'a> {
    #[serde(rename = "port.holder.state")]
    state: &'static str,
    #[serde(rename = "port.holder.pid", skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(rename = "port.holder.name", skip_serializing_if = "Option::is_none")]
    name: Option<std::borrow::Cow<'a, str>>,
    #[serde(rename = "port.holder.peer.address", skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(rename = "port.holder.peer.port", skip_serializing_if = "Option::is_none")]
    peer_port: Option<u16>,
}

impl Holder {
    /// The keys (`port.holder.state` and so on) and their values as a JSON object, safe to print on a terminal. Keys of what is
    /// not known, and those of the peer if it is not connected, are left out.
    ///
    /// # Errors
    /// Those of `serde_json`, of which none can occur with these types.
    pub fn json(&self) -> serde_json::Result<Vec<u8>> {
        let name = String::from_utf8_lossy(until_nul(&self.comm));
        let connected = self.peer_port != 0;
        crate::format::json::terminal_safe(&Keys {
            state: word(self.state),
            pid: (self.pid != 0).then_some(self.pid),
            name: (!name.is_empty()).then_some(name),
            peer: connected.then(|| address(self.peer)),
            peer_port: connected.then_some(self.peer_port),
        })
    }
}

/// The name of a holder's state, one of [`tcp_state`], as in `port.holder.state`: `bound` for CLOSE, `listen` and so on; of
/// another number, `unknown`.
pub fn word(number: u8) -> &'static str {
    // A dump shows a socket that is bound, and neither connected nor listening, as CLOSE.
    if number == tcp_state::CLOSE { "bound" } else { state(number) }
}

/// The state that [`word`] gives this name; 0: there is none.
pub fn number(text: &str) -> u8 {
    (1..=tcp_state::BOUND_INACTIVE).find(|number| word(*number) == text).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Addr = Addr::v4([10, 0, 0, 1]);
    const THERE: Addr = Addr::v4([10, 0, 0, 2]);
    const ANY: Addr = Addr::v4([0; 4]);

    fn socket(state: u8, source: Addr, cookie: u64) -> DiagSocket {
        let socket = DiagSocket::between(state, (source, 40_007), (THERE, 443));
        DiagSocket { cookie, ..socket }
    }

    #[test]
    fn of_several_conflicting_sockets_the_one_that_lasts_longest_is_chosen() {
        let listens = socket(tcp_state::LISTEN, ANY, 3);
        let open = socket(tcp_state::ESTABLISHED, HERE, 2);
        let waits = socket(tcp_state::TIME_WAIT, HERE, 1);
        assert_eq!(choose(&[waits, open, listens], HERE), Some(listens));
        assert_eq!(choose(&[waits, open], ANY), Some(open));
        assert_eq!(choose(&[waits], HERE), Some(waits));
        assert_eq!(choose(&[waits, open], THERE), None);
        assert_eq!(choose(&[], ANY), None);
    }

    #[test]
    fn a_bound_port_of_the_ledger_has_the_process_that_bound_it() {
        let mut there = Bound::default();
        (there.place.netns, there.place.source, there.who.pid) = (5, HERE, 42);
        let binds = [(ConnKey::new(1, 40_007), there)];
        let none = |_: u32, _: u64| None;
        let found = bound((5, ANY, 40_007), &binds, none).unwrap();
        assert_eq!((found.pid, found.state, found.peer_port), (42, tcp_state::CLOSE, 0));
        for other in [(6, ANY, 40_007), (5, THERE, 40_007), (5, ANY, 40_008)] {
            assert_eq!(bound(other, &binds, none), None);
        }
    }

    #[test]
    fn the_name_of_a_holder_is_that_of_its_process_whichever_thread_bound_it() {
        let name_of = |tid: u32, leader: Option<[u8; 16]>| {
            let mut there = Bound { acquired_ns: 9, ..Bound::default() };
            (there.place.netns, there.place.source) = (5, HERE);
            (there.who.pid, there.who.tid, there.who.comm) =
                (42, tid, *b"pool-1\0\0\0\0\0\0\0\0\0\0");
            let binds = [(ConnKey::new(1, 40_007), there)];
            let leader = |pid, at_ns| leader.filter(|_| (pid, at_ns) == (42, 9));
            bound((5, ANY, 40_007), &binds, leader).unwrap().comm
        };
        let java = *b"java\0\0\0\0\0\0\0\0\0\0\0\0";
        assert_eq!(name_of(42, Some(java)), *b"pool-1\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(name_of(43, Some(java)), java);
        // The name of a thread must not be shown as that of the process.
        assert_eq!(name_of(43, None), [0; 16]);
    }

    #[test]
    fn keys_of_a_holder_that_are_not_known_are_absent() {
        let text = |holder: Holder| String::from_utf8(holder.json().unwrap()).unwrap();
        let listens = Holder { state: tcp_state::LISTEN, ..Holder::default() };
        assert_eq!(text(listens), r#"{"port.holder.state":"listen"}"#);
        let owner = Owner { pid: 7, comm: *b"crawler\0\0\0\0\0\0\0\0\0" };
        let open = holder(&socket(tcp_state::ESTABLISHED, HERE, 2), Some(owner));
        let all = r#"{"port.holder.state":"established","port.holder.pid":7,"port.holder.name":"crawler","port.holder.peer.address":"10.0.0.2","port.holder.peer.port":443}"#;
        assert_eq!(text(open), all);
        for state in [tcp_state::LISTEN, tcp_state::CLOSE, tcp_state::TIME_WAIT] {
            assert_eq!(number(word(state)), state);
        }
    }
}
