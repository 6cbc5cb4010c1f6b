//! Describes a socket that ends without an entry in the ledger, so that its failure can be reported.

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

/// Room for the connection that [`uncounted`] returns: it would not fit on the BPF stack.
#[map]
static UNCOUNTED: PerCpuArray<Conn> = PerCpuArray::with_max_entries(1, 0);

/// The connection of a socket that closes from SYN_SENT without an entry in the ledger, if the caller has to report its
/// failure: its port found no room in the ledger, or its attempt is missing. `None`: the failure is reported already, or this
/// reports it (a connect() whose search found no port), or it cannot be (the socket cannot be read, or older sockets are being
/// read). Also removes the BOUND_PORTS entry of a bound port that the socket does not keep.
#[inline(always)]
pub(super) fn uncounted(sock: &Sock, key: &ConnKey) -> Option<&'static Conn> {
    let conn = UNCOUNTED.get_ptr_mut(0)?;
    // SAFETY: an array map's values are never freed while the program is loaded. An interrupt that reports another
    // such socket meanwhile overwrites the value: this one is then reported with the other's data, but no port is counted by it.
    let conn = unsafe { &mut *conn };
    // From this time on the caller measures if `begun_ns` is 0.
    conn.acquired_ns = now();
    let Some(attempt) = attempt::connecting(key.cookie) else {
        // The socket does not close inside its connect(), or the attempt was evicted. While older sockets are being
        // read, it can also be one of them that has no entry yet: nothing is reported then.
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
        // From SYN_SENT to CLOSE inside connect(), and no port was taken in between: the search failed.
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
