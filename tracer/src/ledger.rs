//! The ledger as userspace uses it: which sockets that are older than the tracer are added to it, how its events and
//! counters become values, and [`trace`]: a running tracer, which compares it with the kernel's own list of sockets.

pub mod bound;
pub mod decode;
pub mod outbound;
pub mod seed;
pub mod sizes;
pub mod stats;
pub mod trace;
