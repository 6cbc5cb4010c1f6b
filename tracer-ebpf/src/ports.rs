//! bpf_bind, and the ports that the spreader hands out itself.

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::{bpf_bind, bpf_setsockopt, bpf_sk_release, bpf_skc_lookup_tcp},
    macros::map,
    maps::Array,
};
use tracer_common::{
    Addr, Rule, TupleKey,
    spread::{self, Decision},
};

use crate::{
    atomic, ledger,
    spread::{Call, Form},
};

/// Ports that are not to be handed out, one bit each: reserved ones, and those that bind() and listen()
/// took.
#[map]
static TAKEN: Array<[u64; 1024]> = Array::with_max_entries(1, 0);

/// Candidates that are looked at before the kernel is asked.
const TRIES: u32 = 64;

const SOL_SOCKET: i32 = 1;
const SO_REUSEADDR: i32 = 2;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const BPF_F_CURRENT_NETNS: u64 = u64::MAX;

/// Gives the socket this source; port 0: the kernel chooses one for the 4-tuple in connect(). False
/// where the kernel refuses, which leaves the socket as it was, or without a source.
#[inline(always)]
pub(crate) fn bind(call: &Call<'_>, address: &Addr, port: u16) -> bool {
    bind_once(call.raw(), call.form == Form::V4, address, port)
}

/// A function of its own, because each copy of the name would take of the BPF stack.
#[inline(never)]
fn bind_once(ctx: *mut bpf_sock_addr, v4: bool, address: &Addr, port: u16) -> bool {
    let port = u32::from(port.to_be());
    // Words, not structures: zeros in those would be written by a loop.
    if v4 {
        // struct sockaddr_in: family, port; address; padding.
        let address = u32::from_ne_bytes(address.to_v4().unwrap_or([0; 4]));
        let mut name = [AF_INET | port << 16, address, 0, 0];
        // SAFETY: the name is valid for its length.
        return unsafe { bpf_bind(ctx, (&raw mut name).cast(), 16) } == 0;
    }
    // SAFETY: both are 16 bytes of plain data.
    let [a, b, c, d] = unsafe { core::mem::transmute::<Addr, [u32; 4]>(*address) };
    // struct sockaddr_in6: family, port; flow label; address; scope.
    let mut name = [AF_INET6 | port << 16, 0, a, b, c, d, 0];
    // SAFETY: the name is valid for its length.
    unsafe { bpf_bind(ctx, (&raw mut name).cast(), 28) == 0 }
}

/// Binds the address with a free port of the half that the kernel tries last. A port of 0: none was
/// bound, for the reason given.
#[inline(always)]
pub(crate) fn bind_fast(call: &Call<'_>, rule: &Rule, key: &TupleKey) -> (Decision, u16) {
    let address = &key.source;
    let Some(cursor) = ledger::cursor(key) else { return (Decision::NoCandidate, 0) };
    let mut tried = 0;
    while tried < TRIES {
        tried += 1;
        // Each tuple goes round the ports by itself: those that it used longest ago come first, and
        // no two connect() calls ever try the same one at once.
        // SAFETY: see `ledger::cursor`.
        let number = unsafe { atomic::fetch_add32(cursor, 1) };
        let Some(port) = spread::candidate(rule, number) else {
            return (Decision::NoCandidate, 0);
        };
        if is_taken(port) || is_in_use(call, address, port) {
            continue;
        }
        // So that the next one who gets this port, for another destination, may have it too.
        let mut one: u32 = 1;
        // SAFETY: the value is valid for its length.
        let shared = unsafe {
            bpf_setsockopt(call.raw().cast(), SOL_SOCKET, SO_REUSEADDR, (&raw mut one).cast(), 4)
        };
        if shared == 0 && bind(call, address, port) {
            return (Decision::FastPort, port);
        }
        return (Decision::PortRefused, 0);
    }
    (Decision::NoCandidate, 0)
}

#[inline(always)]
fn is_taken(port: u16) -> bool {
    let Some(words) = TAKEN.get(0) else { return true };
    let word = words[usize::from(port >> 6) & 1023];
    word >> (port & 63) & 1 != 0
}

/// Whether the kernel knows a socket with this 4-tuple, TIME_WAIT included, or a listener there.
#[inline(always)]
fn is_in_use(call: &Call<'_>, local: &Addr, port: u16) -> bool {
    let ports = [call.port.to_be(), port.to_be()];
    is_known(call.raw(), call.form == Form::V6, &call.address, local, ports)
}

/// A function of its own: see [`bind_once`]. `ports`: the peer's and ours, network byte order.
#[inline(never)]
fn is_known(
    ctx: *mut bpf_sock_addr,
    v6: bool,
    peer: &Addr,
    local: &Addr,
    [peer_port, port]: [u16; 2],
) -> bool {
    let ports = u32::from(peer_port) | u32::from(port) << 16;
    // The lookup is for a packet that comes in: its source is our destination.
    // SAFETY: all are 16 bytes of plain data.
    let from = unsafe { core::mem::transmute::<Addr, [u32; 4]>(*peer) };
    // SAFETY: as above.
    let to = unsafe { core::mem::transmute::<Addr, [u32; 4]>(*local) };
    // struct bpf_sock_tuple: source, destination, and both ports. The last word of a v4-mapped
    // address is the IPv4 one.
    let lookup = |words: *mut u32, size| {
        // SAFETY: the tuple is valid for this size.
        unsafe { bpf_skc_lookup_tcp(ctx.cast(), words.cast(), size, BPF_F_CURRENT_NETNS, 0) }
    };
    // One call for each size, so that the verifier knows it.
    let found = if v6 {
        let mut words = [from[0], from[1], from[2], from[3], to[0], to[1], to[2], to[3], ports];
        lookup(words.as_mut_ptr(), 36)
    } else {
        lookup([from[3], to[3], ports].as_mut_ptr(), 12)
    };
    if found.is_null() {
        return false;
    }
    // SAFETY: the lookup gave a reference.
    unsafe { bpf_sk_release(found.cast()) };
    true
}
