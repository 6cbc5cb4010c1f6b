//! Writes the events about a connection that the ledger has. Each is written only if its kind is in the event mask and the
//! connection passes the filter.

use tracer_common::{Conn, ConnKey, Kind, PortBy, conn_flag, event_flag};

use crate::{
    events::{self, Detail},
    ledger,
};

/// Writes `port.allocated`, if such events are wanted and the connection passes the filter. `search_ns`: duration of the port
/// search, ns, or [`ledger::NOT_SEARCHED`].
#[inline(always)]
pub(super) fn emit_allocated(key: &ConnKey, conn: &Conn, search_ns: u64) {
    if events::wanted(Kind::PortAllocated) && conn.flags & conn_flag::WATCHED != 0 {
        let searched = search_ns != ledger::NOT_SEARCHED;
        let by = match searched {
            _ if conn.flags & conn_flag::SPREAD != 0 => PortBy::Spread,
            true => PortBy::Connect,
            false => PortBy::Bind,
        };
        events::emit(&Detail {
            duration_ns: search_ns,
            code: by as u8,
            flags: if searched { event_flag::DURATION } else { 0 },
            ..Detail::new(Kind::PortAllocated, conn.acquired_ns, *key, &conn.tuple, &conn.who)
        });
    }
}

/// Writes `tcp.state`, if such events are wanted and the connection passes the filter: a change from TCP state `old` to `new` at
/// `now` (CLOCK_MONOTONIC, ns).
#[inline(always)]
pub(super) fn emit_state(key: &ConnKey, conn: &Conn, old: u8, new: u8, now: u64) {
    if events::wanted(Kind::TcpState) && conn.flags & conn_flag::WATCHED != 0 {
        events::emit(&Detail {
            old_state: old,
            new_state: new,
            ..Detail::new(Kind::TcpState, now, *key, &conn.tuple, &conn.who)
        });
    }
}

/// The flag [`event_flag::DURATION`]; 0 if it is not known when connect() began: for a socket that is older than the tracer,
/// or one whose attempt is missing.
#[inline(always)]
pub(super) fn known_duration(conn: &Conn) -> u8 {
    if conn.begun_ns == 0 { 0 } else { event_flag::DURATION }
}

/// Writes `port.released` at `now` (CLOCK_MONOTONIC, ns), if such events are wanted and the connection passes the filter: with
/// the time for which the port was held, or without it for a socket that is older than the tracer.
#[inline(always)]
pub(crate) fn emit_released(key: &ConnKey, conn: &Conn, now: u64) {
    if events::wanted(Kind::PortReleased) && conn.flags & conn_flag::WATCHED != 0 {
        let seeded = conn.flags & conn_flag::SEEDED != 0;
        let time_wait = conn.flags & conn_flag::TIME_WAIT != 0;
        events::emit(&Detail {
            duration_ns: now.saturating_sub(conn.acquired_ns),
            flags: if seeded { event_flag::SEEDED } else { event_flag::DURATION }
                | if time_wait { event_flag::TIME_WAIT } else { 0 },
            ..Detail::new(Kind::PortReleased, now, *key, &conn.tuple, &conn.who)
        });
    }
}
