//! The spreader: which source address, and past half of the range which port, a connect() gets.
//!
//! Law: whatever is missing, full or refused, the connect() goes on as it would without us.

mod tell;

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::{bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_set_retval},
    macros::map,
    maps::{Array, HashMap, PerCpuArray},
    programs::SockAddrContext,
};
use tracer_common::{
    Addr, Rule, TupleKey,
    spread::{self, Decision, Side, rule_flag},
};

use crate::{
    atomic,
    attempt::{self, now},
    ledger, ports,
    skip::Step,
    sock::{Address, Sock, address, is_given, is_kernel_socket, is_transparent},
};

/// The rule, at key 0. A hash, because replacing a value of one is atomic: a hook sees the old rule or
/// the new one.
#[map]
static RULE: HashMap<u32, Rule> = HashMap::with_max_entries(1, 0);

/// CLOCK_MONOTONIC until which the agent answers for the rule, ns.
#[map]
static LEASE: Array<u64> = Array::with_max_entries(1, 0);

/// How often each [`Decision`] was taken, by CPU.
#[map]
static DECIDED: PerCpuArray<u64> = PerCpuArray::with_max_entries(Decision::COUNT as u32, 0);

const EADDRNOTAVAIL: i32 = 99;
const ALLOW: i32 = 1;
const DENY: i32 = 0;
const SOCK_STREAM: u32 = 1;
const IPPROTO_TCP: u32 = 6;

/// How an address is spelled to the kernel.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Form {
    /// In an AF_INET socket.
    V4,
    /// IPv4 in an AF_INET6 socket.
    Mapped,
    V6,
}

/// Where a call wants to go.
pub(crate) struct Call<'a> {
    pub(crate) ctx: &'a SockAddrContext,
    pub(crate) form: Form,
    /// The destination of a connect(), the source of a bind().
    pub(crate) address: Addr,
    /// Host byte order.
    pub(crate) port: u16,
}

impl Call<'_> {
    #[inline(always)]
    pub(crate) fn raw(&self) -> *mut bpf_sock_addr {
        self.ctx.sock_addr
    }

    #[inline(always)]
    fn sk(&self) -> *mut bpf_sock {
        // SAFETY: the context is valid for the program's run, and has a socket.
        unsafe { (*self.raw()).__bindgen_anon_1.sk }
    }

    #[inline(always)]
    fn is_tcp(&self) -> bool {
        // SAFETY: as in `sk`.
        unsafe { (*self.raw()).type_ == SOCK_STREAM && (*self.raw()).protocol == IPPROTO_TCP }
    }

    /// The source that the socket has; unspecified: none.
    #[inline(always)]
    fn source(&self) -> Addr {
        let sk = self.sk();
        // SAFETY: as in `sk`; the fields must be read in pieces of four bytes.
        unsafe {
            if self.form == Form::V4 {
                let ip = (&raw const (*sk).src_ip4).read_volatile();
                return if ip == 0 { Addr::UNSPECIFIED } else { Addr::v4(ip.to_ne_bytes()) };
            }
            let ip = (&raw const (*sk).src_ip6).cast::<u32>();
            let words = [
                ip.read_volatile(),
                ip.add(1).read_volatile(),
                ip.add(2).read_volatile(),
                ip.add(3).read_volatile(),
            ];
            core::mem::transmute::<[u32; 4], Addr>(words)
        }
    }

    #[inline(always)]
    fn bound_port(&self) -> u32 {
        // SAFETY: as in `sk`.
        unsafe { (&raw const (*self.sk()).src_port).read_volatile() }
    }

    #[inline(always)]
    fn device(&self) -> u32 {
        // SAFETY: as in `sk`.
        unsafe { (&raw const (*self.sk()).bound_dev_if).read_volatile() }
    }

    /// Whether the socket is in the rule's network namespace.
    #[inline(always)]
    fn is_in(&self, rule: &Rule) -> Step<bool> {
        if rule.netns_cookie != 0 {
            // SAFETY: the helper only reads the context's socket.
            return Ok(unsafe { bpf_get_netns_cookie(self.raw().cast()) } == rule.netns_cookie);
        }
        Ok(Sock::read(self.sk() as *const u8)?.netns()? == rule.netns)
    }
}

#[inline(always)]
fn rule() -> Option<&'static Rule> {
    // SAFETY: values are replaced, never written in place, and stay readable for the program's run.
    unsafe { RULE.get(&0) }
}

#[inline(always)]
fn count(decision: Decision) {
    if let Some(counter) = DECIDED.get_ptr_mut(decision as u32) {
        // SAFETY: an array map's values are never freed while the program is loaded.
        unsafe { atomic::add(counter, 1) };
    }
}

#[inline(always)]
fn is_lease_over(rule: &Rule) -> bool {
    rule.flags & rule_flag::LEASED != 0 && LEASE.get(0).is_none_or(|until| now() > *until)
}

/// A connect(). `FAST`: with ports of ours where the kernel would search long.
#[inline(always)]
pub(crate) fn connect<const FAST: bool>(call: &Call<'_>) -> i32 {
    let Some(rule) = rule() else { return ALLOW };
    if let Some((reason, ours)) = left_alone(call, rule) {
        count(reason);
        if rule.sample == 1 {
            tell::left_alone(call, reason, ours);
        }
        if ours {
            // As if we had never been there.
            ports::bind(call, &Addr::UNSPECIFIED, 0);
        }
        return ALLOW;
    }
    let side = if call.form == Form::V6 { &rule.v6 } else { &rule.v4 };
    let mut key = TupleKey {
        // Until it is known: zeros would be written by a loop.
        source: call.address,
        destination: call.address,
        netns: rule.netns,
        destination_port: call.port,
        zero: 0,
    };
    // SAFETY: takes no argument.
    let random = unsafe { bpf_get_prandom_u32() };
    let chosen = spread::choose(side, rule.capacity, random, |address| {
        key.source = *address;
        ledger::usage(&key, rule.other_low & 1 != 0)
    });
    let Some((index, usage)) = chosen else { return full(call, rule) };
    let Some(address) = address_at(side, index) else { return ALLOW };
    let original = call.source();
    let mut port = 0;
    let mut decision = Decision::LeastUsed;
    if FAST && rule.flags & rule_flag::FAST_PORTS != 0 && spread::tries(&usage, rule) > 0 {
        (decision, port) = {
            key.source = *address;
            ports::bind_fast(call, rule, &key, &usage)
        };
    }
    if port == 0 {
        if decision != Decision::LeastUsed {
            count(decision);
        }
        let done = ports::bind(call, address, 0);
        decision = if done { Decision::LeastUsed } else { Decision::Refused };
    }
    if decision != Decision::Refused {
        attempt::give(call.sk() as u64);
    }
    count(decision);
    tell::chosen(
        call,
        rule,
        random,
        &tell::Choice {
            decision,
            chosen: address,
            original: &original,
            port,
            in_use: usage.in_use,
        },
    );
    ALLOW
}

/// Why a call is left alone, and whether its socket has a source of ours. What this has looked at is
/// not needed later on: the verifier would follow each combination of it through the choice.
#[inline(always)]
fn left_alone(call: &Call<'_>, rule: &Rule) -> Option<(Decision, bool)> {
    let bound = call.source() != Addr::UNSPECIFIED;
    let Ok(sk) = address(call.sk()) else { return Some((Decision::KernelSocket, false)) };
    // What was given for an earlier connect() of this socket was not the application's choice.
    let ours = bound && is_given(sk);
    objection(call, rule, bound && !ours, sk).map(|reason| (reason, ours))
}

/// Why a call is left alone, in the order in which it is cheap to know.
#[inline(always)]
fn objection(call: &Call<'_>, rule: &Rule, has_address: bool, sk: Address) -> Option<Decision> {
    let side = if call.form == Form::V6 { &rule.v6 } else { &rule.v4 };
    if !call.is_tcp() || side.count == 0 {
        return Some(Decision::OtherFamily);
    }
    if is_lease_over(rule) {
        return Some(Decision::LeaseOver);
    }
    if !wanted(rule, call) {
        return Some(Decision::OtherDestination);
    }
    if call.bound_port() != 0 {
        return Some(Decision::HasPort);
    }
    if has_address && rule.flags & rule_flag::REBIND == 0 {
        return Some(Decision::HasAddress);
    }
    if is_loopback(&call.address) != (side.loopback != 0) || is_link_local(&call.address) {
        return Some(Decision::Loopback);
    }
    if call.device() != 0 {
        return Some(Decision::BoundToDevice);
    }
    foreign(call, rule, sk)
}

/// Sockets that are not an application's own in this namespace.
#[inline(always)]
fn foreign(call: &Call<'_>, rule: &Rule, sk: Address) -> Option<Decision> {
    if !call.is_in(rule).unwrap_or(false) {
        return Some(Decision::OtherNetns);
    }
    if is_kernel_socket(sk) {
        return Some(Decision::KernelSocket);
    }
    is_transparent(sk).then_some(Decision::Transparent)
}

#[inline(always)]
fn wanted(rule: &Rule, call: &Call<'_>) -> bool {
    let mut index = 0;
    let mut found = rule.destination_count == 0;
    while index < spread::DESTINATIONS_MAX {
        let destination = &rule.destinations[index];
        if index < rule.destination_count as usize && destination.contains(&call.address, call.port)
        {
            found = true;
        }
        index += 1;
    }
    found
}

#[inline(always)]
fn is_loopback(address: &Addr) -> bool {
    const LOOPBACK6: Addr = Addr([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    match address.to_v4() {
        Some(octets) => octets[0] == 127 || octets == [0; 4],
        None => *address == LOOPBACK6 || *address == Addr::UNSPECIFIED,
    }
}

/// fe80::/10 needs a source of the same link.
#[inline(always)]
fn is_link_local(address: &Addr) -> bool {
    address.0[0] == 0xfe && address.0[1] & 0xc0 == 0x80
}

#[inline(always)]
fn address_at(side: &Side, index: u8) -> Option<&Addr> {
    side.addresses.get(usize::from(index))
}

/// No address of the pool has a port left for this destination.
#[inline(always)]
fn full(call: &Call<'_>, rule: &Rule) -> i32 {
    let fail = crate::offsets::FAIL_FAST.load() != 0 && rule.flags & rule_flag::FAIL_FAST != 0;
    let decision = if fail { Decision::FailedFast } else { Decision::PoolFull };
    count(decision);
    tell::full(call, rule, decision);
    if fail {
        // SAFETY: takes a number; Linux 6.1, and the verifier does not come here on an older one.
        unsafe { bpf_set_retval(-EADDRNOTAVAIL) };
        return DENY;
    }
    ALLOW
}

/// A bind() to an address without a port: the address is replaced, by turns, because the destination
/// is not known yet.
#[inline(always)]
pub(crate) fn bind(call: &Call<'_>) -> Option<Addr> {
    let rule = rule()?;
    let side = if call.form == Form::V6 { &rule.v6 } else { &rule.v4 };
    let active = rule.flags & rule_flag::REBIND != 0;
    if !active || call.port != 0 || !call.is_tcp() || side.count == 0 || call.device() != 0 {
        return None;
    }
    let unspecified = call.address == Addr::UNSPECIFIED || call.address.to_v4() == Some([0; 4]);
    let loopback = is_loopback(&call.address) != (side.loopback != 0);
    if unspecified || loopback || is_link_local(&call.address) {
        return None;
    }
    let sk = address(call.sk()).ok()?;
    // With IP_BIND_ADDRESS_NO_PORT, connect() is where it is replaced: the destination is known there,
    // and where the pool is full the application's own address is still the socket's.
    if !is_given(sk) || foreign(call, rule, sk).is_some() {
        return None;
    }
    if is_lease_over(rule) {
        return None;
    }
    count(Decision::Moved);
    // SAFETY: takes no argument.
    let random = unsafe { bpf_get_prandom_u32() };
    address_at(side, spread::draw(side, random & 0xffff)).copied()
}
