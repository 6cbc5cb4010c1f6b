//! ATTEMPTS: the connect(), bind() or listen() call that each thread is executing. LAST_SPREAD: for each CPU, which socket's
//! source the spreader bound last, and the state of its random number generator.

use aya_ebpf::{
    helpers::{bpf_get_current_task, bpf_get_prandom_u32, bpf_get_retval, bpf_ktime_get_ns},
    macros::map,
    maps::{LruHashMap, PerCpuArray},
};
use tracer_common::{Addr, Attempt, Kind, Loss, TupleKey, conn_flag};

use crate::{
    filter,
    offsets::{FAIL_FAST, SPREADING},
    share,
    skip::{Skip, Step},
    who,
};

/// The key is the address of the thread's `task_struct`: the only identifier of a thread that every program type can get
/// (`bpf_get_current_task`, also in sock_ops programs, which cannot get a pid).
///
/// A hook removes the entry once nothing more is recorded about the call ([`end`]): else entries of calls that returned
/// would evict the entry of a running call, and if that one fails, its caller and its duration would be unknown.
/// LRU, because no hook sees the end of some calls (on the tracepoint backend, a failing connect() of sendto() with
/// `MSG_FASTOPEN` or of `io_uring`; on all, a missed hook, and the calls that [`binding`] names): the thread's next call
/// overwrites such an entry, or it is evicted.
/// No count depends on an entry staying.
#[map]
static ATTEMPTS: LruHashMap<u64, Attempt> = LruHashMap::with_max_entries(16_384, 0);

/// What the spreader's hook passes on to the ledger's hook in the same call, and the spreader's random numbers. Per CPU.
#[map]
static LAST_SPREAD: PerCpuArray<LastSpread> = PerCpuArray::with_max_entries(1, 0);

/// One CPU's value of the map LAST_SPREAD: the socket whose source the spreader bound last there, and a random number generator.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct LastSpread {
    /// Kernel address of the socket that the spreader bound last; 0: none, or the ledger's hook has read it. A call that is
    /// preempted between the spreader's hook and the ledger's may find another call's socket here, and is then not counted as
    /// spread.
    sk: u64,
    /// State of the generator [`LastSpread::random`]; 0: not seeded yet.
    state: u64,
}

/// The system call of an attempt; its value is that of [`Attempt::call`].
#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Call {
    Connect = Kind::ConnectFailed as u8,
    Bind = Kind::BindFailed as u8,
    /// listen() on a socket without a port: the kernel searches for one.
    Listen = Kind::PortAllocated as u8,
}

#[inline(always)]
fn task() -> u64 {
    // SAFETY: takes no argument; the address is only used as an identifier.
    unsafe { bpf_get_current_task() }
}

/// CLOCK_MONOTONIC, ns.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: takes no argument.
    unsafe { bpf_ktime_get_ns() }
}

/// What the hook at the begin of a call passes to [`begin`]. Ports are in host byte order.
pub(crate) struct CallInfo {
    pub(crate) call: Call,
    /// The socket's cookie; 0: it has none (a listener).
    pub(crate) cookie: u64,
    /// Kernel address of the `struct sock`.
    pub(crate) sk: u64,
    /// Inode number of the socket's network namespace.
    pub(crate) netns: u32,
    /// The address that bind() asks for, or that the socket of a listen() or connect() has (unspecified: none yet).
    pub(crate) source: Addr,
    /// Of a connect(); else unspecified.
    pub(crate) destination: Addr,
    /// Of a connect(); else 0.
    pub(crate) destination_port: u16,
    /// The local port that bind() or listen() asks for (0: any), or that the socket of a connect() has (0: none).
    pub(crate) port: u16,
}

/// Records that the current thread begins a call, in place of its earlier call if that is still recorded, with the caller, the
/// time and whether the caller passes the filter. Only for process context. `Err`: the map refuses a new entry, which is a loss.
/// `ANCESTORS`: see [`filter::passes_caller`].
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
        // the lookup and here, it may belong to another thread, whose attempt is then overwritten. `connecting`
        // detects that by the cookie. `connect::returned` compares no cookie: it may report that thread's failure with
        // this call's addresses. No port is counted twice: the ledger counts an entry only once.
        unsafe { slot.write(attempt) };
        return Ok(());
    }
    ATTEMPTS.insert(task, attempt, 0).map_err(|_| Skip::Lost(Loss::AttemptsFull))
}

/// Removes the current thread's entry, if it has one: nothing more is recorded about its call.
#[inline(always)]
pub(crate) fn end() {
    // There may be no entry: it was evicted, or another hook ended the call already.
    _ = ATTEMPTS.remove(task());
}

/// The current thread's attempt, if it is of this call; `None`: there is none, or it is of another call.
#[inline(always)]
pub(crate) fn current(call: Call) -> Option<&'static mut Attempt> {
    // SAFETY: a preallocated element stays mapped. Only this thread uses its entry, except after an eviction: see `begin`.
    let attempt = unsafe { &mut *ATTEMPTS.get_ptr_mut(task())? };
    (attempt.call == call as u8).then_some(attempt)
}

/// The current thread's connect(), if it is for the socket with this cookie; `None` also if the cookie is 0.
#[inline(always)]
pub(crate) fn connecting(cookie: u64) -> Option<&'static mut Attempt> {
    current(Call::Connect).filter(|attempt| attempt.cookie == cookie && cookie != 0)
}

/// The current thread's bind(), if it is for the socket with this cookie; `None` also if the cookie is 0. (No hook sees the end
/// of some bind() calls: the programs that `tracer spread` attaches include none at the end of bind(), and from Linux 6.6 on
/// `mptcp_bind` does not call `inet_bind`, where the programs of other commands are. Such an entry stays until the thread's next
/// call.)
#[inline(always)]
pub(crate) fn binding(cookie: u64) -> Option<&'static mut Attempt> {
    current(Call::Bind).filter(|attempt| attempt.cookie == cookie && cookie != 0)
}

/// Knuth's constants of a linear congruential generator (MMIX).
const FACTOR: u64 = 6_364_136_223_846_793_005;
const INCREMENT: u64 = 1_442_695_040_888_963_407;

impl LastSpread {
    /// The value on this CPU. Never `None`, but the verifier requires a check of each lookup.
    #[inline(always)]
    pub(crate) fn here() -> Option<*mut Self> {
        LAST_SPREAD.get_ptr_mut(0)
    }

    /// Records that the spreader bound the source of the socket at kernel address `sk`, for the ledger's hook, which runs next in
    /// the same call. `this`: from [`Self::here`].
    #[inline(always)]
    pub(crate) fn give(this: *mut Self, sk: u64) {
        // SAFETY: an array map's values are never freed while the program is loaded.
        unsafe { (&raw mut (*this).sk).write_volatile(sk) };
    }

    /// 32 random bits to draw addresses with. They need not be unpredictable, so only the first ones on each CPU are from a
    /// helper, and the rest are computed. Two calls of which one interrupts the other may get the same bits. `this`: from
    /// [`Self::here`].
    #[inline(always)]
    pub(crate) fn random(this: *mut Self) -> u32 {
        // SAFETY: as in `give`.
        unsafe {
            let state = &raw mut (*this).state;
            let mut next = state.read_volatile();
            if next == 0 {
                // Seeded at random, so that CPUs differ.
                next = u64::from(bpf_get_prandom_u32());
            }
            next = next.wrapping_mul(FACTOR).wrapping_add(INCREMENT);
            state.write_volatile(next);
            (next >> 32) as u32
        }
    }
}

/// Marks the call that has just begun with [`conn_flag::SPREAD`], if it is a connect() whose source the spreader bound: the
/// spreader's hook ran before, in the same call. `Err`: it is, but its attempt was evicted.
#[inline(always)]
pub(crate) fn mark_spread(begin: &CallInfo) -> Step {
    if SPREADING.load() != 0 && begin.call == Call::Connect && was_given(begin.sk) {
        connecting(begin.cookie).ok_or(Skip::NotOurs)?.flags |= conn_flag::SPREAD;
    }
    Ok(())
}

/// Marks the call that has just begun with [`conn_flag::DENIED`], if it is a connect() that a cgroup program has denied before
/// this one in the same call: programs of a process's own cgroup run before those of the root, where the ledger's are. Nothing
/// on kernels where a program cannot read that (FAIL_FAST is 0).
#[inline(always)]
pub(crate) fn mark_denied(begin: &CallInfo) {
    // On a kernel without the helper, the verifier prunes this branch (FAIL_FAST is 0).
    if FAIL_FAST.load() == 0 || begin.call != Call::Connect {
        return;
    }
    // SAFETY: takes no argument.
    let denied = unsafe { bpf_get_retval() } != 0;
    if denied && let Some(attempt) = connecting(begin.cookie) {
        attempt.flags |= conn_flag::DENIED;
    }
}

/// Whether the spreader bound this socket's source in the current thread's call. True only once for each call; false also if
/// another call of the spreader ran on this CPU in between.
#[inline(always)]
fn was_given(sk: u64) -> bool {
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
