//! TOUCHED: when bind() or listen() last took each port. Kernels up to 6.17 give such a port to no connect() until no
//! socket has it, not even a connection that got it before (`inet_csk_update_fastreuse`, `__inet_hash_connect`).
//!
//! A hook changes the entry of a port in place, and userspace removes it ([`remove`]) once no connection that is older than
//! the bind() has the port. There is no lock and no compare-and-swap (Linux 5.10) to order the two:
//!
//! - A hook adds to `uses`, and then looks up the entry again. If it is gone, the hook makes one.
//! - `remove` removes the entry, and then reads `uses`. If a hook has added to it, `remove` inserts the port again.
//!
//! So at least one of the two sees the other. Memory of a removed entry can be another port's at once: a hook then changes
//! the other port's time, which is nearly the same, and the other port's `uses`, which keeps its entry for longer.

use aya_ebpf::{bindings::BPF_NOEXIST, macros::map, maps::HashMap};
use tracer_common::{Bound, Loss, Touched, port_of, share::Table};

use crate::{
    abi::failed::EEXIST,
    atomic,
    attempt::now,
    offsets::BLOCKED_UNTIL_FREE,
    share,
    skip::{Skip, Step, settle},
    stats,
};

/// The key is [`port_of`]. Preallocated and never evicting, as CONNS. Only [`remove`] removes entries.
#[map]
static TOUCHED: HashMap<u64, Touched> = HashMap::with_max_entries(1, 0);

const E2BIG: i32 = -7;

/// Records that bind() or listen() took the port (host byte order) in the namespace and at the time of `bound`, or counts a loss
/// if there is no room; nothing on kernels that do not keep such a port from connect() (BLOCKED_UNTIL_FREE is 0). The functions
/// that are not inlined do not call each other: the caller leaves little of the BPF stack.
#[inline(always)]
pub(crate) fn note(bound: &Bound, port: u16) {
    if BLOCKED_UNTIL_FREE.load() == 0 {
        return;
    }
    let port = port_of(bound.place.netns, port);
    if touch(port, bound.acquired_ns) == 0 {
        settle(create(port, bound));
    }
}

/// Sets the time of the port's entry; returns 1, or 0 if it has none (any more). A number, because the verifier wants one.
#[inline(never)]
fn touch(port: u64, at_ns: u64) -> u32 {
    let Some(entry) = TOUCHED.get_ptr_mut(&port) else { return 0 };
    // SAFETY: a preallocated element stays mapped for the life of the map, whichever port's it is.
    unsafe { (&raw mut (*entry).at_ns).write_volatile(at_ns) };
    add_use(entry);
    u32::from(TOUCHED.get_ptr_mut(&port).is_some_and(|again| again as u64 == entry as u64))
}

/// Adds one to `uses`. A locked instruction (x86-64): loads after it are not done before stores that precede it.
#[inline(always)]
fn add_use(entry: *mut Touched) {
    // SAFETY: as in `touch`.
    unsafe { atomic::add32(&raw mut (*entry).uses, 1) };
}

/// Makes an entry, or sets the time of the one that another CPU made at the same time. `Err`: no room for the owner or in the
/// map, or the map is busy.
#[inline(always)]
fn create(port: u64, bound: &Bound) -> Step {
    if !share::has_room(bound.owner, Table::Touched) {
        return Err(Skip::Lost(Loss::TouchedShare));
    }
    match insert(port, bound.acquired_ns, bound.owner) {
        0 => share::add(bound.owner, Table::Touched, 1),
        EEXIST if touch(port, bound.acquired_ns) != 0 => {}
        // `has_room` may let several CPUs have the last entry at once: the map is full then.
        E2BIG => return Err(Skip::Lost(Loss::TouchedShare)),
        _ => return Err(Skip::Lost(Loss::MapBusy)),
    }
    Ok(())
}

/// Inserts an entry; returns 0, or a negative errno.
#[inline(never)]
fn insert(port: u64, at_ns: u64, owner: u32) -> i32 {
    // `uses` begins at the time, so that it differs, nearly always, from that of the entry that had this memory before.
    let entry = Touched { at_ns, owner, uses: at_ns as u32 };
    TOUCHED.insert(&port, &entry, u64::from(BPF_NOEXIST)).err().unwrap_or(0)
}

/// Removes the entry of a port, if it is as userspace read it. True: it is removed, and not in its owner's share any more (a hook
/// may have made a new one). False: there is none, it has changed, the map refuses, or a hook used the entry while it was
/// removed, so that it is inserted again.
#[inline(always)]
pub(crate) fn remove(port: u64, at_ns: u64, uses: u32) -> bool {
    let Some(entry) = TOUCHED.get_ptr_mut(&port) else { return false };
    // SAFETY: as in `touch`; each is read by one load.
    let read = || unsafe {
        ((&raw const (*entry).at_ns).read_volatile(), (&raw const (*entry).uses).read_volatile())
    };
    // SAFETY: as in `touch`.
    let owner = unsafe { (&raw const (*entry).owner).read_volatile() };
    if read() != (at_ns, uses) || TOUCHED.remove(&port).is_err() {
        return false;
    }
    add_use(entry);
    // One use is this program's own.
    if read().1 != uses.wrapping_add(1) {
        match insert(port, now(), owner) {
            0 => return false,
            // The hook has made an entry, in the share of its own owner.
            EEXIST => {}
            _ => stats::lost(Loss::MapBusy),
        }
    }
    share::add(owner, Table::Touched, u64::MAX);
    true
}
