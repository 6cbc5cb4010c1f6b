//! The spreader: chooses the source address of a connect(), and past 45 % of a tuple's ports the port, too; if the rule says so,
//! replaces the address of a bind(address, 0).
//!
//! Invariant: whatever is missing, full or refused, the connect() goes on as with spreading off. (If all addresses are full,
//! `--fail-fast` denies it.)

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

/// Handles a connect(): binds its socket to an address of the pool if the rule applies, and counts and records the decision.
/// Returns [`ALLOW`], or [`DENY`] if the pool is full and the rule is to fail fast. `FAST`: the program may choose ports itself
/// where the kernel would search long. `SIX`: the socket is AF_INET6. Nothing here depends on `SIX`: it gives each program
/// closures of its own, which LLVM inlines because they are called once. As functions that two programs call, they would exceed
/// the BPF stack.
#[inline(always)]
pub(crate) fn connect<const FAST: bool, const SIX: bool>(call: &Call<'_>) -> i32 {
    let Some(rule) = rule::active() else { return ALLOW };
    if let Some((reason, by_spreader)) = exempt(call, rule) {
        leave_alone(call, rule, reason, by_spreader);
        return ALLOW;
    }
    let side = call.pool(rule);
    let mut key = call.key(rule.netns);
    let Some(given) = LastSpread::here() else { return ALLOW };
    let random = LastSpread::random(given);
    let changes = Changes::since(rule);
    let mut left_out = 0;
    let usages = |address: &Addr| {
        key.source = *address;
        let usage = ledger::usage(&key, side.reuse);
        left_out |= usage.in_use();
        usage
    };
    let capacity = rule.capacity.saturating_sub(changes.unknown);
    let chosen = if FAST {
        spread::choose_by::<rounds::Called>(side, capacity, random, usages)
    } else {
        spread::choose(side, capacity, random, usages)
    };
    let Some((index, usage)) = chosen else { return no_room(call, rule, &changes, left_out) };
    let Some(address) = address_at(side, index) else { return ALLOW };
    let usage = usage.chosen();
    let original = call.source();
    let Some((decision, port)) =
        bind_source::<FAST>(call, rule, &mut key, address, &usage, &changes)
    else {
        return pass_through(call, rule, Decision::PoolFull);
    };
    if decision != Decision::Refused {
        LastSpread::give(given, call.sk() as u64);
    }
    count(decision);
    let in_use = usage.in_use();
    let choice = decisions::Choice { decision, chosen: address, original: &original, port, in_use };
    decisions::chosen(call, rule, random, &choice);
    ALLOW
}

/// Counts a call to which the rule does not apply, and records it if the rule wants every decision. `by_spreader`: the spreader
/// set an address for an earlier connect() of its socket, which this unbinds.
#[inline(always)]
fn leave_alone(call: &Call<'_>, rule: &Rule, reason: Decision, by_spreader: bool) {
    count(reason);
    if rule.sample == 1 {
        decisions::exempt(call, reason, by_spreader);
    }
    if by_spreader {
        ports::bind(call, &Addr::UNSPECIFIED, 0);
    }
}

/// What changed about the ports of the rule's namespace and range since the agent computed the rule.
struct Changes {
    /// Ports that bind() or listen() took since then: [`Rule::capacity`] still counts them.
    unknown: u32,
    /// How often a bound port was released since then.
    released: u32,
    /// Ports that the spreader bound at any address and that are still held.
    fast: u32,
}

impl Changes {
    #[inline(always)]
    fn since(rule: &Rule) -> Self {
        let held = bind::Held::now();
        // `unknown` is below 0, and set to 0, if a port that was bound before the agent's reading was released during it.
        let back = held.back.wrapping_sub(rule.back);
        let unknown = 0.max(held.bound.wrapping_sub(rule.bound).wrapping_sub(back) as i32) as u32;
        Self { unknown, released: held.released.wrapping_sub(rule.released), fast: held.fast }
    }
}

/// Binds the chosen address, with a port if the kernel would search long for one and the spreader finds one. Returns what it
/// decided, and the port, or 0: the kernel finds one. `None`: nothing is bound, because the kernel might find none; binding
/// the pool's address could then fail a connect() that succeeds unbound.
#[inline(always)]
fn bind_source<const FAST: bool>(
    call: &Call<'_>,
    rule: &Rule,
    key: &mut TupleKey,
    address: &Addr,
    usage: &Usage,
    changes: &Changes,
) -> Option<(Decision, u16)> {
    if FAST {
        let fast = rule.flags & rule_flag::FAST_PORTS != 0;
        let room = Room::new(rule, changes.unknown, changes.fast);
        let search = spread::search(usage, &room, rule.half, fast);
        if search.tries > 0 {
            key.source = *address;
            let (decision, port) = ports::find(call, rule, key, &room, search);
            if port != 0 {
                return Some((decision, port));
            }
            if decision != Decision::LeastUsed {
                count(decision);
                if search.last {
                    return None;
                }
            }
        }
    }
    if ports::bind_address(call, address) {
        return Some((Decision::LeastUsed, 0));
    }
    unbind(call);
    Some((Decision::Refused, 0))
}

/// No address of the pool has room. With an address left out (`left_out`: the addresses' [`Usage::in_use`], or-ed), the pool
/// is not known to be full, and an unbound connect() can succeed: it is not denied.
#[inline(always)]
fn no_room(call: &Call<'_>, rule: &Rule, changes: &Changes, left_out: u32) -> i32 {
    if left_out < NO_ROOM {
        let sure = (changes.unknown | changes.released) == 0 && rule.unsure == 0;
        full(call, rule, sure)
    } else {
        pass_through(call, rule, Decision::AllLeftOut)
    }
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

/// The spreader binds nothing, for the reason `decision`, which this counts and records: the connect() goes on as with
/// spreading off.
#[inline(always)]
fn pass_through(call: &Call<'_>, rule: &Rule, decision: Decision) -> i32 {
    count(decision);
    decisions::full(call, rule, decision);
    unbind(call);
    ALLOW
}

/// No address of the pool has a free port for this destination: denies the connect() if the rule is to fail fast and this is
/// `sure`, else lets it go on. It is sure if, since the agent computed the rule, no port was bound (it could be counted twice:
/// as bound and as held) or released (the rule's capacity lacks it), and there is no [`Rule::unsure`] port.
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

/// The address that replaces the one of a bind(address, 0); `None`: the address stays, because the rule does not apply to this
/// call or no address of the pool has room. Counts [`Decision::Moved`] or [`Decision::PoolFull`]; records nothing. Chosen by the
/// number of ports bound at each address, because the destination is not known yet. For the same reason only rules for all
/// destinations replace it.
#[inline(always)]
pub(crate) fn bind(call: &Call<'_>) -> Option<Addr> {
    let rule = rule::active()?;
    let side = call.pool(rule);
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
    let everywhere = bind::count(rule.netns, &Addr::UNSPECIFIED)
        .saturating_add(bind::count(rule.netns, &Addr::v4([0; 4])));
    let capacity = (rule.half * 2).saturating_sub(everywhere);
    let chosen = spread::choose(side, capacity, random, |address| Usage {
        // Counted as even ports, whichever they are: only the sum matters here.
        held: Halves(u64::from(bind::count(rule.netns, address)) << 32),
        ..Usage::default()
    });
    let Some((index, _)) = chosen else {
        count(Decision::PoolFull);
        return None;
    };
    count(Decision::Moved);
    address_at(side, index).copied()
}
