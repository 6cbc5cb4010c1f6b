//! The end of a socket that holds no port of a tuple, as far as the ledger knows.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use tracer_common::{Conn, ConnKey, Loss, Who, conn_flag, share::UNKNOWN_USER};

use super::{errno, search_failed};
use crate::{
    attempt::{self, now},
    bind, filter, ledger, share,
    skip::settle,
    sock::Sock,
    stats,
};

/// What is known of a connection for which there was no room in the ledger, while its failure is reported.
#[map]
static UNCOUNTED: PerCpuArray<Conn> = PerCpuArray::with_max_entries(1, 0);

/// A socket ends that holds no port of a tuple, as far as the ledger knows: a connect() that never got one, which is reported
/// here, or one that got one for which there was no room in the ledger, which is returned.
#[inline(always)]
pub(super) fn uncounted(sock: &Sock, key: &ConnKey) -> Option<&'static Conn> {
    let conn = UNCOUNTED.get_ptr_mut(0)?;
    // SAFETY: an array map's values are never freed while the program is loaded. An interrupt that reports another
    // such end in between would change what is reported of this one; no port is counted by it.
    let conn = unsafe { &mut *conn };
    // Where it is not known when it began.
    conn.acquired_ns = now();
    let Some(attempt) = attempt::connecting(key.cookie) else {
        // Not within its connect(), or the attempt made way for too many others. Sockets that are not known yet end
        // while older ones are being read.
        if ledger::seeding() || sock.read_tuple(&mut conn.tuple).is_err() {
            return None;
        }
        if key.port == 0 {
            stats::lost(Loss::AttemptsFull);
        }
        let tuple = &conn.tuple;
        let watched = filter::passes_unknown_caller(tuple.netns) && filter::passes_tuple(tuple);
        conn.flags = if watched { conn_flag::WATCHED } else { 0 };
        conn.owner = share::owner(conn.tuple.netns, UNKNOWN_USER);
        conn.who = Who::default();
        conn.begun_ns = 0;
        return Some(conn);
    };
    if attempt.bound_port != 0 && sock.keeps_port().is_ok_and(|keeps| !keeps) {
        bind::released(&ConnKey::new(key.cookie, attempt.bound_port), now());
    }
    if attempt.flags & conn_flag::SETTLED == 0 {
        // SYN_SENT to CLOSE inside connect(), with no port taken in between: the search failed.
        settle(search_failed(attempt, errno::EADDRNOTAVAIL));
        return None;
    }
    if attempt.flags & conn_flag::UNCOUNTED == 0 {
        return None;
    }
    attempt.flags &= !conn_flag::UNCOUNTED;
    conn.tuple = attempt.tuple;
    conn.who = attempt.who;
    conn.begun_ns = attempt.begun_ns;
    conn.owner = attempt.owner;
    conn.flags = attempt.flags;
    Some(conn)
}
