//! A held port, from connect() to the end of its TIME_WAIT; attempts, and bound ports.

use crate::TupleKey;

/// Identity of a held port: the socket's cookie and its local port.
///
/// The cookie is unique and never re-used, sock_diag lists it, and the time-wait socket keeps it. The
/// port is part of the key because a socket can disconnect and connect again, with the same cookie, while
/// its old TIME_WAIT lasts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ConnKey {
    pub cookie: u64,
    /// Host byte order.
    pub port: u16,
    /// Two numbers, not an array: LLVM would set an array with a call.
    pub zero: u16,
    pub zero_too: u32,
}

const _: () = assert!(size_of::<ConnKey>() == 16);

impl ConnKey {
    #[inline(always)]
    pub const fn new(cookie: u64, port: u16) -> Self {
        Self { cookie, port, zero: 0, zero_too: 0 }
    }

    /// Whether `cookie` is a cookie. Else it is the kernel address of a listener that has none.
    #[inline(always)]
    pub const fn has_cookie(&self) -> bool {
        self.cookie >> 63 == 0
    }
}

/// Who called connect() or bind(). All zero: unknown (a socket older than the tracer).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Who {
    /// cgroup v2 id of the caller.
    pub cgroup: u64,
    /// Process (tgid) in the initial pid namespace.
    pub pid: u32,
    /// Thread in the initial pid namespace.
    pub tid: u32,
    /// Arbitrary bytes, NUL-padded.
    pub comm: [u8; 16],
}

const _: () = assert!(size_of::<Who>() == 32);

/// Bits of [`Conn::flags`], [`Attempt::flags`] and [`super::Bound::flags`].
pub mod conn_flag {
    /// The port is held by a time-wait socket.
    pub const TIME_WAIT: u32 = 1;
    /// Read from sock_diag: no hook saw the call that took the port.
    pub const SEEDED: u32 = 1 << 1;
    /// The socket had a port before connect(): the application or the spreader bound it.
    pub const BOUND: u32 = 1 << 2;
    /// The socket passes the filter, so that it has events.
    pub const WATCHED: u32 = 1 << 3;
    /// Of an attempt: its outcome is in the ledger or was reported.
    pub const SETTLED: u32 = 1 << 4;
    /// listen() took the port, not bind().
    pub const LISTEN: u32 = 1 << 5;
    /// The spreader chose the source.
    pub const SPREAD: u32 = 1 << 6;
    /// The connection was established.
    pub const ESTABLISHED: u32 = 1 << 7;
    /// `BOUND_PORTS` has the port, too: the application bound it, so it counts among the bound ports.
    pub const LISTED: u32 = 1 << 9;
    /// The kernel would not give the port to connect() now: another socket bound it meanwhile, or the range or the
    /// reserved ports changed. It takes no room, so [`crate::TupleCount::held`] does not count it. In the table the bit is
    /// [`super::Conn::APART`].
    pub const APART: u32 = 1 << 13;
    /// In [`super::Bound::flags`]: the kernel chose the port, for bind(address, 0).
    pub const CHOSEN: u32 = 1 << 14;
    /// The connection of a TIME_WAIT had no TCP timestamps, so that the kernel's port search never reuses it.
    pub const NO_STAMP: u32 = 1 << 15;
    /// Of an attempt: it got a port for which the ledger had no room.
    pub const UNCOUNTED: u32 = 1 << 8;
    /// A number of three bits: the connection's [`PortState`](crate::PortState); 0 in TIME_WAIT.
    pub const STATE: u32 = 7 << STATE_SHIFT;
    pub const STATE_SHIFT: u32 = 10;
}

/// Value of the `CONNS` map: one held port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Conn {
    pub tuple: TupleKey,
    pub who: Who,
    /// CLOCK_MONOTONIC of the connect() call, ns; 0 for a seeded socket.
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

    /// The flags of an entry of the table, with [`conn_flag::APART`] from its `owner`.
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
    pub tuple: TupleKey,
    pub who: Who,
    pub cookie: u64,
    /// Kernel address of the `struct sock`; only ever probe-read, and checked against `cookie`.
    pub sk: u64,
    /// CLOCK_MONOTONIC of the call, ns.
    pub begun_ns: u64,
    /// CLOCK_MONOTONIC of the start of connect()'s port search, ns; 0: not begun.
    pub search_ns: u64,
    /// [`conn_flag`] bits.
    pub flags: u32,
    /// Local port before the search, or the one that bind() asks for, host byte order; 0: none.
    pub bound_port: u16,
    /// Which call this is: `Kind::ConnectFailed`, `Kind::BindFailed`, or `Kind::PortAllocated` for listen().
    pub call: u8,
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
    pub who: Who,
    /// CLOCK_MONOTONIC of when the port was taken (or found), ns.
    pub acquired_ns: u64,
    /// [`conn_flag`] bits.
    pub flags: u32,
    /// The owner in whose share of the table this entry is: [`crate::share::owner`].
    pub owner: u32,
}

const _: () = assert!(size_of::<Bound>() == 88);
