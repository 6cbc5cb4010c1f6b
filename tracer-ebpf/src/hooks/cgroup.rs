//! cgroup hooks: record who calls connect() and bind(), with which arguments. They also make the kernel generate the
//! socket's cookie.
//!
//! Linux 5.10 and later run them in connect() before the route lookup (`BPF_CGROUP_PRE_CONNECT_ENABLED`), in bind() before the
//! address is checked and a port is taken (net/ipv4/af_inet.c and net/ipv6/af_inet6.c).

use aya_ebpf::{
    helpers::bpf_get_socket_cookie, macros::cgroup_sock_addr, programs::SockAddrContext,
};
use tracer_common::Addr;

use crate::{
    abi::{ALLOW, IPPROTO_TCP, SOCK_STREAM},
    attempt::{self, Call, CallInfo},
    skip::{Skip, Step, settle},
    sock::TcpSock,
    words,
};

/// connect() on an AF_INET socket begins: records it, with its destination ([`attempt::begin`]).
#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    settle(begin(&ctx, Call::Connect, address4(&ctx)));
    ALLOW
}

/// connect() on an AF_INET6 socket begins: records it, with its destination ([`attempt::begin`]).
#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
    settle(begin(&ctx, Call::Connect, address6(&ctx)));
    ALLOW
}

/// bind() of an AF_INET socket begins: records it, with the address and port that it asks for ([`attempt::begin`]).
#[cgroup_sock_addr(bind4)]
pub(crate) fn bind4(ctx: SockAddrContext) -> i32 {
    settle(begin(&ctx, Call::Bind, address4(&ctx)));
    ALLOW
}

/// bind() of an AF_INET6 socket begins: records it, with the address and port that it asks for ([`attempt::begin`]).
#[cgroup_sock_addr(bind6)]
pub(crate) fn bind6(ctx: SockAddrContext) -> i32 {
    settle(begin(&ctx, Call::Bind, address6(&ctx)));
    ALLOW
}

/// The port in the call's sockaddr, host byte order; 0: none.
#[inline(always)]
pub(super) fn port(ctx: &SockAddrContext) -> u16 {
    // SAFETY: the context is valid for the program's run.
    u16::from_be(unsafe { (*ctx.sock_addr).user_port } as u16)
}

/// The IPv4 address in the call's sockaddr; `::ffff:0.0.0.0`: none.
#[inline(always)]
pub(super) fn address4(ctx: &SockAddrContext) -> Addr {
    // SAFETY: the context is valid for the program's run.
    Addr::v4(unsafe { (*ctx.sock_addr).user_ip4 }.to_ne_bytes())
}

/// The address in the call's sockaddr of an AF_INET6 socket, which can be a v4-mapped one; `::`: none.
#[inline(always)]
pub(super) fn address6(ctx: &SockAddrContext) -> Addr {
    // SAFETY: as in `address4`; the verifier wants the context read in four-byte pieces.
    let words = unsafe {
        let ip = &raw const (*ctx.sock_addr).user_ip6;
        [
            ip.cast::<u32>().read_volatile(),
            ip.cast::<u32>().add(1).read_volatile(),
            ip.cast::<u32>().add(2).read_volatile(),
            ip.cast::<u32>().add(3).read_volatile(),
        ]
    };
    words::to_addr(words)
}

#[inline(always)]
fn begin(ctx: &SockAddrContext, call: Call, address: Addr) -> Step {
    // SAFETY: the context is valid for the program's run.
    let (kind, protocol, sk) = unsafe {
        let sock_addr = ctx.sock_addr;
        ((*sock_addr).type_, (*sock_addr).protocol, (*sock_addr).__bindgen_anon_1.sk)
    };
    if kind != SOCK_STREAM || protocol != IPPROTO_TCP {
        return Err(Skip::NotOurs);
    }
    // SAFETY: the context belongs to a socket; the helper generates the cookie if there is none yet.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.sock_addr.cast()) };
    let sk = TcpSock::new(sk).ok_or(Skip::NotOurs)?;
    let port = port(ctx);
    let begin = match call {
        Call::Bind | Call::Listen => CallInfo {
            call,
            cookie,
            sk: sk.at(),
            netns: sk.netns(),
            source: address,
            destination: Addr::UNSPECIFIED,
            destination_port: 0,
            port,
        },
        Call::Connect => CallInfo {
            call,
            cookie,
            sk: sk.at(),
            netns: sk.netns(),
            source: sk.source()?,
            destination: address,
            destination_port: port,
            port: sk.port(),
        },
    };
    attempt::begin::<true>(&begin)?;
    attempt::mark_denied(&begin);
    attempt::mark_spread(&begin)
}
