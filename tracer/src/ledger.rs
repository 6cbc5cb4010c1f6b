//! The ledger as userspace uses it: which older sockets are added to it, what two readings of it say, and a running
//! tracer, which compares it with the kernel's own list of sockets.

pub mod bound;
pub mod decode;
pub mod outbound;
pub mod seed;
pub mod sizes;
pub mod stats;
pub mod trace;
