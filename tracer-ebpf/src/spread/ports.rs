//! Binds a source with bpf_bind, and finds the ports that the spreader binds itself (fast ports).
//!
//! connect() searches the ports of one parity first: the *first parity*, that of the range's first port. The *second
//! parity* is what it searches last.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::{bpf_bind, bpf_loop, bpf_setsockopt, bpf_sk_release, bpf_skc_lookup_tcp},
    macros::map,
    maps::Array,
};
use tracer_common::{
    Addr, Rule, TupleKey,
    spread::{self, Decision, Room, rule_flag},
};

use crate::{
    abi::{AF_INET, AF_INET6},
    atomic, attempt, ledger,
    sock::TimeWait,
    spread::{Call, SockFamily},
};

/// Ports that the spreader must not bind, one bit each: reserved ones, and those that bind() and listen()
/// took.
#[map]
static EXCLUDED_PORTS: Array<[u64; 1024]> = Array::with_max_entries(1, 0);

const SOL_SOCKET: i32 = 1;
const SO_REUSEADDR: i32 = 2;
const BPF_F_CURRENT_NETNS: u64 = u64::MAX;

/// Binds the socket to this source (the unspecified address: to none). `port`: host byte order; 0: connect() chooses one for the
/// 4-tuple. False: the kernel refused, which leaves the socket as it was, or without a source.
#[inline(always)]
pub(crate) fn bind(call: &Call<'_>, address: &Addr, port: u16) -> bool {
    bind_once(call.raw(), call.form == SockFamily::V4, address.words(), port)
}

/// Binds the socket to this source without a port, as [`bind`] does, but inlined: for the case of nearly every connect(). False:
/// the kernel refused.
#[inline(always)]
pub(crate) fn bind_address(call: &Call<'_>, address: &Addr) -> bool {
    bind_name(call.raw(), call.form == SockFamily::V4, address.words(), 0)
}

/// Not inlined, because each copy of the sockaddr would take its part of the BPF stack. It takes no
/// references: the verifier of Linux 6.18 tracks a caller's stack wrongly ("verifier bug").
#[inline(never)]
fn bind_once(ctx: *mut bpf_sock_addr, v4: bool, address: [u64; 2], port: u16) -> bool {
    bind_name(ctx, v4, address, port)
}

#[inline(always)]
fn bind_name(ctx: *mut bpf_sock_addr, v4: bool, address: [u64; 2], port: u16) -> bool {
    let port = u32::from(port.to_be());
    let last = (address[1] >> 32) as u32;
    // Words, not structures, whose zeros LLVM would write with a loop.
    if v4 {
        // struct sockaddr_in: family, port; address; padding. The last word of a v4-mapped address is
        // the IPv4 address, and that of the unspecified address is 0, which is 0.0.0.0.
        let mut name = [u32::from(AF_INET) | port << 16, last, 0, 0];
        // SAFETY: the name is valid for its length.
        return unsafe { bpf_bind(ctx, (&raw mut name).cast(), 16) } == 0;
    }
    let [first, second] = [address[0] as u32, (address[0] >> 32) as u32];
    // struct sockaddr_in6: family, port; flow label; address; scope.
    let mut name = [u32::from(AF_INET6) | port << 16, 0, first, second, address[1] as u32, last, 0];
    // SAFETY: the name is valid for its length.
    unsafe { bpf_bind(ctx, (&raw mut name).cast(), 28) == 0 }
}

/// Searches for a free port for `key`, whose source is the chosen address, and binds it with that address if it is of the second
/// parity and the rule allows that. Returns [`Decision::FastPort`] and the port, host byte order, or 0 and why no port was bound;
/// [`Decision::LeastUsed`]: connect() finds a port itself.
#[inline(always)]
pub(crate) fn find(
    call: &Call<'_>,
    rule: &Rule,
    key: &TupleKey,
    room: &Room,
    wanted: spread::Search,
) -> (Decision, u16) {
    let port = search(call, rule, key, wanted);
    if port == 0 {
        return (Decision::NoCandidate, 0);
    }
    if (port ^ rule.other_low) & 1 != 0 {
        // Of the first parity: connect() finds it, too, if no bind() took it meanwhile. If the spreader bound it, no
        // connect() at another address could find it.
        let sure = room.unknown == 0;
        return (if sure { Decision::LeastUsed } else { Decision::NoCandidate }, 0);
    }
    if rule.flags & rule_flag::FAST_PORTS == 0 {
        // connect() finds it, too, if no bind() took it meanwhile and no earlier agent of this rule bound it at another address
        // (`room.fast`).
        let sure = room.unknown == 0 && room.fast == 0;
        return (if sure { Decision::LeastUsed } else { Decision::NoCandidate }, 0);
    }
    if bind_shared(call, &key.source, port) {
        (Decision::FastPort, port)
    } else {
        (Decision::PortRefused, 0)
    }
}

/// Searches for a port that no socket holds towards the destination, of either parity, or one of the first parity whose
/// TIME_WAIT the kernel's search may reuse; 0: none of the candidates is, or the tuple has no entry in the ledger.
#[inline(always)]
fn search(call: &Call<'_>, rule: &Rule, key: &TupleKey, wanted: spread::Search) -> u16 {
    let Some(cursor) = ledger::cursor(key) else { return 0 };
    let mut search = Search {
        ctx: call.raw(),
        rule,
        cursor,
        key,
        v6: u32::from(call.form == SockFamily::V6),
        others: wanted.others,
        reuse: call.pool(rule).reuse,
        found: 0,
    };
    // SAFETY: the callback gets the pointer that is passed here, as the type that it expects, and returns.
    unsafe { bpf_loop(wanted.tries, try_next as *mut c_void, (&raw mut search).cast(), 0) };
    // SAFETY: a field of `search`. Volatile, because the callback writes it through the pointer, unseen by the compiler.
    unsafe { (&raw const search.found).read_volatile() as u16 }
}

/// Binds an address and a port with SO_REUSEADDR, so that the spreader can bind the port again for a connect() to another
/// destination. False: the kernel refused.
#[inline(always)]
fn bind_shared(call: &Call<'_>, address: &Addr, port: u16) -> bool {
    // Ends an attempt of an earlier bind() of this thread, whose end no hook saw: else the hook of the port search in
    // bpf_bind would take the port for one that the application bound.
    attempt::end();
    let mut one: u32 = 1;
    // SAFETY: the value is valid for its length.
    let shared = unsafe {
        bpf_setsockopt(call.raw().cast(), SOL_SOCKET, SO_REUSEADDR, (&raw mut one).cast(), 4)
    };
    shared == 0 && bind(call, address, port)
}

/// A search for a free port, for [`try_next`].
#[repr(C)]
struct Search {
    ctx: *mut bpf_sock_addr,
    rule: *const Rule,
    cursor: *mut u32,
    key: *const TupleKey,
    v6: u32,
    /// How many rounds try candidates of the second parity. They come first; the rest try those of the first parity.
    others: u32,
    /// 1: the kernel reuses TIME_WAITs; else 0.
    reuse: u32,
    /// The port that was found; 0: none yet.
    found: u32,
}

/// Checks the next candidate. Returns 1 to end the search (the port is found, or the range has none), else 0.
unsafe extern "C" fn try_next(round: u32, search: *mut Search) -> i64 {
    // SAFETY: `find` has it on its stack, and does not use it while bpf_loop runs.
    let Search { ctx, rule, cursor, key, v6, others, reuse, .. } = unsafe { &*search };
    // Each tuple has its own cursor over the candidates: those that it used longest ago come first, and no two
    // connect() calls try the same candidate at once.
    // SAFETY: see `ledger::cursor`.
    let number = unsafe { atomic::fetch_add32(*cursor, 1) };
    // SAFETY: a value of RULES, which is never freed while the program is loaded.
    let rule = unsafe { &**rule };
    let Some(port) = spread::candidate(rule, number) else { return 1 };
    // Just below each port of the second parity is one of the first.
    let own = round >= *others;
    let port = port.wrapping_sub(u16::from(own));
    if is_taken(port) {
        return 0;
    }
    // SAFETY: the caller of `find` has the key on its stack.
    match known(*ctx, *v6 != 0, unsafe { &**key }, port, rule.reuse_delay_ms) {
        NOBODY => {}
        REUSABLE if own && *reuse != 0 => {}
        _ => return 0,
    }
    // SAFETY: as above.
    unsafe { (*search).found = u32::from(port) };
    1
}

/// Whether EXCLUDED_PORTS has the port.
#[inline(always)]
fn is_taken(port: u16) -> bool {
    let Some(words) = EXCLUDED_PORTS.get(0) else { return true };
    let word = words[usize::from(port >> 6) & 1023];
    word >> (port & 63) & 1 != 0
}

/// What [`known`] returns, in this order: no socket; a socket; a TIME_WAIT that the kernel's port search may reuse.
const NOBODY: u32 = 0;
const SOMEBODY: u32 = 1;
const REUSABLE: u32 = 2;

/// Looks up a socket with this 4-tuple, TIME_WAIT included, or a listener on the port: [`NOBODY`], [`SOMEBODY`] or
/// [`REUSABLE`]. `delay_ms`: see [`TimeWait::is_reusable`].
#[inline(always)]
fn known(ctx: *mut bpf_sock_addr, v6: bool, key: &TupleKey, port: u16, delay_ms: u32) -> u32 {
    let ports = u32::from(key.destination_port.to_be()) | u32::from(port.to_be()) << 16;
    let [source, last_source] = key.source.words().map(halves);
    let [peer, last_peer] = key.destination.words().map(halves);
    // struct bpf_sock_tuple: source, destination, and both ports. The lookup is for an incoming
    // packet: its source is the destination of the connect().
    let lookup = |words: *mut u32, size| {
        // SAFETY: the tuple is valid for this size.
        unsafe { bpf_skc_lookup_tcp(ctx.cast(), words.cast(), size, BPF_F_CURRENT_NETNS, 0) }
    };
    // One call for each size, so that the verifier knows it. An IPv4 address is the last word of a v4-mapped one.
    let mut words = [
        peer.0,
        peer.1,
        last_peer.0,
        last_peer.1,
        source.0,
        source.1,
        last_source.0,
        last_source.1,
        ports,
    ];
    let found = if v6 {
        lookup(words.as_mut_ptr(), 36)
    } else {
        [words[0], words[1], words[2]] = [last_peer.1, last_source.1, ports];
        lookup(words.as_mut_ptr(), 12)
    };
    if found.is_null() {
        return NOBODY;
    }
    // Read before the reference to the socket is released.
    let reusable = TimeWait::new(found).is_some_and(|it| it.is_reusable(delay_ms));
    // SAFETY: the lookup returned a reference, which this releases.
    unsafe { bpf_sk_release(found.cast()) };
    if reusable { REUSABLE } else { SOMEBODY }
}

#[inline(always)]
fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}
