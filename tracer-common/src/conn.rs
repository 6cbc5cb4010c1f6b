//! Keys and values of BPF maps: `CONNS` (ports that connect() took, until their TIME_WAIT ends), `ATTEMPTS` (the calls that
//! threads are executing) and `BOUND_PORTS` (ports that bind() or listen() took).

use crate::{TupleKey, conn_flag};

/// Identity of a held port: the socket's cookie and its local port.
///
/// The cookie is unique and never re-used, sock_diag lists it, and the time-wait socket keeps it. The
/// port is part of the key because a socket can disconnect and connect again, with the same cookie, while
/// its old TIME_WAIT lasts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ConnKey {
    /// In a key of `BOUND_PORTS`, the kernel address of the `struct sock` if the socket has no cookie.
    pub cookie: u64,
    /// Host byte order.
    pub port: u16,
    /// Padding, as is `zero_too`: both are 0 in every key of a map. Two numbers and not an array, which LLVM would set with a
    /// call.
    pub zero: u16,
    /// See `zero`.
    pub zero_too: u32,
}

const _: () = assert!(size_of::<ConnKey>() == 16);

impl ConnKey {
    /// The key of this cookie and port (host byte order).
    #[inline(always)]
    pub const fn new(cookie: u64, port: u16) -> Self {
        Self { cookie, port, zero: 0, zero_too: 0 }
    }

    /// Whether `cookie` is a cookie, or 0. False: it is the kernel address of a listener that has no cookie, with its highest bit
    /// set.
    #[inline(always)]
    pub const fn has_cookie(&self) -> bool {
        self.cookie >> 63 == 0
    }
}

/// Who called connect(), bind() or listen(). A field that is 0 is not known. Of a socket that is older than the tracer, only
/// `pid` and `comm` can be known.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Who {
    /// cgroup v2 id of the caller.
    pub cgroup: u64,
    /// Process (tgid) in the initial pid namespace.
    pub pid: u32,
    /// Thread in the initial pid namespace.
    pub tid: u32,
    /// Name (comm) of the calling thread; of a socket that is older than the tracer, of its process. Arbitrary bytes, NUL-padded;
    /// all 0: not known.
    pub comm: [u8; 16],
}

const _: () = assert!(size_of::<Who>() == 32);

/// Value of the `CONNS` map: one held port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Conn {
    pub tuple: TupleKey,
    /// The caller of connect().
    pub who: Who,
    /// CLOCK_MONOTONIC of the connect() call, ns; 0: not known (a seeded socket, or one without an attempt).
    pub begun_ns: u64,
    /// CLOCK_MONOTONIC of when the port was taken (or found), ns.
    pub acquired_ns: u64,
    /// [`conn_flag`] bits.
    pub flags: u32,
    /// The owner in whose share of the table this entry is ([`crate::share::owner`]), and [`Conn::APART`].
    pub owner: u32,
}

const _: () = assert!(size_of::<Conn>() == 96);

impl Conn {
    /// The bit of `owner` that stands for [`conn_flag::APART`] in the table, where `flags` never has it: hooks write `flags` as
    /// a whole, and only commands write this bit, so that neither undoes a concurrent change of the other.
    pub const APART: u32 = 1 << 31;

    /// `flags` with [`conn_flag::APART`] added if `owner` has [`Self::APART`]: both of one entry of the table.
    #[inline(always)]
    pub const fn flags_of(flags: u32, owner: u32) -> u32 {
        flags | ((owner >> 31) * conn_flag::APART)
    }

    /// The entry as userspace uses it: [`conn_flag::APART`] is in `flags`, and `owner` is the owner alone.
    #[must_use]
    pub const fn for_userspace(self) -> Self {
        let flags = Self::flags_of(self.flags, self.owner);
        Self { flags, owner: self.owner & !Self::APART, ..self }
    }

    /// Whether a time-wait socket holds the port.
    #[inline(always)]
    pub const fn is_time_wait(&self) -> bool {
        self.flags & conn_flag::TIME_WAIT != 0
    }
}

/// Value of the `ATTEMPTS` map: the connect(), bind() or listen() call that a thread is executing.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Attempt {
    /// As far as it is known. Of a bind() only `source` (the address that it asks for) and `netns`, of a listen() only `source`
    /// (that of the socket) and `netns`. Of a connect() `source` is the address that the socket is bound to (unspecified: none)
    /// until the port search begins.
    pub tuple: TupleKey,
    pub who: Who,
    /// The socket's cookie; 0: it has none (a listener).
    pub cookie: u64,
    /// Kernel address of the `struct sock`. Only read with bpf_probe_read_kernel, which fails if the memory is gone.
    pub sk: u64,
    /// CLOCK_MONOTONIC of the begin of the call, ns.
    pub begun_ns: u64,
    /// CLOCK_MONOTONIC of the start of connect()'s port search, ns; 0: not begun.
    pub search_ns: u64,
    /// [`conn_flag`] bits.
    pub flags: u32,
    /// The port that the socket has before connect()'s search, or that bind() or listen() asks for, host byte order; 0: none, or
    /// any.
    pub bound_port: u16,
    /// Which call this is, as a [`Kind`](crate::Kind): `ConnectFailed` for connect(), `BindFailed` for bind(), `PortAllocated`
    /// for listen().
    pub call: u8,
    /// Padding, always 0; so is `zero_too`.
    pub zero: u8,
    /// The caller as an owner: [`crate::share::owner`].
    pub owner: u32,
    pub zero_too: u32,
}

const _: () = assert!(size_of::<Attempt>() == 120);

/// Value of the `BOUND_PORTS` map, keyed by [`ConnKey`]: a port that bind() or listen() took, which the kernel
/// gives to no connect() of that namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Bound {
    /// Only `source` (the bound address) and `netns` are set.
    pub place: TupleKey,
    /// The caller of bind() or listen().
    pub who: Who,
    /// CLOCK_MONOTONIC of when the port was taken (or found), ns.
    pub acquired_ns: u64,
    /// [`conn_flag`] bits.
    pub flags: u32,
    /// The owner in whose share of the table this entry is: [`crate::share::owner`].
    pub owner: u32,
}

const _: () = assert!(size_of::<Bound>() == 88);
