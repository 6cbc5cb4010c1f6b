//! Handles the end of a connection's full socket: reports a failed handshake, and releases the port unless a time-wait socket
//! holds it.

use tracer_common::{
    Cause, Conn, ConnKey, Kind, PortState, conn_flag, ends::closer, tuple::GIVEN_UP_NS,
};

use super::{
    errno,
    report::{emit_released, emit_state, known_duration},
    uncounted::uncounted,
};
use crate::{
    attempt::now,
    bind,
    events::{self, Detail},
    ledger::{self, End, Mark},
    offsets::SPREADING,
    skip::{Step, settle},
    sock::{Sock, state},
    stats,
};

/// A full socket closes. Writes `tcp.state`, reports the failure if the handshake had not ended, or counts how an established
/// connection ended, writes `port.released`, and releases the port. If a time-wait socket took the port over, the end of that
/// socket releases it instead. `old`: the socket's TCP state before. `Err`: the ledger has no such port, or the map is busy.
#[inline(always)]
pub(super) fn closed(sock: &Sock, key: &ConnKey, old: u8) -> Step {
    let now = now();
    let known = ledger::get(key);
    let mut end = End::NONE;
    let failed = match known {
        Some(conn) => {
            emit_state(key, conn, old, state::CLOSE, now);
            end = end_of(sock, old);
            if conn.flags & conn_flag::TIME_WAIT != 0 {
                ledger::ended(conn, end, now);
                return Ok(());
            }
            known.filter(|_| old == state::SYN_SENT || old == state::SYN_RECV)
        }
        None if old == state::SYN_SENT => uncounted(sock, key),
        None => None,
    };
    // The port is released even if the failure cannot be read or counted. One call for both cases: each call takes
    // its part of the BPF stack.
    if let Some(conn) = failed {
        settle(handshake_failed(sock, key, conn, old, now));
    }
    if let Some(conn) = known {
        emit_released(key, conn, now);
        if conn.flags & conn_flag::BOUND != 0 {
            match sock.keeps_port() {
                Ok(true) => {}
                Ok(false) => bind::released(key, now),
                Err(skip) => settle(Err(skip)),
            }
        }
    }
    if ledger::seeding() && ledger::is_marked(key, Mark::TimeWait) {
        return Ok(());
    }
    ledger::release_ended(key, known, end, now)
}

/// The end of this socket, which closes from state `old`; [`End::NONE`] if its connection was not established, or what it sent
/// is not known.
#[inline(always)]
fn end_of(sock: &Sock, old: u8) -> End {
    if closer(old).is_none() {
        return End::NONE;
    }
    match sock.segments_sent() {
        Ok(Some(segments)) => End { old_state: old, segments },
        Ok(None) => End::NONE,
        Err(skip) => {
            settle(Err(skip));
            End::NONE
        }
    }
}

/// Whether the application closed the socket after it had waited for an answer: the SYN was sent again, or [`GIVEN_UP_NS`] went
/// by since connect() began (for a connect() that no hook saw: since its port was found).
#[inline(always)]
fn had_no_answer(conn: &Conn, now: u64) -> bool {
    let begun_ns = if conn.begun_ns == 0 { conn.acquired_ns } else { conn.begun_ns };
    conn.flags & conn_flag::STATE == PortState::Unanswered.flags()
        || now.saturating_sub(begun_ns) >= GIVEN_UP_NS
}

/// The connection ended before it was established: counts and reports the failure. `Err`: the socket cannot be read, so that its
/// cause is not known, and nothing is counted.
#[inline(always)]
fn handshake_failed(sock: &Sock, key: &ConnKey, conn: &Conn, old: u8, now: u64) -> Step {
    let (cause, errno) = match sock.error()? {
        // The socket never held a port: its search failed, and its attempt is evicted.
        0 if key.port == 0 => (Cause::PortsExhausted, errno::EADDRNOTAVAIL),
        0 if old == state::SYN_SENT && had_no_answer(conn, now) && !sock.is_deferred()? => {
            (Cause::NoAnswer, 0)
        }
        0 => (Cause::Aborted, 0),
        errno => (errno::cause(errno), errno),
    };
    stats::failed(cause);
    if SPREADING.load() != 0 {
        ledger::conn_nowhere(key.cookie, key.port, cause as u32);
    }
    settle(ledger::fail(&conn.tuple, cause, errno, now, &conn.who, conn.owner));
    if events::wanted(Kind::ConnectFailed)
        && conn.flags & conn_flag::WATCHED != 0
        && events::may_report(conn.owner, cause, now)
    {
        events::emit(&Detail {
            duration_ns: now.saturating_sub(conn.begun_ns),
            errno,
            code: cause as u8,
            flags: known_duration(conn),
            ..Detail::new(Kind::ConnectFailed, now, *key, &conn.tuple, &conn.who)
        });
    }
    Ok(())
}
