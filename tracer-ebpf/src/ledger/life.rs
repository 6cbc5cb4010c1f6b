//! TUPLES: finding and making an entry, and removing one that nobody uses.
//!
//! A hook finds a tuple's entry and then adds to it. If the entry were removed in between, the kernel could have given
//! its memory to another tuple, which would have what was added, for ever. These programs have no lock and no
//! compare-and-swap (Linux 5.10), so an entry is removed in two steps, with a grace period between them:
//!
//! - An entry has a `life`: a hash of its key, and two bits that say what is about to happen to it. One load shows
//!   that the entry is still this key's and that it stays: the usual case, which costs no more than that.
//! - *Doomed* ([`doom`]): userspace is going to remove it. It waits then until every hook that began before has ended.
//!   So every hook that uses the entry afterwards saw that it is doomed, and *pins* it: it adds to `pins`, and looks
//!   then whether the entry is closed.
//! - *Closed* ([`forget`]): it is being removed. `forget` closes the entry, and looks at `pins` then. So it sees the
//!   pin, and the entry stays, or the hook sees that the entry is closed, and looks it up again until it is gone or
//!   stays. A pin that is added to memory that has become another tuple's keeps that tuple for longer, and nothing else.
//! - A new entry has no life yet. Who finds the same entry twice, the second time after it was seen without a life, gives
//!   it one: it was this key's then, and an entry is not doomed before it has a life.

use aya_ebpf::{bindings::BPF_NOEXIST, macros::map, maps::HashMap};
use tracer_common::{Cause, Loss, TupleCount, TupleKey, share::Table};

use super::{EEXIST, ENOENT, failed_insert};
use crate::{
    atomic,
    attempt::now,
    share,
    skip::{Skip, Step},
};

/// Preallocated and never evicting, as CONNS. Entries leave only by [`forget`].
#[map]
static TUPLES: HashMap<TupleKey, TupleCount> = HashMap::with_max_entries(65_536, 0);

/// A new tuple. A static, because 300 bytes are too many for the BPF stack.
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
    zero: 0,
};

const DOOMED: u32 = 1;
const CLOSED: u32 = 2;

/// The life of an entry of this key that stays: never 0, and without the two bits.
#[inline(always)]
fn open_life(key: &TupleKey) -> u32 {
    const FACTOR: u64 = 0xa076_1d64_78bd_642f;
    const { assert!(size_of::<TupleKey>() == 40 && align_of::<TupleKey>() == 8) };
    let words: *const u64 = (&raw const *key).cast();
    let mut sum = 0_u64;
    let mut word = 0;
    while word < size_of::<TupleKey>() / 8 {
        // SAFETY: a key is five words, aligned as such.
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

/// Adds one to `pins`. A locked instruction (x86-64): what comes after it is read later than what was written before.
#[inline(always)]
fn pin(count: *mut TupleCount) {
    // SAFETY: as in `life`.
    unsafe { atomic::add32(&raw mut (*count).pins, 1) };
}

/// The entry of a tuple, to be read, or changed by a port that is in CONNS: `None` if there is none. What is read of
/// it can be another tuple's where no port keeps it.
#[inline(always)]
pub(super) fn known(key: &TupleKey) -> Option<*mut TupleCount> {
    TUPLES.get_ptr_mut(key)
}

/// The entry of a tuple, to be added to: it stays this tuple's until the hook ends. Made if there is none, in
/// `owner`'s share.
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

/// As [`tuple`], where the entry is new, about to be removed, or not there. Three looks: the first can find it new or
/// closed, the second makes one, the third finds that. Written one after the other: kernels before 6.3 or so take a loop whose counter is on the stack for one
/// without end.
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

/// Lets about half a microsecond pass, in which a [`forget`] that closed the entry removes it. Reading the clock is the
/// shortest thing that takes time and has no branch that the verifier would follow.
#[inline(always)]
fn wait_for_forget() {
    let mut times = 0;
    while times < 16 {
        _ = now();
        times += 1;
    }
}

/// `None`: look again.
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

/// Makes an entry, if no other CPU does at the same time.
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

/// Says that a tuple that holds no port and has not changed since `before` is going to be removed. True also where
/// an earlier agent said it already.
#[inline(always)]
pub(crate) fn doom(key: &TupleKey, before: u64) -> bool {
    let open = open_life(key);
    let Some(count) = TUPLES.get_ptr_mut(key) else { return false };
    let found = life(count);
    if found & !DOOMED != open || !is_idle(count, before) {
        return false;
    }
    // The pins of a tuple that is doomed already are somebody's who uses it.
    if found == open {
        // SAFETY: as in `life`.
        unsafe { (&raw mut (*count).pins).write_volatile(0) };
        set_life(count, open | DOOMED);
    }
    true
}

/// Removes a doomed tuple, if nobody used it since; else it is not doomed any more. Userspace has waited in between
/// until every hook that was running has ended.
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
    // One is our own.
    if pins != 1 || !is_idle(count, before) {
        set_life(count, open);
        return false;
    }
    match TUPLES.remove(key) {
        Ok(()) => {
            share::add(owner, Table::Tuples, u64::MAX);
            return true;
        }
        // Another agent was faster: the memory can be another tuple's already.
        Err(ENOENT) => {}
        Err(_) => set_life(count, open),
    }
    false
}
