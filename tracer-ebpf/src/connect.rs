//! What the steps of a connect() mean, for all backends.
//!
//! An attempt begins in the cgroup hook, searches for a port, and then either holds one (from then on
//! the ledger has an entry) or has failed. Each step is idempotent, so that a backend may report it twice.

mod changes;
mod close;
mod errno;
mod report;
mod uncounted;

use tracer_common::{
    Attempt, Cause, Conn, ConnKey, Kind, Loss, TupleKey, conn_flag, event_flag, share::UNKNOWN_USER,
};

use crate::{
    attempt::{self, Call, now},
    bind,
    events::{self, Detail},
    filter, ledger, share,
    skip::{Skip, Step, settle},
    sock::{Sock, state},
    stats,
};
pub(crate) use changes::{changed, changing, sent_again, unbound};
pub(crate) use report::emit_released;

/// The port search begins: records its time, the tuple (the kernel has chosen its source by now) and the port that the socket
/// is bound to (0: none), and filters by the tuple. `Err`: the thread has no attempt of a connect() for this socket, or it is no
/// IP socket.
#[inline(always)]
pub(crate) fn searching(sock: &Sock) -> Step {
    let attempt = attempt::connecting(sock.cookie()).ok_or(Skip::NotOurs)?;
    sock.read_ends(&mut attempt.tuple)?;
    attempt.bound_port = sock.port();
    attempt.search_ns = now();
    if !filter::passes_tuple(&attempt.tuple) {
        attempt.flags &= !conn_flag::WATCHED;
    }
    Ok(())
}

/// A socket holds a port for its tuple: opens an entry of the ledger and reports that. `tuple` fills the tuple in where no
/// attempt has it; in place, because of the BPF stack. `Err`: the socket has no cookie, its port is recorded already or finds no
/// room in the ledger, or `tuple` fails.
#[inline(always)]
pub(crate) fn acquired(key: ConnKey, tuple: impl FnOnce(&mut TupleKey) -> Step) -> Step {
    if key.cookie == 0 {
        return Err(Skip::Lost(Loss::NoCookie));
    }
    let now = now();
    // One value for both cases: two would not fit on the BPF stack.
    let mut conn = Conn { acquired_ns: now, ..Conn::default() };
    let search_ns = match attempt::connecting(key.cookie) {
        Some(attempt) => settle_attempt(attempt, &key, &mut conn, tuple)?,
        None => describe_without_attempt(&key, &mut conn, tuple)?,
    };
    if let Err(skip) = ledger::open(&key, &conn, search_ns) {
        // Should the connection fail, its end is reported all the same.
        if let (Skip::Lost(_), Some(attempt)) = (skip, attempt::connecting(key.cookie)) {
            attempt.flags |= conn_flag::UNCOUNTED;
        }
        return Err(skip);
    }
    // The ledger has all that is known about the call.
    attempt::end();
    report::emit_allocated(&key, &conn, search_ns);
    Ok(())
}

/// Settles the attempt that got the port, and fills in the connection by it. Returns the duration of the port search, ns, or
/// [`ledger::NOT_SEARCHED`]. `Err`: the attempt is settled already, or `tuple` fails.
#[inline(always)]
fn settle_attempt(
    attempt: &mut Attempt,
    key: &ConnKey,
    conn: &mut Conn,
    tuple: impl FnOnce(&mut TupleKey) -> Step,
) -> Step<u64> {
    if attempt.flags & conn_flag::SETTLED != 0 {
        return Err(Skip::NotOurs);
    }
    attempt.flags |= conn_flag::SETTLED;
    conn.tuple = attempt.tuple;
    conn.who = attempt.who;
    conn.begun_ns = attempt.begun_ns;
    conn.owner = attempt.owner;
    conn.flags = attempt.flags & (conn_flag::WATCHED | conn_flag::SPREAD);
    if attempt.search_ns == 0 {
        // The hook at the begin of the search was missed: the kernel skips a program that it would run
        // nested. The attempt has no source yet.
        tuple(&mut conn.tuple)?;
        return Ok(ledger::NOT_SEARCHED);
    }
    if attempt.bound_port == 0 {
        return Ok(conn.acquired_ns.saturating_sub(attempt.search_ns));
    }
    conn.flags |= conn_flag::BOUND;
    if bind::is_listed(key) {
        conn.flags |= conn_flag::LISTED;
    }
    Ok(ledger::NOT_SEARCHED)
}

/// Fills in a connection whose attempt is missing; its caller is then unknown. Returns [`ledger::NOT_SEARCHED`]. `Err`: the port
/// is in the ledger already, or `tuple` fails.
#[inline(always)]
fn describe_without_attempt(
    key: &ConnKey,
    conn: &mut Conn,
    tuple: impl FnOnce(&mut TupleKey) -> Step,
) -> Step<u64> {
    // The port is recorded already: another hook reports it, too, or a delayed SYN is sent (TCP_FASTOPEN_CONNECT).
    if ledger::get(key).is_some() {
        return Err(Skip::NotOurs);
    }
    // The port is counted all the same; that the caller is unknown is a counted loss.
    stats::lost(Loss::AttemptsFull);
    tuple(&mut conn.tuple)?;
    conn.owner = share::owner(conn.tuple.netns, UNKNOWN_USER);
    if filter::passes_unknown_caller(conn.tuple.netns) && filter::passes_tuple(&conn.tuple) {
        conn.flags = conn_flag::WATCHED;
    }
    Ok(ledger::NOT_SEARCHED)
}

/// connect() failed before it held a port: counts and reports the failure.
#[inline(always)]
#[expect(clippy::unnecessary_wraps, reason = "as every other end of a call")]
fn failed(attempt: &mut Attempt, cause: Cause, errno: u16) -> Step {
    attempt.flags |= conn_flag::SETTLED;
    stats::failed(cause);
    let now = now();
    // If the tuple's entry cannot be made, that is counted as a loss, and the event below is written all the same.
    settle(ledger::fail(&attempt.tuple, cause, errno, now, &attempt.who, attempt.owner));
    if events::wanted(Kind::ConnectFailed)
        && attempt.flags & conn_flag::WATCHED != 0
        && events::may_report(attempt.owner, cause, now)
    {
        let ports = ledger::ports(&attempt.tuple);
        // While older sockets are being read, not all of their ports are counted yet.
        let counted = ports.is_some() && !ledger::seeding();
        let (in_use, time_wait) = ports.unwrap_or((0, 0));
        let counted = if counted { event_flag::PORTS } else { 0 };
        let key = ConnKey::new(attempt.cookie, attempt.bound_port);
        events::emit(&Detail {
            duration_ns: now.saturating_sub(attempt.begun_ns),
            errno,
            code: cause as u8,
            in_use,
            time_wait,
            flags: event_flag::DURATION | counted,
            ..Detail::new(Kind::ConnectFailed, now, key, &attempt.tuple, &attempt.who)
        });
    }
    Ok(())
}

/// The port search of this attempt ended without a port: counts and reports that, with the cause. `errno`: positive. Never `Err`.
#[inline(always)]
pub(crate) fn search_failed(attempt: &mut Attempt, errno: u16) -> Step {
    let cause = match (errno, attempt.bound_port) {
        (errno::EADDRNOTAVAIL, 0) => Cause::PortsExhausted,
        (errno::EADDRNOTAVAIL, _) => Cause::TupleInUse,
        _ => Cause::Other,
    };
    failed(attempt, cause, errno)
}

/// The port search ended: records the port, or counts and reports the failure. `result`: of `inet_hash_connect` or
/// `inet6_hash_connect`, 0 or a negative errno. `Err`, of a port: the socket has no cookie, or its port is recorded already or
/// finds no room in the ledger; of a failure: the thread has no attempt of a connect() for this socket.
#[inline(always)]
pub(crate) fn searched(sock: &Sock, result: i32) -> Step {
    if result == 0 {
        return acquired(sock.key(), |tuple| sock.read_tuple(tuple));
    }
    let attempt = attempt::connecting(sock.cookie()).ok_or(Skip::NotOurs)?;
    search_failed(attempt, result.unsigned_abs() as u16)
}

/// connect() returned, or the part of sendto() with `MSG_FASTOPEN` that connects: `result` is 0 or a negative errno. This records
/// what no other hook did: failures before the port search, ports held while no SYN is sent yet (TCP Fast Open), and ports and
/// failures whose own hook was missed. `Err`: the thread has no attempt of a connect(), another hook has recorded its outcome,
/// its socket cannot be read or holds no port, or the port is recorded already or finds no room in the ledger.
#[inline(always)]
pub(crate) fn returned(result: i64) -> Step {
    let attempt = attempt::current(Call::Connect).ok_or(Skip::NotOurs)?;
    if attempt.flags & conn_flag::SETTLED == 0 {
        let step = ended(attempt, result);
        attempt::end();
        return step;
    }
    // The answer to the SYN may be processed only when connect() unlocks its socket. For a port without an entry in the
    // ledger only the attempt knows the caller, so it stays until then, or until the thread's next call.
    if attempt.flags & conn_flag::UNCOUNTED == 0 {
        attempt::end();
    }
    Err(Skip::NotOurs)
}

#[inline(always)]
fn ended(attempt: &mut Attempt, result: i64) -> Step {
    let errno = result.unsigned_abs() as u16;
    let cause = match errno {
        0
        | errno::EINPROGRESS
        | errno::EALREADY
        | errno::EISCONN
        | errno::EINTR
        | errno::ERESTARTSYS => return held_without_syn(attempt),
        errno::EADDRNOTAVAIL if attempt.flags & conn_flag::DENIED != 0 => Cause::Denied,
        errno::EADDRNOTAVAIL if attempt.search_ns == 0 => Cause::NoSourceAddress,
        errno::EADDRNOTAVAIL => return search_failed(attempt, errno),
        errno::EMFILE | errno::ENFILE => Cause::FdLimit,
        // An errno that the peer's answer causes gets here only if the hook that reports the port was missed.
        errno => errno::cause(errno),
    };
    if !filter::passes_tuple(&attempt.tuple) {
        attempt.flags &= !conn_flag::WATCHED;
    }
    let step = failed(attempt, cause, errno);
    ledger::nowhere(&attempt.tuple, attempt.flags, cause);
    step
}

/// connect() succeeded, or goes on: if its socket holds a port that no hook has reported, records the port, else only that the
/// attempt is settled.
#[inline(always)]
fn held_without_syn(attempt: &mut Attempt) -> Step {
    let sock = Sock::read(attempt.sk as *const u8)?;
    if sock.cookie() != attempt.cookie || sock.port() == 0 || sock.state() == state::CLOSE {
        attempt.flags |= conn_flag::SETTLED;
        return Err(Skip::NotOurs);
    }
    acquired(sock.key(), |tuple| sock.read_tuple(tuple))
}
