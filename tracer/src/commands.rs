//! The commands that look: each is what its name says on the command line.

pub mod record;
pub mod replay;
pub mod report;
pub mod top;
pub mod tuples;
