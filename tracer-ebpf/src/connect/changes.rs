//! Records and reports what it means that a socket changes its TCP state, and that a SYN is sent again.

use tracer_common::{ConnKey, Kind, PortBy, PortState, conn_flag};

use super::{
    acquired,
    close::closed,
    report::{emit_state, known_duration},
    searching,
};
use crate::{
    attempt::{self, now},
    bind,
    events::{self, Detail},
    filter, ledger,
    skip::{Skip, Step},
    sock::{Address, Sock, cookie_of, port_of, state, state_of},
};

/// A socket is about to change to state `new`, and still has its old state and its port: records and reports what that means.
/// `Err`: the socket cannot be read, or what the change means cannot be recorded or is recorded already.
#[inline(always)]
pub(crate) fn changing(sk: Address, new: u8) -> Step {
    if !concerns(new) || new != state::CLOSE && moved(sk, new) {
        return Ok(());
    }
    let sock = Sock::read(sk)?;
    recover_missed_acquire(&sock, new)?;
    state_changed(&sock, &sock.key(), sock.state(), new)
}

/// A socket has changed from state `old` to `new`: records and reports what that means. At CLOSE, its port is cleared already.
/// For the backend in which no other hook sees the begin of a port search: that of connect() begins in SYN_SENT, that of listen()
/// in LISTEN. `Err`: the socket cannot be read, or what the change means cannot be recorded or is recorded already.
#[inline(always)]
pub(crate) fn changed(sk: Address, old: u8, new: u8) -> Step {
    // A listener can be without a cookie: listen() runs no hook that requests one.
    let listener = old == state::LISTEN || new == state::LISTEN;
    if !concerns(new) || !listener && moved(sk, new) {
        return Ok(());
    }
    let sock = Sock::read(sk)?;
    match new {
        state::SYN_SENT => {
            state_changed(&sock, &sock.key(), old, new)?;
            searching(&sock)
        }
        state::LISTEN if sock.is_tcp()? => listening(&sock),
        state::CLOSE => state_changed(&sock, &sock.last_key()?, old, new),
        _ => state_changed(&sock, &sock.key(), old, new),
    }
}

/// Records the port of a new listener, or if it has none yet, an attempt: listen() sets LISTEN before it gets a port
/// (`inet_csk_listen_start`), and the hook at its return then records the port.
#[inline(always)]
fn listening(sock: &Sock) -> Step {
    if sock.port() != 0 {
        return bind::took(sock, PortBy::Listen);
    }
    bind::begun(sock, 0)
}

/// Whether anything is recorded or reported when a socket changes to this state.
#[inline(always)]
fn concerns(new: u8) -> bool {
    match new {
        state::SYN_SENT | state::CLOSE | state::LISTEN => true,
        _ => port_state(new).is_some() || events::wanted(Kind::TcpState),
    }
}

/// The ledger's state for this TCP state; `None`: it records no change. FIN_WAIT2 and CLOSING follow FIN_WAIT1, which is
/// [`PortState::Closing`] already.
#[inline(always)]
fn port_state(new: u8) -> Option<PortState> {
    match new {
        state::ESTABLISHED => Some(PortState::Established),
        state::CLOSE_WAIT => Some(PortState::CloseWait),
        state::FIN_WAIT1 | state::LAST_ACK => Some(PortState::Closing),
        _ => None,
    }
}

/// Records in the ledger that a socket changes to this state. True if there is nothing else to record or report. That is so
/// for each socket without a cookie: the cgroup hooks request the cookie, so no hook saw a connect() of that socket.
#[inline(always)]
fn moved(sk: Address, new: u8) -> bool {
    let cookie = cookie_of(sk);
    if cookie == 0 {
        return true;
    }
    let Some(state) = port_state(new) else { return false };
    move_on(sk, cookie, state);
    let established = new == state::ESTABLISHED && events::wanted(Kind::ConnectEstablished);
    !established && !events::wanted(Kind::TcpState)
}

#[inline(always)]
fn move_on(sk: Address, cookie: u64, state: PortState) {
    let port = port_of(sk);
    mark_moved(cookie, port, state);
    ledger::move_on(cookie, port, state as u32);
}

/// While older sockets are being read, leaves a mark of this state: the connection's entry may not be made yet.
#[inline(always)]
fn mark_moved(cookie: u64, port: u16, state: PortState) {
    if ledger::seeding() {
        ledger::mark_state(cookie, port, state as u32);
    }
}

/// The full socket releases this port (host byte order), which it had bound: does what [`bind::released_by`] does. While older
/// sockets are being read, first leaves a mark: userspace adds the socket's entry first and then looks for the mark, so that the
/// entry is removed here or there.
#[inline(always)]
pub(crate) fn unbound(sock: &Sock, port: u16) {
    if ledger::seeding() {
        ledger::mark_unbound(sock.cookie(), port);
    }
    bind::released_by(sock, port);
}

/// Records a port whose acquire hook was missed, when its socket closes from SYN_SENT inside the connect() of the current
/// thread. (A socket whose search failed has no port, except one that it was bound to.) Only for hooks that run while
/// the socket still has its port. The tracepoint backend's hook runs later, but there a sock_ops program reports the port,
/// and the kernel never skips such a program.
#[inline(always)]
fn recover_missed_acquire(sock: &Sock, new: u8) -> Step {
    if new != state::CLOSE || sock.state() != state::SYN_SENT || sock.port() == 0 {
        return Ok(());
    }
    let was_missed = attempt::connecting(sock.cookie())
        .is_some_and(|attempt| attempt.flags & conn_flag::SETTLED == 0 && attempt.bound_port == 0);
    if was_missed { acquired(sock.key(), |tuple| sock.read_tuple(tuple)) } else { Ok(()) }
}

/// A socket changes from state `old` to `new`: releases what it held, and writes the events. `key` has the port that it holds, or
/// held until now.
#[inline(always)]
fn state_changed(sock: &Sock, key: &ConnKey, old: u8, new: u8) -> Step {
    if old == state::LISTEN {
        if new == state::CLOSE && !sock.keeps_port()? {
            unbound(sock, key.port);
        }
        return Ok(());
    }
    if key.cookie == 0 {
        return Err(Skip::NotOurs);
    }
    if new == state::CLOSE {
        return closed(sock, key, old);
    }
    if new == state::SYN_SENT {
        return connecting(sock, key, old);
    }
    let established = new == state::ESTABLISHED && events::wanted(Kind::ConnectEstablished);
    if !established && !events::wanted(Kind::TcpState) {
        return Ok(());
    }
    let conn = ledger::get(key).ok_or(Skip::NotOurs)?;
    let now = now();
    emit_state(key, conn, old, new, now);
    if established && conn.flags & conn_flag::WATCHED != 0 {
        events::emit(&Detail {
            duration_ns: now.saturating_sub(conn.begun_ns),
            flags: known_duration(conn),
            ..Detail::new(Kind::ConnectEstablished, now, *key, &conn.tuple, &conn.who)
        });
    }
    Ok(())
}

/// A socket enters SYN_SENT, before its port search: writes `tcp.state` by the attempt, because the ledger has no entry yet.
#[inline(always)]
fn connecting(sock: &Sock, key: &ConnKey, old: u8) -> Step {
    if !events::wanted(Kind::TcpState) {
        return Ok(());
    }
    let attempt = attempt::connecting(key.cookie).ok_or(Skip::NotOurs)?;
    sock.read_ends(&mut attempt.tuple)?;
    if attempt.flags & conn_flag::WATCHED != 0 && filter::passes_tuple(&attempt.tuple) {
        events::emit(&Detail {
            old_state: old,
            new_state: state::SYN_SENT,
            ..Detail::new(Kind::TcpState, now(), *key, &attempt.tuple, &attempt.who)
        });
    }
    Ok(())
}

/// A segment of socket `sk` is retransmitted. In SYN_SENT it is the SYN: counts that, and records that no answer has come.
/// Nothing in another state, or for a socket without a cookie.
#[inline(always)]
pub(crate) fn sent_again(sk: Address) {
    if state_of(sk) == state::SYN_SENT {
        let cookie = cookie_of(sk);
        if cookie != 0 {
            let port = port_of(sk);
            mark_moved(cookie, port, PortState::Unanswered);
            ledger::syn_sent_again(&ConnKey::new(cookie, port));
        }
    }
}
