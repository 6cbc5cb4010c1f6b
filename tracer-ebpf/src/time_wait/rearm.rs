//! Telling the end of a time-wait timer from its being moved.
//!
//! Where only timer tracepoints exist, `timer_cancel` fires for every end of a time-wait socket,
//! and also when its timer is moved to another expiry (a FIN that arrives in FIN_WAIT2 does that),
//! with `timer_start` following at once on the same CPU. So the port is released at the first, and
//! what was released is kept, to be taken back at the second.

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
    /// 1 while nobody has been told of it yet.
    untold: u64,
}

#[map]
static REARMS: PerCpuArray<Release> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
fn newest() -> Step<&'static mut Release> {
    let release = REARMS.get_ptr_mut(0).ok_or(Skip::NotOurs)?;
    // SAFETY: a per-CPU value, used only by these two tracepoints, which the kernel runs with
    // interrupts off.
    Ok(unsafe { &mut *release })
}

/// Tells what is certain by now: another timer is handled on this CPU, so the one before was not
/// moved.
#[inline(always)]
pub(crate) fn tell_pending() {
    if let Ok(release) = newest()
        && release.untold != 0
    {
        tell(release);
    }
}

#[inline(always)]
fn tell(release: &mut Release) {
    release.untold = 0;
    let now = now();
    if release.conn.flags & conn_flag::BOUND != 0 {
        bind::ended(&release.key, now);
    }
    connect::emit_released(&release.key, &release.conn, now);
}

/// The timer is taken off its queue. `expires` is in jiffies.
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
    release.untold = 1;
    // SAFETY: takes no argument. Where it is due, it ends; it is not being moved.
    if unsafe { bpf_jiffies64() } >= expires {
        tell(release);
    }
    Ok(())
}

/// The timer is put on a queue: a new time-wait socket, or one whose timer was moved.
#[inline(always)]
pub(crate) fn started(key: &ConnKey, stamp: u32) -> Step {
    let release = newest()?;
    if release.untold != 0 && release.key == *key {
        release.untold = 0;
        return ledger::reopen(key, &release.conn);
    }
    time_wait::begun(key, stamp)
}
