//! Reads the configurations of proxies, as far as they say where connections go, from which address, and whether they are used
//! again. Nothing is guessed: what a reader does not understand is "not read".

// The one place that says where the trait `Files` is; the readers import it from here.
pub(super) use crate::host::files;

mod at;
mod glob;
pub mod haproxy;
pub mod nginx;
mod setting;
pub mod squid;
#[cfg(test)]
mod test_hostile;
#[cfg(test)]
mod test_mutations;

pub use at::At;
pub use setting::{Setting, Unread};
