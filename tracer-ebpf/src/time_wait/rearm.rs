//! Distinguishes the end of a time-wait socket from a move of its timer to another expiry.
//!
//! Where only timer tracepoints exist, `timer_cancel` fires for every end of a time-wait socket,
//! and also when its timer is moved to another expiry (a FIN that arrives in FIN_WAIT2 does that);
//! `timer_start` then follows at once on the same CPU. So `timer_cancel` releases the port and keeps a copy
//! of the entry, and a `timer_start` that follows takes the release back.

use aya_ebpf::{helpers::bpf_jiffies64, macros::map, maps::PerCpuArray};
use tracer_common::{Conn, ConnKey, conn_flag};

use crate::{
    attempt::now,
    bind, connect, ledger,
    skip::{Skip, Step},
    time_wait,
};

/// The newest release of a time-wait socket on this CPU.
#[repr(C)]
struct Release {
    key: ConnKey,
    conn: Conn,
    /// 1: the release's event is not written yet, because `timer_start` may take the release back; else 0.
    unreported: u64,
}

#[map]
static REARMS: PerCpuArray<Release> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's newest release.
#[inline(always)]
fn newest() -> Step<&'static mut Release> {
    let release = REARMS.get_ptr_mut(0).ok_or(Skip::NotOurs)?;
    // SAFETY: a per-CPU value, which only these two tracepoints use, and the kernel runs them with
    // interrupts off.
    Ok(unsafe { &mut *release })
}

/// Reports the newest release, which is final now: this CPU cancels another timer, so the released socket's timer was not
/// moved.
#[inline(always)]
pub(crate) fn tell_pending() {
    if let Ok(release) = newest()
        && release.unreported != 0
    {
        tell(release);
    }
}

/// Writes the release's event. If the port was bound, also removes its entry of BOUND_PORTS.
#[inline(always)]
fn tell(release: &mut Release) {
    release.unreported = 0;
    let now = now();
    if release.conn.flags & conn_flag::BOUND != 0 {
        bind::ended(&release.key, now);
    }
    connect::emit_released(&release.key, &release.conn, now);
}

/// The timer of a time-wait socket is taken off its queue: releases the port. If the timer is due (`expires`, in jiffies), writes
/// the release's event, too; else that waits until the next timer on this CPU shows whether this one was moved. `Err`: the socket
/// has no cookie, the ledger has no such port, or the map is busy.
#[inline(always)]
pub(crate) fn cancelled(key: &ConnKey, expires: u64) -> Step {
    if key.cookie == 0 {
        return Err(Skip::NotOurs);
    }
    let release = newest()?;
    match ledger::get(key) {
        Some(conn) => {
            release.key = *key;
            release.conn = *conn;
        }
        None => return ledger::release(key, now()),
    }
    ledger::release(key, now())?;
    release.unreported = 1;
    // SAFETY: takes no argument. A timer that is due ends its socket; it is not being moved.
    if unsafe { bpf_jiffies64() } >= expires {
        tell(release);
    }
    Ok(())
}

/// The timer is put on a queue: of a new time-wait socket, whose TIME_WAIT this records, or of one whose timer is moved, whose
/// release this takes back. `stamp`: [`conn_flag::NO_STAMP`] or 0; not used for a move. `Err`: the socket has no cookie, or the
/// ledger has no such port or has recorded its TIME_WAIT already; of a move: the port has an entry again, or the map refuses.
#[inline(always)]
pub(crate) fn started(key: &ConnKey, stamp: u32) -> Step {
    let release = newest()?;
    if release.unreported != 0 && release.key == *key {
        release.unreported = 0;
        return ledger::reopen(key, &release.conn);
    }
    time_wait::begun(key, stamp)
}
