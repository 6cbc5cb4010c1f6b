//! TUPLES: finds, makes and removes entries.
//!
//! A hook finds a tuple's entry and then adds to it. If the entry were removed in between, the kernel could have used
//! its memory for another tuple, whose counters would then be wrong for ever. These programs have no lock and no
//! compare-and-swap (Linux 5.10), so an entry is removed in two steps, with a grace period between them:
//!
//! - An entry has a `life`: a hash of its key, and the two bits *doomed* and *closed*. One load shows that the entry still
//!   belongs to this key and is not about to be removed: the usual case, which costs no more than that.
//! - *Doomed* ([`doom`]): userspace is going to remove the entry. It then waits until every hook that began before has
//!   ended. So every hook that uses the entry afterwards sees the bit, and *pins* the entry: it adds to `pins`, and then
//!   reads whether the entry is closed.
//! - *Closed* ([`forget`]): the entry is being removed. `forget` sets the bit, and then reads `pins`. So `forget` sees the
//!   pin, and keeps the entry, or the hook sees that the entry is closed, and looks it up again until it is removed or
//!   open. A pin that is added to memory that has become another tuple's keeps that tuple for longer, and nothing else.
//! - A new entry has no life yet: the hook that made it sets its life next. So does another hook that finds the entry without
//!   a life, looks it up again and finds the same: it is this key's, because an entry is not doomed before it has a life.

use aya_ebpf::{bindings::BPF_NOEXIST, macros::map, maps::HashMap};
use tracer_common::{Cause, Ends, Loss, TupleCount, TupleKey, share::Table};

use super::failed_insert;
use crate::{
    abi::failed::{EEXIST, ENOENT},
    atomic,
    attempt::now,
    share,
    skip::{Skip, Step},
};

/// Preallocated and never evicting, as CONNS. Only [`forget`] removes entries.
#[map]
static TUPLES: HashMap<TupleKey, TupleCount> = HashMap::with_max_entries(65_536, 0);

/// The value of a new entry. A static, because 400 bytes are too many for the BPF stack.
static EMPTY: TupleCount = TupleCount {
    opened: 0,
    released: 0,
    time_wait_begun: 0,
    time_wait_ended: 0,
    held: 0,
    waiting: 0,
    states: 0,
    failed: [0; Cause::COUNT],
    search: [0; tracer_common::tuple::SEARCH_BUCKETS],
    ends: Ends::NONE,
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
    life: 0,
    pins: 0,
    syns_again: 0,
};

const DOOMED: u32 = 1;
const CLOSED: u32 = 2;

/// The life of this key's entry while it is not being removed: never 0, and without the two bits.
#[inline(always)]
fn open_life(key: &TupleKey) -> u32 {
    const FACTOR: u64 = 0xa076_1d64_78bd_642f;
    const { assert!(size_of::<TupleKey>() == 40 && align_of::<TupleKey>() == 8) };
    let words: *const u64 = (&raw const *key).cast();
    let mut sum = 0_u64;
    let mut word = 0;
    while word < size_of::<TupleKey>() / 8 {
        // SAFETY: a key is five words, aligned to 8 bytes.
        sum = sum.wrapping_add(unsafe { words.add(word).read() }).wrapping_mul(FACTOR);
        word += 1;
    }
    (sum >> 32) as u32 & !(DOOMED | CLOSED) | 4
}

#[inline(always)]
fn life(count: *mut TupleCount) -> u32 {
    // SAFETY: a preallocated element stays mapped for the life of the map, whichever tuple's it is.
    unsafe { (&raw const (*count).life).read_volatile() }
}

#[inline(always)]
fn set_life(count: *mut TupleCount, life: u32) {
    // SAFETY: as in `life`.
    unsafe { (&raw mut (*count).life).write_volatile(life) };
}

/// Adds one to `pins`. A locked instruction (x86-64): loads after it are not done before stores that precede it.
#[inline(always)]
fn pin(count: *mut TupleCount) {
    // SAFETY: as in `life`.
    unsafe { atomic::add32(&raw mut (*count).pins, 1) };
}

/// The entry of a tuple; `None`: there is none. To be read, or to be changed for a port that is in CONNS, which keeps the
/// entry. Without such a port, the memory can become another tuple's while it is read.
#[inline(always)]
pub(super) fn known(key: &TupleKey) -> Option<*mut TupleCount> {
    TUPLES.get_ptr_mut(key)
}

/// The entry of a tuple, to be changed: it stays this tuple's until the hook ends. If there is none, makes one in
/// `owner`'s share. `Err`: there is no room for one, or the map is busy.
#[inline(always)]
pub(super) fn tuple(key: &TupleKey, owner: u32) -> Step<*mut TupleCount> {
    let open = open_life(key);
    if let Some(count) = TUPLES.get_ptr_mut(key)
        && life(count) == open
    {
        return Ok(count);
    }
    look(key, open, owner)
}

/// Does what [`tuple`] does, for an entry that is new, about to be removed, or missing. At most three lookups: in the worst case,
/// the first finds a closed entry, the second makes one, and the third finds that. Written out, because kernels before 6.3 or so
/// reject a loop whose counter is on the stack as endless.
#[inline(always)]
fn look(key: &TupleKey, open: u32, owner: u32) -> Step<*mut TupleCount> {
    if let Some(count) = look_once(key, open, owner)? {
        return Ok(count);
    }
    if let Some(count) = look_once(key, open, owner)? {
        return Ok(count);
    }
    look_once(key, open, owner)?.ok_or(Skip::Lost(Loss::MapBusy))
}

/// Waits about half a microsecond, in which a [`forget`] that closed the entry removes it. Reading the clock takes
/// time without a branch that the verifier would follow.
#[inline(always)]
fn wait_for_forget() {
    let mut times = 0;
    while times < 16 {
        _ = now();
        times += 1;
    }
}

/// One attempt: finds the entry, or makes it. `None`: the caller has to try again, because the entry was just made, is closed or
/// was removed meanwhile. `Err`: no room, or the map refuses.
#[inline(always)]
fn look_once(key: &TupleKey, open: u32, owner: u32) -> Step<Option<*mut TupleCount>> {
    let Some(count) = TUPLES.get_ptr_mut(key) else {
        create(key, open, owner)?;
        return Ok(None);
    };
    let found = life(count);
    if found == open {
        return Ok(Some(count));
    }
    if found == open | DOOMED {
        pin(count);
        if life(count) & CLOSED != 0 {
            wait_for_forget();
            return Ok(None);
        }
    } else if found != 0 {
        wait_for_forget();
        return Ok(None);
    }
    let same = TUPLES.get_ptr_mut(key).is_some_and(|again| again as u64 == count as u64);
    if same && found == 0 {
        set_life(count, open);
    }
    Ok(same.then_some(count))
}

/// Makes an entry, unless another CPU does so at the same time. `Err`: no room for the owner or in the map, or the map is busy.
#[inline(always)]
fn create(key: &TupleKey, open: u32, owner: u32) -> Step {
    if !share::has_room(owner, Table::Tuples) {
        return Err(Skip::Lost(Loss::TuplesShare));
    }
    match TUPLES.insert(key, &EMPTY, u64::from(BPF_NOEXIST)) {
        Ok(()) => {
            share::add(owner, Table::Tuples, 1);
            let count = TUPLES.get_ptr_mut(key).ok_or(Skip::Lost(Loss::TuplesFull))?;
            // SAFETY: as in `life`; it is this tuple's, because an entry without a life is not removed.
            unsafe { (*count).owner = owner };
            set_life(count, open);
            Ok(())
        }
        Err(EEXIST) => Ok(()),
        Err(error) => Err(failed_insert(error, Loss::TuplesFull)),
    }
}

/// Whether an entry holds no port and has not changed since `before` (CLOCK_MONOTONIC, ns).
#[inline(always)]
fn is_idle(count: *mut TupleCount, before: u64) -> bool {
    // SAFETY: as in `life`.
    unsafe {
        let opened = (&raw const (*count).opened).read_volatile();
        let released = (&raw const (*count).released).read_volatile();
        let last_ns = (&raw const (*count).last_ns).read_volatile();
        opened == released && last_ns < before
    }
}

/// Dooms a tuple that holds no port and has not changed since `before` (CLOCK_MONOTONIC, ns). True: it is doomed, by this
/// command or by an earlier one (of an agent that died before the second step, say). False: it is in use, has no entry, or its
/// entry was just made or is being removed.
#[inline(always)]
pub(crate) fn doom(key: &TupleKey, before: u64) -> bool {
    let open = open_life(key);
    let Some(count) = TUPLES.get_ptr_mut(key) else { return false };
    let found = life(count);
    if found & !DOOMED != open || !is_idle(count, before) {
        return false;
    }
    // If the tuple is doomed already, `pins` stays: it counts hooks that have used the entry since.
    if found == open {
        // SAFETY: as in `life`.
        unsafe { (&raw mut (*count).pins).write_volatile(0) };
        set_life(count, open | DOOMED);
    }
    true
}

/// Removes a doomed tuple, if no hook used it since and it is idle; else it is not doomed any more. True if it is removed; false
/// also if it was not doomed, or another agent removed it. Between [`doom`] and this, userspace waits until every hook that was
/// running has ended.
#[inline(always)]
pub(crate) fn forget(key: &TupleKey, before: u64) -> bool {
    let open = open_life(key);
    let Some(count) = TUPLES.get_ptr_mut(key) else { return false };
    if life(count) != open | DOOMED {
        return false;
    }
    set_life(count, open | CLOSED);
    pin(count);
    // SAFETY: as in `life`.
    let (pins, owner) = unsafe {
        ((&raw const (*count).pins).read_volatile(), (&raw const (*count).owner).read_volatile())
    };
    // One pin is this program's own.
    if pins != 1 || !is_idle(count, before) {
        set_life(count, open);
        return false;
    }
    match TUPLES.remove(key) {
        Ok(()) => {
            share::add(owner, Table::Tuples, u64::MAX);
            return true;
        }
        // Another agent removed it first: the memory can be another tuple's already, so its life is not set.
        Err(ENOENT) => {}
        Err(_) => set_life(count, open),
    }
    false
}
