//! One record of the `EVENTS` ring buffer.

use crate::{TupleKey, named::named};

named! {
    /// What happened. The value is on the wire: append, never reorder.
    pub enum Kind: u8 {
        /// `port.allocated`
        PortAllocated = 1 => "port.allocated",
        /// `port.released`
        PortReleased => "port.released",
        /// `connect.established`
        ConnectEstablished => "connect.established",
        /// `connect.failed`
        ConnectFailed => "connect.failed",
        /// `bind.failed`
        BindFailed => "bind.failed",
        /// `tcp.state`
        TcpState => "tcp.state",
    }
}

impl Kind {
    /// This kind's bit in the global `EVENT_MASK`.
    #[inline(always)]
    pub const fn bit(self) -> u32 {
        1 << (self as u32)
    }
}

named! {
    /// What took a port (`port.by`). The value is [`Event::detail`] of a `port.allocated` event.
    pub enum PortBy: u8 {
        Connect = 1 => "connect",
        Bind => "bind",
        Listen => "listen",
        Spread => "spread",
    }
}

/// Bits of [`Event::flags`].
pub mod event_flag {
    /// A released port was in TIME_WAIT.
    pub const TIME_WAIT: u8 = 1;
    /// `duration_ns` was measured (0 is a valid duration).
    pub const DURATION: u8 = 1 << 1;
    /// `in_use` and `time_wait` are filled in.
    pub const PORTS: u8 = 1 << 2;
    /// The socket is older than the tracer: no hook saw who opened it, nor when.
    pub const SEEDED: u8 = 1 << 3;
}

/// One record of the ring buffer, 128 bytes, host byte order.
///
/// Detail only: no count is a sum of events, because events can be lost.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Event {
    /// CLOCK_MONOTONIC, ns.
    pub mono_ns: u64,
    /// Number of this record on its CPU, from 1. The largest one minus the number of records received from that CPU
    /// is how many were lost.
    pub seq: u64,
    pub cookie: u64,
    /// ns. `port.allocated`: of the port search. `port.released`: for which the port was held.
    /// `connect.*`: since the connect() call. Valid with [`event_flag::DURATION`].
    pub duration_ns: u64,
    pub cgroup: u64,
    pub tuple: TupleKey,
    pub pid: u32,
    pub tid: u32,
    pub comm: [u8; 16],
    /// Ports of the tuple in use, TIME_WAIT included. Valid with [`event_flag::PORTS`].
    pub in_use: u32,
    /// Of `in_use`: ports in TIME_WAIT. Valid with [`event_flag::PORTS`].
    pub time_wait: u32,
    pub cpu: u16,
    /// Host byte order; 0: none.
    pub local_port: u16,
    /// Positive; 0: the kernel reported no error.
    pub errno: u16,
    /// A [`Kind`].
    pub kind: u8,
    /// The [`crate::Cause`] of a failure, or the [`PortBy`] of `port.allocated`; else 0.
    pub detail: u8,
    /// TCP state (include/net/tcp_states.h) before a `tcp.state` event.
    pub old_state: u8,
    pub new_state: u8,
    /// [`event_flag`] bits.
    pub flags: u8,
    pub zero: [u8; 5],
}

const _: () = assert!(size_of::<Event>() == 128);
