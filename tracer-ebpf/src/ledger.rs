//! CONNS and TUPLES: the ledger.
//!
//! Invariant: a counter of a tuple changes only when an insert or a delete on CONNS succeeded (or a
//! flag of an entry there changed). Every duplicate, replayed or late event is therefore harmless,
//! and `opened - released` is the number of entries that CONNS holds for the tuple.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    macros::map,
    maps::{Array, HashMap},
};
use tracer_common::{
    Cause, Conn, ConnKey, Halves, Loss, TupleCount, TupleKey, Who, conn_flag,
    settings::{CONTROL_LEN, CONTROL_SEEDING},
    share::{Table, UNKNOWN_USER},
    spread::{TRIALS, Usage},
    tuple::{GIVEN_UP_NS, PROVEN, search_bucket},
};

use crate::{
    atomic, bind, share,
    skip::{Skip, Step},
    stats, words,
};

/// Preallocated, because tracing programs run where the kernel must not allocate; never evicting,
/// so that no count can vanish. When full, the port is a counted loss.
#[map]
static CONNS: HashMap<ConnKey, Conn> = HashMap::with_max_entries(262_144, 0);

/// As CONNS. Entries leave only by [`forget`].
#[map]
static TUPLES: HashMap<TupleKey, TupleCount> = HashMap::with_max_entries(65_536, 0);

/// What became of sockets while sockets older than us are being read: a [`Mark`].
#[map]
static TOMBSTONES: HashMap<ConnKey, u64> = HashMap::with_max_entries(65_536, 0);

/// A value of TOMBSTONES.
#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(u64)]
pub(crate) enum Mark {
    /// A time-wait socket holds the port: the end of the full socket is not the end of it.
    TimeWait = 1,
    /// The port was given back: whoever reads that a socket holds it has read old news.
    Released,
}

#[map]
static CONTROL: Array<u32> = Array::with_max_entries(CONTROL_LEN, 0);

/// A new tuple. A static, because 300 bytes are too many for the BPF stack.
static EMPTY: TupleCount = TupleCount {
    opened: 0,
    released: 0,
    time_wait_begun: 0,
    time_wait_ended: 0,
    held: 0,
    waiting: 0,
    failed: [0; Cause::COUNT],
    search: [0; tracer_common::tuple::SEARCH_BUCKETS],
    last_ns: 0,
    cgroup: 0,
    pid: 0,
    last_errno: 0,
    comm: [0; 16],
    cursor: 0,
    chosen: 0,
    settled: 0,
    established: 0,
    nowhere: 0,
    forgiven: 0,
    proven: 0,
    left_out: 0,
    owner: 0,
    zero: 0,
};

const EEXIST: i32 = -17;
const ENOENT: i32 = -2;
const E2BIG: i32 = -7;

#[inline(always)]
fn failed_insert(error: i32, full: Loss) -> Skip {
    match error {
        EEXIST => Skip::NotOurs,
        E2BIG => Skip::Lost(full),
        _ => Skip::Lost(Loss::MapBusy),
    }
}

/// The entry of a tuple. A new one is in its owner's share.
#[inline(always)]
fn tuple(key: &TupleKey, owner: u32) -> Step<*mut TupleCount> {
    if let Some(count) = TUPLES.get_ptr_mut(key) {
        return Ok(count);
    }
    if !share::has_room(owner, Table::Tuples) {
        return Err(Skip::Lost(Loss::TuplesShare));
    }
    let inserted = TUPLES.insert(key, &EMPTY, u64::from(BPF_NOEXIST));
    if let Err(error) = inserted
        && error != EEXIST
    {
        return Err(failed_insert(error, Loss::TuplesFull));
    }
    let count = TUPLES.get_ptr_mut(key).ok_or(Skip::Lost(Loss::TuplesFull))?;
    if inserted.is_ok() {
        share::add(owner, Table::Tuples, 1);
        // SAFETY: see `open`. Whoever made the entry says whose it is: `forget` reads it minutes later.
        unsafe { (*count).owner = owner };
    }
    Ok(count)
}

#[inline(always)]
pub(crate) fn seeding() -> bool {
    CONTROL.get(CONTROL_SEEDING).is_some_and(|seeding| *seeding != 0)
}

/// Ports of a tuple: (in use, of those in TIME_WAIT). `None`: it has no entry.
#[inline(always)]
pub(crate) fn ports(key: &TupleKey) -> Option<(u32, u32)> {
    let count = TUPLES.get_ptr(key)?;
    // SAFETY: see `open`.
    let count = unsafe { &*count };
    Some((count.in_use() as u32, count.time_wait() as u32))
}

/// What a tuple holds, for the spreader. `reuse`: 1 if the kernel takes over its TIME_WAITs, else 0.
#[inline(always)]
pub(crate) fn usage(key: &TupleKey, reuse: u32) -> Usage {
    let Some(count) = TUPLES.get_ptr(key) else { return Usage::default() };
    // SAFETY: see `open`; each is read in one piece.
    let (held, waiting) = unsafe {
        ((&raw const (*count).held).read_volatile(), (&raw const (*count).waiting).read_volatile())
    };
    // The smaller one first.
    // SAFETY: see `open`.
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
    // The sign, where there are as many as may be: a bit instead of a branch.
    const { assert!(Usage::ON_TRIAL == 1 << 63 && PROVEN == 1 << 31) };
    let trial =
        (u64::from((TRIALS - 1).wrapping_sub(unanswered) & !proven) << 32) & Usage::ON_TRIAL;
    // No branch: the verifier would follow both ways in every round of the choice.
    let waiting = waiting & u64::from(reuse).wrapping_neg() & !Usage::ON_TRIAL;
    Usage { held: Halves(held | u64::from(left_out) << 32), waiting: Halves(waiting | trial) }
}

/// A tuple's count of the ports that the spreader has tried for it.
#[inline(always)]
pub(crate) fn cursor(key: &TupleKey) -> Option<*mut u32> {
    // SAFETY: see `open`.
    Some(unsafe { &raw mut (*TUPLES.get_ptr_mut(key)?).cursor })
}

/// In place of the duration of a port search: there was none, or it was not seen. Not an `Option`,
/// because LLVM copies the unset half of one, and the verifier refuses to copy what was never set.
pub(crate) const NOT_SEARCHED: u64 = u64::MAX;

/// Takes a port: counts it if it is not known yet. `search_ns` is the duration of the port search.
#[inline(always)]
pub(crate) fn open(key: &ConnKey, conn: &Conn, search_ns: u64) -> Step {
    if seeding() {
        // The fd took a port that it had before: an old mark is not about this one. A miss is the
        // normal case.
        _ = TOMBSTONES.remove(key);
    }
    insert(key, conn, search_ns)
}

/// Counts a port that was found, not seen being taken. Its mark stays for the caller to find.
#[inline(always)]
pub(crate) fn add_older(key: &ConnKey, conn: &Conn) -> Step {
    insert(key, conn, NOT_SEARCHED)
}

#[inline(always)]
fn insert(key: &ConnKey, conn: &Conn, search_ns: u64) -> Step {
    let count = tuple(&conn.tuple, conn.owner)?;
    if !share::has_room(conn.owner, Table::Conns) {
        // What is known already is not lost.
        return Err(if get(key).is_some() { Skip::NotOurs } else { Skip::Lost(Loss::ConnsShare) });
    }
    CONNS
        .insert(key, conn, u64::from(BPF_NOEXIST))
        .map_err(|error| failed_insert(error, Loss::ConnsFull))?;
    share::add(conn.owner, Table::Conns, 1);
    // SAFETY: a preallocated element stays mapped for the life of the map. A tuple is removed only when it has
    // held no port and has not changed for a minute or more (`forget`). If that happens between the lookup
    // above and here, the element may be another tuple's already, and this port is counted there: memory-safe, but
    // wrong until that tuple is forgotten. Nothing compares TUPLES with CONNS.
    unsafe {
        atomic::add(&raw mut (*count).opened, 1);
        hold(count, key.port, conn.flags, 1);
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
        }
        (*count).last_ns = conn.acquired_ns;
        if conn.who.pid != 0 {
            remember(count, &conn.who);
        }
    }
    Ok(())
}

/// Adds a port to what the tuple holds; `u64::MAX` takes it away. One that bind() took is counted there.
///
/// # Safety
/// `count` must point into a live value of TUPLES.
#[inline(always)]
unsafe fn hold(count: *mut TupleCount, port: u16, flags: u32, change: u64) {
    if flags & conn_flag::LISTED != 0 {
        return;
    }
    if flags & conn_flag::BOUND != 0 {
        bind::fast(change);
    }
    // SAFETY: the caller's promise.
    unsafe { atomic::add(&raw mut (*count).held, Halves::one(port).wrapping_mul(change)) };
}

/// As [`hold`], for the ports in TIME_WAIT that the kernel may take over: it never takes a bound one.
///
/// # Safety
/// As of [`hold`].
#[inline(always)]
unsafe fn wait(count: *mut TupleCount, port: u16, flags: u32, change: u64) {
    if flags & (conn_flag::LISTED | conn_flag::BOUND) == 0 {
        // SAFETY: the caller's promise.
        unsafe { atomic::add(&raw mut (*count).waiting, Halves::one(port).wrapping_mul(change)) };
    }
}

/// Notes who used the tuple last, for people to read: torn by a concurrent one, it is still right
/// often enough, and no count hangs on it.
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

/// Whether a connect() that failed so had no answer. One that the application gave up soon could still have had one.
#[inline(always)]
fn is_nowhere(cause: u32, begun_ns: u64, now: u64) -> bool {
    const UNREACHABLE: u32 = Cause::Unreachable as u32;
    const TIMED_OUT: u32 = Cause::TimedOut as u32;
    const NO_SOURCE: u32 = Cause::NoSourceAddress as u32;
    const ABORTED: u32 = Cause::Aborted as u32;
    match cause {
        UNREACHABLE | TIMED_OUT | NO_SOURCE => true,
        ABORTED => begun_ns != 0 && now.wrapping_sub(begun_ns) > GIVEN_UP_NS,
        _ => false,
    }
}

/// Counts a connect() that failed before it held a port, if nothing came back to it. `flags`: of its attempt.
#[inline(always)]
pub(crate) fn nowhere(key: &TupleKey, flags: u32, cause: Cause, begun_ns: u64, now: u64) {
    if flags & conn_flag::SPREAD == 0 || !is_nowhere(cause as u32, begun_ns, now) {
        return;
    }
    if let Some(count) = TUPLES.get_ptr_mut(key) {
        // SAFETY: see `open`.
        unsafe { atomic::add32(&raw mut (*count).nowhere, 1) };
    }
}

/// As [`nowhere`], for a connection that holds a port. A function of its own as [`established`].
#[inline(never)]
pub(crate) fn conn_nowhere(cookie: u64, port: u16, cause: u32, now: u64) -> u32 {
    let Some(conn) = get(&ConnKey::new(cookie, port)) else { return 0 };
    if conn.flags & conn_flag::SPREAD == 0 || !is_nowhere(cause, conn.begun_ns, now) {
        return 0;
    }
    let Some(count) = TUPLES.get_ptr_mut(&conn.tuple) else { return 0 };
    // SAFETY: see `open`.
    unsafe { atomic::add32(&raw mut (*count).nowhere, 1) };
    1
}

/// Counts a connect() that failed. A new entry is in `owner`'s share.
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
    // SAFETY: see `open`.
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

/// An entry, to be read before anything else is done with its key.
#[inline(always)]
pub(crate) fn get(key: &ConnKey) -> Option<&'static Conn> {
    // SAFETY: a preallocated element stays mapped, and it is re-used for another key only after it was deleted.
    // Hooks on one socket are ordered by its lock or by its life cycle. Commands of userspace (`ledger_command`)
    // are not: one can remove the entry at any moment, and then this reads another port's. Counters change only
    // after a delete of this key succeeded, so of two that remove it one counts.
    unsafe { CONNS.get(key) }
}

/// Gives a port back. Of several who try, one succeeds.
///
/// What is to be said of the entry must be said before: a removed element may be another port's the
/// next moment, and a copy would take a fifth of the BPF stack.
#[inline(always)]
pub(crate) fn release(key: &ConnKey, now: u64) -> Step {
    release_known(key, get(key), now)
}

/// As [`release`], where the entry was just looked up.
#[inline(always)]
pub(crate) fn release_known(key: &ConnKey, conn: Option<&Conn>, now: u64) -> Step {
    if seeding() {
        mark(key, Mark::Released);
    }
    let conn = conn.ok_or(Skip::NotOurs)?;
    let (flags, owner) = (conn.flags, conn.owner);
    let count = TUPLES.get_ptr_mut(&conn.tuple);
    match CONNS.remove(key) {
        Ok(()) => {}
        Err(ENOENT) => return Err(Skip::NotOurs),
        Err(_) => return Err(Skip::Lost(Loss::MapBusy)),
    }
    share::add(owner, Table::Conns, u64::MAX);
    if let Some(count) = count {
        // SAFETY: see `open`.
        unsafe {
            atomic::add(&raw mut (*count).released, 1);
            hold(count, key.port, flags, u64::MAX);
            if flags & conn_flag::TIME_WAIT != 0 {
                atomic::add(&raw mut (*count).time_wait_ended, 1);
                wait(count, key.port, flags, u64::MAX);
            }
            if ended_before_established(flags) {
                atomic::add32(&raw mut (*count).settled, 1);
            }
            (*count).last_ns = now;
        }
    }
    Ok(())
}

/// Notes what became of a socket, for the reader of older sockets to find.
#[inline(always)]
pub(crate) fn mark(key: &ConnKey, mark: Mark) {
    if key.cookie == 0 || key.port == 0 {
        return;
    }
    if let Err(error) = TOMBSTONES.insert(key, mark as u64, 0) {
        stats::lost(match error {
            E2BIG => Loss::TombstonesFull,
            _ => Loss::MapBusy,
        });
    }
}

/// Whether this mark was left for a key.
#[inline(always)]
pub(crate) fn is_marked(key: &ConnKey, mark: Mark) -> bool {
    // SAFETY: read at once; see `get`.
    unsafe { TOMBSTONES.get(key) }.is_some_and(|found| *found == mark as u64)
}

/// Whether the end of an entry with these flags settles a connection whose source the spreader chose.
#[inline(always)]
fn ended_before_established(flags: u32) -> bool {
    flags & (conn_flag::SPREAD | conn_flag::ESTABLISHED) == conn_flag::SPREAD
}

/// A connection got established. Counts those whose source the spreader chose.
///
/// A function of its own, for the sake of the caller's part of the BPF stack. It takes no references: Linux
/// 6.18 trips over its own account of those. Returns a number, because the verifier wants one.
#[inline(never)]
pub(crate) fn established(cookie: u64, port: u16) -> u32 {
    u32::from(settle_established(&ConnKey::new(cookie, port)).is_ok())
}

#[inline(always)]
fn settle_established(key: &ConnKey) -> Step {
    let conn = CONNS.get_ptr_mut(key).ok_or(Skip::NotOurs)?;
    // SAFETY: as in `time_wait`, which comes after this.
    let conn = unsafe { &mut *conn };
    if !ended_before_established(conn.flags) {
        return Err(Skip::NotOurs);
    }
    conn.flags |= conn_flag::ESTABLISHED;
    let count = TUPLES.get_ptr_mut(&conn.tuple).ok_or(Skip::NotOurs)?;
    // SAFETY: see `open`.
    unsafe {
        atomic::add32(&raw mut (*count).settled, 1);
        atomic::add32(&raw mut (*count).established, 1);
        (*count).proven = PROVEN;
    }
    Ok(())
}

/// Sets why the spreader does not choose a source towards a destination; 0: it may. True if that changed.
#[inline(always)]
pub(crate) fn leave_out(key: &TupleKey, why: u32, now: u64) -> bool {
    let count = match TUPLES.get_ptr_mut(key) {
        Some(count) => count,
        None if why == 0 => return false,
        None => match tuple(key, share::owner(key.netns, UNKNOWN_USER)) {
            Ok(count) => count,
            Err(_) => return false,
        },
    };
    // SAFETY: see `open`.
    unsafe {
        let changed = (*count).left_out != why;
        (*count).left_out = why;
        if changed && why != 0 {
            // When it is let in again, it is on trial.
            (*count).proven = 0;
        }
        // It is not forgotten while it is left out: the agent says so again and again.
        (*count).last_ns = now;
        changed
    }
}

/// Holds no failure up to now against a source towards a destination.
#[inline(always)]
pub(crate) fn forgive(key: &TupleKey) -> bool {
    let Some(count) = TUPLES.get_ptr_mut(key) else { return false };
    // SAFETY: see `open`.
    unsafe { (*count).forgiven = (&raw const (*count).nowhere).read_volatile() };
    true
}

/// A held port goes over to a time-wait socket. `None`: not one of ours.
#[inline(always)]
pub(crate) fn time_wait(key: &ConnKey, now: u64) -> Option<&'static Conn> {
    let conn = CONNS.get_ptr_mut(key)?;
    // SAFETY: the life cycle orders this before a hook's release of the same key; for commands, see `get`.
    let conn = unsafe { &mut *conn };
    if conn.flags & conn_flag::TIME_WAIT != 0 {
        return None;
    }
    conn.flags |= conn_flag::TIME_WAIT;
    if let Some(count) = TUPLES.get_ptr_mut(&conn.tuple) {
        // SAFETY: see `open`.
        unsafe {
            atomic::add(&raw mut (*count).time_wait_begun, 1);
            wait(count, key.port, conn.flags, 1);
            (*count).last_ns = now;
        }
    }
    Some(conn)
}

/// Takes back a [`release`] that turned out to be none: a time-wait timer that was moved, not
/// ended. The only place where a counter goes down, within one timer interrupt.
#[inline(always)]
pub(crate) fn reopen(key: &ConnKey, conn: &Conn) -> Step {
    CONNS
        .insert(key, conn, u64::from(BPF_NOEXIST))
        .map_err(|error| failed_insert(error, Loss::ConnsFull))?;
    share::add(conn.owner, Table::Conns, 1);
    if let Some(count) = TUPLES.get_ptr_mut(&conn.tuple) {
        // SAFETY: see `open`.
        unsafe {
            atomic::add(&raw mut (*count).released, u64::MAX);
            hold(count, key.port, conn.flags, 1);
            if conn.flags & conn_flag::TIME_WAIT != 0 {
                atomic::add(&raw mut (*count).time_wait_ended, u64::MAX);
                wait(count, key.port, conn.flags, 1);
            }
            if ended_before_established(conn.flags) {
                atomic::add32(&raw mut (*count).settled, u32::MAX);
            }
        }
    }
    Ok(())
}

/// Removes a tuple that holds no port and has not changed since `before`.
#[inline(always)]
pub(crate) fn forget(key: &TupleKey, before: u64) -> bool {
    let Some(count) = TUPLES.get_ptr(key) else { return false };
    // SAFETY: see `open`.
    let (idle, owner) =
        unsafe { ((*count).in_use() == 0 && (*count).last_ns < before, (*count).owner) };
    let removed = idle && TUPLES.remove(key).is_ok();
    if removed {
        share::add(owner, Table::Tuples, u64::MAX);
    }
    removed
}
