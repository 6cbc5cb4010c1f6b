//! Decides which calls are exempt from the rule, and says why.

use aya_ebpf::{macros::map, maps::Array};
use tracer_common::{
    Addr, Rule,
    spread::{self, Decision, rule_flag},
};

use super::Call;
use crate::{attempt::now, rule, sock::TcpSock};

/// When the agent's lease of the rule ends, CLOCK_MONOTONIC, ns. The agent renews it.
#[map]
static LEASE: Array<u64> = Array::with_max_entries(1, 0);

/// Why a call is exempt, and whether the spreader bound its socket for an earlier connect() (false if that cannot be known: see
/// [`TcpSock::is_given`]). `None`: the rule applies. Apart from the choice, so that the verifier has dropped the states of these
/// checks when the choice begins.
#[inline(always)]
pub(super) fn exempt(call: &Call<'_>, rule: &Rule) -> Option<(Decision, bool)> {
    let bound = call.source() != Addr::UNSPECIFIED;
    let Some(sk) = TcpSock::new(call.sk()) else { return Some((Decision::OtherFamily, false)) };
    // An address that the spreader bound for an earlier connect() of this socket is not the application's choice.
    let by_spreader = bound && sk.is_given();
    exempt_reason(call, rule, bound && !by_spreader, sk).map(|reason| (reason, by_spreader))
}

/// Why a call is exempt; `None`: the rule applies. `has_address`: the application bound an address. Cheap checks come first.
#[inline(always)]
fn exempt_reason(call: &Call<'_>, rule: &Rule, has_address: bool, sk: TcpSock) -> Option<Decision> {
    let side = call.pool(rule);
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
    not_eligible(rule, sk)
}

/// Why a socket is not eligible: it is in another namespace, the kernel's, or transparent. `None`: it is eligible.
#[inline(always)]
pub(super) fn not_eligible(rule: &Rule, sk: TcpSock) -> Option<Decision> {
    if !is_in(sk, rule) {
        return Some(Decision::OtherNetns);
    }
    if sk.is_kernel_socket() {
        return Some(Decision::KernelSocket);
    }
    sk.is_transparent().then_some(Decision::Transparent)
}

/// Whether the socket is in the rule's network namespace.
#[inline(always)]
fn is_in(sk: TcpSock, rule: &Rule) -> bool {
    match sk.netns_cookie() {
        Some(cookie) if rule.netns_cookie != 0 => cookie == rule.netns_cookie,
        _ => sk.netns() == rule.netns,
    }
}

/// Whether the rule spreads connections to the call's destination: `Destination::is_spread`, in a form that the verifier
/// accepts.
#[inline(always)]
fn wanted(rule: &Rule, call: &Call<'_>) -> bool {
    if rule.destination_count == 0 {
        return true;
    }
    let [first, last] = call.address.words();
    is_wanted(first, last, u32::from(call.port)) != 0
}

/// What [`wanted`] returns, as 1 or 0, for a rule that names destinations, and the address with these words ([`Addr::words`]). A
/// global function, which the verifier checks once, and not on every path.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn is_wanted(first: u64, last: u64, port: u32) -> u32 {
    let Some(rule) = rule::active() else { return 0 };
    let address = Addr::from_words([first, last]);
    let mut index = 0;
    let mut found = false;
    while index < spread::DESTINATIONS_MAX {
        let destination = &rule.destinations[index];
        if index < rule.destination_count as usize && destination.contains(&address, port as u16) {
            found = destination.exempt == 0;
        }
        index += 1;
    }
    u32::from(found)
}

/// Whether connect() to this address stays on the host: a loopback or unspecified address.
#[inline(always)]
pub(super) fn is_loopback(address: &Addr) -> bool {
    const LOOPBACK6: Addr = Addr([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    match address.to_v4() {
        Some(octets) => octets[0] == 127 || octets == [0; 4],
        None => *address == LOOPBACK6 || *address == Addr::UNSPECIFIED,
    }
}

/// Whether the address is in fe80::/10, which needs a source of the same link.
#[inline(always)]
pub(super) fn is_link_local(address: &Addr) -> bool {
    address.0[0] == 0xfe && address.0[1] & 0xc0 == 0x80
}

/// Whether the rule has a lease ([`rule_flag::LEASED`]) and the agent has let it expire, or has not set it yet.
#[inline(always)]
pub(super) fn is_lease_over(rule: &Rule) -> bool {
    rule.flags & rule_flag::LEASED != 0 && LEASE.get(0).is_none_or(|until| now() > *until)
}
