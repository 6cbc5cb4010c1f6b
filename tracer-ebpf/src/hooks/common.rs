//! Hooks that every backend uses.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use crate::{
    bind, connect,
    skip::{Step, settle},
    sock::{Address, Sock},
};

/// kernel: v4.16.. tcp:tcp_destroy_sock(struct sock *sk), in `tcp_v4_destroy_sock` before
/// `inet_put_port`: the end of a socket that bound a port and was not connected, or that kept its port
/// after its connection ended.
#[raw_tracepoint(tracepoint = "tcp_destroy_sock")]
pub(crate) fn tcp_destroy_sock(ctx: RawTracePointContext) -> i32 {
    settle(destroyed(ctx.arg(0)));
    0
}

#[inline(always)]
fn destroyed(sk: Address) -> Step {
    let sock = Sock::read(sk)?;
    if sock.port() != 0 {
        bind::released_by(&sock, sock.port());
    }
    Ok(())
}

/// kernel: v4.16.. tcp:tcp_retransmit_skb(const struct sock *sk, const struct sk_buff *skb, ...): the only sign that
/// a SYN had no answer, until connect() fails.
#[raw_tracepoint(tracepoint = "tcp_retransmit_skb")]
pub(crate) fn tcp_retransmit_skb(ctx: RawTracePointContext) -> i32 {
    connect::sent_again(ctx.arg(0));
    0
}
