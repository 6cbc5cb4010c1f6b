//! `--pool auto`: finds out which interfaces the routes to a rule's destinations use; their addresses are the pool. No I/O: the
//! caller reads the routes.

mod choice;
mod text;

pub use choice::{Unclear, choose};
pub use text::{network_list, targets, warnings};

#[cfg(test)]
mod tests;
