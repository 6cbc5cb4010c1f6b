//! Decides which sockets of a dump belong in the ledger although no hook saw them being opened, and which entries of the ledger
//! contradict a dump. No I/O: dumps and readings in, commands out.

use foldhash::{HashMap, HashSet};
use tracer_common::{
    Conn, ConnKey, PortState, TupleKey, conn_flag,
    seed::{Command, Op},
    share::UNKNOWN_USER,
};

use crate::{
    host::{
        capacity::PortRange,
        process::Owner,
        sockdiag::{DiagSocket, tcp_state},
    },
    ledger::outbound::{is_connected, outbound},
};

/// The port range of one network namespace, and its TCP sockets as the kernel listed them.
#[derive(Clone, Debug, Default)]
pub struct Dump {
    /// Inode number of the namespace.
    pub netns: u32,
    pub range: PortRange,
    pub sockets: Vec<DiagSocket>,
}

/// The process that has each socket open, by the socket's inode; sockets whose process is not known are missing.
pub type Owners = std::collections::HashMap<u32, Owner>;

/// Inodes of the sockets in these dumps, without 0: no process has such a socket open.
pub fn inodes(dumps: &[Dump]) -> std::collections::HashSet<u32> {
    let sockets = dumps.iter().flat_map(|dump| &dump.sockets);
    sockets.map(|socket| socket.inode).filter(|inode| *inode != 0).collect()
}

/// Commands that add a dump's outgoing connections ([`outbound`]), its listeners, and its sockets that are bound and idle to the
/// ledger. `owners`: the processes of the sockets; a socket that has none there gets process id 0.
pub fn commands<'a>(dump: &'a Dump, owners: &'a Owners) -> impl Iterator<Item = Command> + 'a {
    conns(dump, owners).chain(bound(dump, owners))
}

/// Commands that add the outgoing connections of a dump.
fn conns<'a>(dump: &'a Dump, owners: &'a Owners) -> impl Iterator<Item = Command> + 'a {
    outbound(&dump.sockets, |port| dump.range.contains(port))
        .map(|socket| command(Op::AddConn, flags(socket), socket, dump.netns, owners))
}

/// Flags of the ledger's entry for this connection of a dump, by the socket's state.
fn flags(socket: &DiagSocket) -> u32 {
    if socket.time_wait {
        return conn_flag::TIME_WAIT | conn_flag::ESTABLISHED;
    }
    let state = match socket.state {
        tcp_state::SYN_SENT if socket.sent_again > 0 => PortState::Unanswered,
        tcp_state::SYN_SENT | tcp_state::SYN_RECV | tcp_state::NEW_SYN_RECV => {
            PortState::Connecting
        }
        tcp_state::CLOSE_WAIT => PortState::CloseWait,
        tcp_state::FIN_WAIT1 | tcp_state::FIN_WAIT2 | tcp_state::LAST_ACK | tcp_state::CLOSING => {
            PortState::Closing
        }
        _ => PortState::Established,
    };
    let established = if state < PortState::Established { 0 } else { conn_flag::ESTABLISHED };
    state.flags() | established
}

/// The TIME_WAITs of the outgoing connections of a dump, one item each: its tuple, and how long its timer still runs, ms.
pub(crate) fn time_waits(dump: &Dump) -> impl Iterator<Item = (TupleKey, u32)> + '_ {
    let any = dump.sockets.iter().any(|socket| socket.time_wait);
    let sockets = any.then(|| outbound(&dump.sockets, |port| dump.range.contains(port)));
    sockets
        .into_iter()
        .flatten()
        .filter(|socket| socket.time_wait)
        .map(|socket| (tuple(socket, dump.netns), socket.expires_ms))
}

/// Commands that add the listeners of a dump, and its sockets that are bound and idle (state CLOSE). `owners`: the processes of
/// the sockets; a socket that has none there gets process id 0.
pub fn bound<'a>(dump: &'a Dump, owners: &'a Owners) -> impl Iterator<Item = Command> + 'a {
    dump.sockets.iter().filter_map(|socket| {
        let flags = match socket.state {
            tcp_state::LISTEN => conn_flag::LISTEN,
            tcp_state::CLOSE => 0,
            _ => return None,
        };
        Some(command(Op::AddBound, flags, socket, dump.netns, owners))
    })
}

/// The key that each socket of a dump, in whatever state, would have in the ledger; each with the dump's namespace.
pub(crate) fn keys(dump: &Dump) -> impl Iterator<Item = (u32, ConnKey)> {
    dump.sockets.iter().map(|socket| (dump.netns, key(socket)))
}

/// The keys of a dump's connections in the ledger, each with its tuple.
fn held(dump: &Dump) -> impl Iterator<Item = (ConnKey, TupleKey)> {
    let connected = dump.sockets.iter().filter(|socket| is_connected(socket));
    connected.map(|socket| (key(socket), tuple(socket, dump.netns)))
}

/// The tuple of a connection of a dump.
const fn tuple(socket: &DiagSocket, netns: u32) -> TupleKey {
    TupleKey {
        source: socket.source,
        destination: socket.destination,
        netns,
        destination_port: socket.destination_port,
        zero: 0,
    }
}

/// The key of a socket in the ledger: its cookie and its source port.
pub fn key(socket: &DiagSocket) -> ConnKey {
    ConnKey::new(socket.cookie, socket.source_port)
}

fn command(op: Op, flags: u32, socket: &DiagSocket, netns: u32, owners: &Owners) -> Command {
    let owner = owners.get(&socket.inode);
    let tuple = match op {
        Op::AddConn => tuple(socket, netns),
        _ => TupleKey { source: socket.source, netns, ..TupleKey::default() },
    };
    Command {
        op: op as u32,
        flags,
        key: key(socket),
        tuple,
        comm: owner.map_or([0; 16], |owner| owner.comm),
        pid: owner.map_or(0, |owner| owner.pid),
        user: if socket.inode == 0 { UNKNOWN_USER } else { socket.uid },
        before_ns: 0,
    }
}

/// Commands that remove those of `conns`, the ledger's entries, whose socket, with that port and tuple, is not in the dump of the
/// entry's namespace: it is closed, or its connection is another one (the application disconnected it, and the port is bound).
/// Entries of namespaces without a dump stay, and so do those made at `before_ns` (CLOCK_MONOTONIC, ns, when the dumps began) or
/// later.
///
/// A dump is not a snapshot, so the caller carries out only the commands that two dumps in a row give.
pub fn stale(conns: &[(ConnKey, Conn)], dumps: &[Dump], before_ns: u64) -> Vec<Command> {
    let dumped: HashSet<u32> = dumps.iter().map(|dump| dump.netns).collect();
    let alive: HashSet<(ConnKey, TupleKey)> = dumps.iter().flat_map(held).collect();
    conns
        .iter()
        .filter(|(key, conn)| {
            conn.acquired_ns < before_ns
                && dumped.contains(&conn.tuple.netns)
                && !alive.contains(&(*key, conn.tuple))
        })
        .map(|(key, conn)| Command {
            op: Op::RemoveConn as u32,
            flags: conn.flags,
            key: *key,
            tuple: conn.tuple,
            before_ns: conn.acquired_ns,
            ..Command::default()
        })
        .collect()
}

/// Commands that add outgoing connections which the dumps have and `conns`, the ledger's entries, lacks, or that correct the
/// state of an entry: a hook was missed. As with [`stale`], the caller carries out only those that two dumps in a row give, and
/// after those of [`stale`]: an entry with another tuple must be removed before its key is added again.
///
/// A TIME_WAIT that the ledger lacks can be the accepted end of a connection whose listener is gone. It is added only
/// if the kernel could have chosen its port: hooks are missed far more seldom than servers end.
///
/// `before`: keys of the ledger before the dumps began. A key that was there and is gone was released meanwhile, and is
/// not added again.
pub(crate) fn missed(
    before: &HashSet<ConnKey>,
    conns: &[(ConnKey, Conn)],
    dumps: &[Dump],
    owners: &Owners,
) -> Vec<Command> {
    let known: HashMap<ConnKey, (TupleKey, u32)> =
        conns.iter().map(|(key, conn)| (*key, (conn.tuple, conn.flags))).collect();
    dumps
        .iter()
        .flat_map(|dump| self::conns(dump, owners).map(move |command| (dump, command)))
        .filter_map(|(dump, command)| {
            let waits = command.flags & conn_flag::TIME_WAIT != 0;
            match known.get(&command.key) {
                None if before.contains(&command.key) => None,
                None if waits && !dump.range.contains(command.key.port) => None,
                None => Some(command),
                // A dump of one namespace does not correct an entry of another.
                Some((tuple, _)) if tuple.netns != dump.netns => None,
                Some((tuple, _)) if *tuple != command.tuple => Some(command),
                Some((_, flags)) if waits && flags & conn_flag::TIME_WAIT == 0 => {
                    Some(Command { op: Op::MarkTimeWait as u32, ..command })
                }
                Some((_, flags)) if flags & conn_flag::TIME_WAIT != 0 => None,
                Some((_, flags)) => state(command, *flags),
            }
        })
        .collect()
}

/// The command that gives an entry with these flags the state that it has in a dump; `None`: it has that state.
///
/// The ledger is read after the dump, so the entry may have changed its state since: it is a difference only if the
/// next dump says the same again.
fn state(command: Command, flags: u32) -> Option<Command> {
    let (old, new) = (flags & conn_flag::STATE, command.flags & conn_flag::STATE);
    let op = Op::SetState as u32;
    (old != new).then_some(Command { op, flags: new, user: old, ..command })
}

/// The command that marks a tuple for removal, if it holds no port and has not changed since `last_ns`, the time of
/// its last change when it was read (CLOCK_MONOTONIC, ns).
pub fn marking(tuple: TupleKey, last_ns: u64) -> Command {
    let before_ns = last_ns.saturating_add(1);
    Command { op: Op::DoomTuple as u32, tuple, before_ns, ..Command::default() }
}

/// The command that removes a marked tuple, if it holds no port and no hook used it since `last_ns` (as for [`marking`]);
/// else it removes the mark.
pub fn removing(tuple: TupleKey, last_ns: u64) -> Command {
    Command { op: Op::RemoveTuple as u32, ..marking(tuple, last_ns) }
}

#[cfg(test)]
mod tests {
    use tracer_common::Addr;

    use super::*;

    const HERE: Addr = Addr::v4([10, 0, 0, 1]);
    const THERE: Addr = Addr::v4([10, 0, 0, 2]);

    fn socket(state: u8, cookie: u64, port: u16) -> DiagSocket {
        let listens = state == tcp_state::LISTEN;
        let there = if listens { (Addr::v4([0; 4]), 0) } else { (THERE, 80) };
        DiagSocket { cookie, uid: 1000, ..DiagSocket::between(state, (HERE, port), there) }
    }

    fn conn(netns: u32, acquired_ns: u64) -> Conn {
        let socket = socket(tcp_state::ESTABLISHED, 0, 0);
        Conn { tuple: tuple(&socket, netns), acquired_ns, ..Conn::default() }
    }

    fn dump(sockets: Vec<DiagSocket>) -> Dump {
        Dump { netns: 5, range: PortRange::default(), sockets }
    }

    #[test]
    fn a_connection_a_time_wait_and_a_listener_become_one_command_each() {
        let owners = Owners::from([(7, Owner { pid: 42, comm: *b"nginx\0\0\0\0\0\0\0\0\0\0\0" })]);
        let sockets = vec![
            socket(tcp_state::ESTABLISHED, 1, 40_000),
            socket(tcp_state::TIME_WAIT, 2, 40_001),
            socket(tcp_state::LISTEN, 3, 8080),
        ];
        let dump = dump(sockets);
        let commands: Vec<_> = commands(&dump, &owners).collect();
        let found: Vec<_> = commands.iter().map(|one| (one.op, one.flags, one.key.port)).collect();
        assert_eq!(
            found,
            [
                (
                    Op::AddConn as u32,
                    conn_flag::ESTABLISHED | PortState::Established.flags(),
                    40_000
                ),
                (Op::AddConn as u32, conn_flag::ESTABLISHED | conn_flag::TIME_WAIT, 40_001),
                (Op::AddBound as u32, conn_flag::LISTEN, 8080),
            ]
        );
        assert!(commands.iter().all(|one| one.pid == 42 && one.tuple.netns == 5));
        assert_eq!(commands[0].tuple.destination_port, 80);
        assert_eq!(commands[2].tuple.destination, Addr::UNSPECIFIED);
    }

    #[test]
    fn what_a_dump_has_and_the_ledger_has_not_was_missed() {
        let time_wait = socket(tcp_state::TIME_WAIT, 1, 40_000);
        let unknown = socket(tcp_state::ESTABLISHED, 2, 40_001);
        let known = socket(tcp_state::ESTABLISHED, 3, 40_002);
        let conns = [1, 3].map(|cookie| {
            let key = ConnKey::new(cookie, 39_999 + u16::try_from(cookie).unwrap());
            (key, Conn { flags: PortState::Established.flags(), ..conn(5, 0) })
        });
        let dumps = [dump(vec![time_wait, unknown, known])];
        let missed = missed(&HashSet::default(), &conns, &dumps, &Owners::new());
        let found: Vec<_> = missed.iter().map(|one| (one.op, one.key.cookie)).collect();
        assert_eq!(found, [(Op::MarkTimeWait as u32, 1), (Op::AddConn as u32, 2)]);
    }

    #[test]
    fn a_state_that_is_not_the_kernels_is_corrected_from_what_it_was_read_as() {
        let established = PortState::Established.flags();
        let dumps = [dump(vec![
            DiagSocket { sent_again: 1, ..socket(tcp_state::SYN_SENT, 1, 40_001) },
            socket(tcp_state::ESTABLISHED, 2, 40_002),
            socket(tcp_state::CLOSE_WAIT, 3, 40_003),
            socket(tcp_state::FIN_WAIT2, 4, 40_004),
            socket(tcp_state::CLOSE_WAIT, 5, 40_005),
        ])];
        let conns = [
            (1, 0),
            (2, established),
            (3, established),
            (4, PortState::CloseWait.flags()),
            (5, conn_flag::TIME_WAIT),
        ];
        let conns = conns.map(|(cookie, flags)| {
            let key = ConnKey::new(cookie, 40_000 + u16::try_from(cookie).unwrap());
            (key, Conn { flags, ..conn(5, 0) })
        });
        let missed = missed(&HashSet::default(), &conns, &dumps, &Owners::new());
        let found: Vec<_> =
            missed.iter().map(|one| (one.op, one.key.cookie, one.user, one.flags)).collect();
        let op = Op::SetState as u32;
        let (unanswered, close_wait, closing) = (
            PortState::Unanswered.flags(),
            PortState::CloseWait.flags(),
            PortState::Closing.flags(),
        );
        let right = [
            (op, 1, 0, unanswered),
            (op, 3, established, close_wait),
            (op, 4, close_wait, closing),
        ];
        assert_eq!(found, right);
    }

    #[test]
    fn a_time_wait_on_a_port_that_the_kernel_does_not_choose_was_not_missed() {
        let accepted = socket(tcp_state::TIME_WAIT, 1, 7000);
        let open = socket(tcp_state::ESTABLISHED, 2, 7001);
        let dumps = [dump(vec![accepted, open])];
        let missed = missed(&HashSet::default(), &[], &dumps, &Owners::new());
        let found: Vec<_> = missed.iter().map(|one| one.key.cookie).collect();
        assert_eq!(found, [2]);
    }

    #[test]
    fn what_was_released_while_the_dump_was_made_was_not_missed() {
        let sockets = [1, 2].map(|cookie| socket(tcp_state::ESTABLISHED, cookie, 40_000)).into();
        let before = HashSet::from_iter([ConnKey::new(1, 40_000)]);
        let missed = missed(&before, &[], &[dump(sockets)], &Owners::new());
        let found: Vec<_> = missed.iter().map(|one| one.key.cookie).collect();
        assert_eq!(found, [2]);
    }

    #[test]
    fn only_an_old_entry_of_a_dumped_namespace_can_be_stale() {
        let gone = (ConnKey::new(1, 40_000), conn(5, 10));
        let alive = (ConnKey::new(2, 40_001), conn(5, 10));
        let young = (ConnKey::new(3, 40_002), conn(5, 200));
        let elsewhere = (ConnKey::new(4, 40_003), conn(6, 10));
        let dumps = [dump(vec![socket(tcp_state::TIME_WAIT, 2, 40_001)])];
        let stale = stale(&[gone, alive, young, elsewhere], &dumps, 100);
        let found: Vec<_> = stale.iter().map(|one| (one.op, one.key)).collect();
        assert_eq!(found, [(Op::RemoveConn as u32, gone.0)]);
    }

    #[test]
    fn an_entry_whose_socket_has_another_connection_is_removed_and_added_again() {
        let other = TupleKey { destination_port: 81, ..conn(5, 10).tuple };
        let moved = Conn { tuple: other, ..conn(5, 10) };
        let entries = [(1, 40_001), (2, 40_002), (3, 40_003)];
        let entries = entries.map(|(cookie, port)| (ConnKey::new(cookie, port), moved));
        let dumps = [dump(vec![
            socket(tcp_state::ESTABLISHED, 1, 40_001),
            socket(tcp_state::CLOSE, 2, 40_002),
            socket(tcp_state::LISTEN, 3, 40_003),
        ])];
        let stale = stale(&entries, &dumps, 100);
        assert_eq!(stale.iter().map(|one| one.key.cookie).collect::<Vec<_>>(), [1, 2, 3]);
        let before = entries.iter().map(|(key, _)| *key).collect();
        let missed = missed(&before, &entries, &dumps, &Owners::new());
        let found: Vec<_> = missed.iter().map(|one| (one.op, one.key, one.tuple)).collect();
        assert_eq!(found, [(Op::AddConn as u32, entries[0].0, conn(5, 10).tuple)]);
    }

    #[test]
    fn a_dump_of_one_namespace_does_not_correct_an_entry_of_another() {
        let established = Conn { flags: PortState::Established.flags(), ..conn(5, 10) };
        let conns = [1, 2].map(|cookie| (ConnKey::new(cookie, 40_000), established));
        let sockets = vec![
            socket(tcp_state::TIME_WAIT, 1, 40_000),
            socket(tcp_state::ESTABLISHED, 2, 40_000),
        ];
        // Namespace 6 has sockets with the cookies and ports of namespace 5's entries.
        let other = Dump { netns: 6, range: PortRange::default(), sockets };
        let dumps = [dump(vec![socket(tcp_state::ESTABLISHED, 1, 40_000)]), other];
        assert!(missed(&HashSet::default(), &conns, &dumps, &Owners::new()).is_empty());
        let stale = stale(&conns, &dumps, 100);
        assert_eq!(stale.iter().map(|one| one.key.cookie).collect::<Vec<_>>(), [2]);
    }
}
