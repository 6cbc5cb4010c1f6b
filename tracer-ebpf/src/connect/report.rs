//! Events about a connection that the ledger has.

use tracer_common::{Conn, ConnKey, Kind, conn_flag, event_flag};

use crate::events::{self, Detail};

/// Writes `tcp.state`.
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

/// The flag [`event_flag::DURATION`]; 0 for a seeded socket, whose connect() no hook saw.
#[inline(always)]
pub(super) fn known_duration(conn: &Conn) -> u8 {
    if conn.begun_ns == 0 { 0 } else { event_flag::DURATION }
}

/// Writes `port.released`.
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
