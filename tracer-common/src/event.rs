//! The record that the ring buffer `EVENTS` has for each event, and the numbers in it.

use crate::{TupleKey, named::named};

named! {
    /// What happened. The value is that of [`Event::kind`]: append, never reorder.
    pub enum Kind: u8 {
        /// connect(), bind() or listen() took a local port.
        PortAllocated = 1 => "port.allocated",
        /// No socket holds the port any more, not even in TIME_WAIT.
        PortReleased => "port.released",
        /// The connection of a connect() was established.
        ConnectEstablished => "connect.established",
        /// connect() failed, or its connection ended before it was established.
        ConnectFailed => "connect.failed",
        /// bind() failed, or listen() got no port.
        BindFailed => "bind.failed",
        /// A socket that connect() opened changed its TCP state.
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
    /// What took a port: the key `port.by` of output lines. The value is [`Event::detail`] of a `port.allocated` event.
    pub enum PortBy: u8 {
        /// The port search of connect().
        Connect = 1 => "connect",
        /// bind(). Also a connect() on a bound socket, and one whose port search no hook saw.
        Bind => "bind",
        /// listen() on a socket without a port.
        Listen => "listen",
        /// connect() on a socket whose source address the spreader bound.
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
    /// Number of this record on its CPU, from 1; lost events have numbers, too. So the largest number minus how many records were
    /// received from that CPU is how many were lost: the ring was full, or they exceeded a [`Rate`](crate::share::Rate).
    pub seq: u64,
    /// The socket's cookie; 0: it has none.
    pub cookie: u64,
    /// In ns. `port.allocated`: how long the port search took. `port.released`: how long the port was held. `connect.*`: time
    /// since the connect() call began. Valid with [`event_flag::DURATION`].
    pub duration_ns: u64,
    /// cgroup v2 id of the caller; 0: not known.
    pub cgroup: u64,
    /// Of a port that bind() or listen() took or asked for: only `source` and `netns`.
    pub tuple: TupleKey,
    /// The caller's process (tgid) in the initial pid namespace; 0: not known.
    pub pid: u32,
    /// The caller's thread in the initial pid namespace; 0: not known.
    pub tid: u32,
    /// The caller's comm: arbitrary bytes, NUL-padded; all 0: not known.
    pub comm: [u8; 16],
    /// Ports of the tuple in use, TIME_WAIT included. Valid with [`event_flag::PORTS`].
    pub in_use: u32,
    /// Of `in_use`: ports in TIME_WAIT. Valid with [`event_flag::PORTS`].
    pub time_wait: u32,
    /// Number of the CPU that wrote the record.
    pub cpu: u16,
    /// Host byte order; 0: none. Of `bind.failed`: the port that was asked for; 0: any.
    pub local_port: u16,
    /// Positive; 0: the kernel reported no error.
    pub errno: u16,
    /// A [`Kind`].
    pub kind: u8,
    /// The [`crate::Cause`] of a failure, or the [`PortBy`] of `port.allocated`; else 0.
    pub detail: u8,
    /// The TCP state (include/net/tcp_states.h) before the change that a `tcp.state` event reports; else 0.
    pub old_state: u8,
    /// The TCP state after that change; else 0.
    pub new_state: u8,
    /// [`event_flag`] bits.
    pub flags: u8,
    /// Padding, always 0.
    pub zero: [u8; 5],
}

const _: () = assert!(size_of::<Event>() == 128);
