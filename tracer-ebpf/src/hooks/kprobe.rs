//! kprobe backend, for kernels without BTF trampolines. A return probe does not see the arguments, so it takes the socket from
//! the attempt that the call's first hook recorded. The kernel can miss return probes, as it follows only so many calls at a time
//! (`maxactive` in `register_kretprobe`, kernel/kprobes.c: one or two for each CPU): for connect(), the probes on `tcp_connect`
//! and `tcp_set_state` then report the same.
//!
//! The signatures of the kernel's functions are in the fexit backend.

use aya_ebpf::{
    macros::{kprobe, kretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use tracer_common::Loss;

use crate::{
    attempt::{self, Call},
    bind, connect,
    skip::{Skip, Step, settle},
    sock::{Address, Sock},
    time_wait,
};

#[inline(always)]
fn argument(ctx: &ProbeContext, index: usize) -> Step<Address> {
    ctx.arg(index).ok_or(Skip::Lost(Loss::ReadFailed))
}

/// The socket of the current thread's call. `Err`: the thread has no attempt of this call.
#[inline(always)]
fn attempted(call: Call) -> Step<Address> {
    let attempt = attempt::current(call).ok_or(Skip::NotOurs)?;
    Ok(attempt.sk as Address)
}

/// The port search of a connect() begins (IPv4): [`connect::searching`].
#[kprobe]
pub(crate) fn kprobe_inet_hash_connect(ctx: ProbeContext) -> u32 {
    settle(searching(&ctx));
    0
}

/// The port search of a connect() begins (IPv6): [`connect::searching`].
#[kprobe]
pub(crate) fn kprobe_inet6_hash_connect(ctx: ProbeContext) -> u32 {
    settle(searching(&ctx));
    0
}

#[inline(always)]
fn searching(ctx: &ProbeContext) -> Step {
    connect::searching(&Sock::read(argument(ctx, 1)?)?)
}

/// The port search of a connect() ended (IPv4): [`connect::searched`].
#[kretprobe]
pub(crate) fn kretprobe_inet_hash_connect(ctx: RetProbeContext) -> u32 {
    settle(searched(ctx.ret()));
    0
}

/// The port search of a connect() ended (IPv6): [`connect::searched`].
#[kretprobe]
pub(crate) fn kretprobe_inet6_hash_connect(ctx: RetProbeContext) -> u32 {
    settle(searched(ctx.ret()));
    0
}

#[inline(always)]
fn searched(result: i32) -> Step {
    connect::searched(&Sock::read(attempted(Call::Connect)?)?, result)
}

/// A connecting socket holds its port, and is about to send its SYN: [`connect::acquired`].
///
/// Linux 5.10 and later: int tcp_connect(struct sock *sk)
#[kprobe]
pub(crate) fn kprobe_tcp_connect(ctx: ProbeContext) -> u32 {
    settle(connecting(&ctx));
    0
}

#[inline(always)]
fn connecting(ctx: &ProbeContext) -> Step {
    let sock = Sock::read(argument(ctx, 0)?)?;
    connect::acquired(sock.key(), |tuple| sock.read_tuple(tuple))
}

/// connect() ends, or the part of sendto() with `MSG_FASTOPEN` that connects (`__inet_stream_connect`): [`connect::returned`].
#[kretprobe]
pub(crate) fn kretprobe_inet_stream_connect(ctx: RetProbeContext) -> u32 {
    settle(connect::returned(i64::from(ctx.ret::<i32>())));
    0
}

/// The port search of a bind() or listen() begins: [`bind::searching`].
#[kprobe]
pub(crate) fn kprobe_inet_csk_get_port(ctx: ProbeContext) -> u32 {
    settle(getting_port(&ctx));
    0
}

#[inline(always)]
fn getting_port(ctx: &ProbeContext) -> Step {
    let wanted_port = ctx.arg(1).ok_or(Skip::Lost(Loss::ReadFailed))?;
    bind::searching(&Sock::read(argument(ctx, 0)?)?, wanted_port)
}

/// The port search of a bind() or listen() ended: [`bind::search_returned`].
#[kretprobe]
pub(crate) fn kretprobe_inet_csk_get_port(ctx: RetProbeContext) -> u32 {
    settle(bind::search_returned(ctx.ret()));
    0
}

/// bind() returns (IPv4): [`bind::returned`].
#[kretprobe]
pub(crate) fn kretprobe_inet_bind(ctx: RetProbeContext) -> u32 {
    settle(bind::returned(i64::from(ctx.ret::<i32>())));
    0
}

/// bind() returns (IPv6): [`bind::returned`].
#[kretprobe]
pub(crate) fn kretprobe_inet6_bind(ctx: RetProbeContext) -> u32 {
    settle(bind::returned(i64::from(ctx.ret::<i32>())));
    0
}

/// A socket is about to change its state: it still has the old one, and its port ([`connect::changing`]).
#[kprobe]
pub(crate) fn kprobe_tcp_set_state(ctx: ProbeContext) -> u32 {
    settle(set_state(&ctx));
    0
}

#[inline(always)]
fn set_state(ctx: &ProbeContext) -> Step {
    let new: i32 = ctx.arg(1).ok_or(Skip::Lost(Loss::ReadFailed))?;
    connect::changing(argument(ctx, 0)?, new as u8)
}

/// A time-wait socket, filled in, replaces the full one in the kernel's hash tables ([`time_wait::begun`]). The return of
/// `inet_twsk_alloc` would report the same, but if the kernel missed that return probe, the end of the full socket would release
/// the port.
///
/// Linux 5.10 and later: void inet_twsk_hashdance(struct inet_timewait_sock *tw, ...); from 6.12 on its name is
/// inet_twsk_hashdance_schedule.
#[kprobe]
pub(crate) fn kprobe_inet_twsk_hashdance(ctx: ProbeContext) -> u32 {
    settle(time_wait_begun(&ctx));
    0
}

#[inline(always)]
fn time_wait_begun(ctx: &ProbeContext) -> Step {
    let sock = Sock::read(argument(ctx, 0)?)?;
    time_wait::begun(&sock.key(), sock.no_stamp())
}

/// A time-wait socket ends ([`time_wait::ended`]): called once for each.
#[kprobe]
pub(crate) fn kprobe_inet_twsk_kill(ctx: ProbeContext) -> u32 {
    settle(time_wait_ended(&ctx));
    0
}

#[inline(always)]
fn time_wait_ended(ctx: &ProbeContext) -> Step {
    time_wait::ended(&Sock::read(argument(ctx, 0)?)?.key())
}
