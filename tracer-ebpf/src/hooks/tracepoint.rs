//! tracepoint backend, for kernels that allow neither trampolines nor kprobes: tracepoints, a sock_ops program, and cgroup
//! programs that run after bind().

use aya_ebpf::{
    helpers::{bpf_get_socket_cookie, bpf_probe_read_kernel},
    macros::{cgroup_sock, raw_tracepoint, sock_ops, tracepoint},
    programs::{RawTracePointContext, SockContext, SockOpsContext, TracePointContext},
};
use tracer_common::{ConnKey, Loss, PortBy};

use crate::{
    bind, connect,
    offsets::{TIMER_EXPIRES, TIMER_FUNCTION, TW_TIMER, TW_TIMER_HANDLER},
    skip::{Skip, Step, settle},
    sock::{Address, Sock},
    time_wait::rearm,
};

const BPF_SOCK_OPS_TCP_CONNECT_CB: u32 = 3;

/// A socket has changed its state; at CLOSE, its port is cleared already ([`connect::changed`]).
///
/// Linux 4.16 and later: tracepoint sock:inet_sock_set_state(const struct sock *sk, int oldstate, int newstate), at the end of
/// `tcp_set_state`. (Inlined into the program's entry: the kernel limits the stacks of functions that call each other to 512
/// bytes together.)
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
#[inline(always)]
pub(crate) fn inet_sock_set_state(ctx: RawTracePointContext) -> i32 {
    settle(connect::changed(ctx.arg(0), ctx.arg::<i32>(1) as u8, ctx.arg::<i32>(2) as u8));
    0
}

/// listen() returns: [`bind::listen_returned`].
///
/// Linux 5.10 and later: tracepoint syscalls:sys_exit_listen { ...; long ret; } with `ret` at offset 16.
#[tracepoint]
pub(crate) fn sys_exit_listen(ctx: TracePointContext) -> u32 {
    settle(bind::listen_returned(result(&ctx)));
    0
}

/// A connecting socket holds its port, and no SYN is sent yet ([`connect::acquired`]): Linux 4.13 and later call this at the
/// start of `tcp_connect`. Returns 1, which the kernel ignores here.
#[sock_ops]
pub(crate) fn tcp_connect_cb(ctx: SockOpsContext) -> u32 {
    if ctx.op() == BPF_SOCK_OPS_TCP_CONNECT_CB {
        settle(connecting(&ctx));
    }
    1
}

#[inline(always)]
fn connecting(ctx: &SockOpsContext) -> Step {
    // SAFETY: the context is valid for the program's run.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if sk.is_null() {
        return Err(Skip::Lost(Loss::ReadFailed));
    }
    // SAFETY: the context belongs to a socket; both reads leave it unchanged.
    let (cookie, port) = unsafe { (bpf_get_socket_cookie(ctx.ops.cast()), (*ctx.ops).local_port) };
    let key = ConnKey::new(cookie, port as u16);
    connect::acquired(key, |tuple| Sock::read(sk as Address)?.read_tuple(tuple))
}

/// bind() of an AF_INET socket took its port (Linux 4.17 and later): [`bind::took`]. Returns 1, which lets the call go on. The
/// context is the socket itself.
#[cgroup_sock(post_bind4)]
pub(crate) fn post_bind4(ctx: SockContext) -> i32 {
    settle(bound(&ctx));
    1
}

/// bind() of an AF_INET6 socket took its port (Linux 4.17 and later): [`bind::took`]. Returns 1, which lets the call go on. The
/// context is the socket itself.
#[cgroup_sock(post_bind6)]
pub(crate) fn post_bind6(ctx: SockContext) -> i32 {
    settle(bound(&ctx));
    1
}

#[inline(always)]
fn bound(ctx: &SockContext) -> Step {
    let sock = Sock::read(ctx.sock as Address)?;
    if sock.is_tcp()? { bind::took(&sock, PortBy::Bind) } else { Err(Skip::NotOurs) }
}

/// connect() returns: [`connect::returned`].
///
/// Linux 5.10 and later: tracepoint syscalls:sys_exit_connect { ...; long ret; } with `ret` at offset 16.
#[tracepoint]
pub(crate) fn sys_exit_connect(ctx: TracePointContext) -> u32 {
    settle(connect::returned(result(&ctx)));
    0
}

/// bind() returns: [`bind::returned`].
///
/// Linux 5.10 and later: tracepoint syscalls:sys_exit_bind { ...; long ret; } with `ret` at offset 16.
#[tracepoint]
pub(crate) fn sys_exit_bind(ctx: TracePointContext) -> u32 {
    settle(bind::returned(result(&ctx)));
    0
}

/// The return value of the system call: 0 or a negative errno.
#[inline(always)]
fn result(ctx: &TracePointContext) -> i64 {
    // SAFETY: the record of a sys_exit tracepoint is 24 bytes long, so it has a third word.
    unsafe { aya_ebpf::EbpfContext::as_ptr(ctx).cast::<i64>().add(2).read() }
}

/// A timer starts. If it is that of a time-wait socket, this socket begins, or its timer is moved to another expiry
/// ([`rearm::started`]). Fires for every timer of the host, so the check comes first.
///
/// Linux 5.10 and later: tracepoint timer:timer_start(struct timer_list *, ...).
#[raw_tracepoint(tracepoint = "timer_start")]
pub(crate) fn timer_start(ctx: RawTracePointContext) -> i32 {
    let timer: Address = ctx.arg(0);
    if is_time_wait(timer) {
        settle(started(timer));
    }
    0
}

#[inline(always)]
fn started(timer: Address) -> Step {
    let sock = time_wait_sock(timer)?;
    rearm::started(&sock.key(), sock.no_stamp())
}

/// A timer is taken off its queue. For a time-wait socket, that is every end, by expiry, reuse, RST or the end of its namespace,
/// and every move of its timer to another expiry ([`rearm::cancelled`]).
///
/// Linux 5.10 and later: tracepoint timer:timer_cancel(struct timer_list *).
#[raw_tracepoint(tracepoint = "timer_cancel")]
pub(crate) fn timer_cancel(ctx: RawTracePointContext) -> i32 {
    let timer: Address = ctx.arg(0);
    rearm::tell_pending();
    if is_time_wait(timer) {
        settle(cancelled(timer));
    }
    0
}

#[inline(always)]
fn cancelled(timer: Address) -> Step {
    // SAFETY: the helper checks the address itself.
    let expires =
        unsafe { bpf_probe_read_kernel(timer.add(TIMER_EXPIRES.load() as usize).cast::<u64>()) }
            .map_err(|_| Skip::Lost(Loss::ReadFailed))?;
    rearm::cancelled(&time_wait_sock(timer)?.key(), expires)
}

#[inline(always)]
fn is_time_wait(timer: Address) -> bool {
    // SAFETY: the helper checks the address itself.
    let function =
        unsafe { bpf_probe_read_kernel(timer.add(TIMER_FUNCTION.load() as usize).cast::<u64>()) };
    function == Ok(TW_TIMER_HANDLER.load())
}

#[inline(always)]
fn time_wait_sock(timer: Address) -> Step<Sock> {
    Sock::read(timer.wrapping_sub(TW_TIMER.load() as usize))
}
