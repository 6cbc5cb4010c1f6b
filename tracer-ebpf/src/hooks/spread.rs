//! The spreader's cgroup hooks, attached to the cgroups that a rule names. Programs that end in `_fast`
//! need atomics that return a value (Linux 5.12), bpf_loop (5.17), and SO_REUSEADDR set by a program (6.1).

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use tracer_common::Addr;

use super::cgroup::{address4, address6, port};
use crate::{
    abi::ALLOW,
    spread::{self, Call, SockFamily},
    words,
};

#[inline(always)]
fn call4(ctx: &SockAddrContext) -> Call<'_> {
    Call { ctx, form: SockFamily::V4, address: address4(ctx), port: port(ctx) }
}

#[inline(always)]
fn call6(ctx: &SockAddrContext) -> Call<'_> {
    let address = address6(ctx);
    let form = if address.to_v4().is_some() { SockFamily::Mapped } else { SockFamily::V6 };
    Call { ctx, form, address, port: port(ctx) }
}

/// Chooses the source address of an AF_INET socket in connect(), if the rule applies to the call ([`spread::connect`]).
#[cgroup_sock_addr(connect4)]
pub(crate) fn spread_connect4(ctx: SockAddrContext) -> i32 {
    spread::connect::<false, false>(&call4(&ctx))
}

/// Chooses the source address of an AF_INET6 socket in connect(), if the rule applies to the call ([`spread::connect`]).
#[cgroup_sock_addr(connect6)]
pub(crate) fn spread_connect6(ctx: SockAddrContext) -> i32 {
    spread::connect::<false, true>(&call6(&ctx))
}

/// Does what [`spread_connect4`] does, and binds a port, too, where [`tracer_common::spread::search`] says so and one is found.
#[cgroup_sock_addr(connect4)]
pub(crate) fn spread_connect4_fast(ctx: SockAddrContext) -> i32 {
    spread::connect::<true, false>(&call4(&ctx))
}

/// Does what [`spread_connect6`] does, and binds a port, too, where [`tracer_common::spread::search`] says so and one is found.
#[cgroup_sock_addr(connect6)]
pub(crate) fn spread_connect6_fast(ctx: SockAddrContext) -> i32 {
    spread::connect::<true, true>(&call6(&ctx))
}

/// Replaces the address that a bind(address, 0) of an AF_INET socket asks for, if the rule says so ([`spread::bind`]).
#[cgroup_sock_addr(bind4)]
pub(crate) fn spread_bind4(ctx: SockAddrContext) -> i32 {
    if let Some(octets) = spread::bind(&call4(&ctx)).and_then(Addr::to_v4) {
        // SAFETY: the context is valid for the program's run; bind4 may write the address.
        unsafe { (*ctx.sock_addr).user_ip4 = u32::from_ne_bytes(octets) };
    }
    ALLOW
}

/// Replaces the address that a bind(address, 0) of an AF_INET6 socket asks for, if the rule says so ([`spread::bind`]).
#[cgroup_sock_addr(bind6)]
pub(crate) fn spread_bind6(ctx: SockAddrContext) -> i32 {
    if let Some(address) = spread::bind(&call6(&ctx)) {
        let words = words::of_addr(address);
        // SAFETY: as in `spread_bind4`; the verifier wants four-byte writes.
        unsafe {
            let ip = (&raw mut (*ctx.sock_addr).user_ip6).cast::<u32>();
            ip.write_volatile(words[0]);
            ip.add(1).write_volatile(words[1]);
            ip.add(2).write_volatile(words[2]);
            ip.add(3).write_volatile(words[3]);
        }
    }
    ALLOW
}
