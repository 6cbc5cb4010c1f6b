//! fexit backend: BTF trampolines, which pass typed arguments and the result.
//!
//! The hooks read the result as the argument after the last one, which works on every kernel with
//! trampolines; `bpf_get_func_ret` came with v5.17.

use aya_ebpf::{
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};

use crate::{
    bind, connect,
    skip::{Step, settle},
    sock::{Address, Sock, no_stamp_of},
    time_wait,
};

/// The port search of a connect() begins (IPv4): [`connect::searching`].
///
/// Linux 5.10 and later: int inet_hash_connect(struct inet_timewait_death_row *, struct sock *)
#[fentry(function = "inet_hash_connect")]
pub(crate) fn fentry_inet_hash_connect(ctx: FEntryContext) -> i32 {
    settle(searching(ctx.arg(1)));
    0
}

/// The port search of a connect() begins (IPv6): [`connect::searching`].
///
/// Linux 5.10 and later: int inet6_hash_connect(struct inet_timewait_death_row *, struct sock *)
#[fentry(function = "inet6_hash_connect")]
pub(crate) fn fentry_inet6_hash_connect(ctx: FEntryContext) -> i32 {
    settle(searching(ctx.arg(1)));
    0
}

#[inline(always)]
fn searching(sk: Address) -> Step {
    connect::searching(&Sock::read(sk)?)
}

/// The port search of a connect() ended (IPv4): [`connect::searched`].
#[fexit(function = "inet_hash_connect")]
pub(crate) fn fexit_inet_hash_connect(ctx: FExitContext) -> i32 {
    settle(searched(ctx.arg(1), ctx.arg(2)));
    0
}

/// The port search of a connect() ended (IPv6): [`connect::searched`].
#[fexit(function = "inet6_hash_connect")]
pub(crate) fn fexit_inet6_hash_connect(ctx: FExitContext) -> i32 {
    settle(searched(ctx.arg(1), ctx.arg(2)));
    0
}

#[inline(always)]
fn searched(sk: Address, result: i32) -> Step {
    connect::searched(&Sock::read(sk)?, result)
}

/// connect() ends, or the part of sendto() with `MSG_FASTOPEN` that connects ([`connect::returned`]). The socket is still locked.
///
/// Linux 5.10 and later: int __inet_stream_connect(struct socket *, struct sockaddr *, int len, int flags, int is_sendmsg)
#[fexit(function = "__inet_stream_connect")]
pub(crate) fn fexit_inet_stream_connect(ctx: FExitContext) -> i32 {
    settle(connect::returned(i64::from(ctx.arg::<i32>(5))));
    0
}

/// The port search of a bind() or listen() ended: [`bind::searched`].
///
/// Linux 5.10 and later: int inet_csk_get_port(struct sock *sk, unsigned short snum)
#[fexit(function = "inet_csk_get_port")]
pub(crate) fn fexit_inet_csk_get_port(ctx: FExitContext) -> i32 {
    settle(got_port(ctx.arg(0), ctx.arg(1), ctx.arg(2)));
    0
}

#[inline(always)]
fn got_port(sk: Address, wanted: u16, result: i32) -> Step {
    bind::searched(&Sock::read(sk)?, wanted, result)
}

/// bind() returns (IPv4): [`bind::returned`].
///
/// Linux 5.10 and later: int inet_bind(struct socket *, struct sockaddr *, int len)
#[fexit(function = "inet_bind")]
pub(crate) fn fexit_inet_bind(ctx: FExitContext) -> i32 {
    settle(bind::returned(i64::from(ctx.arg::<i32>(3))));
    0
}

/// bind() returns (IPv6): [`bind::returned`].
///
/// Linux 5.10 and later: int inet6_bind(struct socket *, struct sockaddr *, int len)
#[fexit(function = "inet6_bind")]
pub(crate) fn fexit_inet6_bind(ctx: FExitContext) -> i32 {
    settle(bind::returned(i64::from(ctx.arg::<i32>(3))));
    0
}

/// A socket is about to change its state: it still has the old one, and its port ([`connect::changing`]).
///
/// Linux 5.10 and later: void tcp_set_state(struct sock *sk, int state)
#[fentry(function = "tcp_set_state")]
pub(crate) fn fentry_tcp_set_state(ctx: FEntryContext) -> i32 {
    settle(connect::changing(ctx.arg(0), ctx.arg::<i32>(1) as u8));
    0
}

/// A time-wait socket is made from a full one ([`time_wait::begun`]), or, if there are more than tcp_max_tw_buckets, not made
/// (NULL is returned).
///
/// Linux 5.10 and later: struct inet_timewait_sock *inet_twsk_alloc(const struct sock *, struct inet_timewait_death_row *,
/// const int state)
#[fexit(function = "inet_twsk_alloc")]
pub(crate) fn fexit_inet_twsk_alloc(ctx: FExitContext) -> i32 {
    settle(time_wait_begun(ctx.arg(0), ctx.arg(3)));
    0
}

#[inline(always)]
fn time_wait_begun(sk: Address, tw: Address) -> Step {
    if tw.is_null() {
        return Ok(());
    }
    // From the full socket: the kernel copies the timestamp to the time-wait socket only after this.
    time_wait::begun(&Sock::read(tw)?.key(), no_stamp_of(sk))
}

/// A time-wait socket ends ([`time_wait::ended`]): called once for each.
///
/// Linux 5.10 and later: void inet_twsk_kill(struct inet_timewait_sock *tw)
#[fentry(function = "inet_twsk_kill")]
pub(crate) fn fentry_inet_twsk_kill(ctx: FEntryContext) -> i32 {
    settle(time_wait_ended(ctx.arg(0)));
    0
}

#[inline(always)]
fn time_wait_ended(tw: Address) -> Step {
    time_wait::ended(&Sock::read(tw)?.key())
}
