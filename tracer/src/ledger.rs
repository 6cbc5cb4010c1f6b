//! The ledger (the BPF maps that say which tuples hold which ports, and which ports are bound) as userspace uses it: decodes its
//! events, computes rows from its counters, decides which entries to add, correct and remove by the kernel's own list of sockets,
//! and chooses the sizes of its tables. [`trace`] is a running tracer, which does all of this.

pub mod bound;
pub mod decode;
pub mod outbound;
pub mod seed;
pub mod sizes;
pub mod stats;
pub mod trace;
pub mod uses;
