//! The commands that trace, or read a recording. Each module has the name of its command.

pub mod record;
pub mod replay;
pub mod report;
pub mod top;
pub mod tuples;
