//! What is made of the kernel side's tables: which older sockets go into them, what two readings come to, and a running tracer,
//! which compares them with the kernel's own list.

pub mod bound;
pub mod decode;
pub mod outbound;
pub mod seed;
pub mod sizes;
pub mod stats;
pub mod trace;
