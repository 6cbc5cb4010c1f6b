//! CONNS and TUPLES: the ledger.
//!
//! Invariant: a counter of a tuple's ports changes only when an insert or a delete on CONNS succeeded (or a
//! flag of an entry there changed). Every duplicate, replayed or late report is therefore harmless,
//! and `opened - released` is the number of entries that CONNS holds for the tuple. Userspace compares the two and
//! corrects differences ([`correct`]): when a hook and a command of userspace change one entry at the same time, one of
//! them can count it by flags that have just changed.

mod ends;
mod health;
mod life;
mod marks;
mod room;
mod states;

use aya_ebpf::{bindings::BPF_NOEXIST, macros::map, maps::HashMap};
pub(crate) use ends::{End, ended, syn_sent_again};
pub(crate) use health::{conn_nowhere, forgive, leave_out, nowhere};
pub(crate) use life::{doom, forget};
use life::{known, tuple};
pub(crate) use marks::{
    Mark, is_marked, is_marked_unbound, mark, mark_state, mark_unbound, marked_state, seeding,
};
pub(crate) use room::set_apart;
use room::{hold, wait};
pub(crate) use states::{move_on, set_state};
use tracer_common::{
    Cause, Conn, ConnKey, Halves, Loss, States, TupleCount, TupleKey, Who, conn_flag,
    seed::Correction,
    share::{Table, UNKNOWN_USER},
    spread::{TRIALS, Usage},
    tuple::{PROVEN, search_bucket},
};

use crate::{
    abi::failed::{EEXIST, ENOENT},
    atomic,
    attempt::now,
    share,
    skip::{Skip, Step},
    stats, words,
};

/// Preallocated, because tracing programs run where the kernel must not allocate; never evicting,
/// so that no count can vanish. When it is full, the port is a counted loss.
#[map]
static CONNS: HashMap<ConnKey, Conn> = HashMap::with_max_entries(262_144, 0);

const E2BIG: i32 = -7;

/// What a failed insert means: the entry exists already, the map is full (`full`), or it was busy.
#[inline(always)]
fn failed_insert(error: i32, full: Loss) -> Skip {
    match error {
        EEXIST => Skip::NotOurs,
        E2BIG => Skip::Lost(full),
        _ => Skip::Lost(Loss::MapBusy),
    }
}

/// How many ports of a tuple are in use, and how many of those are in TIME_WAIT. `None`: the tuple has no entry.
#[inline(always)]
pub(crate) fn ports(key: &TupleKey) -> Option<(u32, u32)> {
    let count = known(key)?;
    // SAFETY: a preallocated element stays mapped for the life of the map. If it has become another tuple's meanwhile,
    // the numbers are wrong, but nothing is counted by them.
    let count = unsafe { &*count };
    Some((count.in_use() as u32, count.time_wait() as u32))
}

/// The tuple's [`Usage`], for the spreader; all 0 if it has no entry. If the source is left out, `held` has at least
/// [`NO_ROOM`](tracer_common::spread::NO_ROOM) even ports; if it is on trial, `waiting` has [`Usage::ON_TRIAL`]. `reuse`: 1 if
/// the kernel reuses the tuple's TIME_WAITs; 0: it does not, and `waiting` is 0 but for that bit.
#[inline(always)]
pub(crate) fn usage(key: &TupleKey, reuse: u32) -> Usage {
    let Some(count) = known(key) else { return Usage::default() };
    // SAFETY: as in `ports`; each is read by one load.
    let (held, waiting) = unsafe {
        ((&raw const (*count).held).read_volatile(), (&raw const (*count).waiting).read_volatile())
    };
    // `settled` before `chosen` and `forgiven` before `nowhere`: the smaller one first, so that no difference is below 0.
    // SAFETY: as in `ports`.
    let (left_out, proven, unanswered) = unsafe {
        let settled = (&raw const (*count).settled).read_volatile();
        let forgiven = (&raw const (*count).forgiven).read_volatile();
        let chosen = (&raw const (*count).chosen).read_volatile();
        let nowhere = (&raw const (*count).nowhere).read_volatile();
        (
            (&raw const (*count).left_out).read_volatile(),
            (&raw const (*count).proven).read_volatile(),
            chosen.wrapping_sub(settled).wrapping_add(nowhere.wrapping_sub(forgiven)),
        )
    };
    // The sign of `TRIALS - 1 - unanswered` is set if `TRIALS` or more are unanswered: a bit instead of a branch.
    const { assert!(Usage::ON_TRIAL == 1 << 63 && PROVEN == 1 << 31) };
    let trial =
        (u64::from((TRIALS - 1).wrapping_sub(unanswered) & !proven) << 32) & Usage::ON_TRIAL;
    // No branch: the verifier would follow both of its paths in every round of the choice.
    let waiting = waiting & u64::from(reuse).wrapping_neg() & !Usage::ON_TRIAL;
    Usage { held: Halves(held | u64::from(left_out) << 32), waiting: Halves(waiting | trial) }
}

/// A pointer to the tuple's [`TupleCount::cursor`], valid as long as the map; `None`: it has no entry. If the entry is removed,
/// it can point into another tuple's.
#[inline(always)]
pub(crate) fn cursor(key: &TupleKey) -> Option<*mut u32> {
    // SAFETY: as in `ports`.
    Some(unsafe { &raw mut (*known(key)?).cursor })
}

/// In place of the duration of a port search: there was no search, or no hook saw it. Not an `Option`, because LLVM copies the
/// unset half of a `None`, and the verifier rejects a read of uninitialized stack.
pub(crate) const NOT_SEARCHED: u64 = u64::MAX;

/// Adds the entry `conn` of a port that was taken, and counts it in its tuple, whose entry is made if there is none. `Err`: the
/// port has an entry already, there is no room for one or for the tuple's, or a map is busy. `search_ns`: duration of the port
/// search, ns, or [`NOT_SEARCHED`]. While older sockets are being read, an earlier mark of the port is removed.
#[inline(always)]
pub(crate) fn open(key: &ConnKey, conn: &Conn, search_ns: u64) -> Step {
    if seeding() {
        // The socket may have held this port before: a mark from then says nothing about the port's state now.
        marks::clear(key);
    }
    insert(key, conn, search_ns)
}

/// Adds and counts the port of a socket that is older than the tracer, which userspace found. `Err`: the port has an entry
/// already, there is no room for one or for the tuple's, or a map is busy. A mark of the port stays, because the caller reads it
/// next.
#[inline(always)]
pub(crate) fn add_older(key: &ConnKey, conn: &Conn) -> Step {
    insert(key, conn, NOT_SEARCHED)
}

#[inline(always)]
fn insert(key: &ConnKey, conn: &Conn, search_ns: u64) -> Step {
    let count = tuple(&conn.tuple, conn.owner)?;
    if !share::has_room(conn.owner, Table::Conns) {
        // A port that has an entry already is not lost.
        return Err(if get(key).is_some() { Skip::NotOurs } else { Skip::Lost(Loss::ConnsShare) });
    }
    CONNS
        .insert(key, conn, u64::from(BPF_NOEXIST))
        .map_err(|error| failed_insert(error, Loss::ConnsFull))?;
    share::add(conn.owner, Table::Conns, 1);
    // SAFETY: a preallocated element stays mapped for the life of the map, and this one stays this tuple's until the
    // hook ends (`life`).
    unsafe {
        atomic::add(&raw mut (*count).opened, 1);
        hold(count, key.port, conn.flags, 1);
        states::add(count, States::one(conn.flags));
        if conn.flags & conn_flag::SPREAD != 0 {
            atomic::add32(&raw mut (*count).chosen, 1);
        }
        if conn.flags & conn_flag::ESTABLISHED != 0 {
            atomic::add32(&raw mut (*count).established, 1);
            (*count).proven = PROVEN;
        }
        if conn.flags & conn_flag::TIME_WAIT != 0 {
            atomic::add(&raw mut (*count).time_wait_begun, 1);
            wait(count, key.port, conn.flags, 1);
        }
        if search_ns != NOT_SEARCHED
            && let Some(bucket) = (*count).search.get_mut(search_bucket(search_ns))
        {
            atomic::add32(bucket, 1);
            stats::searched(search_ns);
        }
        (*count).last_ns = conn.acquired_ns;
        if conn.who.pid != 0 {
            remember(count, &conn.who);
        }
    }
    Ok(())
}

/// Records the newest caller of the tuple, for people to read. Concurrent hooks can mix two callers, and
/// no count depends on it.
///
/// # Safety
/// `count` must point into a live value of TUPLES.
#[inline(always)]
unsafe fn remember(count: *mut TupleCount, who: &Who) {
    // SAFETY: the caller's promise.
    unsafe {
        (*count).pid = who.pid;
        (*count).cgroup = who.cgroup;
        words::copy(&raw mut (*count).comm, &raw const who.comm);
    }
}

/// Counts a failed connect(). If this makes the tuple's entry, it is in `owner`'s share. `who`: the tuple's newest caller from
/// now on, unless its pid is 0. `errno`: positive; 0: none. `now`: CLOCK_MONOTONIC, ns. `Err`: the tuple has no entry, and none
/// can be made.
#[inline(always)]
pub(crate) fn fail(
    key: &TupleKey,
    cause: Cause,
    errno: u16,
    now: u64,
    who: &Who,
    owner: u32,
) -> Step {
    let count = tuple(key, owner)?;
    // SAFETY: as in `insert`.
    unsafe {
        if let Some(failed) = (*count).failed.get_mut(cause as usize) {
            atomic::add(failed, 1);
        }
        (*count).last_errno = u32::from(errno);
        (*count).last_ns = now;
        if who.pid != 0 {
            remember(count, who);
        }
    }
    Ok(())
}

/// The entry of a key; `None`: there is none. The caller reads it before it releases the port: after that, the memory can be
/// another port's entry.
#[inline(always)]
pub(crate) fn get(key: &ConnKey) -> Option<&'static Conn> {
    // SAFETY: a preallocated element stays mapped, and the kernel uses it for another key only after it was deleted.
    // Hooks on one socket are ordered by its lock or by its life cycle. Commands of userspace (`ledger_command`)
    // are not: one can remove the entry at any moment, and then this reads another port's. Counters change only
    // after a delete of this key succeeded, so of two that remove it only one counts.
    unsafe { CONNS.get(key) }
}

/// Does what [`get`] does, for a caller that changes the entry.
#[inline(always)]
fn get_mut(key: &ConnKey) -> Option<*mut Conn> {
    CONNS.get_ptr_mut(key)
}

/// Releases a port at `now` (CLOCK_MONOTONIC, ns): removes its entry and counts that. `Err`: there is no entry (of several
/// callers for one key, one succeeds), or the map is busy. While older sockets are being read, marks the port in any case.
///
/// A caller that writes an event about the entry does so before it calls this: a removed element may be another port's at
/// once, and a copy would take a fifth of the BPF stack.
#[inline(always)]
pub(crate) fn release(key: &ConnKey, now: u64) -> Step {
    release_known(key, get(key), now)
}

/// Does what [`release`] does, for a caller that has looked up the entry: `conn`, as [`get`] returned it for `key`. `None` gives
/// `Err`.
#[inline(always)]
pub(crate) fn release_known(key: &ConnKey, conn: Option<&Conn>, now: u64) -> Step {
    release_ended(key, conn, End::NONE, now)
}

/// Does what [`release_known`] does, for a full socket that closes: if the port is released, also counts `end` in its tuple.
#[inline(always)]
pub(crate) fn release_ended(key: &ConnKey, conn: Option<&Conn>, end: End, now: u64) -> Step {
    if seeding() {
        mark(key, Mark::Released);
    }
    let conn = conn.ok_or(Skip::NotOurs)?;
    let (owner, acquired_ns) = (conn.owner, conn.acquired_ns);
    let flags = Conn::flags_of(conn.flags, owner);
    let count = known(&conn.tuple);
    match CONNS.remove(key) {
        Ok(()) => {}
        Err(ENOENT) => return Err(Skip::NotOurs),
        Err(_) => return Err(Skip::Lost(Loss::MapBusy)),
    }
    share::add(owner, Table::Conns, u64::MAX);
    if let Some(count) = count {
        // SAFETY: as in `insert`. A tuple is removed only if as many ports were released as opened, so not between
        // the delete of one of its ports from CONNS and the count of it here.
        unsafe {
            atomic::add(&raw mut (*count).released, 1);
            hold(count, key.port, flags, u64::MAX);
            states::add(count, States::one(flags).wrapping_neg());
            if flags & conn_flag::TIME_WAIT != 0 {
                atomic::add(&raw mut (*count).time_wait_ended, 1);
                wait(count, key.port, flags, u64::MAX);
            }
            if ended_before_established(flags) {
                atomic::add32(&raw mut (*count).settled, 1);
            }
            ends::add(count, flags, acquired_ns, end, now);
            (*count).last_ns = now;
        }
    }
    Ok(())
}

/// Whether an entry with these flags is in [`TupleCount::chosen`] and not settled: the spreader chose its source, and it was
/// not established. When it ends or gets established, it counts in [`TupleCount::settled`].
#[inline(always)]
fn ended_before_established(flags: u32) -> bool {
    flags & (conn_flag::SPREAD | conn_flag::ESTABLISHED) == conn_flag::SPREAD
}

/// A time-wait socket takes over a held port at `now` (CLOCK_MONOTONIC, ns): records and counts that, and returns the entry.
/// `None`: there is no such entry, or it is in TIME_WAIT already. `stamp`: [`conn_flag::NO_STAMP`] or 0.
#[inline(always)]
pub(crate) fn time_wait(key: &ConnKey, stamp: u32, now: u64) -> Option<&'static Conn> {
    let conn = CONNS.get_ptr_mut(key)?;
    // SAFETY: the socket's life cycle orders this before a hook's release of the same key; for commands, see `get`.
    let conn = unsafe { &mut *conn };
    if conn.flags & conn_flag::TIME_WAIT != 0 {
        return None;
    }
    let flags = conn.flags;
    conn.flags = flags & !conn_flag::STATE | conn_flag::TIME_WAIT | stamp;
    if let Some(count) = known(&conn.tuple) {
        // SAFETY: as in `release_known`: the port is still held.
        unsafe {
            states::add(count, States::one(flags).wrapping_neg());
            atomic::add(&raw mut (*count).time_wait_begun, 1);
            wait(count, key.port, Conn::flags_of(conn.flags, conn.owner), 1);
            (*count).last_ns = now;
        }
    }
    Some(conn)
}

/// Takes back a [`release`] of a time-wait socket whose timer was only moved: adds `conn`, the entry that it had, again, and
/// counts that. `Err`: the port has an entry again, or the map refuses. The only place where a counter that else only grows goes
/// down, within one timer interrupt.
#[inline(always)]
pub(crate) fn reopen(key: &ConnKey, conn: &Conn) -> Step {
    CONNS
        .insert(key, conn, u64::from(BPF_NOEXIST))
        .map_err(|error| failed_insert(error, Loss::ConnsFull))?;
    share::add(conn.owner, Table::Conns, 1);
    let flags = Conn::flags_of(conn.flags, conn.owner);
    if let Some(count) = known(&conn.tuple) {
        // SAFETY: mapped for the life of the map. The release in this timer interrupt set `last_ns`, and a tuple is
        // removed only after it was idle for longer.
        unsafe {
            atomic::add(&raw mut (*count).released, u64::MAX);
            hold(count, key.port, flags, 1);
            states::add(count, States::one(flags));
            if flags & conn_flag::TIME_WAIT != 0 {
                atomic::add(&raw mut (*count).time_wait_ended, u64::MAX);
                wait(count, key.port, flags, 1);
            }
            if ended_before_established(flags) {
                atomic::add32(&raw mut (*count).settled, u32::MAX);
            }
        }
    }
    Ok(())
}

/// Adds a correction, which userspace computes from CONNS, to the counters of a tuple. False: ports were opened or released since
/// userspace read them, so that the correction does not apply (unless `opened` is [`Correction::ALWAYS`]). `Err`: the tuple has
/// no entry, and none can be made. Counters that only grow are corrected by growing.
#[inline(always)]
pub(crate) fn correct(key: &TupleKey, correction: &Correction) -> Step<bool> {
    let count = tuple(key, share::owner(key.netns, UNKNOWN_USER))?;
    // SAFETY: as in `insert`.
    unsafe {
        let same = (*count).opened == correction.opened && (*count).released == correction.released;
        if !same && correction.opened != Correction::ALWAYS {
            return Ok(false);
        }
        grow(&raw mut (*count).opened, &raw mut (*count).released, correction.in_use);
        grow(
            &raw mut (*count).time_wait_begun,
            &raw mut (*count).time_wait_ended,
            correction.time_wait,
        );
        atomic::add(&raw mut (*count).held, correction.held);
        atomic::add(&raw mut (*count).waiting, correction.waiting);
        states::add(count, correction.states);
        atomic::add32(&raw mut (*count).chosen, correction.unanswered as u32);
        (*count).last_ns = now();
    }
    Ok(true)
}

/// Changes the difference `begun - ended` by `change`, by adding to one of the two.
///
/// # Safety
/// Both must point into a live value of TUPLES.
#[inline(always)]
unsafe fn grow(begun: *mut u64, ended: *mut u64, change: i32) {
    let change = i64::from(change);
    // SAFETY: the caller's promise.
    unsafe {
        if change > 0 {
            atomic::add(begun, change as u64);
        } else {
            atomic::add(ended, change.wrapping_neg() as u64);
        }
    }
}
