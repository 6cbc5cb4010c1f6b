//! DECISION_RING: records of the spreader's decisions.

use aya_ebpf::{
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_socket_cookie,
        generated::bpf_get_current_comm,
    },
    macros::map,
    maps::{Array, RingBuf},
};
use tracer_common::{
    Addr, Rule,
    spread::{Decision, DecisionRecord},
};

use super::{Call, count};
use crate::{attempt::now, sock::TcpSock};

/// When [`full`] last recorded a call, CLOCK_MONOTONIC, ns. Not updated while [`Rule::sample`] is 1: then each such call is
/// recorded.
#[map]
static FULL_TOLD: Array<u64> = Array::with_max_entries(1, 0);

/// One [`DecisionRecord`] for each decision that is recorded.
#[map]
static DECISION_RING: RingBuf = RingBuf::with_byte_size(1 << 18, 0);

/// One second, in ns.
const SECOND: u64 = 1_000_000_000;

/// Whether [`full`] recorded no call for a second; if so, starts the next second. (Concurrent calls may both get true; the
/// agent writes one line.)
#[inline(always)]
fn is_a_second_later() -> bool {
    let Some(reported) = FULL_TOLD.get_ptr_mut(0) else { return false };
    let now = now();
    // SAFETY: an array map's values are never freed while the program is loaded.
    unsafe {
        let later = now.wrapping_sub(reported.read_volatile()) >= SECOND;
        if later {
            reported.write_volatile(now);
        }
        later
    }
}

/// A decision as it is recorded: the fields are those of [`DecisionRecord`]. Addresses by reference, because of the BPF stack.
pub(super) struct Choice<'a> {
    pub(super) chosen: &'a Addr,
    pub(super) original: &'a Addr,
    pub(super) decision: Decision,
    pub(super) in_use: u32,
    pub(super) port: u16,
}

/// Records 1 in `rule.sample` decisions (a power of two; 0: none), and in any case that the kernel refused to bind the address.
/// `random`: 32 random bits, of which the lowest decide.
#[inline(always)]
pub(super) fn chosen(call: &Call<'_>, rule: &Rule, random: u32, choice: &Choice<'_>) {
    let unusual = choice.decision == Decision::Refused;
    if unusual || (rule.sample != 0 && random & (rule.sample - 1) == 0) {
        write(call, rule.netns, choice);
    }
}

/// Records that no address of the pool can be chosen, because all are full or left out: each such call if `rule.sample` is 1,
/// else at most one a second.
#[inline(always)]
pub(super) fn full(call: &Call<'_>, rule: &Rule, decision: Decision) {
    if rule.sample == 1 || is_a_second_later() {
        let original = call.source();
        let none = Addr::UNSPECIFIED;
        write(
            call,
            rule.netns,
            &Choice { decision, chosen: &none, original: &original, port: 0, in_use: 0 },
        );
    }
}

/// Records an exempt call on a TCP socket. Called only if `rule.sample` is 1. `by_spreader`: the spreader bound its source.
#[inline(always)]
pub(super) fn exempt(call: &Call<'_>, decision: Decision, by_spreader: bool) {
    if !call.is_tcp() {
        return;
    }
    let Some(sk) = TcpSock::new(call.sk()) else { return };
    let none = Addr::UNSPECIFIED;
    // With a port, nothing says who set the address.
    let by_spreader = by_spreader && decision != Decision::HasPort;
    let original = if by_spreader { none } else { call.source() };
    write(
        call,
        sk.netns(),
        &Choice { decision, chosen: &none, original: &original, port: 0, in_use: 0 },
    );
}

/// Writes a [`DecisionRecord`]; if the ring is full, counts [`Decision::NotTold`].
#[inline(always)]
fn write(call: &Call<'_>, netns: u32, choice: &Choice<'_>) {
    let Some(mut entry) = DECISION_RING.reserve::<DecisionRecord>(0) else {
        count(Decision::NotTold);
        return;
    };
    let record = entry.as_mut_ptr();
    let pid_tgid = bpf_get_current_pid_tgid();
    // SAFETY: `reserve` returned the bytes for this record alone, and every one of them is written: those
    // of the comm by the helper, also where it fails.
    unsafe {
        (*record).mono_ns = now();
        (*record).cookie = bpf_get_socket_cookie(call.raw().cast());
        (*record).chosen = *choice.chosen;
        (*record).original = *choice.original;
        (*record).destination = call.address;
        (*record).who.cgroup = bpf_get_current_cgroup_id();
        (*record).who.pid = (pid_tgid >> 32) as u32;
        (*record).who.tid = pid_tgid as u32;
        bpf_get_current_comm((&raw mut (*record).who.comm).cast(), 16);
        (*record).netns = netns;
        (*record).in_use = choice.in_use;
        (*record).destination_port = call.port;
        (*record).port = choice.port;
        (*record).decision = choice.decision as u32;
    }
    entry.submit(u64::from(aya_ebpf::bindings::BPF_RB_NO_WAKEUP));
}
