//! Bits of [`Conn::flags`](crate::Conn::flags), [`Attempt::flags`](crate::Attempt::flags) and
//! [`Bound::flags`](crate::Bound::flags).

/// The port is held by a time-wait socket.
pub const TIME_WAIT: u32 = 1;
/// Read from sock_diag: no hook saw the call that took the port.
pub const SEEDED: u32 = 1 << 1;
/// The socket had a port before connect(): the application or the spreader bound it.
pub const BOUND: u32 = 1 << 2;
/// The socket passes the user's filter, so its events are written. (Of an attempt, before its port search: only its caller
/// passes; the tuple is not known yet.)
pub const WATCHED: u32 = 1 << 3;
/// Of an attempt: no hook has to record its outcome any more. The outcome is in the ledger, was reported or counted as a loss, or
/// there is nothing to record.
pub const SETTLED: u32 = 1 << 4;
/// listen() took the port, not bind().
pub const LISTEN: u32 = 1 << 5;
/// The spreader chose the source address.
pub const SPREAD: u32 = 1 << 6;
/// The connection is or was established.
pub const ESTABLISHED: u32 = 1 << 7;
/// `BOUND_PORTS` has the port, too: the application bound it, so it counts among the bound ports.
pub const LISTED: u32 = 1 << 9;
/// The kernel would not give the port to connect() now: another socket bound it meanwhile, or the range or the
/// reserved ports changed. It takes no room, so [`TupleCount::held`](crate::TupleCount::held) does not count it. In the table
/// the bit is [`Conn::APART`](crate::Conn::APART).
pub const APART: u32 = 1 << 13;
/// In [`Bound::flags`](crate::Bound::flags): the kernel chose the port, for bind(address, 0).
pub const CHOSEN: u32 = 1 << 14;
/// The connection of a TIME_WAIT had no TCP timestamps, so that the kernel's port search never reuses its port
/// (`tcp_twsk_unique` in net/ipv4/tcp_ipv4.c).
pub const NO_STAMP: u32 = 1 << 15;
/// Of an attempt: it got a port that is not in the ledger (no room, or the map was busy).
pub const UNCOUNTED: u32 = 1 << 8;
/// Of an attempt: a cgroup program has denied the connect() before the kernel looked for a route or a port.
pub const DENIED: u32 = 1 << 16;
/// A number of three bits: the connection's [`PortState`](crate::PortState); 0 in TIME_WAIT.
pub const STATE: u32 = 7 << STATE_SHIFT;
/// Number of the lowest bit of [`STATE`].
pub const STATE_SHIFT: u32 = 10;
