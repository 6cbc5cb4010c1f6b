//! bpf_bind, and the ports that the spreader hands out itself.

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
    atomic, attempt, ledger,
    sock::TimeWait,
    spread::{Call, SockFamily},
};

/// Ports that are not to be handed out, one bit each: reserved ones, and those that bind() and listen()
/// took.
#[map]
static EXCLUDED_PORTS: Array<[u64; 1024]> = Array::with_max_entries(1, 0);

const SOL_SOCKET: i32 = 1;
const SO_REUSEADDR: i32 = 2;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const BPF_F_CURRENT_NETNS: u64 = u64::MAX;

/// Gives the socket this source; port 0: the kernel chooses one for the 4-tuple in connect(). False
/// where the kernel refuses, which leaves the socket as it was, or without a source.
#[inline(always)]
pub(crate) fn bind(call: &Call<'_>, address: &Addr, port: u16) -> bool {
    bind_once(call.raw(), call.form == SockFamily::V4, address.words(), port)
}

/// As [`bind`], without a port and without a call: for what nearly every connect() gets.
#[inline(always)]
pub(crate) fn bind_address(call: &Call<'_>, address: &Addr) -> bool {
    bind_name(call.raw(), call.form == SockFamily::V4, address.words(), 0)
}

/// A function of its own, because each copy of the name would take of the BPF stack. It takes no
/// references: Linux 6.18 trips over its own account of a caller's stack ("verifier bug").
#[inline(never)]
fn bind_once(ctx: *mut bpf_sock_addr, v4: bool, address: [u64; 2], port: u16) -> bool {
    bind_name(ctx, v4, address, port)
}

#[inline(always)]
fn bind_name(ctx: *mut bpf_sock_addr, v4: bool, address: [u64; 2], port: u16) -> bool {
    let port = u32::from(port.to_be());
    let last = (address[1] >> 32) as u32;
    // Words, not structures: zeros in those would be written by a loop.
    if v4 {
        // struct sockaddr_in: family, port; address; padding. The last word of a v4-mapped address is
        // the IPv4 one, and of the unspecified address 0, too.
        let mut name = [AF_INET | port << 16, last, 0, 0];
        // SAFETY: the name is valid for its length.
        return unsafe { bpf_bind(ctx, (&raw mut name).cast(), 16) } == 0;
    }
    let [first, second] = [address[0] as u32, (address[0] >> 32) as u32];
    // struct sockaddr_in6: family, port; flow label; address; scope.
    let mut name = [AF_INET6 | port << 16, 0, first, second, address[1] as u32, last, 0];
    // SAFETY: the name is valid for its length.
    unsafe { bpf_bind(ctx, (&raw mut name).cast(), 28) == 0 }
}

/// Looks for a port: one of the half that the kernel tries last is bound with the address, where that is
/// wanted. A port of 0: none was bound, for the reason given; `LeastUsed`: there is one that the kernel finds.
#[inline(always)]
pub(crate) fn find(
    call: &Call<'_>,
    rule: &Rule,
    key: &TupleKey,
    room: &Room,
    wanted: spread::Search,
) -> (Decision, u16) {
    let side = if call.form == SockFamily::V6 { &rule.v6 } else { &rule.v4 };
    let Some(cursor) = ledger::cursor(key) else { return (Decision::NoCandidate, 0) };
    let mut search = Search {
        ctx: call.raw(),
        rule,
        cursor,
        key,
        v6: u32::from(call.form == SockFamily::V6),
        others: wanted.others,
        reuse: side.reuse,
        found: 0,
    };
    // SAFETY: the callback takes what it is given here, and ends.
    unsafe { bpf_loop(wanted.tries, try_next as *mut c_void, (&raw mut search).cast(), 0) };
    // SAFETY: the callback writes it behind the compiler's back.
    let port = unsafe { (&raw const search.found).read_volatile() } as u16;
    if port == 0 {
        return (Decision::NoCandidate, 0);
    }
    if (port ^ rule.other_low) & 1 != 0 {
        // The kernel finds it, too, if nobody has bound it meanwhile. A port that is bound would be nobody's
        // for other addresses.
        let sure = room.unknown == 0;
        return (if sure { Decision::LeastUsed } else { Decision::NoCandidate }, 0);
    }
    if rule.flags & rule_flag::FAST_PORTS == 0 {
        // As above; it may be one that an earlier agent of this rule has handed out at another address.
        let sure = room.unknown == 0 && room.fast == 0;
        return (if sure { Decision::LeastUsed } else { Decision::NoCandidate }, 0);
    }
    // An earlier bind() of this thread is over, whether its end was seen or not: the hook of the kernel's port search would
    // take the port for one of the application's.
    attempt::end();
    // So that the next one who gets this port, for another destination, may have it too.
    let mut one: u32 = 1;
    // SAFETY: the value is valid for its length.
    let shared = unsafe {
        bpf_setsockopt(call.raw().cast(), SOL_SOCKET, SO_REUSEADDR, (&raw mut one).cast(), 4)
    };
    if shared == 0 && bind(call, &key.source, port) {
        return (Decision::FastPort, port);
    }
    (Decision::PortRefused, 0)
}

/// A search for a free port, for [`try_next`].
#[repr(C)]
struct Search {
    ctx: *mut bpf_sock_addr,
    rule: *const Rule,
    cursor: *mut u32,
    key: *const TupleKey,
    v6: u32,
    /// Rounds in which the half is searched that the kernel tries last.
    others: u32,
    /// 1: the kernel takes over TIME_WAITs.
    reuse: u32,
    /// 0: none yet.
    found: u32,
}

/// Looks at the next candidate. 1 ends the search.
unsafe extern "C" fn try_next(round: u32, search: *mut Search) -> i64 {
    // SAFETY: `find` has it on its stack, and does not touch it meanwhile.
    let Search { ctx, rule, cursor, key, v6, others, reuse, .. } = unsafe { &*search };
    // Each tuple goes round the ports by itself: those that it used longest ago come first, and no two
    // connect() calls ever try the same one at once.
    // SAFETY: see `ledger::cursor`.
    let number = unsafe { atomic::fetch_add32(*cursor, 1) };
    // SAFETY: the value of the map of rules, which is never freed.
    let Some(port) = spread::candidate(unsafe { &**rule }, number) else { return 1 };
    // The halves alternate: below each port of one is one of the other.
    let own = round >= *others;
    let port = port.wrapping_sub(u16::from(own));
    if is_taken(port) {
        return 0;
    }
    // SAFETY: `find`'s caller has the key on its stack.
    match known(*ctx, *v6 != 0, unsafe { &**key }, port) {
        NOBODY => {}
        REUSABLE if own && *reuse != 0 => {}
        _ => return 0,
    }
    // SAFETY: as above.
    unsafe { (*search).found = u32::from(port) };
    1
}

#[inline(always)]
fn is_taken(port: u16) -> bool {
    let Some(words) = EXCLUDED_PORTS.get(0) else { return true };
    let word = words[usize::from(port >> 6) & 1023];
    word >> (port & 63) & 1 != 0
}

/// What [`known`] finds: no socket; one; a TIME_WAIT that the kernel's search may take over.
const NOBODY: u32 = 0;
const SOMEBODY: u32 = 1;
const REUSABLE: u32 = 2;

/// Whether the kernel knows a socket with this 4-tuple, TIME_WAIT included, or a listener there.
#[inline(always)]
fn known(ctx: *mut bpf_sock_addr, v6: bool, key: &TupleKey, port: u16) -> u32 {
    let ports = u32::from(key.destination_port.to_be()) | u32::from(port.to_be()) << 16;
    let [source, last_source] = key.source.words().map(halves);
    let [peer, last_peer] = key.destination.words().map(halves);
    // struct bpf_sock_tuple: source, destination, and both ports. The lookup is for a packet that
    // comes in: its source is our destination.
    let lookup = |words: *mut u32, size| {
        // SAFETY: the tuple is valid for this size.
        unsafe { bpf_skc_lookup_tcp(ctx.cast(), words.cast(), size, BPF_F_CURRENT_NETNS, 0) }
    };
    // One call for each size, so that the verifier knows it. Of an IPv4 address, the last word is all.
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
    // Before the socket is given back.
    let reusable = TimeWait::new(found).is_some_and(TimeWait::is_reusable);
    // SAFETY: the lookup gave a reference.
    unsafe { bpf_sk_release(found.cast()) };
    if reusable { REUSABLE } else { SOMEBODY }
}

#[inline(always)]
fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}
