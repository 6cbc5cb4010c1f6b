//! Reads the arguments of a connect() or bind() from a cgroup hook's context.

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    programs::SockAddrContext,
};
use tracer_common::{Addr, Rule, TupleKey, spread::FamilyPool};

use crate::{
    abi::{IPPROTO_TCP, SOCK_STREAM},
    words,
};

/// The family of a call's socket and of its address.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum SockFamily {
    /// IPv4 in an AF_INET socket.
    V4,
    /// IPv4 in an AF_INET6 socket.
    Mapped,
    /// IPv6 in an AF_INET6 socket.
    V6,
}

/// A connect() or bind() call.
pub(crate) struct Call<'a> {
    pub(crate) ctx: &'a SockAddrContext,
    /// The family of the socket and of `address`.
    pub(crate) form: SockFamily,
    /// The destination of a connect(), the source of a bind().
    pub(crate) address: Addr,
    /// The port of that destination or source, host byte order; 0: none.
    pub(crate) port: u16,
}

impl Call<'_> {
    /// The hook's context, valid while the program runs.
    #[inline(always)]
    pub(crate) fn raw(&self) -> *mut bpf_sock_addr {
        self.ctx.sock_addr
    }

    /// The socket of the call; not NULL.
    #[inline(always)]
    pub(super) fn sk(&self) -> *mut bpf_sock {
        // SAFETY: the context is valid for the program's run, and has a socket.
        unsafe { (*self.raw()).__bindgen_anon_1.sk }
    }

    /// The tuple of a connect() in the namespace with inode number `netns`. Its source is not chosen yet: the destination's
    /// address is in its place, because LLVM would write zeros with a loop.
    #[inline(always)]
    pub(super) fn key(&self, netns: u32) -> TupleKey {
        TupleKey {
            source: self.address,
            destination: self.address,
            netns,
            destination_port: self.port,
            zero: 0,
        }
    }

    /// The rule's pool for the call's address: that of IPv4 also for IPv4 in an AF_INET6 socket.
    #[inline(always)]
    pub(super) fn pool<'r>(&self, rule: &'r Rule) -> &'r FamilyPool {
        if self.form == SockFamily::V6 { &rule.v6 } else { &rule.v4 }
    }

    /// Whether this is a TCP socket; false for MPTCP.
    #[inline(always)]
    pub(super) fn is_tcp(&self) -> bool {
        // SAFETY: as in `sk`.
        unsafe { (*self.raw()).type_ == SOCK_STREAM && (*self.raw()).protocol == IPPROTO_TCP }
    }

    /// The socket's source address; unspecified: it has none.
    #[inline(always)]
    pub(super) fn source(&self) -> Addr {
        let sk = self.sk();
        // SAFETY: as in `sk`; the verifier wants the fields read in pieces of four bytes.
        unsafe {
            if self.form == SockFamily::V4 {
                let ip = (&raw const (*sk).src_ip4).read_volatile();
                return if ip == 0 { Addr::UNSPECIFIED } else { Addr::v4(ip.to_ne_bytes()) };
            }
            let ip = (&raw const (*sk).src_ip6).cast::<u32>();
            let words = [
                ip.read_volatile(),
                ip.add(1).read_volatile(),
                ip.add(2).read_volatile(),
                ip.add(3).read_volatile(),
            ];
            words::to_addr(words)
        }
    }

    /// The socket's local port, host byte order; 0: none.
    #[inline(always)]
    pub(super) fn bound_port(&self) -> u32 {
        // SAFETY: as in `sk`.
        unsafe { (&raw const (*self.sk()).src_port).read_volatile() }
    }

    /// Index of the interface that the socket is bound to (SO_BINDTODEVICE); 0: none.
    #[inline(always)]
    pub(super) fn device(&self) -> u32 {
        // SAFETY: as in `sk`.
        unsafe { (&raw const (*self.sk()).bound_dev_if).read_volatile() }
    }
}
