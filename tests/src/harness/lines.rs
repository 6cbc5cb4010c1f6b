//! Names of lines that the program under test writes: values of `event.name`.

/// The kinds of lines that come from an event of the kernel side.
pub const SOCKET_EVENTS: [&str; 6] = [
    "port.allocated",
    "port.released",
    "connect.established",
    "connect.failed",
    "bind.failed",
    "tcp.state",
];

/// The event with which `spread` reports one connect().
pub const DECISION: &str = "spread.decision";
