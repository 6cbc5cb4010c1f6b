//! ATTEMPTS: the connect() or bind() that a thread is inside of.

use aya_ebpf::{
    helpers::{bpf_get_current_task, bpf_get_prandom_u32, bpf_ktime_get_ns},
    macros::map,
    maps::{LruHashMap, PerCpuArray},
};
use tracer_common::{Addr, Attempt, Kind, Loss, TupleKey, conn_flag};

use crate::{
    filter, share,
    skip::{Skip, Step},
    who,
};

/// By address of the `task_struct`: the one name of a thread that every program type can ask for
/// (`bpf_get_current_task`, also in sock_ops programs, which cannot ask for a pid).
///
/// An entry is removed as soon as its call has nothing more to say ([`end`]): else the calls of many threads that
/// have returned would take the place of one that has not, and whose failure would then have no caller and no duration.
/// LRU, because the end of some calls is not seen (on the tracepoint backend, sendto() with `MSG_FASTOPEN` and `io_uring`
/// where the connect() fails; hooks that the kernel passes over): such an entry is written over by the thread's next call, or makes way.
/// No count depends on an entry staying.
#[map]
static ATTEMPTS: LruHashMap<u64, Attempt> = LruHashMap::with_max_entries(16_384, 0);

/// What the spreader's hook leaves behind, by CPU.
#[map]
static LAST_SPREAD: PerCpuArray<LastSpread> = PerCpuArray::with_max_entries(1, 0);

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct LastSpread {
    /// The socket that was given a source last. A call that is preempted between the spreader's hook and
    /// the ledger's may find another one's here, and is not counted as spread then.
    sk: u64,
    /// State of [`LastSpread::random`].
    state: u64,
}

/// Which call an attempt is.
#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Call {
    Connect = Kind::ConnectFailed as u8,
    Bind = Kind::BindFailed as u8,
    /// A port search of the kernel's own accord: listen() on a socket without a port.
    Listen = Kind::PortAllocated as u8,
}

#[inline(always)]
fn task() -> u64 {
    // SAFETY: takes no argument; the address is only used as a name.
    unsafe { bpf_get_current_task() }
}

#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: takes no argument.
    unsafe { bpf_ktime_get_ns() }
}

/// What a hook knows when a call begins.
pub(crate) struct CallInfo {
    pub(crate) call: Call,
    pub(crate) cookie: u64,
    pub(crate) sk: u64,
    pub(crate) netns: u32,
    /// Where bind() wants to be, or connect() comes from (unspecified: not chosen yet).
    pub(crate) source: Addr,
    pub(crate) destination: Addr,
    pub(crate) destination_port: u16,
    /// The local port that bind() asks for; 0: any.
    pub(crate) port: u16,
}

/// Notes that the current thread begins a call. `ANCESTORS`: see [`filter::passes_caller`].
#[inline(always)]
pub(crate) fn begin<const ANCESTORS: bool>(begin: &CallInfo) -> Step {
    let who = who::current();
    let watched = filter::passes_caller::<ANCESTORS>(&who, begin.netns);
    let attempt = Attempt {
        tuple: TupleKey {
            source: begin.source,
            destination: begin.destination,
            netns: begin.netns,
            destination_port: begin.destination_port,
            zero: 0,
        },
        who,
        cookie: begin.cookie,
        sk: begin.sk,
        begun_ns: now(),
        search_ns: 0,
        flags: if watched { conn_flag::WATCHED } else { 0 },
        bound_port: begin.port,
        call: begin.call as u8,
        zero: 0,
        owner: share::owner(begin.netns, who::user()),
        zero_too: 0,
    };
    let task = task();
    if let Some(slot) = ATTEMPTS.get_ptr_mut(task) {
        // SAFETY: a preallocated element stays mapped, and this one is this thread's. If it is evicted between
        // the lookup and here, it may be another thread's already, whose attempt is overwritten. `connecting`
        // notices by the cookie. `connect::returned` does not ask for one: it may report that thread's failure with
        // this one's ends. No port is counted twice by it: the ledger counts an entry only once.
        unsafe { slot.write(attempt) };
        return Ok(());
    }
    ATTEMPTS.insert(task, attempt, 0).map_err(|_| Skip::Lost(Loss::AttemptsFull))
}

/// The current thread's call has nothing more to say: its entry makes room for others.
#[inline(always)]
pub(crate) fn end() {
    // There may be none any more: the entry made way already, or two hooks tell the same.
    _ = ATTEMPTS.remove(task());
}

/// The call that the current thread is inside of.
#[inline(always)]
pub(crate) fn current(call: Call) -> Option<&'static mut Attempt> {
    // SAFETY: a preallocated element stays mapped. Only this thread uses its entry, but for an eviction: see `begin`.
    let attempt = unsafe { &mut *ATTEMPTS.get_ptr_mut(task())? };
    (attempt.call == call as u8).then_some(attempt)
}

/// The connect() that the current thread is inside of, if it is for this socket.
#[inline(always)]
pub(crate) fn connecting(cookie: u64) -> Option<&'static mut Attempt> {
    current(Call::Connect).filter(|attempt| attempt.cookie == cookie && cookie != 0)
}

/// The bind() of this socket that the current thread is inside of. (The end of some is not seen: a rule's session has no
/// hook for it, and `mptcp_bind` goes past those of others from Linux 6.6 on. They stay until the thread's next call.)
#[inline(always)]
pub(crate) fn binding(cookie: u64) -> Option<&'static mut Attempt> {
    current(Call::Bind).filter(|attempt| attempt.cookie == cookie && cookie != 0)
}

/// Knuth's constants of a linear congruential generator (MMIX).
const FACTOR: u64 = 6_364_136_223_846_793_005;
const INCREMENT: u64 = 1_442_695_040_888_963_407;

impl LastSpread {
    #[inline(always)]
    pub(crate) fn here() -> Option<*mut Self> {
        LAST_SPREAD.get_ptr_mut(0)
    }

    /// Leaves word for the ledger's hook, which runs next in the same call, that the spreader gave this
    /// socket its source.
    #[inline(always)]
    pub(crate) fn give(this: *mut Self, sk: u64) {
        // SAFETY: an array map's values are never freed while the program is loaded.
        unsafe { (&raw mut (*this).sk).write_volatile(sk) };
    }

    /// Bits to draw addresses by: nobody gains by guessing them, and they cost no call. Two calls that
    /// interrupt each other may get the same ones.
    #[inline(always)]
    pub(crate) fn random(this: *mut Self) -> u32 {
        // SAFETY: as in `give`.
        unsafe {
            let state = &raw mut (*this).state;
            let mut next = state.read_volatile();
            if next == 0 {
                // So that CPUs differ.
                next = u64::from(bpf_get_prandom_u32());
            }
            next = next.wrapping_mul(FACTOR).wrapping_add(INCREMENT);
            state.write_volatile(next);
            (next >> 32) as u32
        }
    }
}

/// Whether the spreader gave this socket its source in the call that the thread is inside of. True once.
#[inline(always)]
pub(crate) fn was_given(sk: u64) -> bool {
    let Some(given) = LastSpread::here() else { return false };
    // SAFETY: as in `LastSpread::give`.
    unsafe {
        let newest = &raw mut (*given).sk;
        let same = newest.read_volatile() == sk;
        if same {
            newest.write_volatile(0);
        }
        same
    }
}
