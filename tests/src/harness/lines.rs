//! Names of lines that the program under test writes: values of `event.name`.

/// The events that tracer's hooks report about sockets.
pub const SOCKET_EVENTS: [&str; 6] = [
    "port.allocated",
    "port.released",
    "connect.established",
    "connect.failed",
    "bind.failed",
    "tcp.state",
];

/// The event that reports what `tracer spread` did for one connect().
pub const DECISION: &str = "spread.decision";
