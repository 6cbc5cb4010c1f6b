//! Records the begin and the end of TIME_WAIT, of which `tcp_set_state` reports nothing.

pub(crate) mod rearm;

use tracer_common::{ConnKey, conn_flag};

use crate::{
    attempt::now,
    bind, connect,
    ledger::{self, Mark},
    skip::{Skip, Step},
};

/// A time-wait socket took over the port: records and counts that. This runs before the full socket's end, on the same CPU.
/// `stamp`: [`conn_flag::NO_STAMP`] or 0. `Err`: the socket has no cookie, or the ledger has no such port or has recorded that
/// already.
#[inline(always)]
pub(crate) fn begun(key: &ConnKey, stamp: u32) -> Step {
    if key.cookie == 0 {
        return Err(Skip::NotOurs);
    }
    if ledger::seeding() {
        ledger::mark(key, Mark::TimeWait);
    }
    let conn = ledger::time_wait(key, stamp, now()).ok_or(Skip::NotOurs)?;
    if conn.flags & conn_flag::BOUND != 0 {
        bind::time_wait(key);
    }
    Ok(())
}

/// The time-wait socket ended, which releases the port: reports and counts that. `Err`: the socket has no cookie, the ledger has
/// no such port, or the map is busy.
#[inline(always)]
pub(crate) fn ended(key: &ConnKey) -> Step {
    if key.cookie == 0 {
        return Err(Skip::NotOurs);
    }
    let now = now();
    let known = ledger::get(key);
    if let Some(conn) = known {
        connect::emit_released(key, conn, now);
        if conn.flags & conn_flag::BOUND != 0 {
            bind::ended(key, now);
        }
    }
    ledger::release_known(key, known, now)
}
