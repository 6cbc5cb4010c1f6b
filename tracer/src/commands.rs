//! The commands that trace, read a recording or advise. Each module has the name of its command.

pub mod advise;
mod bar;
pub mod doctor;
pub mod record;
pub mod replay;
pub mod report;
pub mod top;
pub mod tuples;
