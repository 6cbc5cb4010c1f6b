//! The two hooks of every backend that are not at a call: the end of a socket, and a segment that is sent again. (Those at the
//! begin of connect() and bind() are in `cgroup`.)

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use crate::{
    connect,
    skip::{Step, settle},
    sock::{Address, Sock},
};

/// A socket ends. Releases the port of one that bound it and was not connected, or that kept it after its connection ended.
///
/// Linux 4.16 and later: tracepoint tcp:tcp_destroy_sock(struct sock *sk), in `tcp_v4_destroy_sock` before `inet_put_port`.
#[raw_tracepoint(tracepoint = "tcp_destroy_sock")]
pub(crate) fn tcp_destroy_sock(ctx: RawTracePointContext) -> i32 {
    settle(destroyed(ctx.arg(0)));
    0
}

#[inline(always)]
fn destroyed(sk: Address) -> Step {
    let sock = Sock::read(sk)?;
    if sock.port() != 0 {
        connect::unbound(&sock, sock.port());
    }
    Ok(())
}

/// A segment is sent again: counts it if it is a SYN ([`connect::sent_again`]). Until connect() fails, that is the only sign that
/// a SYN had no answer.
///
/// Linux 4.16 and later: tracepoint tcp:tcp_retransmit_skb(const struct sock *sk, const struct sk_buff *skb, ...).
#[raw_tracepoint(tracepoint = "tcp_retransmit_skb")]
pub(crate) fn tcp_retransmit_skb(ctx: RawTracePointContext) -> i32 {
    connect::sent_again(ctx.arg(0));
    0
}
