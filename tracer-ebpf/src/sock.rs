//! Reads `struct sock` and `struct inet_timewait_sock`; no other file knows their fields.
//!
//! Both start with `struct sock_common`, so one read serves for both. Reads go through `bpf_probe_read_kernel`, which fails
//! instead of faulting. Only the fields of a [`TcpSock`] and of a [`TimeWait`] are read directly: the verifier knows their types.

pub(crate) mod state;

use aya_ebpf::{
    Global,
    bindings::bpf_sock,
    helpers::{bpf_probe_read_kernel, bpf_skc_to_tcp_sock, bpf_skc_to_tcp_timewait_sock},
};
use tracer_common::{Addr, ConnKey, Loss, TupleKey, conn_flag, settings::SOCK_COMMON_LEN};

use crate::{
    abi::{AF_INET, AF_INET6, IPPROTO_TCP},
    offsets::{
        DATA_SEGS_OUT, DEFERRED, DEFERRED_MASK, INET_SPORT, NET_COOKIE, NET_INUM, NO_PORT,
        NO_PORT_MASK, SK_ERR, SK_KERN_SOCK, SK_KERN_SOCK_MASK, SK_PROTOCOL, SK_USERLOCKS,
        SK_USERLOCKS_SHIFT, SKC_COOKIE, SKC_DADDR, SKC_DPORT, SKC_FAMILY, SKC_NET, SKC_NUM,
        SKC_RCV_SADDR, SKC_STATE, SKC_V6_DADDR, SKC_V6_RCV_SADDR, TP_RECENT_STAMP, TRANSPARENT,
        TRANSPARENT_MASK, TW_ENTRY_STAMP, TW_RECENT_STAMP, TW_SUBSTATE,
    },
    skip::{Skip, Step},
    words,
};

/// Kernel address of a `struct sock` or `struct inet_timewait_sock`.
pub(crate) type Address = *const u8;

const SOCK_BINDPORT_LOCK: u8 = 8;

/// The socket's cookie; 0: none, or it cannot be read. Read alone, because most state changes are of sockets without one.
#[inline(always)]
pub(crate) fn cookie_of(at: Address) -> u64 {
    // SAFETY: the helper checks the address itself.
    unsafe { bpf_probe_read_kernel(at.add(SKC_COOKIE.load() as usize).cast::<u64>()) }.unwrap_or(0)
}

/// [`conn_flag::NO_STAMP`] if the connection of this full socket, which enters TIME_WAIT, had no timestamps; else 0.
#[inline(always)]
pub(crate) fn no_stamp_of(at: Address) -> u32 {
    no_stamp(at, &TP_RECENT_STAMP)
}

/// [`conn_flag::NO_STAMP`] if the field at `offset` is 0, else 0. The field has the time at which the peer last sent a
/// timestamp (0: never); `tcp_twsk_unique` (net/ipv4/tcp_ipv4.c) tests it the same way. Of a 64-bit field the lower half is
/// read. If the offset is not known, or the field cannot be read, the connection counts as one with timestamps.
#[inline(always)]
fn no_stamp(at: Address, offset: &Global<u32>) -> u32 {
    let offset = offset.load();
    if offset == 0 {
        return 0;
    }
    // SAFETY: the helper checks the address itself.
    match unsafe { bpf_probe_read_kernel(at.add(offset as usize).cast::<u32>()) } {
        Ok(0) => conn_flag::NO_STAMP,
        _ => 0,
    }
}

/// The local port, host byte order; 0: none, or it cannot be read.
#[inline(always)]
pub(crate) fn port_of(at: Address) -> u16 {
    // SAFETY: the helper checks the address itself.
    unsafe { bpf_probe_read_kernel(at.add(SKC_NUM.load() as usize).cast::<u16>()) }.unwrap_or(0)
}

/// The TCP state ([`state`]); 0: it cannot be read.
#[inline(always)]
pub(crate) fn state_of(at: Address) -> u8 {
    // SAFETY: the helper checks the address itself.
    unsafe { bpf_probe_read_kernel(at.add(SKC_STATE.load() as usize).cast::<u8>()) }.unwrap_or(0)
}

/// A TCP socket of a cgroup hook. The verifier knows its type (BTF), so that its fields are read directly,
/// without a helper call for each.
#[derive(Clone, Copy)]
pub(crate) struct TcpSock(*const u8);

impl TcpSock {
    /// The socket as a TCP socket; `None`: it is not one.
    #[inline(always)]
    pub(crate) fn new(sk: *mut bpf_sock) -> Option<Self> {
        // SAFETY: the context's socket, or NULL.
        let sk = unsafe { bpf_skc_to_tcp_sock(sk.cast()) };
        if sk.is_null() { None } else { Some(Self(sk.cast())) }
    }

    /// A field of the socket, or of what one of its fields points to.
    ///
    /// # Safety
    /// `T` must be the type of the kernel's field at this offset, or a part of it: the verifier checks that.
    #[inline(always)]
    unsafe fn field<T>(at: *const u8, offset: &Global<u32>) -> T {
        // SAFETY: the caller's promise. Volatile, because the kernel writes the field; a read through a pointer that
        // is not valid (any more) gives zeros.
        unsafe { at.add(offset.load() as usize).cast::<T>().read_volatile() }
    }

    /// Whether the bit of `mask` is set in the socket's byte at `offset`. False if `mask` is 0 (the kernel lacks the bit).
    #[inline(always)]
    fn bit(self, offset: &Global<u32>, mask: &Global<u32>) -> bool {
        // SAFETY: any byte of a field is a valid `u8`.
        let byte: u8 = unsafe { Self::field(self.0, offset) };
        u32::from(byte) & mask.load() != 0
    }

    /// Whether IP_BIND_ADDRESS_NO_PORT is known to be off. If the socket then has a source and no port, a BPF program
    /// bound the source: an application needs that option to bind an address without a port.
    #[inline(always)]
    pub(crate) fn is_given(self) -> bool {
        NO_PORT_MASK.load() != 0 && !self.bit(&NO_PORT, &NO_PORT_MASK)
    }

    /// Whether the kernel made this socket for itself (`sk_kern_sock`). False if the bit's offset is not known.
    #[inline(always)]
    pub(crate) fn is_kernel_socket(self) -> bool {
        self.bit(&SK_KERN_SOCK, &SK_KERN_SOCK_MASK)
    }

    /// Whether the socket's addresses need not be local (IP_TRANSPARENT). False if the flag's offset is not known.
    #[inline(always)]
    pub(crate) fn is_transparent(self) -> bool {
        self.bit(&TRANSPARENT, &TRANSPARENT_MASK)
    }

    /// Kernel address of the socket.
    #[inline(always)]
    pub(crate) fn at(self) -> u64 {
        self.0 as u64
    }

    /// Local port, host byte order; 0 when the socket holds none.
    #[inline(always)]
    pub(crate) fn port(self) -> u16 {
        // SAFETY: the type is the one of the kernel's BTF.
        unsafe { Self::field(self.0, &SKC_NUM) }
    }

    /// The bound or connected local address; `::` or `::ffff:0.0.0.0`: none. `Err`: not an IP socket.
    #[inline(always)]
    pub(crate) fn source(self) -> Step<Addr> {
        // SAFETY: the types are those of the kernel's BTF; an IPv6 address is four words.
        unsafe {
            match Self::field::<u16>(self.0, &SKC_FAMILY) {
                AF_INET => Ok(Addr::v4(Self::field(self.0, &SKC_RCV_SADDR))),
                AF_INET6 => {
                    let at = self.0.add(SKC_V6_RCV_SADDR.load() as usize).cast::<u32>();
                    let words = [
                        at.read_volatile(),
                        at.add(1).read_volatile(),
                        at.add(2).read_volatile(),
                        at.add(3).read_volatile(),
                    ];
                    Ok(words::to_addr(words))
                }
                _ => Err(Skip::NotOurs),
            }
        }
    }

    #[inline(always)]
    fn net(self) -> *const u8 {
        // SAFETY: `possible_net_t`, which is a pointer.
        unsafe { Self::field(self.0, &SKC_NET) }
    }

    /// Inode number of the socket's network namespace; 0: it cannot be read.
    #[inline(always)]
    pub(crate) fn netns(self) -> u32 {
        // SAFETY: as in `port`.
        unsafe { Self::field(self.net(), &NET_INUM) }
    }

    /// Cookie of the socket's network namespace; `None`: the kernel has no such cookies (before Linux 5.12).
    #[inline(always)]
    pub(crate) fn netns_cookie(self) -> Option<u64> {
        // SAFETY: as in `port`.
        (NET_COOKIE.load() != 0).then(|| unsafe { Self::field(self.net(), &NET_COOKIE) })
    }
}

/// A time-wait socket that a lookup found; the verifier knows its type.
#[derive(Clone, Copy)]
pub(crate) struct TimeWait(*const u8);

impl TimeWait {
    /// The socket as a TCP time-wait socket; `None`: it is not one.
    #[inline(always)]
    pub(crate) fn new(found: *mut bpf_sock) -> Option<Self> {
        // SAFETY: the lookup holds a reference to the socket, which is not released yet.
        let sk = unsafe { bpf_skc_to_tcp_timewait_sock(found.cast()) };
        if sk.is_null() { None } else { Some(Self(sk.cast())) }
    }

    /// Whether the kernel's port search may reuse this TIME_WAIT under tcp_tw_reuse (`tcp_twsk_unique` in
    /// net/ipv4/tcp_ipv4.c): both ends used timestamps, the peer's FIN has arrived, and it is older than `delay_ms`
    /// ([`Rule::reuse_delay_ms`](tracer_common::Rule::reuse_delay_ms)), or before Linux 6.14, the kernel's clock of seconds has
    /// advanced since. False if the offsets of the fields are not known. Whether tcp_tw_reuse is on is not checked.
    #[inline(always)]
    pub(crate) fn is_reusable(self, delay_ms: u32) -> bool {
        const FIN_WAIT2: u8 = 5;
        const MS: u64 = 1_000_000;
        const SECOND: u64 = 1_000 * MS;
        /// The kernel's clock of seconds advances with the timer interrupt, so it can lag by this much, ns.
        const LATE: u64 = 20 * MS;
        if TW_SUBSTATE.load() == 0 {
            return false;
        }
        // SAFETY: as in `TcpSock::port`; of a 64-bit stamp the lower half is read.
        let (substate, recent): (u8, u32) = unsafe {
            (TcpSock::field(self.0, &TW_SUBSTATE), TcpSock::field(self.0, &TW_RECENT_STAMP))
        };
        if substate == FIN_WAIT2 || recent == 0 {
            return false;
        }
        let now = crate::attempt::now();
        if TW_ENTRY_STAMP.load() == 0 {
            return (now.wrapping_sub(LATE) / SECOND) as u32 > recent;
        }
        // SAFETY: as in `TcpSock::port`.
        let entry: u32 = unsafe { TcpSock::field(self.0, &TW_ENTRY_STAMP) };
        let age = ((now / MS) as u32).wrapping_sub(entry) as i32;
        age > delay_ms as i32
    }
}

/// A copy of the `struct sock_common` of a full or a time-wait socket, and the socket's address, from which other fields are
/// read.
pub(crate) struct Sock {
    at: Address,
    common: [u64; SOCK_COMMON_LEN / 8],
}

impl Sock {
    /// Copies the `struct sock_common` at this address. `Err`: it cannot be read, which is a loss.
    #[inline(always)]
    pub(crate) fn read(at: Address) -> Step<Self> {
        // SAFETY: the helper checks the address itself.
        match unsafe { bpf_probe_read_kernel(at.cast::<[u64; SOCK_COMMON_LEN / 8]>()) } {
            Ok(common) => Ok(Self { at, common }),
            Err(_) => Err(Skip::Lost(Loss::ReadFailed)),
        }
    }

    /// Reads a field from the copy.
    #[inline(always)]
    fn field<T: Copy>(&self, offset: &Global<u32>) -> T {
        // SAFETY: userspace refuses to load with an offset whose field does not end inside the
        // copy, and the verifier checks it again; kernel fields are naturally aligned.
        unsafe { self.common.as_ptr().cast::<u8>().add(offset.load() as usize).cast::<T>().read() }
    }

    /// Reads a field that lies behind the copied part, from kernel memory.
    #[inline(always)]
    fn far_field<T>(&self, offset: &Global<u32>) -> Step<T> {
        // SAFETY: the helper checks the address itself.
        unsafe { bpf_probe_read_kernel(self.at.add(offset.load() as usize).cast::<T>()) }
            .map_err(|_| Skip::Lost(Loss::ReadFailed))
    }

    /// Kernel address of the socket.
    #[inline(always)]
    pub(crate) fn at(&self) -> u64 {
        self.at as u64
    }

    /// The socket's cookie; 0: none was ever requested.
    #[inline(always)]
    pub(crate) fn cookie(&self) -> u64 {
        self.field(&SKC_COOKIE)
    }

    /// Local port, host byte order; 0 when the socket holds none (any more).
    #[inline(always)]
    pub(crate) fn port(&self) -> u16 {
        self.field(&SKC_NUM)
    }

    /// The TCP state ([`state`]).
    #[inline(always)]
    pub(crate) fn state(&self) -> u8 {
        self.field(&SKC_STATE)
    }

    /// Whether this is a TCP socket: other sockets reach the same hooks, too (MPTCP state changes, UDP post_bind). `Err`: the
    /// protocol cannot be read, which is a loss.
    #[inline(always)]
    pub(crate) fn is_tcp(&self) -> Step<bool> {
        Ok(self.far_field::<u16>(&SK_PROTOCOL)? == IPPROTO_TCP as u16)
    }

    /// The socket's cookie and local port (host byte order), each 0 if it has none.
    #[inline(always)]
    pub(crate) fn key(&self) -> ConnKey {
        ConnKey::new(self.cookie(), self.port())
    }

    /// The key of the port that the socket holds, or held until a moment ago: `inet_sport` stays
    /// when `inet_put_port` clears the local port. It also stays when the socket is used again, so the
    /// port is a held one only if `CONNS` has an entry for it. `Err`: `inet_sport` cannot be read, which is a loss.
    #[inline(always)]
    pub(crate) fn last_key(&self) -> Step<ConnKey> {
        let port = match self.port() {
            0 => u16::from_be(self.far_field(&INET_SPORT)?),
            port => port,
        };
        Ok(ConnKey::new(self.cookie(), port))
    }

    /// [`conn_flag::NO_STAMP`] if the connection of this filled-in time-wait socket had no timestamps; else 0.
    #[inline(always)]
    pub(crate) fn no_stamp(&self) -> u32 {
        no_stamp(self.at, &TW_RECENT_STAMP)
    }

    /// The errno that ended the connection (`sk_err`), positive; 0: none. `Err`: it cannot be read, which is a loss.
    #[inline(always)]
    pub(crate) fn error(&self) -> Step<u16> {
        let error: i32 = self.far_field(&SK_ERR)?;
        Ok(error as u16)
    }

    /// How many segments with data the socket sent, those sent again included; `None`: the offset of that field is not known.
    /// `Err`: it cannot be read, which is a loss.
    #[inline(always)]
    pub(crate) fn segments_sent(&self) -> Step<Option<u32>> {
        if DATA_SEGS_OUT.load() == 0 {
            return Ok(None);
        }
        self.far_field(&DATA_SEGS_OUT).map(Some)
    }

    /// Whether the SYN is still unsent because it waits for the first write (TCP_FASTOPEN_CONNECT). False if the flag's offset is
    /// not known. `Err`: the flag cannot be read, which is a loss.
    #[inline(always)]
    pub(crate) fn is_deferred(&self) -> Step<bool> {
        let flags: u8 = self.far_field(&DEFERRED)?;
        Ok(u32::from(flags) & DEFERRED_MASK.load() != 0)
    }

    /// Whether the socket keeps its port when the connection ends: bind() named that port (SOCK_BINDPORT_LOCK). `Err`: the flag
    /// cannot be read, which is a loss.
    #[inline(always)]
    pub(crate) fn keeps_port(&self) -> Step<bool> {
        let locks: u8 = self.far_field(&SK_USERLOCKS)?;
        Ok((locks >> (SK_USERLOCKS_SHIFT.load() & 7)) & SOCK_BINDPORT_LOCK != 0)
    }

    /// Inode number of the socket's network namespace. `Err`: it cannot be read, which is a loss.
    #[inline(always)]
    pub(crate) fn netns(&self) -> Step<u32> {
        let net: Address = self.field(&SKC_NET);
        // SAFETY: the helper checks the address itself.
        unsafe { bpf_probe_read_kernel(net.add(NET_INUM.load() as usize).cast::<u32>()) }
            .map_err(|_| Skip::Lost(Loss::ReadFailed))
    }

    /// The bound or connected local address; `::` or `::ffff:0.0.0.0`: none. `Err`: not an IP socket.
    #[inline(always)]
    pub(crate) fn source(&self) -> Step<Addr> {
        match self.field::<u16>(&SKC_FAMILY) {
            AF_INET => Ok(Addr::v4(self.field(&SKC_RCV_SADDR))),
            AF_INET6 => Ok(self.v6(&SKC_V6_RCV_SADDR)),
            _ => Err(Skip::NotOurs),
        }
    }

    /// Fills in the whole tuple. `Err`: not an IP socket, or its namespace cannot be read, which is a loss; a part of the tuple
    /// may be filled in then.
    #[inline(always)]
    pub(crate) fn read_tuple(&self, tuple: &mut TupleKey) -> Step {
        tuple.netns = self.netns()?;
        self.read_ends(tuple)
    }

    /// Fills in the addresses and the destination port of a tuple that has its namespace already. `Err`: not an IP socket.
    #[inline(always)]
    pub(crate) fn read_ends(&self, tuple: &mut TupleKey) -> Step {
        tuple.destination = match self.field::<u16>(&SKC_FAMILY) {
            AF_INET => Addr::v4(self.field(&SKC_DADDR)),
            AF_INET6 => self.v6(&SKC_V6_DADDR),
            _ => return Err(Skip::NotOurs),
        };
        tuple.source = self.source()?;
        tuple.destination_port = u16::from_be(self.field(&SKC_DPORT));
        Ok(())
    }

    /// The IPv6 address at this offset. Read in words: `struct in6_addr` is aligned to 4 bytes only, `Addr` to 8.
    #[inline(always)]
    fn v6(&self, offset: &Global<u32>) -> Addr {
        let words: [u32; 4] = self.field(offset);
        words::to_addr(words)
    }
}
