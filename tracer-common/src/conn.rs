//! One socket's hold on a source port, from connect() to the end of its TIME_WAIT.

use crate::TupleKey;

/// Identity of a held port: the socket's cookie and its local port.
///
/// The cookie is unique, never re-used, is what sock_diag prints, and survives into TIME_WAIT. The
/// port is part of it because a disconnected fd can connect again, with the same cookie, while its
/// old TIME_WAIT lives.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ConnKey {
    pub cookie: u64,
    /// Host byte order.
    pub port: u16,
    /// Two numbers, not an array: that would be set by a function.
    pub zero: u16,
    pub zero_too: u32,
}

const _: () = assert!(size_of::<ConnKey>() == 16);

impl ConnKey {
    #[inline(always)]
    pub const fn new(cookie: u64, port: u16) -> Self {
        Self { cookie, port, zero: 0, zero_too: 0 }
    }

    /// Whether this is a cookie: a listener can be without one, and goes by its kernel address then.
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

/// Bits of [`Conn::flags`], [`Attempt::flags`] and [`Bound::flags`].
pub mod conn_flag {
    /// The port is held by a time-wait socket.
    pub const TIME_WAIT: u32 = 1;
    /// Found by the dump at start, not seen being opened.
    pub const SEEDED: u32 = 1 << 1;
    /// The socket had a port (bind()) before connect() looked for one.
    pub const BOUND: u32 = 1 << 2;
    /// The filter lets events about this socket through.
    pub const WATCHED: u32 = 1 << 3;
    /// An attempt whose outcome is in the ledger or was reported: nothing is left to say.
    pub const SETTLED: u32 = 1 << 4;
    /// The port was taken by listen(), not by bind().
    pub const LISTEN: u32 = 1 << 5;
    /// The spreader chose the source.
    pub const SPREAD: u32 = 1 << 6;
    /// The connection got established.
    pub const ESTABLISHED: u32 = 1 << 7;
    /// The port is in `BOUND_PORTS`, too: the application bound it, so it counts among the bound ports.
    pub const LISTED: u32 = 1 << 9;
    /// The port is none of those that connect() can be given now: another socket bound it meanwhile, or the range and
    /// the reserved ports have changed. It takes no room, so it is not counted in [`crate::TupleCount::held`]. In the table
    /// it is [`super::Conn::APART`].
    pub const APART: u32 = 1 << 13;
    /// In [`Bound::flags`]: the kernel chose the port, for bind(address, 0) or listen().
    pub const CHOSEN: u32 = 1 << 14;
    /// A TIME_WAIT of a connection without TCP timestamps, which the kernel's search for a port never takes over.
    pub const NO_STAMP: u32 = 1 << 15;
    /// An attempt that got a port for which the ledger had no room.
    pub const UNCOUNTED: u32 = 1 << 8;
    /// A number of three bits: the [`PortState`](crate::PortState) of what holds the port; 0 in TIME_WAIT.
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
    /// In whose share of the table this entry is ([`crate::share::owner`]), and [`Conn::APART`].
    pub owner: u32,
}

const _: () = assert!(size_of::<Conn>() == 96);

impl Conn {
    /// The bit of `owner` that stands for [`conn_flag::APART`] in the table, where `flags` never has it: `flags` is written by
    /// hooks as a whole, this bit by commands alone, and so neither undoes what the other does at the same time.
    pub const APART: u32 = 1 << 31;

    /// Flags with [`conn_flag::APART`], from what the table has.
    #[inline(always)]
    pub const fn flags_of(flags: u32, owner: u32) -> u32 {
        flags | ((owner >> 31) * conn_flag::APART)
    }

    /// An entry of the table, with [`conn_flag::APART`] in `flags` and the owner alone in `owner`.
    #[must_use]
    pub const fn told(self) -> Self {
        let flags = Self::flags_of(self.flags, self.owner);
        Self { flags, owner: self.owner & !Self::APART, ..self }
    }

    /// Whether a time-wait socket holds the port.
    #[inline(always)]
    pub const fn is_time_wait(&self) -> bool {
        self.flags & conn_flag::TIME_WAIT != 0
    }
}

/// Value of the `ATTEMPTS` map: the connect() that a thread is inside of.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Attempt {
    pub tuple: TupleKey,
    pub who: Who,
    pub cookie: u64,
    /// Kernel address of the `struct sock`; only ever probe-read, and checked against `cookie`.
    pub sk: u64,
    /// CLOCK_MONOTONIC of the connect() call, ns.
    pub begun_ns: u64,
    /// CLOCK_MONOTONIC of the start of the port search, ns; 0: not begun.
    pub search_ns: u64,
    /// [`conn_flag`] bits.
    pub flags: u32,
    /// Local port before the search, host byte order; 0: none.
    pub bound_port: u16,
    /// `Kind::ConnectFailed` or `Kind::BindFailed`: which call this is.
    pub call: u8,
    pub zero: u8,
    /// Whose it is: [`crate::share::owner`].
    pub owner: u32,
    pub zero_too: u32,
}

const _: () = assert!(size_of::<Attempt>() == 120);

/// Value of the `BOUND_PORTS` map, keyed by [`ConnKey`]: a port that bind() or listen() took, which no
/// connect() of that namespace can be given.
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
    /// As in [`Conn`].
    pub owner: u32,
}

const _: () = assert!(size_of::<Bound>() == 88);
