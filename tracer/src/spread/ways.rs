//! Which interfaces the routes to a rule's destinations use, and so whose addresses `--pool auto` means.
//! No I/O: the kernel is asked by the caller.

mod choice;
mod text;

pub use choice::{Unclear, choose};
pub use text::{network_list, targets, warnings};

#[cfg(test)]
mod tests;
