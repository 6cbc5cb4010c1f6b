//! The ledger as userspace uses it: decodes its events and computes rows from its counters, decides which entries to add, correct
//! and remove by the kernel's own list of sockets, chooses the sizes of its tables, and has [`trace`], a running tracer.

pub mod bound;
pub mod decode;
pub mod outbound;
pub mod seed;
pub mod sizes;
pub mod stats;
pub mod trace;
pub mod uses;
