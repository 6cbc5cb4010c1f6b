//! The commands that trace, read recordings, diagnose or advise. Each public module has the name of its command.

pub mod advise;
pub mod agent;
mod bar;
pub mod doctor;
pub mod record;
pub mod replay;
pub mod report;
pub mod top;
pub mod tuples;
