//! Decides which entries of `BOUND_PORTS` (the ports that bind() and listen() took) contradict a dump of the kernel's sockets,
//! and which entries are missing. No I/O: dumps and readings in, commands out.
//!
//! A dump is not a snapshot, so the caller carries out only the commands that two dumps in a row give.

use foldhash::HashSet;

use tracer_common::{
    Bound, ConnKey, TupleKey, conn_flag,
    seed::{Command, Op},
};

use crate::{
    host::sockdiag::DiagSocket,
    ledger::seed::{self, Dump, Owners},
};

/// A network namespace (its inode number), and one of its ports.
type Place = (u32, u16);

/// Commands that remove those of `binds`, the entries of `BOUND_PORTS`, whose socket, with that port, is not in the dump of the
/// entry's namespace. Entries of namespaces without a dump stay, and so do those made at `before_ns` (CLOCK_MONOTONIC, ns, when
/// the dumps began) or later. An entry without a cookie stays if any socket of its namespace has its port.
///
/// `idle_listed`: whether the kernel lists sockets that are bound and idle. If it does not, only entries of listeners
/// and time-wait sockets are removed: a dump shows no difference between an idle socket and one that is gone.
pub fn stale(
    binds: &[(ConnKey, Bound)],
    dumps: &[Dump],
    before_ns: u64,
    idle_listed: bool,
) -> Vec<Command> {
    let dumped: HashSet<u32> = dumps.iter().map(|dump| dump.netns).collect();
    let alive: HashSet<(u32, ConnKey)> = dumps.iter().flat_map(seed::keys).collect();
    let held: HashSet<Place> =
        sockets(dumps).map(|(netns, socket)| (netns, socket.source_port)).collect();
    let always_listed = conn_flag::LISTEN | conn_flag::TIME_WAIT;
    let gone = |(key, bound): &&(ConnKey, Bound)| {
        let listed = idle_listed || bound.flags & always_listed != 0;
        // A key without a cookie has the socket's kernel address, which no dump shows: any socket with the port keeps
        // the entry.
        let there = if key.has_cookie() {
            alive.contains(&(bound.place.netns, *key))
        } else {
            held.contains(&(bound.place.netns, key.port))
        };
        listed && !there && bound.acquired_ns < before_ns && dumped.contains(&bound.place.netns)
    };
    // The namespace is for the caller: it reads that one again.
    let removal = |(key, bound): &(ConnKey, Bound)| {
        let tuple = TupleKey { netns: bound.place.netns, ..TupleKey::default() };
        Command { op: Op::RemoveBound as u32, key: *key, tuple, ..Command::default() }
    };
    binds.iter().filter(gone).map(removal).collect()
}

/// Commands that add listeners and sockets that are bound and idle, which the dumps have and `binds`, the entries of
/// `BOUND_PORTS`, lacks. (Of a connected socket, a dump does not show whether bind() took its port.) A socket is not added if
/// there is an entry without a cookie for its port in its namespace: that entry can be the socket's. `owners`: the processes of
/// the sockets; a socket that has none there gets process id 0.
pub fn missed(binds: &[(ConnKey, Bound)], dumps: &[Dump], owners: &Owners) -> Vec<Command> {
    let known: HashSet<ConnKey> = binds.iter().map(|(key, _)| *key).collect();
    let by_address: HashSet<Place> = binds
        .iter()
        .filter(|(key, _)| !key.has_cookie())
        .map(|(key, bound)| (bound.place.netns, key.port))
        .collect();
    dumps
        .iter()
        .flat_map(|dump| seed::bound(dump, owners))
        .filter(|command| !known.contains(&command.key))
        .filter(|command| !by_address.contains(&(command.tuple.netns, command.key.port)))
        .collect()
}

fn sockets(dumps: &[Dump]) -> impl Iterator<Item = (u32, &DiagSocket)> {
    dumps.iter().flat_map(|dump| dump.sockets.iter().map(|socket| (dump.netns, socket)))
}

#[cfg(test)]
mod tests {
    use tracer_common::Addr;

    use super::*;
    use crate::host::{capacity::PortRange, sockdiag::tcp_state};

    const NETNS: u32 = 5;
    /// A kernel address, as the key of a socket without a cookie has it.
    const ADDRESS: u64 = 0xffff_8880_1234_5678;

    fn socket(state: u8, cookie: u64, port: u16) -> DiagSocket {
        let any = Addr::v4([0; 4]);
        DiagSocket { cookie, uid: 1000, ..DiagSocket::between(state, (any, port), (any, 0)) }
    }

    fn dump(sockets: &[DiagSocket]) -> Dump {
        Dump { netns: NETNS, range: PortRange::default(), sockets: sockets.to_vec() }
    }

    fn entry(cookie: u64, port: u16, flags: u32) -> (ConnKey, Bound) {
        let place = TupleKey { netns: NETNS, ..TupleKey::default() };
        (ConnKey::new(cookie, port), Bound { place, flags, acquired_ns: 10, ..Bound::default() })
    }

    fn stale_cookies(binds: &[(ConnKey, Bound)], dumps: &[Dump], idle_listed: bool) -> Vec<u64> {
        let commands = stale(binds, dumps, 100, idle_listed);
        assert!(commands.iter().all(|one| one.op == Op::RemoveBound as u32));
        assert!(commands.iter().all(|one| one.tuple.netns == NETNS));
        commands.iter().map(|one| one.key.cookie).collect()
    }

    fn missed_ports(binds: &[(ConnKey, Bound)], dumps: &[Dump]) -> Vec<u16> {
        let commands = missed(binds, dumps, &Owners::new());
        assert!(commands.iter().all(|one| one.op == Op::AddBound as u32));
        assert!(commands.iter().all(|one| one.tuple.netns == NETNS));
        commands.iter().map(|one| one.key.port).collect()
    }

    #[test]
    fn a_socket_keeps_its_port_in_whatever_state_it_is() {
        let states = [
            tcp_state::LISTEN,
            tcp_state::CLOSE,
            tcp_state::SYN_SENT,
            tcp_state::ESTABLISHED,
            tcp_state::TIME_WAIT,
        ];
        for state in states {
            let binds = [entry(1, 40_000, 0), entry(2, 40_001, 0), entry(1, 40_002, 0)];
            let dumps = [dump(&[socket(state, 1, 40_000)])];
            // Another socket is a different entry, and so is the same socket with another port.
            assert_eq!(stale(&binds, &dumps, 100, true).len(), 2, "{state}");
            assert!(stale_cookies(&binds[..1], &dumps, true).is_empty(), "{state}");
        }
    }

    #[test]
    fn what_the_kernel_cannot_show_is_never_taken_out() {
        let binds = [
            entry(1, 40_000, 0),
            entry(2, 40_001, conn_flag::LISTEN),
            entry(3, 40_002, conn_flag::TIME_WAIT),
            entry(4, 40_003, conn_flag::SEEDED),
        ];
        assert_eq!(stale_cookies(&binds, &[dump(&[])], false), [2, 3]);
        assert_eq!(stale_cookies(&binds, &[dump(&[])], true), [1, 2, 3, 4]);
    }

    #[test]
    fn only_an_old_entry_of_a_dumped_namespace_can_be_stale() {
        let mut young = entry(1, 40_000, 0);
        young.1.acquired_ns = 200;
        let mut elsewhere = entry(2, 40_001, 0);
        elsewhere.1.place.netns = NETNS + 1;
        assert!(stale_cookies(&[young, elsewhere], &[dump(&[])], true).is_empty());
    }

    #[test]
    fn listeners_and_idle_sockets_that_are_not_known_were_missed() {
        let known = entry(1, 40_000, 0);
        let dumps = [dump(&[
            socket(tcp_state::LISTEN, 1, 40_000),
            socket(tcp_state::LISTEN, 2, 40_001),
            socket(tcp_state::CLOSE, 3, 40_002),
            // A dump does not show whether bind() took this port.
            socket(tcp_state::ESTABLISHED, 4, 40_003),
        ])];
        assert_eq!(missed_ports(&[known], &dumps), [40_001, 40_002]);
    }

    #[test]
    fn a_key_that_is_an_address_stands_for_the_socket_with_its_port() {
        // The dump has given the socket a cookie since.
        let binds = [entry(ADDRESS, 40_000, conn_flag::LISTEN)];
        let there = [dump(&[socket(tcp_state::LISTEN, 9, 40_000)])];
        assert!(missed_ports(&binds, &there).is_empty());
        assert!(stale_cookies(&binds, &there, true).is_empty());
        let gone = [dump(&[socket(tcp_state::LISTEN, 9, 40_001)])];
        assert_eq!(missed_ports(&binds, &gone), [40_001]);
        assert_eq!(stale_cookies(&binds, &gone, true), [ADDRESS]);
    }
}
