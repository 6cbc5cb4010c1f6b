//! The spreader: chooses the source address of a connect(), and past 45 % of a tuple's ports the port, too.
//!
//! Law: whatever is missing, full or refused, the connect() goes on as with spreading off.

mod call;
mod decisions;
mod exempt;
pub(crate) mod ports;
mod rounds;

use aya_ebpf::{
    helpers::{bpf_get_prandom_u32, bpf_set_retval},
    macros::map,
    maps::PerCpuArray,
};
use tracer_common::{
    Addr, Halves, Rule, TupleKey,
    spread::{self, Decision, FamilyPool, NO_ROOM, Room, Usage, rule_flag},
};

pub(crate) use call::{Call, SockFamily};
use exempt::{exempt, is_lease_over, is_link_local, is_loopback, not_eligible};

use crate::{
    abi::{ALLOW, DENY, errno::EADDRNOTAVAIL},
    atomic,
    attempt::LastSpread,
    bind, ledger, rule,
    sock::TcpSock,
};

/// How often each [`Decision`] was taken, per CPU.
#[map]
static DECISION_COUNT: PerCpuArray<u64> = PerCpuArray::with_max_entries(Decision::COUNT as u32, 0);

#[inline(always)]
fn count(decision: Decision) {
    if let Some(counter) = DECISION_COUNT.get_ptr_mut(decision as u32) {
        // SAFETY: an array map's values are never freed while the program is loaded.
        unsafe { atomic::add(counter, 1) };
    }
}

/// Handles a connect(); returns whether it is allowed. `FAST`: the program may choose ports itself where the kernel would
/// search long. `SIX`: the socket is AF_INET6. Nothing here depends on `SIX`: it gives each program closures of its own,
/// which LLVM inlines because they are called once. As functions that two programs call, they would exceed the BPF stack.
#[inline(always)]
pub(crate) fn connect<const FAST: bool, const SIX: bool>(call: &Call<'_>) -> i32 {
    let Some(rule) = rule::active() else { return ALLOW };
    if let Some((reason, ours)) = exempt(call, rule) {
        count(reason);
        if rule.sample == 1 {
            decisions::exempt(call, reason, ours);
        }
        if ours {
            // Unbinds the address that the spreader set for an earlier connect().
            ports::bind(call, &Addr::UNSPECIFIED, 0);
        }
        return ALLOW;
    }
    let side = if call.form == SockFamily::V6 { &rule.v6 } else { &rule.v4 };
    let mut key = TupleKey {
        // A placeholder until the source is chosen: LLVM would write zeros with a loop.
        source: call.address,
        destination: call.address,
        netns: rule.netns,
        destination_port: call.port,
        zero: 0,
    };
    let Some(given) = LastSpread::here() else { return ALLOW };
    let random = LastSpread::random(given);
    let held = bind::Held::now();
    // `unknown` is below 0, and then 0, if a port that was bound before the agent's reading was counted as released during it.
    let back = held.back.wrapping_sub(rule.back);
    let unknown = 0.max(held.bound.wrapping_sub(rule.bound).wrapping_sub(back) as i32) as u32;
    let capacity = rule.capacity.saturating_sub(unknown);
    let mut left_out = 0;
    let usages = |address: &Addr| {
        key.source = *address;
        let usage = ledger::usage(&key, side.reuse);
        left_out |= usage.in_use();
        usage
    };
    let chosen = if FAST {
        spread::choose_by::<rounds::Called>(side, capacity, random, usages)
    } else {
        spread::choose(side, capacity, random, usages)
    };
    let Some((index, usage)) = chosen else {
        // With an address left out, the pool is not known to be full, and an unbound connect() can succeed: it is not denied.
        return if left_out < NO_ROOM {
            let changed = unknown | held.released.wrapping_sub(rule.released);
            full(call, rule, changed == 0 && rule.unsure == 0)
        } else {
            pass_through(call, rule, Decision::AllLeftOut)
        };
    };
    let usage = usage.chosen();
    let Some(address) = address_at(side, index) else { return ALLOW };
    let original = call.source();
    let mut port = 0;
    let mut decision = Decision::LeastUsed;
    if FAST {
        let fast = rule.flags & rule_flag::FAST_PORTS != 0;
        let room = Room::new(rule, unknown, held.fast);
        let search = spread::search(&usage, &room, rule.half, fast);
        if search.tries > 0 {
            key.source = *address;
            (decision, port) = ports::find(call, rule, &key, &room, search);
        }
        if port == 0 && search.last && decision != Decision::LeastUsed {
            // Binding the pool's address could fail a connect() that succeeds unbound.
            count(decision);
            return pass_through(call, rule, Decision::PoolFull);
        }
    }
    if port == 0 {
        if decision != Decision::LeastUsed {
            count(decision);
        }
        decision = if ports::bind_address(call, address) {
            Decision::LeastUsed
        } else {
            unbind(call);
            Decision::Refused
        };
    }
    if decision != Decision::Refused {
        LastSpread::give(given, call.sk() as u64);
    }
    count(decision);
    decisions::chosen(
        call,
        rule,
        random,
        &decisions::Choice {
            decision,
            chosen: address,
            original: &original,
            port,
            in_use: usage.in_use(),
        },
    );
    ALLOW
}

#[inline(always)]
fn address_at(side: &FamilyPool, index: u8) -> Option<&Addr> {
    side.addresses.get(usize::from(index))
}

/// Unbinds an address that the spreader set for an earlier connect() of this socket.
#[inline(always)]
fn unbind(call: &Call<'_>) {
    if call.source() != Addr::UNSPECIFIED && TcpSock::new(call.sk()).is_some_and(TcpSock::is_given)
    {
        ports::bind(call, &Addr::UNSPECIFIED, 0);
    }
}

/// No port of the pool is sure to be free: the connect() goes on as with spreading off.
#[inline(always)]
fn pass_through(call: &Call<'_>, rule: &Rule, decision: Decision) -> i32 {
    count(decision);
    decisions::full(call, rule, decision);
    unbind(call);
    ALLOW
}

/// No address of the pool has a free port for this destination: denies the connect() if the rule is to fail fast, else lets
/// it go on. `sure`: the pool is known to be full, because since the rule was made no port was bound, which may be counted
/// twice, and none was released, which the rule lacks, and there is no [`Rule::unsure`] port.
#[inline(always)]
fn full(call: &Call<'_>, rule: &Rule, sure: bool) -> i32 {
    let fail = crate::offsets::FAIL_FAST.load() != 0 && rule.flags & rule_flag::FAIL_FAST != 0;
    let fail = fail && sure;
    let decision = if fail { Decision::FailedFast } else { Decision::PoolFull };
    count(decision);
    decisions::full(call, rule, decision);
    unbind(call);
    if fail {
        // SAFETY: takes a number. Linux 6.1; on an older kernel the verifier prunes this branch (FAIL_FAST is 0).
        unsafe { bpf_set_retval(-i32::from(EADDRNOTAVAIL)) };
        return DENY;
    }
    ALLOW
}

/// The address that replaces the one of a bind(address, 0); `None`: it is not replaced. It is the address with the fewest
/// bound ports, because the destination is not known yet. For the same reason only rules for all destinations replace it.
#[inline(always)]
pub(crate) fn bind(call: &Call<'_>) -> Option<Addr> {
    let rule = rule::active()?;
    let side = if call.form == SockFamily::V6 { &rule.v6 } else { &rule.v4 };
    let active = rule.flags & rule_flag::REBIND != 0 && rule.destination_count == 0;
    if !active || call.port != 0 || !call.is_tcp() || side.count == 0 || call.device() != 0 {
        return None;
    }
    let unspecified = call.address == Addr::UNSPECIFIED || call.address.to_v4() == Some([0; 4]);
    let loopback = is_loopback(&call.address) != (side.loopback != 0);
    if unspecified || loopback || is_link_local(&call.address) {
        return None;
    }
    let sk = TcpSock::new(call.sk())?;
    // With IP_BIND_ADDRESS_NO_PORT, the hook of connect() replaces the address: it knows the destination,
    // and if the pool is full, the socket still has the application's address.
    if !sk.is_given() || not_eligible(rule, sk).is_some() {
        return None;
    }
    if is_lease_over(rule) {
        return None;
    }
    // SAFETY: takes no argument.
    let random = unsafe { bpf_get_prandom_u32() };
    // At one address each port can be bound once, whatever the destination of its socket; a port that is bound at the
    // unspecified address can be bound at no other.
    let bound = bind::Counters::get()?;
    let everywhere = bound
        .count(rule.netns, &Addr::UNSPECIFIED)
        .saturating_add(bound.count(rule.netns, &Addr::v4([0; 4])));
    let capacity = (rule.half * 2).saturating_sub(everywhere);
    let chosen = spread::choose(side, capacity, random, |address| Usage {
        // Counted as even ports, whichever they are: only the sum matters here.
        held: Halves(u64::from(bound.count(rule.netns, address)) << 32),
        ..Usage::default()
    });
    let Some((index, _)) = chosen else {
        count(Decision::PoolFull);
        return None;
    };
    count(Decision::Moved);
    address_at(side, index).copied()
}
